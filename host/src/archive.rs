// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The HTTP side of `waggle cp`: files and folders of an environment as tar archives.
//!
//! `GET /environments/{id}/archive?path=/absolute/path` sends one, `PUT` takes one; `user=root` works
//! with root's rights instead of sandbox's. Who may use the port is decided before these routes.
//!
//! Nothing is held but a few pieces. A failure before the first byte is an answer with its status and
//! `{"error": "..."}`. One after it shows in the trailer `waggle-outcome` to clients that take trailers
//! (`TE: trailers`), and as a broken connection to others: half an archive never looks like a whole.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;
use waggle_protocol::message::User;

use crate::{
    refusal::{refusal, status},
    service::{ArchiveRequest, Packed, Service},
};

/// The trailer that says how an archive ended: [`DONE`], or why it did not.
pub const OUTCOME: &str = "waggle-outcome";

/// The trailer's value behind a whole archive.
pub const DONE: &str = "done";

/// How long the rest of an archive that was refused is taken and thrown away. A client that is still
/// sending would otherwise meet a reset connection instead of the answer.
const DRAIN: Duration = Duration::from_secs(10);

/// The routes.
pub fn routes(service: Arc<Service>) -> Router {
    let route = get(download).put(upload);
    Router::new()
        .route("/environments/{id}/archive", route)
        .with_state(service)
}

/// A query that is none of ours.
#[derive(Debug, thiserror::Error)]
enum QueryError {
    #[error("the query has no path; give ?path=/absolute/path, percent-encoded")]
    NoPath,
    #[error("user is {0:?}; give sandbox or root")]
    User(String),
    #[error("the query has {0:?}; it takes path and user")]
    Unknown(String),
}

fn parse(environment_id: String, query: &str) -> Result<ArchiveRequest, QueryError> {
    let (mut path, mut user) = (None, User::Sandbox);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value: Vec<u8> = percent_decode_str(value).collect();
        match (name, value.as_slice()) {
            ("path", _) => path = Some(value),
            ("user", b"sandbox") => user = User::Sandbox,
            ("user", b"root") => user = User::Root,
            ("user", _) => {
                return Err(QueryError::User(String::from_utf8_lossy(&value).into()));
            }
            _ => return Err(QueryError::Unknown(name.to_owned())),
        }
    }
    Ok(ArchiveRequest {
        environment_id,
        path: path.ok_or(QueryError::NoPath)?,
        user,
    })
}

async fn download(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let asked = match parse(id, query) {
        Ok(asked) => asked,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error),
    };
    match service.pack(asked).await {
        Ok(packed) => archive(packed, takes_trailers(request.headers())),
        Err(error) => refusal(status(&error), &error),
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|text| text.split(',').any(|word| word.trim() == "trailers"))
    })
}

/// How an archive goes on.
enum Next {
    Piece(Packed),
    Nothing,
}

fn archive(packed: Packed, with_trailer: bool) -> Response {
    let frames = futures_util::stream::unfold(Next::Piece(packed), move |next| async move {
        let Next::Piece(mut packed) = next else {
            return None;
        };
        let (frame, next) = match (packed.next().await, with_trailer) {
            (Some(Ok(bytes)), _) => (Ok(Frame::data(bytes)), Next::Piece(packed)),
            (None, false) => return None,
            (None, true) => (Ok(trailer(DONE)), Next::Nothing),
            (Some(Err(error)), true) => {
                tracing::info!(%error, "an archive broke off");
                (Ok(trailer(&error.to_string())), Next::Nothing)
            }
            (Some(Err(error)), false) => {
                tracing::info!(%error, "an archive broke off");
                (Err(error), Next::Nothing)
            }
        };
        Some((frame, next))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-tar"),
    );
    if with_trailer {
        headers.insert(header::TRAILER, HeaderValue::from_static(OUTCOME));
    }
    response
}

fn trailer(text: &str) -> Frame<bytes::Bytes> {
    // Service errors hold no control characters; if one did, the text would be lost, not the fact.
    let value = HeaderValue::from_bytes(text.as_bytes())
        .unwrap_or(HeaderValue::from_static("the archive broke off"));
    let mut trailers = HeaderMap::new();
    trailers.insert(OUTCOME, value);
    Frame::trailers(trailers)
}

async fn upload(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let asked = parse(id, request.uri().query().unwrap_or_default());
    let mut body = request.into_body().into_data_stream();
    let response = match asked {
        Err(error) => refusal(StatusCode::BAD_REQUEST, &error),
        Ok(asked) => match service.unpack(asked, &mut body).await {
            Ok(()) => return StatusCode::NO_CONTENT.into_response(),
            Err(error) => refusal(status(&error), &error),
        },
    };
    tokio::spawn(timeout(DRAIN, async move {
        while let Some(Ok(_)) = body.next().await {}
    }));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_any_path_and_a_user() {
        let parsed = parse("env".into(), "path=%2Fa%20b%ff&user=root").expect("a query");
        assert_eq!(parsed.path, b"/a b\xff");
        assert_eq!(parsed.user, User::Root);
        assert_eq!(
            parse("env".into(), "path=/a+b").expect("a query").path,
            b"/a+b"
        );
        for query in ["", "user=root", "path=/a&user=me", "path=/a&x=y"] {
            assert!(parse("env".into(), query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_trailer_carries_any_text() {
        for text in [DONE, "gr\u{fc}n: \u{20ac}", "a\nb"] {
            let Ok(trailers) = trailer(text).into_trailers() else {
                panic!("no trailers")
            };
            assert!(trailers.contains_key(OUTCOME), "{text}");
        }
    }
}
