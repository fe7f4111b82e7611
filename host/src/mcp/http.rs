// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! MCP over Streamable HTTP at `/mcp`, and `/health`.
//!
//! The port is for programs on this machine: it listens on loopback only, and a web page cannot use
//! it, because `Host` and `Origin` must name this machine (DNS rebinding, cross-site requests).

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, routing::get, serve::ListenerExt as _};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Handler, REQUEST_MAX};

/// How long an idle session of a client older than MCP 2026-07-28 is kept. The default of five
/// minutes would end it while its user thinks; a day bounds what forgotten ones cost.
const SESSION_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long answers may take to drain once no environment is left.
const DRAIN: Duration = Duration::from_secs(2);

/// A server that accepts connections.
#[derive(Debug)]
pub struct HttpServer {
    sessions: CancellationToken,
    accepting: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

/// Starts to serve on `listener`, with further `routes`.
#[must_use]
pub fn serve(handler: Handler, listener: TcpListener, routes: Router) -> HttpServer {
    // Any loopback address may have been chosen; its own name is as good as the usual ones.
    let own = listener
        .local_addr()
        .map_or_else(|_| "localhost".to_owned(), |at| at.ip().to_string());
    let sessions = CancellationToken::new();
    let accepting = CancellationToken::new();
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(["localhost", "127.0.0.1", "::1", "[::1]", &own])
        .with_allowed_origins([
            "http://localhost:*",
            "http://127.0.0.1:*",
            "http://[::1]:*",
            &format!("http://{own}:*"),
        ])
        .enforce_origin_validation()
        .with_max_request_body_bytes(REQUEST_MAX)
        .with_cancellation_token(sessions.clone());
    let mut manager = LocalSessionManager::default();
    manager.session_config.keep_alive = Some(SESSION_IDLE);
    let mcp = StreamableHttpService::new(move || Ok(handler.clone()), Arc::new(manager), config);
    let router = Router::new()
        .route_service("/mcp", mcp)
        .route("/health", get(health))
        .merge(routes);
    let stopped = accepting.clone().cancelled_owned();
    // An answer is one write: waiting for the client's acknowledgement would only delay the next.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps Nagle's algorithm");
        }
    });
    let task = tokio::spawn(async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(stopped)
            .await
    });
    HttpServer {
        sessions,
        accepting,
        task,
    }
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

impl HttpServer {
    /// Accepts no more connections. Calls under way go on.
    pub fn stop_accepting(&self) {
        self.accepting.cancel();
    }

    /// Lets answers drain for a moment, then ends all sessions and returns.
    pub async fn finish(mut self) {
        self.stop_accepting();
        if timeout(DRAIN, &mut self.task).await.is_ok() {
            return;
        }
        // Open event streams never end by themselves.
        self.sessions.cancel();
        if timeout(DRAIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    /// Resolves when serving fails by itself.
    ///
    /// # Errors
    ///
    /// What the listener said.
    pub async fn failed(&mut self) -> std::io::Result<()> {
        match (&mut self.task).await {
            Ok(outcome) => outcome,
            Err(error) => Err(std::io::Error::other(error)),
        }
    }
}
