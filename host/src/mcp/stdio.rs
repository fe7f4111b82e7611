// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! MCP over standard input and output: one client, which is the parent process.

use rmcp::{ServiceExt as _, service::QuitReason};
use tokio_util::sync::CancellationToken;

use super::Handler;

/// Why serving over stdio ended badly.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The client did not open the session as MCP says.
    #[error("the client did not complete the MCP handshake")]
    Handshake(#[source] Box<rmcp::service::ServerInitializeError>),
    /// The serving task broke.
    #[error("serving over stdio failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Serves until the client closes its end, or `stop` is cancelled.
///
/// # Errors
///
/// [`StdioError`]. A client that goes away is not an error.
pub async fn serve(handler: Handler, stop: CancellationToken) -> Result<(), StdioError> {
    let opening = handler.serve_with_ct(rmcp::transport::stdio(), stop.child_token());
    let running = tokio::select! {
        running = opening => match running {
            Ok(running) => running,
            Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(error) => return Err(StdioError::Handshake(Box::new(error))),
        },
        () = stop.cancelled() => return Ok(()),
    };
    match running.waiting().await? {
        QuitReason::JoinError(error) => Err(StdioError::Task(error)),
        _ => Ok(()),
    }
}
