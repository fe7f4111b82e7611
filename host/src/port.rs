// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle port`: forwards a port of the server's host to one of an environment. Both ends of it, the
//! command and the server's route.
//!
//! `PUT /environments/{id}/ports/{port}?host_port=N` forwards, `DELETE` closes. The answer is
//! `{"status": "open", "address": "127.0.0.1:N", "url": "http://127.0.0.1:N"}`, or without the last two
//! and `closed`; or `{"error": "..."}`. Who may use the port of the server is decided before these
//! routes.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::put,
};
use hyper::Method;

use crate::{
    client::{ClientError, Server, ServerOptions, printable},
    environment::EnvironmentId,
    refusal::{refusal, status},
    service::{ForwardRequest, Forwarded, Service},
};

/// The words of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The environment's id
    pub environment: EnvironmentId,

    /// The port in it, on its loopback
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// The port of the server's host, on 127.0.0.1; any that is free if left out
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub host_port: Option<u16>,

    /// End the forward, and its connections
    #[arg(long)]
    pub close: bool,

    #[allow(missing_docs)] // A comment here would be the command's.
    #[command(flatten)]
    pub server: ServerOptions,
}

/// Forwards a port, and returns what to print: its address, or nothing of one that is closed.
///
/// # Errors
///
/// [`ClientError`].
pub async fn run(arguments: Arguments) -> Result<Option<String>, ClientError> {
    let server = Server::new(&arguments.server)?;
    let (id, port) = (arguments.environment, arguments.port);
    let mut target = format!("/environments/{id}/ports/{port}");
    if let Some(host_port) = arguments.host_port {
        target = format!("{target}?host_port={host_port}");
    }
    if arguments.close {
        server.json(Method::DELETE, &target).await?;
        return Ok(None);
    }
    let answer = server.json(Method::PUT, &target).await?;
    let address = answer.get("address").and_then(|address| address.as_str());
    Ok(Some(printable(address.ok_or(ClientError::Answer)?)))
}

/// The routes.
pub fn routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/environments/{id}/ports/{port}", put(open).delete(close))
        .with_state(service)
}

/// A part of the request's address that is none of ours.
#[derive(Debug, thiserror::Error)]
enum AddressError {
    #[error("{0:?} is no TCP port; give 1 to 65535")]
    Port(String),
    #[error("the query has {0:?}; it takes host_port")]
    Query(String),
}

/// A number of any size, for the service to judge.
fn number(text: &str) -> Result<u32, AddressError> {
    text.parse()
        .map_err(|_| AddressError::Port(text.chars().take(16).collect()))
}

/// The query's `host_port`, if it has one.
fn host_port(query: &str) -> Result<Option<u32>, AddressError> {
    match query.split_once('=') {
        None if query.is_empty() => Ok(None),
        Some(("host_port", value)) => number(value).map(Some),
        _ => Err(AddressError::Query(query.chars().take(64).collect())),
    }
}

async fn open(
    State(service): State<Arc<Service>>,
    Path((id, port)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    forward(&service, id, &port, query, false).await
}

async fn close(
    State(service): State<Arc<Service>>,
    Path((id, port)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    forward(&service, id, &port, query, true).await
}

async fn forward(
    service: &Service,
    environment_id: String,
    port: &str,
    query: Option<String>,
    close: bool,
) -> Response {
    let host_port = host_port(&query.unwrap_or_default());
    let (port, host_port) = match (number(port), host_port) {
        (Ok(port), Ok(host_port)) => (port, host_port),
        (Err(error), _) | (_, Err(error)) => return refusal(StatusCode::BAD_REQUEST, &error),
    };
    let request = ForwardRequest {
        environment_id,
        port,
        host_port,
        close,
    };
    match service.forward_port(request).await {
        Ok(forwarded) => Json(Answer::from(forwarded)).into_response(),
        Err(error) => refusal(status(&error), &error),
    }
}

/// A forward as it is told, here and by the tool.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Answer {
    status: ForwardStatus,
    /// Where it is on the host that runs Waggle.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The same for a browser, if an HTTP server listens there.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// Whether a forward is there.
#[derive(Debug, Clone, Copy, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ForwardStatus {
    Open,
    Closed,
}

impl From<Forwarded> for Answer {
    fn from(forwarded: Forwarded) -> Self {
        match forwarded {
            Forwarded::Open(address) => Self {
                status: ForwardStatus::Open,
                address: Some(address.to_string()),
                url: Some(format!("http://{address}")),
            },
            Forwarded::Closed => Self {
                status: ForwardStatus::Closed,
                address: None,
                url: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_port_or_nothing() {
        assert_eq!(host_port("").expect("none"), None);
        assert_eq!(host_port("host_port=8080").expect("one"), Some(8080));
        // Too large is for the service to say.
        assert_eq!(host_port("host_port=70000").expect("one"), Some(70_000));
        for query in [
            "host_port",
            "host_port=",
            "host_port=x",
            "port=1",
            "a=1&host_port=2",
        ] {
            host_port(query).expect_err(query);
        }
    }
}
