// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The host's live link to one guest: its machine, and a small pool of connections to its agent.
//!
//! Owns the machine. Does not own what an environment is, nor how a tool's arguments become an
//! operation.
//!
//! Invariants: a connection carries one operation at a time and returns to the pool only after a
//! clean end; dropping an operation's future drops its connection, which the agent takes as
//! cancellation. No operation is ever sent twice.

pub mod boot;
pub mod capture;
pub mod connection;
pub mod files;
pub mod run;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::timeout;
use waggle_protocol::{
    boot::{AGENT_PORT, Ready},
    message::{
        Capabilities, EditFile, Edited, FileInfo, FindFiles, ListFiles, ReadFile, ReadLines,
        WriteFile,
    },
};
use waggle_runtime::{Machine, MachineStream};

pub use boot::{BootError, BootOptions, BootTimes};
pub use connection::LinkError;
use connection::{Connection, Reusable};
pub use files::{Lines, Listing, WriteMode};
pub use run::{LogLimits, Output, OutputStream, Run, RunEnd};

/// Idle connections kept for the next operation. A new one costs a round trip more; eight covers
/// the concurrency of one busy user.
const POOL_MAX: usize = 8;

/// How long the agent may take to answer anything that is not a program: generous, for emulated
/// machines under load.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How much longer than a program's deadline the host waits for the agent to report its end.
const DEADLINE_GRACE: Duration = Duration::from_secs(15);

/// After how long the image is probed again.
const PROBE_AGE_MAX: Duration = Duration::from_secs(10 * 60);

type GuestConnection = Connection<MachineStream>;

/// The live link to one guest.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    found: Mutex<Found>,
    times: BootTimes,
    idle: Mutex<Vec<GuestConnection>>,
}

/// What an image offers, and when that was seen.
#[derive(Debug)]
struct Found {
    at: Instant,
    capabilities: Capabilities,
}

impl Session {
    fn new(machine: Machine, ready: Ready, times: BootTimes) -> Self {
        let found = Found {
            at: Instant::now(),
            capabilities: ready.capabilities,
        };
        Self {
            machine,
            found: Mutex::new(found),
            times,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// What the agent found in the image: when it started, or again if that is some time ago. An agent
    /// that does not answer leaves the last known.
    pub async fn capabilities(&self) -> Capabilities {
        let known = {
            let found = self.found();
            (found.at.elapsed() < PROBE_AGE_MAX).then(|| found.capabilities.clone())
        };
        if let Some(capabilities) = known {
            return capabilities;
        }
        match self.probe().await {
            Ok(capabilities) => {
                let at = Instant::now();
                *self.found() = Found { at, capabilities };
            }
            Err(error) => tracing::debug!(%error, "the image could not be probed again"),
        }
        self.found().capabilities.clone()
    }

    /// Has the image probed again at the next use: something was installed.
    pub fn forget_capabilities(&self) {
        let mut found = self.found();
        found.at = found.at.checked_sub(PROBE_AGE_MAX).unwrap_or(found.at);
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn probe(&self) -> Result<Capabilities, LinkError> {
        let mut connection = self.checkout().await?;
        let outcome = within(ANSWER_TIMEOUT, connection.probe()).await;
        self.settle(connection, outcome)
    }

    /// How long the boot took.
    pub fn boot_times(&self) -> BootTimes {
        self.times
    }

    /// The machine below.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Kills the machine; returns when nothing of it is left. Idempotent.
    pub async fn close(&self) {
        self.machine.stop().await;
    }

    /// A connection for one operation: one from the pool that is still alive, or a new one. An error
    /// means that nothing was sent.
    async fn checkout(&self) -> Result<GuestConnection, LinkError> {
        while let Some(connection) = self.idle().pop() {
            // An idle peer has nothing to say: anything but "would block" is an end or a violation.
            match connection.stream().try_read(&mut [0]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Ok(connection);
                }
                _ => drop(connection),
            }
        }
        let open = async {
            let stream = self
                .machine
                .connect(AGENT_PORT)
                .await
                .map_err(LinkError::Connect)?;
            Connection::open(stream).await
        };
        let opened = within(ANSWER_TIMEOUT, open).await;
        opened.map_err(|error| LinkError::Unreachable(Box::new(error)))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<GuestConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, connection: GuestConnection) {
        let mut idle = self.idle();
        if idle.len() < POOL_MAX {
            idle.push(connection);
        }
    }

    /// Gives the connection back if the operation's outcome says that it is in step.
    fn settle<T>(
        &self,
        connection: GuestConnection,
        outcome: Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        if matches!(
            outcome,
            Ok(_) | Err(LinkError::Failed(_) | LinkError::TooOld { .. })
        ) {
            self.give_back(connection);
        }
        outcome
    }

    /// One round trip to the agent.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn ping(&self) -> Result<(), LinkError> {
        let mut connection = self.checkout().await?;
        let outcome = within(ANSWER_TIMEOUT, connection.ping()).await;
        self.settle(connection, outcome)
    }

    /// Runs a program, whose output goes to `output` as it comes.
    ///
    /// The agent enforces the deadline. If it does not answer, the host gives up some seconds later:
    /// the error is then [`LinkError::Unanswered`], and the connection is closed, which a working
    /// agent takes as cancellation. So is a dropped future.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn run<O: Output>(&self, run: Run, output: &mut O) -> Result<RunEnd, LinkError> {
        let limit = run
            .exec
            .deadline_ms
            .map(|ms| Duration::from_millis(ms) + DEADLINE_GRACE);
        let mut connection = self.checkout().await?;
        let work = async { Ok(connection.run(run, output).await) };
        let (outcome, reusable) = match limit {
            Some(limit) => within(limit, work).await,
            None => work.await,
        }?;
        if reusable == Reusable::Yes {
            self.give_back(connection);
        }
        outcome
    }

    /// Sends a signal to a program that runs.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn signal(&self, pid: u32, signal: i32) -> Result<(), LinkError> {
        let mut connection = self.checkout().await?;
        let outcome = within(ANSWER_TIMEOUT, connection.signal(pid, signal)).await;
        self.settle(connection, outcome)
    }

    /// Writes a file. Returns the bytes written.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn write_file(
        &self,
        request: WriteFile,
        mode: WriteMode,
        content: &[u8],
    ) -> Result<u64, LinkError> {
        let mut connection = self.checkout().await?;
        let write = async { Ok(connection.write_file(request, mode, content).await) };
        let (outcome, reusable) = within(ANSWER_TIMEOUT, write).await?;
        if reusable == Reusable::Yes {
            self.give_back(connection);
        }
        outcome
    }

    /// Replaces text in a file.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn edit_file(&self, request: EditFile) -> Result<Edited, LinkError> {
        let mut connection = self.checkout().await?;
        let outcome = within(ANSWER_TIMEOUT, connection.edit_file(request)).await;
        self.settle(connection, outcome)
    }

    /// Reads a file, or a part of it, of at most `ceiling` bytes.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn read_file(
        &self,
        request: ReadFile,
        ceiling: u64,
    ) -> Result<(FileInfo, Vec<u8>), LinkError> {
        let mut connection = self.checkout().await?;
        let outcome = within(ANSWER_TIMEOUT, connection.read_file(request, ceiling)).await;
        self.settle(connection, outcome)
    }

    /// Reads lines of a file.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn read_lines(&self, request: ReadLines) -> Result<Lines, LinkError> {
        let mut connection = self.checkout().await?;
        let outcome = within(ANSWER_TIMEOUT, connection.read_lines(request)).await;
        self.settle(connection, outcome)
    }

    /// Lists a folder.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn list_files(&self, request: ListFiles) -> Result<Listing, LinkError> {
        let mut connection = self.checkout().await?;
        let outcome = within(ANSWER_TIMEOUT, connection.list_files(request)).await;
        self.settle(connection, outcome)
    }

    /// Lists the entries of a folder that fit a pattern.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn find_files(&self, request: FindFiles) -> Result<Listing, LinkError> {
        let mut connection = self.checkout().await?;
        let outcome = within(ANSWER_TIMEOUT, connection.find_files(request)).await;
        self.settle(connection, outcome)
    }
}

async fn within<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(limit, operation)
        .await
        .unwrap_or(Err(LinkError::Unanswered {
            seconds: limit.as_secs(),
        }))
}
