// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a program in the guest is told: why the proxy says no, in a form for people (the reason phrase,
//! which pip and curl print), for programs (JSON), and for HTTP (RFC 9209, `Proxy-Status`).

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Response, StatusCode,
    ext::ReasonPhrase,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Serialize;

use crate::network::{
    Body,
    dial::DialError,
    policy::{Denial, DenialKind},
};

/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Longest reason phrase, in bytes: programs print it in one line, and some read no longer one.
const REASON_MAX: usize = 400;

/// Bytes of an answer, ready to be sent.
pub(super) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A refusal.
pub(super) fn refused(denial: &Denial) -> Response<Body> {
    #[derive(Serialize)]
    struct Refused<'a> {
        error: &'static str,
        #[serde(flatten)]
        denial: &'a Denial,
    }
    let error = match denial.kind {
        DenialKind::NotPermitted => "http_request_denied",
        DenialKind::SpecialAddress => "destination_ip_prohibited",
        DenialKind::Limit => "connection_limit_reached",
    };
    let json = serde_json::to_string(&Refused {
        error: "refused",
        denial,
    });
    answer(
        StatusCode::FORBIDDEN,
        error,
        &denial.to_string(),
        json.unwrap_or_default(),
    )
}

/// Something permitted that could not be had.
pub(super) fn failed(error: &DialError) -> Response<Body> {
    let (status, kind) = match error {
        DialError::Denied(denial) => return refused(denial),
        DialError::Resolve { .. } => (StatusCode::BAD_GATEWAY, "dns_error"),
        DialError::ResolveTimeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "dns_timeout"),
        DialError::Connect { source, .. } => match source.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                (StatusCode::BAD_GATEWAY, "connection_refused")
            }
            _ => (StatusCode::BAD_GATEWAY, "destination_unavailable"),
        },
        DialError::ConnectTimeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
        DialError::Upstream { .. } | DialError::UpstreamBroken { .. } => {
            (StatusCode::BAD_GATEWAY, "destination_unavailable")
        }
        DialError::Broken { .. } => (StatusCode::BAD_GATEWAY, "connection_terminated"),
        DialError::UpstreamScheme { .. } => (StatusCode::BAD_GATEWAY, "proxy_configuration_error"),
        DialError::NoTarget(_) => (StatusCode::BAD_REQUEST, "http_request_error"),
    };
    problem(status, kind, &error.to_string())
}

/// Anything else that is wrong, with its RFC 9209 error type.
pub(super) fn problem(status: StatusCode, kind: &'static str, text: &str) -> Response<Body> {
    let json = serde_json::json!({ "error": text });
    answer(status, kind, text, json.to_string())
}

fn answer(status: StatusCode, kind: &'static str, text: &str, mut json: String) -> Response<Body> {
    // What curl prints should not run into what follows.
    json.push('\n');
    let mut response = Response::new(body(json));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let line = printable(text);
    let quoted = line.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = HeaderValue::try_from(format!("waggle; error={kind}; details=\"{quoted}\""))
    {
        headers.insert(PROXY_STATUS, value);
    }
    if let Ok(reason) = ReasonPhrase::try_from(line) {
        response.extensions_mut().insert(reason);
    }
    response
}

/// As much of `text` as fits into one line of ASCII.
fn printable(text: &str) -> String {
    let plain = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    text.chars().take(REASON_MAX).map(plain).collect()
}
