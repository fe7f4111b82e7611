// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One program in an environment: its run, its output within a budget, and what its end means.
//!
//! Invariant: of each output stream at most the budget is held, whatever the program prints; the rest
//! is in the guest, up to [`LOG_MAX`].

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use waggle_protocol::message::{
    EndReason, EnvVar, Exec, ExecEnd, ExitStatus, Log, Logs, Program, User,
};

use super::{Call, Live, Service, ServiceError};
use crate::{
    environment::{EnvironmentId, Status},
    network::policy::Denial,
    session::{
        LinkError, LogLimits, Output, OutputStream, Run, RunEnd,
        capture::{Captured, Text, lossy},
    },
};

/// Most bytes of output in a result, of both streams together, if the caller does not say: about
/// 8,000 tokens.
pub const OUTPUT_DEFAULT: usize = 32_000;

/// The most that a caller may ask for. It fits into a result, which carries it twice, even if every
/// byte needs six or seven in JSON.
pub const OUTPUT_MAX: usize = 65_536;

/// Most bytes of one stream that are kept in the guest, so that a loop that prints does not fill the
/// environment's disk.
pub(super) const LOG_MAX: u64 = 64 * 1024 * 1024;

/// How long the host waits to learn whether a broken connection was in fact a dead machine.
const DEATH_WAIT: Duration = Duration::from_secs(2);

/// How long an agent that let a deadline pass may take to show that it works at all.
const PING_WAIT: Duration = Duration::from_secs(15);

/// The signal that ends a program at its deadline, and the exit code that shells give it.
const SIGKILL: i32 = 9;
const SIGNAL_BASE: i32 = 128;

/// Why a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By itself.
    Exited,
    /// By a signal.
    Signal,
    /// Killed at its deadline.
    Deadline,
    /// Killed because its call was cancelled.
    Cancelled,
    /// Killed because of too much output.
    OutputLimit,
    /// Killed because the environment's memory ran out.
    OutOfMemory,
    /// The environment's machine ended under it.
    MachineLost,
    /// Nobody saw its end: the connection to it broke.
    Unknown,
}

/// What became of a program.
#[derive(Debug, Clone)]
pub struct End {
    /// Why it ended.
    pub ended: Ended,
    /// Its exit code; 128 plus the signal's number if a signal ended it. Unknown if its machine is
    /// lost.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// How long it ran.
    pub duration: Duration,
    /// The file in the guest that has its standard output, if that was long.
    pub stdout_log: Option<GuestLog>,
    /// The file in the guest that has its standard error, if that was long.
    pub stderr_log: Option<GuestLog>,
}

/// A file in the guest with a stream's first bytes.
#[derive(Debug, Clone)]
pub struct GuestLog {
    /// Absolute path.
    pub path: String,
    /// Bytes in it.
    pub bytes: u64,
}

impl From<Log> for GuestLog {
    fn from(log: Log) -> Self {
        Self {
            path: lossy(&log.path),
            bytes: log.bytes,
        }
    }
}

impl End {
    pub(super) fn new(end: &ExecEnd, logs: Logs) -> Self {
        let (exit_code, signal) = match end.status {
            ExitStatus::Code(code) => (code, None),
            ExitStatus::Signal(signal) => (SIGNAL_BASE.saturating_add(signal), Some(signal)),
        };
        let ended = match (end.reason, signal) {
            (EndReason::Exited, None) => Ended::Exited,
            (EndReason::Exited, Some(_)) => Ended::Signal,
            (EndReason::Deadline, _) => Ended::Deadline,
            (EndReason::OutputLimit, _) => Ended::OutputLimit,
            (EndReason::OutOfMemory, _) => Ended::OutOfMemory,
        };
        Self {
            ended,
            exit_code: Some(exit_code),
            signal,
            duration: Duration::from_micros(end.wall_us),
            stdout_log: logs.stdout.map(GuestLog::from),
            stderr_log: logs.stderr.map(GuestLog::from),
        }
    }

    /// An end that the host brought about or inferred.
    pub(super) fn without_report(ended: Ended, duration: Duration) -> Self {
        let signal = (!matches!(ended, Ended::MachineLost | Ended::Unknown)).then_some(SIGKILL);
        Self {
            ended,
            exit_code: signal.map(|signal| SIGNAL_BASE + signal),
            signal,
            duration,
            stdout_log: None,
            stderr_log: None,
        }
    }

    /// What the caller should know and do if the program did not end by itself. `keyed` says that the
    /// call had an idempotency key, which would only give this result again.
    #[must_use]
    pub fn guidance(&self, keyed: bool) -> Option<String> {
        let key = if keyed {
            " (another call needs another idempotency_key)"
        } else {
            ""
        };
        let (what, next) = match self.ended {
            Ended::Exited | Ended::Signal => return None,
            Ended::Unknown => {
                return Some(
                    "the connection to the program broke, and its end was not seen; look at the environment \
                     (list_files, read_file) before you run it again."
                        .to_owned(),
                );
            }
            Ended::MachineLost => {
                return Some(format!(
                    "the environment's machine ended after the program had run for {} ms, and what was in it \
                     is lost; the output so far is in the result. Call destroy_environment on it, then \
                     create_environment for a new one.",
                    self.duration.as_millis()
                ));
            }
            Ended::Deadline => (
                "at its deadline, with everything that it had started",
                "call again with less work, with a higher timeout_seconds where the tool has one, or in the \
                 background",
            ),
            Ended::Cancelled => (
                "because its call was cancelled, with everything that it had started",
                "call again to run it from its beginning",
            ),
            Ended::OutputLimit => (
                "because it printed more than this server allows",
                "call again with less output",
            ),
            Ended::OutOfMemory => (
                "because the environment's memory ran out",
                "call again with less data at a time",
            ),
        };
        Some(format!(
            "the program was killed {what}, after {} ms; its output so far is in the result. The \
             environment is still usable: {next}{key}.",
            self.duration.as_millis()
        ))
    }
}

/// What a program did.
#[derive(Debug, Clone)]
pub struct Executed {
    /// Its standard output, cut in the middle if long.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// Bytes of output that are left out of `stdout` and `stderr`.
    pub left_out: u64,
    /// How it ended.
    pub end: End,
    /// What the network refused the environment meanwhile.
    pub network_refused: Vec<Denial>,
}

/// A program to run, and how much of its output is wanted.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) exec: Exec,
    pub(super) stdin: Option<Bytes>,
    pub(super) budget: usize,
}

impl Job {
    /// A program that reads nothing, with the usual budget.
    pub(super) fn new(program: Program, user: User, env: Vec<EnvVar>, limit: Duration) -> Self {
        let exec = Exec {
            program,
            env,
            directory: None,
            user,
            deadline_ms: Some(milliseconds(limit)),
            output_limit: None,
            stdin: false,
        };
        Self {
            exec,
            stdin: None,
            budget: OUTPUT_DEFAULT,
        }
    }
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Captures output, and shows it to whoever follows the call.
struct Followed<'a> {
    captured: Captured,
    call: &'a Call,
}

impl Output for Followed<'_> {
    async fn take(&mut self, stream: OutputStream, bytes: Bytes) {
        self.call.printed(&bytes);
        self.captured.stream(stream).push(&bytes);
    }
}

impl Service {
    /// Runs `job` to its end, and ends it when `cancel` is cancelled. Dropping the future kills the
    /// program.
    pub(super) async fn run(
        &self,
        id: &EnvironmentId,
        live: &Live,
        mut job: Job,
        call: &Call,
        cancel: &CancellationToken,
    ) -> Result<Executed, ServiceError> {
        job.exec.output_limit = Some(self.settings.max_output_bytes());
        let mut output = Followed {
            captured: Captured::new(job.budget),
            call,
        };
        let (start, mark) = (Instant::now(), live.network_mark());
        let run = Run {
            exec: job.exec,
            log: Some(log_limits(job.budget)),
            stdin: job.stdin.map(whole_input),
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            outcome = live.session.run(run, &mut output) => Some(outcome),
        };
        let end = match outcome {
            None => End::without_report(Ended::Cancelled, start.elapsed()),
            Some(Ok(RunEnd { end, logs })) => End::new(&end, logs),
            Some(Err(error)) => self.end_of_broken(id, live, error, start).await?,
        };
        let mut executed = executed(&output.captured, job.budget, end);
        executed.network_refused = live.refused_since(mark);
        Ok(executed)
    }

    /// How a program ended whose end the agent did not report.
    ///
    /// # Errors
    ///
    /// If it was not run, or if that is not known.
    pub(super) async fn end_of_broken(
        &self,
        id: &EnvironmentId,
        live: &Live,
        error: LinkError,
        start: Instant,
    ) -> Result<End, ServiceError> {
        // The agent did not report the end. If it works, closing the connection has cancelled the
        // program; if not, nothing but the machine's end does.
        let begun = match &error {
            LinkError::Unanswered { .. } => Some(true),
            LinkError::Unreachable(why) => {
                matches!(**why, LinkError::Unanswered { .. }).then_some(false)
            }
            _ => None,
        };
        if let Some(begun) = begun {
            let works = matches!(timeout(PING_WAIT, live.session.ping()).await, Ok(Ok(())));
            if works && !begun {
                return Err(self.explain_in(id, live, error).await);
            }
            if works {
                return Ok(End::without_report(Ended::Deadline, start.elapsed()));
            }
            live.session.close().await;
            tracing::warn!(%id, "the agent did not answer after a deadline: its machine is stopped");
            return Ok(End::without_report(Ended::MachineLost, start.elapsed()));
        }
        match self.explain_in(id, live, error).await {
            ServiceError::MachineLost(_) => {
                Ok(End::without_report(Ended::MachineLost, start.elapsed()))
            }
            error => Err(error),
        }
    }

    /// What a failed operation means for the caller: a refusal, an environment that is gone, a dead
    /// machine, an operation that was never begun, or an outcome that nobody knows.
    pub(super) async fn explain_in(
        &self,
        id: &EnvironmentId,
        live: &Live,
        error: LinkError,
    ) -> ServiceError {
        let error = match error {
            LinkError::Failed(failure) => return ServiceError::Guest(failure),
            LinkError::TooOld { spoken, needed } => return ServiceError::TooOld { spoken, needed },
            error => error,
        };
        let id = id.clone();
        let died = timeout(DEATH_WAIT, live.session.machine().died())
            .await
            .is_ok();
        if self.closing.is_cancelled() {
            return ServiceError::ShuttingDown;
        }
        match self.store.get(&id).map(|environment| environment.status) {
            None | Some(Status::Destroying | Status::Destroyed) => ServiceError::Destroyed(id),
            _ if died => ServiceError::MachineLost(id),
            _ if matches!(
                error,
                LinkError::Unreachable(_) | LinkError::TooLarge { .. }
            ) =>
            {
                ServiceError::NotRun { id, source: error }
            }
            _ => ServiceError::OutcomeUnknown { id, source: error },
        }
    }
}

/// A stream that is cut has more than half of the budget, and so a log.
pub(super) fn log_limits(budget: usize) -> LogLimits {
    LogLimits {
        from: u64::try_from(budget / 2).unwrap_or(u64::MAX),
        max: LOG_MAX,
    }
}

/// Standard input that is all there.
fn whole_input(bytes: Bytes) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    // There is room for one. The sender's end is the input's end.
    let _ = sender.try_send(bytes);
    receiver
}

fn executed(captured: &Captured, budget: usize, mut end: End) -> Executed {
    let (stdout_budget, stderr_budget) =
        shares(captured.stdout.total(), captured.stderr.total(), budget);
    let stdout = captured
        .stdout
        .text(stdout_budget, &hint(end.stdout_log.as_ref()));
    let stderr = captured
        .stderr
        .text(stderr_budget, &hint(end.stderr_log.as_ref()));
    // Where all is shown the log adds nothing.
    let needed = |log: Option<GuestLog>, text: &Text| log.filter(|_| text.left_out > 0);
    end.stdout_log = needed(end.stdout_log, &stdout);
    end.stderr_log = needed(end.stderr_log, &stderr);
    Executed {
        left_out: stdout.left_out + stderr.left_out,
        stdout: stdout.text,
        stderr: stderr.text,
        end,
        network_refused: Vec::new(),
    }
}

/// How much of the budget each stream gets: what the other does not need, and at least half.
fn shares(stdout: u64, stderr: u64, budget: usize) -> (usize, usize) {
    let need = |total: u64| usize::try_from(total).unwrap_or(usize::MAX);
    let half = budget / 2;
    let stderr_share = need(stderr).min(half.max(budget.saturating_sub(need(stdout))));
    (budget - stderr_share, stderr_share)
}

fn hint(log: Option<&GuestLog>) -> String {
    log.map_or_else(String::new, |GuestLog { path, bytes }| {
        format!(
            "; call read_file with path {path} and an offset to see them (it has the first {bytes} bytes)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gets_what_the_other_leaves() {
        assert_eq!(shares(10, 10, 100), (90, 10));
        assert_eq!(shares(500, 10, 100), (90, 10));
        assert_eq!(shares(10, 500, 100), (10, 90));
        assert_eq!(shares(500, 500, 100), (50, 50));
        assert_eq!(shares(u64::MAX, u64::MAX, 1), (1, 0));
    }

    #[test]
    fn what_is_cut_names_its_log_and_what_is_whole_does_not() {
        let mut captured = Captured::new(20);
        captured.stdout.push(&[b'o'; 100]);
        captured.stderr.push(b"short");
        let mut end = End::without_report(Ended::Deadline, Duration::ZERO);
        let log = |path: &str| GuestLog {
            path: path.to_owned(),
            bytes: 100,
        };
        end.stdout_log = Some(log("/tmp/out"));
        end.stderr_log = Some(log("/tmp/err"));
        let executed = executed(&captured, 20, end);
        assert_eq!(executed.left_out, 100 - 14);
        assert!(executed.stdout.contains("/tmp/out"), "{}", executed.stdout);
        assert_eq!(executed.stderr, "short");
        assert!(executed.end.stdout_log.is_some() && executed.end.stderr_log.is_none());
    }
}
