// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Programs in the background: start, read, write, wait, signal, list.
//!
//! Owns: the processes of an environment and what they have printed. A process belongs to its
//! environment, not to the call that started it: whoever knows its id goes on where another stopped.
//!
//! Invariants: at most [`RUNNING_MAX`] run and [`ENDED_MAX`] ended ones are remembered in one
//! environment; each holds at most [`SPOOL_MAX`] bytes of output. They end with their environment,
//! which they do not keep from being idle.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use waggle_protocol::message::Exec;

use super::{
    Call, Ended, Live, Service, ServiceError, now,
    run::{End, OUTPUT_DEFAULT, OUTPUT_MAX, log_limits},
    spool::{Chunk, Spool},
    validate,
};
use crate::{
    environment::{EnvironmentId, store::Lease},
    lock::lock,
    network::policy::Denial,
    session::{Output, OutputStream, Run, RunEnd, capture::lossy},
};

/// Most processes that run in one environment at once. Each has a connection to the agent.
pub(super) const RUNNING_MAX: usize = 32;
/// Most ended processes that are remembered; the oldest are forgotten.
const ENDED_MAX: usize = 32;
/// Most bytes of output that wait for a reader. What comes on top pushes out the oldest.
const SPOOL_MAX: usize = 256 * 1024;
/// Writes that may wait for the process, beside the one that it is reading.
const INPUT_QUEUE: usize = 1;
/// How long a write waits for a process that does not read.
const INPUT_WAIT: Duration = Duration::from_secs(10);
/// How long a wait lasts if the caller does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// A process's name within its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId(u32);

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "proc-{}", self.0)
    }
}

impl std::str::FromStr for ProcessId {
    type Err = MalformedProcessId;

    fn from_str(text: &str) -> Result<Self, MalformedProcessId> {
        let number = text
            .strip_prefix("proc-")
            .and_then(|rest| rest.parse().ok());
        number
            .map(Self)
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| MalformedProcessId(text.chars().take(100).collect()))
    }
}

/// A text that is no process's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no process id; they look like proc-1, and execute with background returns them")]
pub struct MalformedProcessId(String);

/// A process as a list shows it.
#[derive(Debug, Clone)]
pub struct ProcessSummary {
    /// Its id.
    pub id: ProcessId,
    /// The first line of its program.
    pub title: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// Where the output ends so far.
    pub cursor: u64,
    /// How it ended, if it has.
    pub end: Option<End>,
}

/// What a process printed, and how it is.
#[derive(Debug)]
pub struct Progressed {
    /// Which process.
    pub id: ProcessId,
    /// Its standard output since the given cursor.
    pub stdout: String,
    /// Its standard error since the given cursor.
    pub stderr: String,
    /// Where to read on.
    pub cursor: u64,
    /// Bytes after the given cursor that are lost, because too much came before they were read.
    pub lost: u64,
    /// Whether there is more to read already.
    pub more: bool,
    /// How it ended, if it has.
    pub end: Option<End>,
    /// What the network has refused the environment since the process was started.
    pub network_refused: Vec<Denial>,
}

/// What to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadFrom {
    /// From where on; what was acknowledged last if absent.
    pub cursor: Option<u64>,
    /// Most bytes.
    pub max_bytes: Option<u64>,
    /// How long to wait for it, in seconds.
    pub timeout_seconds: Option<u64>,
}

/// What to wait for before reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Anything new, or the process's end.
    News,
    /// The process's end.
    End,
}

/// A signal that callers may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SignalName {
    /// Ask it to end.
    Term,
    /// End it at once, with everything that it has started.
    Kill,
    /// As Ctrl-C does.
    Int,
    /// Its terminal is gone; many services read their settings again.
    Hup,
    /// As it likes.
    Usr1,
    /// As it likes.
    Usr2,
    /// Pause it.
    Stop,
    /// Go on after a pause.
    Cont,
}

impl SignalName {
    /// The number that Linux has for it on every architecture that Waggle runs on.
    fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Kill => 9,
            Self::Usr1 => 10,
            Self::Usr2 => 12,
            Self::Term => 15,
            Self::Cont => 18,
            Self::Stop => 19,
        }
    }
}

/// The processes of one environment.
#[derive(Debug, Default)]
pub(super) struct Processes(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u32,
    all: BTreeMap<ProcessId, Arc<Process>>,
}

#[derive(Debug)]
struct Process {
    id: ProcessId,
    title: String,
    started_at: Timestamp,
    state: watch::Sender<State>,
    input: Mutex<Option<mpsc::Sender<Bytes>>>,
    /// Its newest line, for those who wait.
    call: Arc<Call>,
    /// Where the environment's audit list was when it was started.
    network_mark: u64,
}

#[derive(Debug)]
struct State {
    spool: Spool,
    pid: Option<u32>,
    end: Option<End>,
}

impl Processes {
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.0)
    }

    /// A new process that is about to start.
    fn add(
        &self,
        title: String,
        input: mpsc::Sender<Bytes>,
        network_mark: u64,
    ) -> Option<Arc<Process>> {
        let mut table = self.table();
        let has_ended = |process: &Arc<Process>| process.state.borrow().end.is_some();
        let ended: Vec<_> = table
            .all
            .values()
            .filter(|process| has_ended(process))
            .map(|process| process.id)
            .collect();
        if table.all.len() - ended.len() >= RUNNING_MAX {
            return None;
        }
        let surplus = (ended.len() + 1).saturating_sub(ENDED_MAX);
        for id in ended.iter().take(surplus) {
            table.all.remove(id);
        }
        table.last += 1;
        let id = ProcessId(table.last);
        let state = State {
            spool: Spool::new(SPOOL_MAX),
            pid: None,
            end: None,
        };
        let process = Arc::new(Process {
            id,
            title,
            started_at: now(),
            state: watch::Sender::new(state),
            input: Mutex::new(Some(input)),
            call: Arc::default(),
            network_mark,
        });
        table.all.insert(id, Arc::clone(&process));
        Some(process)
    }

    fn get(&self, id: ProcessId) -> Option<Arc<Process>> {
        self.table().all.get(&id).cloned()
    }

    fn remove(&self, id: ProcessId) {
        self.table().all.remove(&id);
    }
}

impl Process {
    fn listed(&self) -> ProcessSummary {
        let state = self.state.borrow();
        ProcessSummary {
            id: self.id,
            title: self.title.clone(),
            started_at: self.started_at,
            cursor: state.spool.end(),
            end: state.end.clone(),
        }
    }

    fn input(&self) -> MutexGuard<'_, Option<mpsc::Sender<Bytes>>> {
        lock(&self.input)
    }

    fn ended(&self, end: End) {
        self.input().take();
        self.state.send_modify(|state| {
            state.end = Some(end);
            state.pid = None;
        });
    }
}

/// Where a background process's output goes. It never waits: a process is not to stand still because
/// nobody reads.
struct Spooled {
    process: Arc<Process>,
    started: Option<oneshot::Sender<()>>,
}

impl Output for Spooled {
    fn started(&mut self, pid: u32) {
        self.process
            .state
            .send_modify(|state| state.pid = Some(pid));
        if let Some(started) = self.started.take() {
            // Nobody waits if the call that started it is gone.
            let _ = started.send(());
        }
    }

    async fn take(&mut self, stream: OutputStream, bytes: Bytes) {
        self.process.call.printed(&bytes);
        self.process
            .state
            .send_modify(|state| state.spool.push(stream, &bytes));
    }
}

impl Service {
    /// Starts a process and returns once it runs.
    pub(super) async fn start_process(
        self: &Arc<Self>,
        lease: &Lease<Live>,
        mut exec: Exec,
        stdin: Option<Bytes>,
        title: String,
    ) -> Result<ProcessSummary, ServiceError> {
        exec.output_limit = None;
        let (input, to_process) = mpsc::channel(INPUT_QUEUE);
        if let Some(bytes) = stdin {
            // There is room for the first.
            let _ = input.try_send(bytes);
        }
        let process = lease
            .live
            .processes
            .add(title, input, lease.live.network_mark())
            .ok_or(ServiceError::ProcessesFull(RUNNING_MAX))?;
        let (started, runs) = oneshot::channel();
        let (failed, refused) = oneshot::channel();
        let run = Run {
            exec,
            log: Some(log_limits(OUTPUT_MAX)),
            stdin: Some(to_process),
        };
        let mut output = Spooled {
            process: Arc::clone(&process),
            started: Some(started),
        };
        let (service, live) = (Arc::clone(self), Arc::clone(&lease.live));
        let id = lease.environment.id.clone();
        self.tasks.spawn(async move {
            let start = Instant::now();
            let end = match live.session.run(run, &mut output).await {
                Ok(RunEnd { end, logs }) => End::new(&end, logs),
                Err(error) => match service.end_of_broken(&id, &live, error, start).await {
                    Ok(end) => end,
                    Err(error) if output.started.is_some() => {
                        live.processes.remove(output.process.id);
                        // Nobody waits if the call that started it is gone.
                        let _ = failed.send(error);
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(%id, %error, "a background process was lost");
                        let ended = match error {
                            ServiceError::Destroyed(_) | ServiceError::ShuttingDown => {
                                Ended::MachineLost
                            }
                            _ => Ended::Unknown,
                        };
                        End::without_report(ended, start.elapsed())
                    }
                },
            };
            output.process.ended(end);
        });
        // One of the two is told; a process that ended at once has been started as well.
        if runs.await.is_err()
            && let Ok(error) = refused.await
        {
            return Err(error);
        }
        Ok(process.listed())
    }

    /// The background processes of an environment, the oldest first.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub fn processes(&self, environment_id: &str) -> Result<Vec<ProcessSummary>, ServiceError> {
        let lease = self.lease(environment_id)?;
        let table = lease.live.processes.table();
        Ok(table.all.values().map(|process| process.listed()).collect())
    }

    fn process(
        &self,
        environment_id: &str,
        process_id: &str,
    ) -> Result<(Lease<Live>, Arc<Process>), ServiceError> {
        let lease = self.lease(environment_id)?;
        let id: ProcessId = process_id
            .parse()
            .map_err(validate::ArgumentError::ProcessId)?;
        let process = lease.live.processes.get(id);
        let process = process.ok_or_else(|| ServiceError::UnknownProcess {
            environment: lease.environment.id.clone(),
            process: id,
        })?;
        Ok((lease, process))
    }

    /// What a process has printed, after waiting for `until`, or for as long as `from` says.
    ///
    /// # Errors
    ///
    /// [`ServiceError`]. A wait that is over too early is none.
    pub async fn read_process(
        &self,
        environment_id: &str,
        process_id: &str,
        from: ReadFrom,
        until: Until,
        call: &Call,
    ) -> Result<Progressed, ServiceError> {
        let (lease, process) = self.process(environment_id, process_id)?;
        call.follow(&process.call);
        let max_bytes = match from.max_bytes {
            Some(given) => validate::output_bytes(given)?,
            None => OUTPUT_DEFAULT,
        };
        let limit = match (from.timeout_seconds, until) {
            (Some(given), _) => validate::wait_seconds(given, self.settings.max_exec_timeout)?,
            (None, Until::News) => Duration::ZERO,
            (None, Until::End) => WAIT_DEFAULT,
        };
        let seen = from
            .cursor
            .unwrap_or_else(|| process.state.borrow().spool.start());
        let end = process.state.borrow().spool.end();
        if seen > end {
            return Err(validate::ArgumentError::Cursor { given: seen, end }.into());
        }
        let enough = |state: &State| {
            state.end.is_some() || (until == Until::News && state.spool.has_news(seen))
        };
        let mut changes = process.state.subscribe();
        if !limit.is_zero() {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return Err(ServiceError::ShuttingDown),
                // Too early is no error: the answer says that it still runs.
                _ = timeout(limit, changes.wait_for(enough)) => {}
            }
        }
        let mut read = (Chunk::default(), None);
        process.state.send_if_modified(|state| {
            let ended = state.end.is_some();
            read = (state.spool.read(seen, max_bytes, ended), state.end.clone());
            // Readers are no news to other readers.
            false
        });
        let (chunk, end) = read;
        Ok(Progressed {
            id: process.id,
            stdout: lossy(&chunk.stdout),
            stderr: lossy(&chunk.stderr),
            cursor: chunk.cursor,
            lost: chunk.lost,
            more: chunk.more,
            end,
            network_refused: lease.live.refused_since(process.network_mark),
        })
    }

    /// Writes to a process's standard input; `close` ends it.
    ///
    /// # Errors
    ///
    /// [`ServiceError`]; nothing was written then.
    pub async fn write_process(
        &self,
        environment_id: &str,
        process_id: &str,
        input: Option<String>,
        close: bool,
    ) -> Result<ProcessSummary, ServiceError> {
        let (_lease, process) = self.process(environment_id, process_id)?;
        if input.is_none() && !close {
            return Err(validate::ArgumentError::NoInput.into());
        }
        let sender = process.input().clone();
        let Some(sender) = sender else {
            return Err(ServiceError::InputClosed(process.id));
        };
        if let Some(bytes) = input.map(validate::process_input).transpose()? {
            match timeout(INPUT_WAIT, sender.send(bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ServiceError::InputClosed(process.id)),
                Err(_) => return Err(ServiceError::InputFull(process.id)),
            }
        }
        if close {
            process.input().take();
        }
        Ok(process.listed())
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn signal_process(
        &self,
        environment_id: &str,
        process_id: &str,
        signal: SignalName,
    ) -> Result<ProcessSummary, ServiceError> {
        let (lease, process) = self.process(environment_id, process_id)?;
        let pid = process.state.borrow().pid;
        let Some(pid) = pid else {
            return Err(ServiceError::ProcessEnded(process.id));
        };
        match lease.live.session.signal(pid, signal.number()).await {
            Ok(()) => Ok(process.listed()),
            Err(error) => Err(self.explain(&lease, error).await),
        }
    }
}

/// For messages: where a process is.
pub(super) fn unknown(environment: &EnvironmentId, process: ProcessId) -> String {
    format!(
        "environment {environment} has no process {process}: it may have ended long ago; call process with \
         action list to see those that it has"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(processes: &Processes) -> Option<Arc<Process>> {
        processes.add("sleep".to_owned(), mpsc::channel(1).0, 0)
    }

    #[test]
    fn ids_are_what_they_look_like() {
        assert_eq!("proc-7".parse(), Ok(ProcessId(7)));
        assert_eq!(ProcessId(7).to_string(), "proc-7");
        for bad in [
            "7",
            "proc-",
            "proc-07",
            "proc-+7",
            "proc--1",
            "proc-99999999999",
        ] {
            assert!(bad.parse::<ProcessId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn those_that_run_are_counted_and_the_oldest_ended_forgotten() {
        let processes = Processes::default();
        let running: Vec<_> = (0..RUNNING_MAX).filter_map(|_| add(&processes)).collect();
        assert_eq!(running.len(), RUNNING_MAX);
        assert!(add(&processes).is_none(), "that is too many");
        let end = || End::without_report(Ended::Signal, Duration::ZERO);
        for process in &running {
            process.ended(end());
        }
        for _ in 0..10 * ENDED_MAX {
            add(&processes).expect("room").ended(end());
        }
        assert!(processes.table().all.len() <= ENDED_MAX);
        assert!(processes.get(ProcessId(1)).is_none());
        assert!(running.iter().all(|process| process.input().is_none()));
    }
}
