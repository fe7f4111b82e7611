// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Connections to one guest's agent: kept for the next operation, or brought to an end.
//!
//! Invariants: a connection carries one operation at a time and returns to the pool only in step. An
//! operation that is given up is *ended*, not merely left: its program is killed and what it still
//! sends is taken. A connection that is closed while the vsock device holds output for it would
//! otherwise never be told to the guest, where the program would go on and the connection be lost.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use waggle_protocol::boot::AGENT_PORT;
use waggle_runtime::{Machine, MachineStream};

use super::{
    OPEN_TIMEOUT,
    connection::{Connection, Leftover, LinkError},
    within,
};
use crate::lock::lock;

/// Idle connections kept for the next operation. A new one costs a round trip more; eight covers
/// the concurrency of one busy user.
const POOL_MAX: usize = 8;

/// How long an operation that was given up may take to end, before its connection is closed anyway.
const END_MAX: Duration = Duration::from_secs(15);

/// How long it may be silent meanwhile: then there is nothing to take, and closing reaches the guest.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// The signal that ends a program with all that it has started.
const SIGKILL: i32 = 9;

type GuestConnection = Connection<MachineStream>;

/// A machine and the connections to its agent.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) machine: Machine,
    idle: Mutex<Vec<GuestConnection>>,
}

/// What a connection carries, as far as its end goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    /// The agent answers: what it sends ends by itself.
    Answer,
    /// A program, which has to be killed.
    Program,
    /// The host sends: closing is all that ends it.
    Upload,
}

/// A connection for one operation. Unless it is given back, dropping it ends the operation.
#[derive(Debug)]
pub(super) struct Checkout {
    pool: Arc<Pool>,
    connection: Option<GuestConnection>,
    carries: Carries,
    /// The program's process id; 0 until it is known.
    pid: AtomicU32,
}

impl Pool {
    pub(super) fn new(machine: Machine) -> Arc<Self> {
        Arc::new(Self {
            machine,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// A connection for one operation: an idle one that is still alive, or a new one. An error means
    /// that nothing was sent.
    pub(super) async fn checkout(
        self: &Arc<Self>,
        carries: Carries,
    ) -> Result<Checkout, LinkError> {
        let connection = within(OPEN_TIMEOUT, self.unused())
            .await
            .map_err(|error| LinkError::Unreachable(Box::new(error)))?;
        Ok(Checkout {
            pool: Arc::clone(self),
            connection: Some(connection),
            carries,
            pid: AtomicU32::new(0),
        })
    }

    /// A connection that is not to come back: an idle one that is still alive, or a new one.
    pub(super) async fn unused(&self) -> Result<GuestConnection, LinkError> {
        match self.take_idle() {
            Some(connection) => Ok(connection),
            None => self.open().await,
        }
    }

    async fn open(&self) -> Result<GuestConnection, LinkError> {
        let stream = self.machine.connect(AGENT_PORT).await;
        Connection::open(stream.map_err(LinkError::Connect)?).await
    }

    fn take_idle(&self) -> Option<GuestConnection> {
        loop {
            let connection = self.idle().pop()?;
            // An idle peer has nothing to say: anything but "would block" is an end or a violation.
            let said = connection.stream().try_read(&mut [0]);
            if said.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
                return Some(connection);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<GuestConnection>> {
        lock(&self.idle)
    }

    fn give_back(&self, connection: GuestConnection) {
        let mut idle = self.idle();
        if idle.len() < POOL_MAX {
            idle.push(connection);
        }
    }

    /// Brings an operation that nobody wants any more to its end.
    async fn end(
        self: Arc<Self>,
        mut connection: GuestConnection,
        carries: Carries,
        mut pid: Option<u32>,
    ) {
        let over = async {
            loop {
                if let Some(known) = pid.take() {
                    // By a connection of its own. The program may have ended just now.
                    if let Err(error) = self.kill(known).await {
                        tracing::debug!(%error, "a program that was given up was not killed");
                    }
                }
                match timeout(QUIET_MAX, connection.leftover()).await {
                    Ok(Ok(Leftover::Over)) => return true,
                    Ok(Ok(Leftover::Started(started))) if carries == Carries::Program => {
                        pid = Some(started);
                    }
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return false,
                }
            }
        };
        if timeout(END_MAX, over).await == Ok(true) {
            self.give_back(connection);
        }
    }

    async fn kill(&self, pid: u32) -> Result<(), LinkError> {
        let mut connection = self.unused().await?;
        let outcome = connection.signal(pid, SIGKILL).await;
        if matches!(
            outcome,
            Ok(()) | Err(LinkError::Failed(_) | LinkError::TooOld { .. })
        ) {
            self.give_back(connection);
        }
        outcome
    }
}

impl Checkout {
    /// The connection, and where to note the process id of the program that it carries.
    ///
    /// # Errors
    ///
    /// Never: the connection is there until the checkout is given back or dropped.
    pub(super) fn parts(&mut self) -> Result<(&mut GuestConnection, &AtomicU32), LinkError> {
        let connection = self.connection.as_mut().ok_or(LinkError::Closed)?;
        Ok((connection, &self.pid))
    }

    /// The operation is over, but the connection is out of step: it is closed.
    pub(super) fn close(mut self) {
        self.connection = None;
    }

    /// Back to the pool: it is in step.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(connection);
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        // Without a runtime the process ends, and the machine with it.
        let (Ok(runtime), true) = (
            tokio::runtime::Handle::try_current(),
            self.carries != Carries::Upload,
        ) else {
            return;
        };
        let pid = Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0);
        runtime.spawn(Arc::clone(&self.pool).end(connection, self.carries, pid));
    }
}
