// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Answers: waiting for one, what its status means, and its body. Each within a stated time, and of bodies a stated number
//! of bytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use oci_client::errors::OciEnvelope;
use reqwest::{RequestBuilder, Response, StatusCode};

use super::error::{RegistryError, of_request, said};
use super::retry;

/// What a registry objects to is a line or two.
const LARGEST_OBJECTION: usize = 16 << 10;
/// How long it may take to say so.
const OBJECTION_WAIT: Duration = Duration::from_secs(5);

/// An answer's head, within `longest`.
pub(super) async fn send(
    host: &str,
    what: &str,
    request: RequestBuilder,
    longest: Duration,
) -> Result<Response, RegistryError> {
    let answer = tokio::time::timeout(longest, request.send()).await;
    let answer = answer.map_err(|_| stalled(host, what, longest))?;
    answer.map_err(|error| of_request(host, what, error))
}

fn stalled(host: &str, what: &str, waited: Duration) -> RegistryError {
    RegistryError::Stalled {
        host: host.to_owned(),
        what: what.to_owned(),
        waited,
    }
}

/// What a refusal means. Its body is not read: it may have no end, and says little more.
pub(super) fn status_error(host: &str, what: &str, response: &Response) -> RegistryError {
    let after = retry::stated(response.headers());
    let (host, what) = (host.to_owned(), what.to_owned());
    match response.status() {
        StatusCode::FORBIDDEN => RegistryError::Denied { host, what },
        StatusCode::NOT_FOUND => RegistryError::NotFound { host, what },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::RateLimited { host, after },
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            RegistryError::Failed {
                host,
                what,
                status: status.as_u16(),
                after,
            }
        }
        status => RegistryError::Unexpected {
            host,
            what,
            detail: format!("with HTTP status {}", status.as_u16()),
        },
    }
}

/// What the refusal of a push means. What the registry objects to is in its body, of which so much is read.
pub(super) async fn objection(host: &str, what: &str, response: Response) -> RegistryError {
    let status = response.status().as_u16();
    match status_error(host, what, &response) {
        // What is not there is the repository, or the upload: not what is pushed.
        RegistryError::Unexpected { host, what, .. } | RegistryError::NotFound { host, what } => {
            let mut detail = format!("with HTTP status {status}");
            let begin = read_begin(response).await;
            if !begin.is_empty() {
                detail += &format!(", {:?},", objected(&begin));
            }
            RegistryError::Unexpected { host, what, detail }
        }
        error => error,
    }
}

/// The first bytes of a body, or those that come in time.
async fn read_begin(mut response: Response) -> Vec<u8> {
    let mut begin = Vec::new();
    let read = async {
        while begin.len() < LARGEST_OBJECTION
            && let Ok(Some(chunk)) = response.chunk().await
        {
            begin.extend_from_slice(&chunk);
        }
    };
    // What came until then will do.
    let _ = tokio::time::timeout(OBJECTION_WAIT, read).await;
    begin.truncate(LARGEST_OBJECTION);
    begin
}

/// An error body for people: its messages, if it is of the specification's form ("Error Codes").
fn objected(body: &[u8]) -> String {
    let errors = serde_json::from_slice::<OciEnvelope>(body).map(|envelope| envelope.errors);
    let messages: Vec<_> = errors
        .iter()
        .flatten()
        .map(|error| error.message.as_str())
        .collect();
    if messages.concat().is_empty() {
        said(&String::from_utf8_lossy(body))
    } else {
        said(&messages.join("; "))
    }
}

/// A body of at most `limit` bytes, within `timeout`.
pub(super) async fn read_whole(
    host: &str,
    what: &str,
    mut response: Response,
    limit: u64,
    timeout: Duration,
) -> Result<Bytes, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        host: host.to_owned(),
        what: what.to_owned(),
        limit,
        setting: None,
    };
    if response
        .content_length()
        .is_some_and(|stated| stated > limit)
    {
        return Err(too_large());
    }
    let read = async {
        let mut whole = BytesMut::new();
        loop {
            let chunk = response.chunk().await;
            match chunk.map_err(|error| of_request(host, what, error))? {
                None => return Ok(whole.freeze()),
                Some(chunk) if (whole.len() + chunk.len()) as u64 > limit => {
                    return Err(too_large());
                }
                Some(chunk) => whole.extend_from_slice(&chunk),
            }
        }
    };
    let read = tokio::time::timeout(timeout, read).await;
    read.unwrap_or_else(|_| Err(stalled(host, what, timeout)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objection_is_told_in_the_registrys_words() {
        let of = |body: &str| objected(body.as_bytes());
        let body = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"},{"code":"OWN","message":"x"}]}"#;
        assert_eq!(of(body), "blob unknown; x");
        let bare = r#"{"errors":[{"code":"DENIED"}]}"#;
        assert_eq!(of(bare), bare);
        assert_eq!(of("<html>\n"), "<html>");
        assert!(of(&"x".repeat(10_000)).len() < 400);
    }
}
