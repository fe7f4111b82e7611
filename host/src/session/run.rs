// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One program in the guest: its input goes in and its output comes out as they come, with nothing
//! held in between.
//!
//! Owns: the conversation of an exec on one connection. Does not own: what becomes of the output
//! ([`Output`]), nor the connection pool.
//!
//! Invariants: at most one frame of output is held here; while [`Output::take`] waits nothing more is
//! read, so that vsock's flow control holds the program back. The connection is in step afterwards
//! only if the outcome says so.

use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use waggle_protocol::{
    codec,
    frame::{Frame, Kind},
    limits::LOG_PATH_MAX,
    message::{Exec, ExecEnd, ExecLogged, Logs, Program, Reply, Request},
};

use super::connection::{Connection, LinkError, Reusable, settle};

/// The protocol version that knows logs, signals and tools.
pub(super) const VERSION_TOOLS: u16 = 2;

/// One of a program's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Where a program's output goes, as it comes.
pub trait Output: Send {
    /// The program runs, under this process id.
    fn started(&mut self, pid: u32) {
        let _ = pid;
    }

    /// Takes the next piece. The program is held back until the future is done.
    fn take(&mut self, stream: OutputStream, bytes: Bytes) -> impl Future<Output = ()> + Send;
}

/// From and up to where long output is kept in the guest.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// A stream that gets longer than this many bytes is written to a file.
    pub from: u64,
    /// Most bytes of it that are.
    pub max: u64,
}

/// A program to run, and what it reads.
#[derive(Debug)]
pub struct Run {
    /// The program. Whether it gets standard input is decided by `stdin` alone.
    pub exec: Exec,
    /// Whether long output is kept in the guest; an agent of version 1 keeps none.
    pub log: Option<LogLimits>,
    /// What it reads, closed at its end; `/dev/null` if absent.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
}

/// How a program ended.
#[derive(Debug)]
pub struct RunEnd {
    /// What the agent says of it.
    pub end: ExecEnd,
    /// Where its long output is.
    pub logs: Logs,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Runs a program. The second value says whether the connection may be used again.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; `output` then has had what had come.
    pub async fn run<O: Output>(
        &mut self,
        run: Run,
        output: &mut O,
    ) -> (Result<RunEnd, LinkError>, Reusable) {
        let mut in_step = run.stdin.is_none();
        let outcome = self.converse(run, output, &mut in_step).await;
        let ended = matches!(outcome, Ok(_) | Err(LinkError::Failed(_)));
        let reusable = if ended && in_step {
            Reusable::Yes
        } else {
            Reusable::No
        };
        (outcome, reusable)
    }

    async fn converse<O: Output>(
        &mut self,
        run: Run,
        output: &mut O,
        input_sent: &mut bool,
    ) -> Result<RunEnd, LinkError> {
        let Run {
            mut exec,
            log,
            stdin,
        } = run;
        exec.stdin = stdin.is_some();
        if matches!(exec.program, Program::Tool(_)) {
            self.require(VERSION_TOOLS)?;
        }
        let request = match log {
            Some(LogLimits { from, max }) if self.speaks(VERSION_TOOLS) => {
                Request::ExecLogged(ExecLogged {
                    exec,
                    log_from: from,
                    log_max: max,
                })
            }
            _ => Request::Exec(exec),
        };
        self.send(&request).await?;
        let piece_max = self.data_max();
        let Some(stdin) = stdin else {
            return receive(self.frames(), output).await;
        };
        let (sink, frames) = self.frames().split();
        let send = async {
            match feed(sink, stdin, piece_max).await {
                Ok(()) => *input_sent = true,
                Err(error) => return error,
            }
            // The program's end decides.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            outcome = receive(frames, output) => outcome,
            error = send => Err(error),
        }
    }
}

/// Sends what comes from `stdin`, and its end.
async fn feed<W>(
    mut sink: W,
    mut stdin: mpsc::Receiver<Bytes>,
    piece_max: usize,
) -> Result<(), LinkError>
where
    W: Sink<Frame, Error = LinkError> + Unpin,
{
    let frame = |payload| Frame {
        kind: Kind::Stdin,
        payload,
    };
    while let Some(mut bytes) = stdin.recv().await {
        while !bytes.is_empty() {
            let piece = bytes.split_to(piece_max.min(bytes.len()));
            sink.send(frame(piece)).await?;
        }
    }
    sink.send(frame(Bytes::new())).await
}

/// Hands the program's output on until its end.
async fn receive<R, O>(mut frames: R, output: &mut O) -> Result<RunEnd, LinkError>
where
    R: Stream<Item = Result<Frame, LinkError>> + Unpin,
    O: Output,
{
    let mut logs = Logs::default();
    loop {
        let frame = frames.next().await.ok_or(LinkError::Closed)??;
        match frame.kind {
            Kind::Stdout => output.take(OutputStream::Stdout, frame.payload).await,
            Kind::Stderr => output.take(OutputStream::Stderr, frame.payload).await,
            Kind::Control => match settle(codec::message(&frame)?)? {
                Reply::Started { pid } => output.started(pid),
                Reply::Logs(told) => logs = checked(told)?,
                Reply::Ended(end) => return Ok(RunEnd { end, logs }),
                _ => return Err(LinkError::Unexpected("a reply that exec does not have")),
            },
            Kind::Stdin | Kind::File => {
                return Err(LinkError::Unexpected(
                    "a data frame that exec does not have",
                ));
            }
        }
    }
}

fn checked(logs: Logs) -> Result<Logs, LinkError> {
    let all = [&logs.stdout, &logs.stderr];
    if all
        .into_iter()
        .flatten()
        .all(|log| log.path.len() <= LOG_PATH_MAX)
    {
        Ok(logs)
    } else {
        Err(LinkError::Unexpected("a path that is too long"))
    }
}
