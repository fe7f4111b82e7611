// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The exec operation: run a program, stream its output, say how it ended.
//!
//! Owns: the loop that watches the program, the host and the clock at once. Its parts are in
//! [`request`] (check and start), [`child`] (reap), [`members`] (kill and signal), [`cgroup`] (the
//! group that nobody can leave), [`output`] and [`input`] (the pipes), [`log`] (long output, kept),
//! [`code_file`] (the temporary program text).
//!
//! Invariants: the deadline holds whether or not the host reads; when the operation is over, by any
//! way out including a dropped future, everyone in the program's session is dead, the program is (or will
//! be) reaped, and its text is removed. When the program was killed, for its deadline, for its output,
//! by the host or with the connection, then so is everyone whom it has started, daemons included
//! (where the kernel has cgroups; root's programs could leave theirs).
//!
//! A process that left the session (`setsid`) outlives a program that ends by itself: that is how a
//! service is started. If it still holds the program's stdout or stderr, it is not waited for: what is in the
//! pipes is sent, and after [`DRAIN_TIME`] without the host being the cause the stream counts as cut.

mod cgroup;
mod child;
mod code_file;
mod input;
mod log;
mod members;
mod output;
mod request;
#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use waggle_protocol::frame::{Frame, Kind};
use waggle_protocol::message::{EndReason, Exec, ExecEnd, ExitStatus, Reply};

pub use self::cgroup::{Cgroups, HIERARCHY};
use self::child::Child;
pub use self::code_file::remove_stale as remove_stale_code_files;
use self::input::Input;
use self::log::StreamLogs;
pub use self::log::{LogLimits, LogStore};
pub use self::members::{Programs, signal};
use self::output::{Output, Read};
use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError, OutFrame};
use crate::serve::OperationError;
use crate::sys::DescriptorLimit;

/// How long, the time of sending to the host not counted, the pipes are read after the program's
/// end. What its group wrote is there already; this is for members of the group that are still
/// dying, and it is what a background process that holds the pipe costs.
const DRAIN_TIME: Duration = Duration::from_millis(200);

/// How often to ask whether the host is still there while its stdin frames must be left unread.
const PEER_CHECK: Duration = Duration::from_millis(250);

/// What the programs of one agent share.
#[derive(Debug)]
pub struct Shared {
    /// Their control groups.
    pub cgroups: Arc<Cgroups>,
    /// Those that run.
    pub programs: Arc<Programs>,
    /// What is kept of their output.
    pub logs: Arc<LogStore>,
    /// Waggle's own program.
    pub tool: PathBuf,
    /// How many descriptors a program may have, if not as many as the agent.
    pub descriptors: Option<DescriptorLimit>,
}

impl Shared {
    /// Without any programs yet; `tool` is where Waggle's own lies.
    #[must_use]
    pub fn new(cgroups: Arc<Cgroups>, tool: &Path) -> Self {
        Self {
            cgroups,
            programs: Arc::default(),
            logs: LogStore::new(),
            tool: tool.to_owned(),
            descriptors: None,
        }
    }
}

/// Runs `request` to its end and returns the terminal reply. With `log`, long output is also written
/// to files.
///
/// Dropping the future kills the program.
///
/// # Errors
///
/// [`OperationError::Failed`] if the program could not be started;
/// [`OperationError::Connection`] if the host went away, and the program with it.
pub async fn run<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: Exec,
    log: Option<LogLimits>,
) -> Result<Reply, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    if request.stdin {
        connection.expect_upload(Kind::Stdin);
    }
    let deadline = request.deadline_ms.map(Duration::from_millis);
    let limit = request.output_limit;
    let id: u64 = rand::random();
    let owner = agent.identity(request.user);
    let logs = log.map(|limits| {
        let (store, folder) = (&agent.exec.logs, &agent.temp_dir);
        StreamLogs::new(store, limits, folder, id, owner)
    });
    let started = request::start(agent, id, request)?;
    let mut frame = connection.out_frame();
    frame.put_reply(&Reply::Started {
        pid: started.child.pid(),
    });
    let mut watch = Watch {
        // Out of the clock's range is as good as none.
        deadline: deadline.and_then(|after| started.child.started_at().checked_add(after)),
        output: Output::new(started.stdout, started.stderr, limit),
        input: Input::new(started.stdin),
        child: started.child,
        logs,
        frame,
        killed: None,
        end: None,
        drain_left: DRAIN_TIME,
    };
    let ended = watch.watch(connection).await?;
    drop(started.code_file);
    if let Some(logs) = watch.logs.take() {
        connection.send_reply(&Reply::Logs(logs.finish())).await?;
    }
    Ok(Reply::Ended(ended))
}

/// A running program and everything that is waited for on its behalf.
struct Watch {
    child: Child,
    output: Output,
    input: Input,
    logs: Option<StreamLogs>,
    /// What is on its way to the host. Nothing is read from the program before this is sent.
    frame: OutFrame,
    deadline: Option<Instant>,
    /// Why the agent killed it, if it did.
    killed: Option<EndReason>,
    /// How it ended, once it is reaped.
    end: Option<child::End>,
    drain_left: Duration,
}

/// What happened next.
enum Event {
    Host(Option<Result<Frame, ConnectionError>>),
    PeerCheck,
    Exited(std::io::Result<()>),
    Deadline,
    Sent(std::io::Result<usize>),
    Output(Read),
    Input,
    Drained,
}

impl Watch {
    async fn watch<T>(&mut self, connection: &mut Connection<T>) -> Result<ExecEnd, ConnectionError>
    where
        T: AsyncRead + AsyncWrite + AsFd + Unpin,
    {
        loop {
            if let Some(end) = &self.end
                && self.frame.is_sent()
                && self.output.is_closed()
            {
                return Ok(self.summary(end));
            }
            let draining = self.end.is_some() && self.frame.is_sent();
            let since = Instant::now();
            let event = self.next_event(connection, draining).await;
            if draining {
                self.drain_left = self.drain_left.saturating_sub(since.elapsed());
            }
            self.handle(event, connection)?;
        }
    }

    /// Waits for the next event. Cancel-safe: every branch either has happened or has not.
    async fn next_event<T>(&mut self, connection: &mut Connection<T>, draining: bool) -> Event
    where
        T: AsyncRead + AsyncWrite + AsFd + Unpin,
    {
        let running = self.end.is_none();
        let deadline = self.deadline.filter(|_| running && self.killed.is_none());
        let host_waits = self.input.is_full();
        let (frame, output, writer) = (&mut self.frame, &mut self.output, &mut connection.writer);
        let transfer = async {
            if frame.is_sent() {
                Event::Output(output.read(frame.room()).await)
            } else {
                Event::Sent(writer.write(frame.unsent()).await)
            }
        };
        tokio::select! {
            // In this order, so that neither a flood of output nor a busy host can hide the
            // program's end or its deadline, and so that the drain ends only on empty pipes.
            biased;
            () = at(deadline) => Event::Deadline,
            exited = self.child.exited(), if running => Event::Exited(exited),
            frame = connection.reader.next(), if !host_waits => Event::Host(frame),
            () = self.input.write(), if self.input.is_waiting() => Event::Input,
            event = transfer => event,
            () = tokio::time::sleep(PEER_CHECK), if host_waits => Event::PeerCheck,
            () = tokio::time::sleep(self.drain_left), if draining => Event::Drained,
        }
    }

    fn handle<T>(
        &mut self,
        event: Event,
        connection: &mut Connection<T>,
    ) -> Result<(), ConnectionError>
    where
        T: AsyncRead + AsyncWrite + AsFd + Unpin,
    {
        match event {
            Event::Host(None) => return Err(ConnectionError::Cancelled),
            Event::Host(Some(frame)) => {
                let frame = frame?;
                if frame.kind != Kind::Stdin || !self.input.push(&frame.payload) {
                    return Err(ConnectionError::Unexpected(frame.kind));
                }
                connection.note_upload(&frame.payload);
            }
            Event::PeerCheck if connection.liveness.peer_gone() => {
                return Err(ConnectionError::Cancelled);
            }
            Event::PeerCheck | Event::Input => {}
            Event::Exited(exited) => {
                exited?;
                self.end = Some(self.child.reap()?);
                self.output.program_ended();
            }
            Event::Deadline => self.kill(EndReason::Deadline),
            Event::Sent(sent) => match sent? {
                0 => return Err(ConnectionError::Cancelled),
                count => self.frame.advance(count),
            },
            Event::Output(Read { kind, keep, over }) => {
                if keep > 0 {
                    let bytes = self.frame.room().get(..keep).unwrap_or_default();
                    if let Some(logs) = &mut self.logs {
                        logs.take(kind, bytes);
                    }
                    self.frame.finish(kind, keep);
                }
                if over {
                    self.kill(EndReason::OutputLimit);
                }
            }
            Event::Drained => self.output.cut(),
        }
        Ok(())
    }

    fn kill(&mut self, reason: EndReason) {
        if self.end.is_none() && self.killed.is_none() {
            self.killed = Some(reason);
            self.child.kill_all();
        }
    }

    fn summary(&self, end: &child::End) -> ExecEnd {
        let by_itself = if end.out_of_memory {
            EndReason::OutOfMemory
        } else {
            EndReason::Exited
        };
        ExecEnd {
            status: end.status,
            reason: self.reason_of(end).unwrap_or(by_itself),
            wall_us: microseconds(end.wall),
            user_us: microseconds(end.cpu.user),
            system_us: microseconds(end.cpu.system),
            stdout: self.output.stdout_totals(),
            stderr: self.output.stderr_totals(),
        }
    }

    /// Why the agent killed it, unless the program had ended by itself before the signal came.
    fn reason_of(&self, end: &child::End) -> Option<EndReason> {
        let by_us = end.status == ExitStatus::Signal(nix::libc::SIGKILL);
        self.killed
            .filter(|reason| by_us || *reason == EndReason::OutputLimit)
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Waits until `deadline`, or for ever.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
