// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! MCP over Streamable HTTP at `/mcp`, and `/health`.
//!
//! This module puts rmcp's service together with what it lacks: [`accept`] bounds the connections,
//! [`access`] decides who may use the port, [`hold`] keeps silent calls alive, [`sessions`] bounds the state of older clients; here are
//! plain answers to what is no message, and the order in which a server ends.

mod accept;
mod access;
mod hold;
mod sessions;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::StreamExt as _;
use rmcp::{
    ServerHandler,
    transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService},
};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use accept::Limits;
pub use access::{Access, HostName, Token, TokenError};
pub use hold::Patience;

use super::REQUEST_MAX;
use sessions::Sessions;

/// How long answers may take to drain once no environment is left, and streams to end after that.
const DRAIN: Duration = Duration::from_secs(2);

/// Most bytes of rmcp's own complaint about a request.
const COMPLAINT_MAX: usize = 64 * 1024;

/// What a server is started with. The default is a server for programs on this machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may use the port.
    pub access: Access,
    /// Further routes, behind the same checks.
    pub routes: Router,
    /// How long a call may be silent.
    pub patience: Patience,
    /// Most sessions of clients older than MCP 2026-07-28; newer ones have none.
    pub max_sessions: usize,
    /// What connections may take.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            access: Access::default(),
            routes: Router::new(),
            patience: Patience::default(),
            // Some tens of KiB each, so that all of them cost less than one environment.
            max_sessions: 1000,
            limits: Limits::default(),
        }
    }
}

/// A server that accepts connections.
#[derive(Debug)]
pub struct HttpServer {
    sessions: CancellationToken,
    accepting: CancellationToken,
    calls: TaskTracker,
    task: JoinHandle<()>,
}

/// What stands between the port and rmcp.
#[derive(Debug, Clone)]
struct Edge {
    patience: Patience,
    sessions: Arc<Sessions>,
    calls: TaskTracker,
}

/// Starts to serve on `listener`. The handler is cloned for each session and for each call without a
/// session, so that should cost little.
#[must_use]
pub fn serve<H: ServerHandler + Clone>(
    handler: H,
    listener: TcpListener,
    options: Options,
) -> HttpServer {
    let ending = CancellationToken::new();
    let accepting = CancellationToken::new();
    let sessions = Arc::new(Sessions::new(options.max_sessions));
    let calls = TaskTracker::new();
    // `access` has checked Host and Origin before rmcp sees a request, on all routes alike.
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .disable_allowed_origins()
        .with_max_request_body_bytes(REQUEST_MAX)
        .with_cancellation_token(ending.clone());
    let mcp =
        StreamableHttpService::new(move || Ok(handler.clone()), Arc::clone(&sessions), config);
    let edge = Edge {
        patience: options.patience,
        sessions,
        calls: calls.clone(),
    };
    let access = options.access.at(listener.local_addr().ok());
    let router = Router::new()
        .route_service("/mcp", mcp)
        .layer(from_fn_with_state(edge, converse))
        .merge(options.routes)
        .route("/health", get(health))
        .layer(from_fn_with_state(access, access::guard));
    let serving = accept::serve(listener, router, options.limits, accepting.clone());
    let task = tokio::spawn(serving);
    HttpServer {
        sessions: ending,
        accepting,
        calls,
        task,
    }
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

/// One request to `/mcp`, on its way in and out.
async fn converse(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    if request.method() == Method::DELETE {
        let mut response = next.run(request).await;
        // The session is closed, not soon to be; clients take rmcp's word for a failure.
        if response.status() == StatusCode::ACCEPTED {
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        return response;
    }
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let call = edge.calls.token();
    if may_open_session(request.headers()) && edge.sessions.are_busy() {
        let text = "all sessions have calls under way; try again later";
        let retry = [(header::RETRY_AFTER, "10")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry, text).into_response();
    }
    let sent_json = is_json(request.headers());
    let mut response = hold::hold(edge.patience, request, next).await;
    // rmcp's word for a JSON body that is no message.
    if sent_json && response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        response = no_message(response).await;
    }
    // A stream is under way until it is over.
    let streams = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "text/event-stream");
    if !streams {
        return response;
    }
    response.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _ = &call;
        }))
    })
}

/// Whether this can be a request that opens a session: it names none, and no revision without them.
fn may_open_session(headers: &HeaderMap) -> bool {
    !headers.contains_key("mcp-session-id") && !hold::is_stateless(headers)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let essence = kind
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next());
    essence.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// The JSON-RPC error for a body that is not JSON, or JSON that is not a message.
async fn no_message(response: Response) -> Response {
    let detail = axum::body::to_bytes(response.into_body(), COMPLAINT_MAX)
        .await
        .unwrap_or_default();
    let detail = String::from_utf8_lossy(&detail);
    // Only the parser's errors have a position.
    let (code, message) = if detail.contains(" at line ") {
        (-32700, "the body is not JSON")
    } else {
        (-32600, "the body is JSON, but not a message of MCP")
    };
    let error = serde_json::json!({
        "jsonrpc": "2.0",
        "id": null,
        "error": { "code": code, "message": format!("{message}: {detail}") },
    });
    (StatusCode::BAD_REQUEST, Json(error)).into_response()
}

impl HttpServer {
    /// Accepts no more connections. Calls under way go on.
    pub fn stop_accepting(&self) {
        self.accepting.cancel();
    }

    /// Lets the answers of calls under way drain for a moment, then ends all sessions and returns.
    ///
    /// The order matters: rmcp answers what is under way with status 500 when its sessions end.
    pub async fn finish(mut self) {
        self.stop_accepting();
        self.calls.close();
        if timeout(DRAIN, self.calls.wait()).await.is_err() {
            tracing::warn!(calls = self.calls.len(), "ended with calls under way");
        }
        // The event streams of sessions never end by themselves.
        self.sessions.cancel();
        if timeout(DRAIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    /// Resolves when serving ends by itself.
    ///
    /// # Errors
    ///
    /// What ended it.
    pub async fn failed(&mut self) -> std::io::Result<()> {
        (&mut self.task).await.map_err(std::io::Error::other)
    }
}
