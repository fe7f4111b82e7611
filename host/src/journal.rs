// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle network`: what an environment asked of the network, and what became of it. Both ends of it, the
//! command and the server's route.
//!
//! `GET /environments/{id}/network` answers `{"policy": "...", "records": [...]}`, or `{"error": "..."}`. Who
//! may use the port of the server is decided before this route.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::Method;
use serde_json::Value;

use crate::{
    client::{ClientError, Server, ServerOptions, printable},
    environment::EnvironmentId,
    refusal::{refusal, status},
    service::Service,
};

/// The words of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The environment's id
    pub environment: EnvironmentId,

    /// Print the server's answer as it is
    #[arg(long)]
    pub json: bool,

    #[allow(missing_docs)] // A comment here would be the command's.
    #[command(flatten)]
    pub server: ServerOptions,
}

/// Asks a server, and returns what to print.
///
/// # Errors
///
/// [`ClientError`].
pub async fn run(arguments: Arguments) -> Result<String, ClientError> {
    let server = Server::new(&arguments.server)?;
    let path = format!("/environments/{}/network", arguments.environment);
    let answer = server.json(Method::GET, &path).await?;
    if arguments.json {
        return Ok(answer.to_string());
    }
    let records = answer.get("records").and_then(Value::as_array);
    let records = records.ok_or(ClientError::Answer)?;
    let mut lines = format!("policy: {}", text(&answer, "policy"));
    for record in records {
        // Writing to a String does not fail.
        let _ = write!(lines, "\n{}", line(record));
    }
    Ok(lines)
}

fn text(value: &Value, name: &str) -> String {
    printable(value.get(name).and_then(Value::as_str).unwrap_or_default())
}

/// One record as a line.
fn line(record: &Value) -> String {
    let number = |name: &str| record.get(name).and_then(Value::as_u64).unwrap_or_default();
    let decision = text(record, "decision");
    let mut line = format!(
        "{} {decision:<7} {:<7} {}",
        text(record, "at"),
        text(record, "via"),
        text(record, "asked")
    );
    let rest = match decision.as_str() {
        "refused" => {
            let denial = record.get("denial").unwrap_or(&Value::Null);
            format!(
                ": {}; {} ({} times)",
                text(denial, "rule"),
                text(denial, "remedy"),
                number("times")
            )
        }
        "failed" => format!(": {}", text(record, "error")),
        _ => {
            let from = match record.get("from_cache").and_then(Value::as_bool) {
                Some(true) => "the package cache".to_owned(),
                _ => text(record, "address"),
            };
            let from = if from.is_empty() {
                from
            } else {
                format!(" from {from}")
            };
            format!(
                "{from}: {} bytes in, {} out",
                number("bytes_in"),
                number("bytes_out")
            )
        }
    };
    line.push_str(&rest);
    line
}

/// The route.
pub fn routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/environments/{id}/network", get(report))
        .with_state(service)
}

async fn report(State(service): State<Arc<Service>>, Path(id): Path<String>) -> Response {
    match service.network(&id) {
        Ok(report) => Json(report).into_response(),
        Err(error) => refusal(status(&error), &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line() {
        let refused = serde_json::json!({
            "at": "2026-01-01T00:00:00Z", "decision": "refused", "via": "socks", "asked": "evil.example:1",
            "denial": { "rule": "a rule", "remedy": "a remedy" }, "times": 3,
        });
        assert_eq!(
            line(&refused),
            "2026-01-01T00:00:00Z refused socks   evil.example:1: a rule; a remedy (3 times)"
        );
        let allowed = serde_json::json!({
            "at": "2026-01-01T00:00:00Z", "decision": "allowed", "via": "connect", "asked": "a.example:443",
            "address": "192.0.2.1:443", "bytes_in": 5, "bytes_out": 6, "times": 1,
        });
        assert!(line(&allowed).ends_with("a.example:443 from 192.0.2.1:443: 5 bytes in, 6 out"));
    }
}
