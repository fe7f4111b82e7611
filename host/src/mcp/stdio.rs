// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! MCP over standard input and output: one client, which is the parent process.
//!
//! The end of the input is the client's goodbye. It is told to the caller at once, because rmcp first
//! waits for the calls that are under way, and clients kill a server that is slow to go.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use rmcp::{
    ServiceExt as _,
    service::{QuitReason, ServerInitializeError},
    transport::async_rw::AsyncRwTransport,
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::{Handler, REQUEST_MAX};

/// Why serving over stdio ended badly.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The client did not open the session as MCP says.
    #[error("the client did not complete the MCP handshake")]
    Handshake(#[source] Box<ServerInitializeError>),
    /// The serving task broke.
    #[error("serving over stdio failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Serves until the client closes its end, or `stop` is cancelled. Cancels `ended` as soon as the
/// input ends.
///
/// # Errors
///
/// [`StdioError`]. A client that goes away is not an error.
pub async fn serve(
    handler: Handler,
    stop: CancellationToken,
    ended: CancellationToken,
) -> Result<(), StdioError> {
    let input = Watched {
        input: tokio::io::stdin(),
        ended,
    };
    let transport =
        AsyncRwTransport::new(input, tokio::io::stdout()).with_max_line_length(REQUEST_MAX);
    let opening = handler.serve_with_ct(transport, stop.clone());
    let running = tokio::select! {
        running = opening => match running {
            Ok(running) => running,
            Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(error) => return Err(StdioError::Handshake(Box::new(error))),
        },
        () = stop.cancelled() => return Ok(()),
    };
    match running.waiting().await? {
        QuitReason::JoinError(error) => Err(StdioError::Task(error)),
        _ => Ok(()),
    }
}

/// An input that tells when it ends.
struct Watched<R> {
    input: R,
    ended: CancellationToken,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.input).poll_read(cx, buffer);
        let nothing = buffer.filled().len() == before && buffer.remaining() > 0;
        if matches!(&polled, Poll::Ready(outcome) if nothing || outcome.is_err()) {
            self.ended.cancel();
        }
        polled
    }
}
