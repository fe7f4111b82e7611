// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The whole mirror: before it registries that are HTTP servers of this test's own, behind it requests.

mod apt;
mod bad;
mod good;
mod head;
mod held;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{Body, Limits, Mirror, MirrorOptions, Served, digest::Digest};

/// A registry: an HTTP server that answers what its function says and notes what it was asked.
struct Upstream {
    root: String,
    asked: Arc<Mutex<Vec<Parts>>>,
    _task: AbortOnDropHandle<()>,
}

impl Upstream {
    async fn start<F>(answer: F) -> Self
    where
        F: Fn(&Parts) -> Response<Body> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<Parts>>> = Arc::default();
        let (answer, noted) = (Arc::new(answer), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (parts, _) = request.into_parts();
                    noted.lock().expect("whole").push(parts.clone());
                    std::future::ready(Ok::<_, std::convert::Infallible>(answer(&parts)))
                });
                let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    let _ = serving.await;
                });
            }
        });
        Self {
            root: format!("http://{address}"),
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What it was asked so far.
    fn paths(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("whole");
        asked.iter().map(|parts| parts.uri.to_string()).collect()
    }

    /// The methods that it was asked by.
    fn methods(&self) -> Vec<String> {
        let asked = self.asked.lock().expect("whole");
        asked.iter().map(|parts| parts.method.to_string()).collect()
    }

    fn header(&self, request: usize, name: &str) -> Option<String> {
        let asked = self.asked.lock().expect("whole");
        let value = asked.get(request)?.headers.get(name)?;
        Some(value.to_str().expect("text").to_owned())
    }
}

/// What a request to the mirror was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    served: Option<Served>,
    head: hyper::HeaderMap,
    /// What came before the body ended or broke.
    bytes: Vec<u8>,
    whole: bool,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).expect("text")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }
}

fn limits() -> Limits {
    Limits {
        answer: Duration::from_secs(3),
        idle: Duration::from_secs(3),
        ..Limits::default()
    }
}

/// A mirror of the registries at `root`, which keeps its files in `dir`.
fn mirror_with(root: &str, dir: &Path, max_bytes: u64, limits: Limits) -> Mirror {
    let registries = [
        format!("pip={root}/simple/"),
        format!("npm={root}/npm/"),
        format!("apt={root}/debian/"),
    ];
    let options = MirrorOptions {
        dir: dir.to_owned(),
        max_bytes,
        registries: registries
            .map(|text| text.parse().expect("a registry"))
            .to_vec(),
        base: Url::parse("http://127.0.0.1:703/").expect("a URL"),
        limits,
    };
    Mirror::open(options, HttpConnector::new())
}

fn mirror(upstream: &Upstream) -> (Mirror, TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let mirror = mirror_with(&upstream.root, dir.path(), 1 << 30, limits());
    (mirror, dir)
}

/// The path of a link into the mirror.
fn path(link: &str) -> &str {
    link.strip_prefix("http://127.0.0.1:703")
        .expect("a link of the mirror's")
}

async fn ask(mirror: &Mirror, uri: &str, headers: &[(&str, &str)]) -> Answer {
    ask_by("GET", mirror, uri, headers).await
}

async fn ask_by(method: &str, mirror: &Mirror, uri: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let response = mirror.serve(request).await;
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(&frame.into_data().expect("data")),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Answer {
        status: parts.status.as_u16(),
        served: parts.extensions.get::<Served>().copied(),
        head: parts.headers,
        bytes,
        whole,
    }
}

async fn get(mirror: &Mirror, uri: &str) -> Answer {
    ask(mirror, uri, &[]).await
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn answer(content_type: &str, bytes: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .header("content-type", content_type)
        .body(body(bytes))
        .expect("a response")
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = answer("text/plain", "no");
    *response.status_mut() = status;
    response
}

/// A body of these pieces, each after the pause.
fn paced(pieces: Vec<Bytes>, pause: Duration) -> Body {
    let pieces = futures_util::stream::unfold(pieces.into_iter(), move |mut pieces| async move {
        tokio::time::sleep(pause).await;
        let piece = pieces.next()?;
        Some((Ok(Frame::data(piece)), pieces))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Some content, not all the same.
fn content(len: usize) -> Bytes {
    (0..len)
        .map(|i| u8::try_from(i * 7 % 251).unwrap_or(0))
        .collect()
}

/// A page of the simple API with one file of this digest.
fn page(file: &str, digest: &Digest) -> String {
    format!(
        "<html><a href=\"../../files/{file}#sha256={}\">{file}</a></html>",
        digest.hex()
    )
}

/// The first link of a page.
fn link(page: &str) -> String {
    let start = page.find("href=\"").expect("a link") + 6;
    let rest = page.get(start..).expect("within");
    let link = rest.split(['"', '#']).next().expect("a link");
    link.to_owned()
}

/// Waits until `done`.
async fn eventually(what: &str, done: impl Fn() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within four seconds");
}

/// The files below `dir`, but not their folders.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = walkdir::WalkDir::new(dir)
        .into_iter()
        .filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.map(walkdir::DirEntry::into_path).collect()
}
