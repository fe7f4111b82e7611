// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! MCP over standard input and output: one client, which is the parent process.
//!
//! The end of the input is the client's goodbye. It is told to the caller at once, because rmcp first
//! waits for the calls that are under way, and clients kill a server that is slow to go.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rmcp::{
    ServerHandler, ServiceExt as _,
    service::{QuitReason, ServerInitializeError},
    transport::async_rw::AsyncRwTransport,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::REQUEST_MAX;

/// How long calls may go on once the input has ended. Their answers are sent if they end in time.
const LEAVE: Duration = Duration::from_secs(2);

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

/// Serves on the standard streams until the client closes its end, or `stop` is cancelled. Cancels
/// `ended` as soon as the input ends; the caller should then end the calls under way, which have
/// little time left.
///
/// # Errors
///
/// [`StdioError`]. A client that goes away is not an error.
pub async fn serve<H: ServerHandler>(
    handler: H,
    stop: CancellationToken,
    ended: CancellationToken,
) -> Result<(), StdioError> {
    serve_on(
        handler,
        tokio::io::stdin(),
        tokio::io::stdout(),
        stop,
        ended,
    )
    .await
}

async fn serve_on<H: ServerHandler>(
    handler: H,
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
    stop: CancellationToken,
    ended: CancellationToken,
) -> Result<(), StdioError> {
    let input = Watched {
        input,
        ended: ended.clone(),
    };
    let transport = AsyncRwTransport::new(input, output).with_max_line_length(REQUEST_MAX);
    let opening = handler.serve_with_ct(transport, stop.clone());
    let running = tokio::select! {
        running = opening => match running {
            Ok(running) => running,
            // The stop may come amid the handshake.
            Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => {
                return Ok(());
            }
            Err(error) => return Err(StdioError::Handshake(Box::new(error))),
        },
        () = stop.cancelled() => return Ok(()),
    };
    let overdue = async {
        ended.cancelled().await;
        sleep(LEAVE).await;
    };
    tokio::select! {
        reason = running.waiting() => match reason? {
            QuitReason::JoinError(error) => Err(StdioError::Task(error)),
            _ => Ok(()),
        },
        // What is dropped here is cancelled.
        () = overdue => Ok(()),
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rmcp::{
        ErrorData, RoleServer,
        model::{CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock},
        service::RequestContext,
    };
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex},
        task::JoinHandle,
        time::timeout,
    };

    use super::*;

    #[derive(Clone)]
    struct Fixture {
        /// Ends the tool `until_told`.
        told: CancellationToken,
    }

    impl ServerHandler for Fixture {
        async fn call_tool(
            &self,
            request: CallToolRequestParams,
            _: RequestContext<RoleServer>,
        ) -> Result<CallToolResponse, ErrorData> {
            match request.name.as_ref() {
                "until_told" => self.told.cancelled().await,
                _ => std::future::pending().await,
            }
            Ok(CallToolResult::success(vec![ContentBlock::text("told")]).into())
        }
    }

    struct Stdio {
        input: DuplexStream,
        output: BufReader<DuplexStream>,
        ended: CancellationToken,
        stop: CancellationToken,
        fixture: Fixture,
        serving: JoinHandle<Result<(), StdioError>>,
    }

    async fn with_call(tool: &str) -> Stdio {
        let (input, server_input) = duplex(4096);
        let (server_output, output) = duplex(4096);
        let fixture = Fixture {
            told: CancellationToken::new(),
        };
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let serving = tokio::spawn(serve_on(
            fixture.clone(),
            server_input,
            server_output,
            stop.clone(),
            ended.clone(),
        ));
        let mut stdio = Stdio {
            input,
            output: BufReader::new(output),
            ended,
            stop,
            fixture,
            serving,
        };
        stdio
            .say(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"0"}}}"#)
            .await;
        assert!(stdio.line().await.contains("serverInfo"));
        stdio
            .say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
            .await;
        stdio
            .say(&format!(
                r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#
            ))
            .await;
        stdio
    }

    impl Stdio {
        async fn say(&mut self, message: &str) {
            self.input.write_all(message.as_bytes()).await.unwrap();
            self.input.write_all(b"\n").await.unwrap();
        }

        async fn line(&mut self) -> String {
            let mut line = String::new();
            let read = timeout(2 * LEAVE, self.output.read_line(&mut line)).await;
            read.expect("a line in time").unwrap();
            line
        }
    }

    #[tokio::test]
    async fn a_call_that_ends_after_the_input_is_answered() {
        let mut stdio = with_call("until_told").await;
        drop(std::mem::replace(&mut stdio.input, duplex(1).0));
        stdio.ended.cancelled().await;
        // As the caller does when it ends the environments.
        stdio.fixture.told.cancel();
        assert!(stdio.line().await.contains("told"));
        let started = Instant::now();
        stdio.serving.await.unwrap().unwrap();
        assert!(started.elapsed() < LEAVE / 2, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_call_that_does_not_end_is_left() {
        let mut stdio = with_call("endless").await;
        drop(std::mem::replace(&mut stdio.input, duplex(1).0));
        let started = Instant::now();
        stdio.serving.await.unwrap().unwrap();
        assert!(started.elapsed() < 2 * LEAVE, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_stop_ends_it_too() {
        let stdio = with_call("until_told").await;
        stdio.stop.cancel();
        stdio.fixture.told.cancel();
        let ended = timeout(2 * LEAVE, stdio.serving).await;
        ended.expect("in time").unwrap().unwrap();
    }
}
