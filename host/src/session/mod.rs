// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The host's live link to one guest: its machine, and a small pool of connections to its agent.
//!
//! Owns the machine. Does not own what an environment is, nor how a tool's arguments become an
//! operation.
//!
//! Invariants: dropping an operation's future ends the operation in the guest ([`pool`]). No operation
//! is ever sent twice.

pub mod boot;
pub mod capture;
pub mod connection;
pub mod duplex;
pub mod files;
mod pool;
pub mod run;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::Semaphore, time::timeout};
use waggle_protocol::{
    boot::{PROXY_PORT, Ready},
    message::{
        Capabilities, EditFile, Edited, FileInfo, FindFiles, ListFiles, ReadFile, ReadLines,
        WriteFile,
    },
};
use waggle_runtime::{AcceptError, Machine, MachineStream};

use crate::lock::lock;
pub use boot::{BootError, BootOptions, BootTimes};
pub use connection::LinkError;
use connection::{Connection, Reusable};
pub use duplex::FramedStream;
use duplex::STREAMS_MAX;
pub use files::{Lines, Listing, WriteMode};
use pool::{Carries, Pool};
pub use run::{LogLimits, Output, OutputStream, Run, RunEnd};

/// How long the agent may take to answer anything that is not a program: generous, for emulated
/// machines under load.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How much longer than a program's deadline the host waits for the agent to report its end.
const DEADLINE_GRACE: Duration = Duration::from_secs(15);

/// How long a connection may take to be made and greeted.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a probe may hold up the call that needs it; what was found last does as well.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// After how long the image is probed again.
const PROBE_AGE_MAX: Duration = Duration::from_secs(10 * 60);

/// The live link to one guest.
#[derive(Debug)]
pub struct Session {
    pool: Arc<Pool>,
    found: Mutex<Found>,
    times: BootTimes,
    /// A place for each stream to a port of the guest's.
    streams: Arc<Semaphore>,
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
            pool: Pool::new(machine),
            found: Mutex::new(found),
            times,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
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
        let probed = timeout(PROBE_TIMEOUT, self.probe()).await;
        let mut found = self.found();
        // One that fails is not tried again at once: each try costs its caller time.
        found.at = Instant::now();
        match probed {
            Ok(Ok(capabilities)) => found.capabilities = capabilities,
            Ok(Err(error)) => tracing::debug!(%error, "the image could not be probed again"),
            Err(_) => tracing::debug!("the image could not be probed again in time"),
        }
        found.capabilities.clone()
    }

    /// Has the image probed again at the next use: something was installed.
    pub fn forget_capabilities(&self) {
        let mut found = self.found();
        found.at = found.at.checked_sub(PROBE_AGE_MAX).unwrap_or(found.at);
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        lock(&self.found)
    }

    async fn probe(&self) -> Result<Capabilities, LinkError> {
        self.ask(async |connection| connection.probe().await).await
    }

    /// How long the boot took.
    pub fn boot_times(&self) -> BootTimes {
        self.times
    }

    /// The next connection that a program of the guest makes to the way out, before any greeting
    /// ([`FramedStream::accept`]). Those that are not taken wait, and the guest's programs with them.
    ///
    /// # Errors
    ///
    /// [`AcceptError`] once the machine is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub async fn next_proxy_call(&self) -> Result<MachineStream, AcceptError> {
        self.pool.machine.accept(PROXY_PORT).await
    }

    /// The machine below.
    pub fn machine(&self) -> &Machine {
        &self.pool.machine
    }

    /// Kills the machine; returns when nothing of it is left. Idempotent.
    pub async fn close(&self) {
        self.pool.machine.stop().await;
    }

    /// One operation whose answer ends by itself.
    async fn ask<T>(
        &self,
        operation: impl AsyncFnOnce(&mut Connection<MachineStream>) -> Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        let mut checkout = self.pool.checkout(Carries::Answer).await?;
        let (connection, _) = checkout.parts()?;
        let outcome = within(ANSWER_TIMEOUT, operation(connection)).await;
        if matches!(
            outcome,
            Ok(_) | Err(LinkError::Failed(_) | LinkError::TooOld { .. })
        ) {
            checkout.give_back();
        }
        outcome
    }

    /// One round trip to the agent.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn ping(&self) -> Result<(), LinkError> {
        self.ask(async |connection| connection.ping().await).await
    }

    /// Runs a program, whose output goes to `output` as it comes.
    ///
    /// The agent enforces the deadline. If it does not answer, the host gives up some seconds later:
    /// the error is then [`LinkError::Unanswered`]. A program that is given up, also by dropping the
    /// future, is killed.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn run<O: Output>(&self, run: Run, output: &mut O) -> Result<RunEnd, LinkError> {
        let limit = run
            .exec
            .deadline_ms
            .map(|ms| Duration::from_millis(ms) + DEADLINE_GRACE);
        let mut checkout = self.pool.checkout(Carries::Program).await?;
        let (connection, pid) = checkout.parts()?;
        let mut output = Noted { output, pid };
        let work = async { Ok(connection.run(run, &mut output).await) };
        let (outcome, reusable) = match limit {
            Some(limit) => within(limit, work).await,
            None => work.await,
        }?;
        match (reusable, &outcome) {
            (Reusable::Yes, _) => checkout.give_back(),
            (Reusable::No, Ok(_) | Err(LinkError::Failed(_))) => checkout.close(),
            (Reusable::No, Err(_)) => {}
        }
        outcome
    }

    /// Sends a signal to a program that runs.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn signal(&self, pid: u32, signal: i32) -> Result<(), LinkError> {
        self.ask(async |connection| connection.signal(pid, signal).await)
            .await
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
        let mut checkout = self.pool.checkout(Carries::Upload).await?;
        let (connection, _) = checkout.parts()?;
        let write = async { Ok(connection.write_file(request, mode, content).await) };
        let (outcome, reusable) = within(ANSWER_TIMEOUT, write).await?;
        if reusable == Reusable::Yes {
            checkout.give_back();
        }
        outcome
    }

    /// Replaces text in a file.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn edit_file(&self, request: EditFile) -> Result<Edited, LinkError> {
        self.ask(async |connection| connection.edit_file(request).await)
            .await
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
        self.ask(async |connection| connection.read_file(request, ceiling).await)
            .await
    }

    /// Reads lines of a file.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn read_lines(&self, request: ReadLines) -> Result<Lines, LinkError> {
        self.ask(async |connection| connection.read_lines(request).await)
            .await
    }

    /// Lists a folder.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn list_files(&self, request: ListFiles) -> Result<Listing, LinkError> {
        self.ask(async |connection| connection.list_files(request).await)
            .await
    }

    /// Lists the entries of a folder that fit a pattern.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn find_files(&self, request: FindFiles) -> Result<Listing, LinkError> {
        self.ask(async |connection| connection.find_files(request).await)
            .await
    }
}

/// Notes the program's process id on the way.
struct Noted<'a, O> {
    output: &'a mut O,
    pid: &'a AtomicU32,
}

impl<O: Output> Output for Noted<'_, O> {
    fn started(&mut self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
        self.output.started(pid);
    }

    async fn take(&mut self, stream: OutputStream, bytes: Bytes) {
        self.output.take(stream, bytes).await;
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
