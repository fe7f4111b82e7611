// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a package manager is answered: a kept file or a growing one, whole or in part, or an error.
//!
//! A body that does not come to its right end ends in an error, upon which hyper breaks the connection: a
//! client never takes a part, or bytes of another digest, for the whole. Nor is a part of a file given out
//! before the whole is known to be right: a range of a growing file is answered with all of it.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::{
    HeaderMap, Response, StatusCode,
    body::Frame,
    ext::ReasonPhrase,
    header::{self, HeaderName, HeaderValue},
};
use tokio::sync::watch;

use super::{Failed, Served, artefact::Progress, failure::Failure};
use crate::network::{Body, policy::Denial};

/// How much of a file is read at a time.
const CHUNK_BYTES: u64 = 256 * 1024;

/// What is not given out of a download before its digest is known to be right.
const HELD_BYTES: u64 = 16 * 1024;

/// Where an answer's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// At hand, with the room in memory that they take ([`super::memory`]).
    Bytes(Bytes),
    /// In a file of that length.
    File(Arc<File>, u64),
    /// In a file that is still being written, with the length that the registry stated.
    Growing(Arc<File>, Option<u64>, watch::Receiver<Progress>),
    /// At the registry, with the length that it stated: nobody asked for the bytes themselves.
    Unseen(Option<u64>),
}

impl Source {
    /// How many bytes there are, as far as that is known.
    pub(super) fn len(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).ok(),
            Self::File(_, len) => Some(*len),
            Self::Growing(_, len, _) | Self::Unseen(len) => *len,
        }
    }

    /// The bytes of `range`, or all.
    pub(super) fn body(self, range: Option<Range<u64>>) -> Body {
        let (start, end) = range.map_or((0, None), |range| (range.start, Some(range.end)));
        match self {
            Self::Bytes(bytes) => {
                let at = |offset: u64| {
                    usize::try_from(offset)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len())
                };
                let part = bytes.slice(at(start)..end.map_or(bytes.len(), at));
                Full::new(part)
                    .map_err(|never| match never {})
                    .boxed_unsync()
            }
            Self::File(file, len) => Reader {
                file,
                at: start,
                end: Some(end.unwrap_or(len)),
                progress: None,
            }
            .body(),
            Self::Growing(file, _, progress) => Reader {
                file,
                at: start,
                end,
                progress: Some(progress),
            }
            .body(),
            Self::Unseen(_) => empty(),
        }
    }
}

/// A body that is read from a file.
struct Reader {
    file: Arc<File>,
    at: u64,
    /// Where it ends, if that is known.
    end: Option<u64>,
    /// If the file still grows.
    progress: Option<watch::Receiver<Progress>>,
}

impl Reader {
    fn body(self) -> Body {
        let chunks = stream::try_unfold(self, async |mut reader| {
            let chunk = reader.next().await?;
            Ok(chunk.map(|chunk| (Frame::data(chunk), reader)))
        });
        StreamBody::new(chunks).boxed_unsync()
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let until = loop {
            if self.end.is_some_and(|end| self.at >= end) {
                return Ok(None);
            }
            let Some(progress) = &mut self.progress else {
                break self.end.unwrap_or(self.at);
            };
            let now = progress.borrow_and_update().clone();
            match now.end {
                Some(Err(failure)) => return Err(io::Error::other(failure)),
                Some(Ok(())) => {
                    // What it has become is its end.
                    self.end = Some(self.end.unwrap_or(now.written).min(now.written));
                    self.progress = None;
                }
                None => {
                    let given = now.written.saturating_sub(HELD_BYTES);
                    let given = self.end.map_or(given, |end| end.min(given));
                    if given > self.at {
                        break given;
                    }
                    let gone = io::ErrorKind::ConnectionAborted;
                    progress
                        .changed()
                        .await
                        .map_err(|_| io::Error::from(gone))?;
                }
            }
        };
        let chunk = read(Arc::clone(&self.file), self.at, until - self.at).await?;
        self.at = self
            .at
            .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        Ok(Some(chunk))
    }
}

async fn read(file: Arc<File>, at: u64, most: u64) -> io::Result<Bytes> {
    let reading = move || {
        let most = usize::try_from(most.min(CHUNK_BYTES)).unwrap_or(0);
        let mut chunk = vec![0; most];
        match file.read_at(&mut chunk, at)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            read => {
                chunk.truncate(read);
                Ok(Bytes::from(chunk))
            }
        }
    };
    tokio::task::spawn_blocking(reading).await?
}

/// A good answer, before the client's conditions.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) source: Source,
    pub(super) content_type: HeaderValue,
    /// A strong one, without its quotes.
    pub(super) etag: Option<String>,
    pub(super) modified: Option<SystemTime>,
    pub(super) cache_control: HeaderValue,
}

/// Answers with `content`, under the conditions and for the range that the client `asked` for (RFC 9110,
/// sections 13 and 14).
pub(super) fn respond(asked: &HeaderMap, content: Content, served: Served) -> Response<Body> {
    let len = content.source.len();
    let etag = content.etag.as_ref().map(|etag| format!("\"{etag}\""));
    let modified = content.modified;
    let mut response = Response::new(empty());
    response.extensions_mut().insert(served);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content.content_type);
    headers.insert(header::CACHE_CONTROL, content.cache_control);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    set(headers, header::ETAG, etag.as_deref());
    let date = modified.map(httpdate::fmt_http_date);
    set(headers, header::LAST_MODIFIED, date.as_deref());

    if is_unchanged(asked, etag.as_deref(), modified) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let growing = matches!(content.source, Source::Growing(..));
    let range = match len {
        Some(len) if !growing && range_applies(asked, etag.as_deref(), modified) => {
            range(asked, len)
        }
        _ => Asked::All,
    };
    let headers = response.headers_mut();
    match (range, len) {
        (Asked::Part(part), Some(len)) => {
            let (first, last) = (part.start, part.end.saturating_sub(1));
            set(
                headers,
                header::CONTENT_RANGE,
                Some(&format!("bytes {first}-{last}/{len}")),
            );
            headers.insert(header::CONTENT_LENGTH, (part.end - part.start).into());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = content.source.body(Some(part));
        }
        (Asked::Beyond, Some(len)) => {
            set(
                headers,
                header::CONTENT_RANGE,
                Some(&format!("bytes */{len}")),
            );
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
        }
        _ => {
            if let Some(len) = len {
                headers.insert(header::CONTENT_LENGTH, len.into());
            }
            *response.body_mut() = content.source.body(None);
        }
    }
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, name)?).ok()
}

/// In whole seconds, as HTTP's dates are.
fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since: Duration| since.as_secs())
}

fn is_unchanged(asked: &HeaderMap, etag: Option<&str>, modified: Option<SystemTime>) -> bool {
    if let Some(known) = text(asked, header::IF_NONE_MATCH) {
        let same = |one: &str| one == "*" || Some(one.trim_start_matches("W/")) == etag;
        return known.split(',').map(str::trim).any(same);
    }
    match (date(asked, header::IF_MODIFIED_SINCE), modified) {
        (Some(since), Some(modified)) => seconds(modified) <= seconds(since),
        _ => false,
    }
}

fn range_applies(asked: &HeaderMap, etag: Option<&str>, modified: Option<SystemTime>) -> bool {
    match text(asked, header::IF_RANGE) {
        None => !asked.contains_key(header::IF_RANGE),
        Some(known) if known.starts_with(['"', 'W']) && !known.starts_with("We") => {
            Some(known) == etag
        }
        Some(_) => match (date(asked, header::IF_RANGE), modified) {
            (Some(known), Some(modified)) => seconds(known) == seconds(modified),
            _ => false,
        },
    }
}

/// What part a request is for.
enum Asked {
    All,
    Part(Range<u64>),
    Beyond,
}

/// The one range of a request. Several are answered with the whole, as are other units and nonsense.
fn range(asked: &HeaderMap, len: u64) -> Asked {
    let parsed = || -> Option<(Option<u64>, Option<u64>)> {
        let (first, last) = text(asked, header::RANGE)?
            .strip_prefix("bytes=")?
            .trim()
            .split_once('-')?;
        let number = |text: &str| match text {
            "" => Some(None),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().map(Some)
            }
            _ => None,
        };
        Some((number(first)?, number(last)?))
    };
    match parsed() {
        Some((Some(first), last)) => {
            let end = last.map_or(len, |last| last.saturating_add(1).min(len));
            match () {
                () if first >= len => Asked::Beyond,
                () if first >= end => Asked::All,
                () => Asked::Part(first..end),
            }
        }
        Some((None, Some(0))) => Asked::Beyond,
        Some((None, Some(_))) if len == 0 => Asked::Beyond,
        Some((None, Some(tail))) => Asked::Part(len.saturating_sub(tail)..len),
        _ => Asked::All,
    }
}

/// Nothing.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A refusal or a failure in words. npm shows them if they are in JSON.
pub(super) fn plain(status: StatusCode, words: &str, json: bool) -> Response<Body> {
    let words = format!("waggle: {words}");
    let (content_type, text) = if json {
        let object = serde_json::json!({ "error": words });
        ("application/json", object.to_string())
    } else {
        ("text/plain; charset=utf-8", format!("{words}\n"))
    };
    let body = Full::new(Bytes::from(text));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The answer to a request that failed at the registry.
pub(super) fn failed(failure: &Failure, json: bool) -> Response<Body> {
    let mut response = plain(failure.status(), &failure.to_string(), json);
    let extensions = response.extensions_mut();
    extensions.insert(Served::Upstream);
    extensions.insert(Failed(failure.to_string()));
    if let Failure::Denied { denial, .. } = failure {
        extensions.insert(Denial::clone(denial));
    }
    if !failure.status().is_client_error() {
        extensions.insert(ReasonPhrase::from_static(failure.reason().as_bytes()));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            source: Source::Bytes(Bytes::from_static(b"0123456789")),
            content_type: HeaderValue::from_static("text/plain"),
            etag: Some("tag".into()),
            modified: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500)),
            cache_control: HeaderValue::from_static("no-cache"),
        }
    }

    async fn ask(headers: &[(HeaderName, &str)]) -> (u16, String, Option<String>) {
        let mut asked = HeaderMap::new();
        for (name, value) in headers {
            asked.insert(name, value.parse().expect("a value"));
        }
        let response = respond(&asked, content(), Served::Cache);
        let status = response.status().as_u16();
        let range = text(response.headers(), header::CONTENT_RANGE).map(str::to_owned);
        let body = response
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes();
        (
            status,
            String::from_utf8(body.to_vec()).expect("text"),
            range,
        )
    }

    #[tokio::test]
    async fn ranges_are_those_of_rfc_9110() {
        for (range, status, body, stated) in [
            ("bytes=0-3", 206, "0123", Some("bytes 0-3/10")),
            ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
            ("bytes=-2", 206, "89", Some("bytes 8-9/10")),
            ("bytes=-99", 206, "0123456789", Some("bytes 0-9/10")),
            ("bytes=8-99", 206, "89", Some("bytes 8-9/10")),
            ("bytes=10-", 416, "", Some("bytes */10")),
            ("bytes=-0", 416, "", Some("bytes */10")),
            ("bytes=5-3", 200, "0123456789", None),
            ("bytes=0-1,4-5", 200, "0123456789", None),
            ("bytes=x", 200, "0123456789", None),
            ("bytes=-", 200, "0123456789", None),
            ("lines=1-2", 200, "0123456789", None),
            ("bytes=99999999999999999999-", 200, "0123456789", None),
        ] {
            let answer = ask(&[(header::RANGE, range)]).await;
            assert_eq!(
                answer,
                (status, body.into(), stated.map(str::to_owned)),
                "{range}"
            );
        }
    }

    #[tokio::test]
    async fn conditions_are_those_of_rfc_9110() {
        let (same, older) = (
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:19 GMT",
        );
        for (headers, status) in [
            (vec![(header::IF_NONE_MATCH, "\"tag\"")], 304),
            (vec![(header::IF_NONE_MATCH, "\"a\", W/\"tag\"")], 304),
            (
                vec![
                    (header::IF_NONE_MATCH, "\"a\""),
                    (header::IF_MODIFIED_SINCE, same),
                ],
                200,
            ),
            (vec![(header::IF_MODIFIED_SINCE, same)], 304),
            (vec![(header::IF_MODIFIED_SINCE, older)], 200),
            (vec![(header::IF_MODIFIED_SINCE, "soon")], 200),
            (
                vec![(header::RANGE, "bytes=1-"), (header::IF_RANGE, same)],
                206,
            ),
            (
                vec![(header::RANGE, "bytes=1-"), (header::IF_RANGE, older)],
                200,
            ),
            (
                vec![(header::RANGE, "bytes=1-"), (header::IF_RANGE, "\"tag\"")],
                206,
            ),
            (
                vec![(header::RANGE, "bytes=1-"), (header::IF_RANGE, "W/\"tag\"")],
                200,
            ),
            (
                vec![
                    (header::RANGE, "bytes=1-"),
                    (header::IF_RANGE, "Wed, 15 Nov 2023 22:13:20 GMT"),
                ],
                200,
            ),
        ] {
            assert_eq!(ask(&headers).await.0, status, "{headers:?}");
        }
    }
}
