// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The handle of one running machine.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::console::Log;
use crate::launch::Launched;
use crate::link::{self, AcceptError, CONNECT_TIMEOUT, ConnectError, Listeners, MachineStream};
use crate::supervise::Death;
use crate::vmm::Inner;

/// One running microVM. Dropping it kills its process tree and removes its folder.
pub struct Machine {
    name: String,
    folder: File,
    listeners: Listeners,
    console: Log,
    pids: Vec<u32>,
    death: watch::Receiver<Option<Death>>,
    gone: watch::Receiver<bool>,
    ask_to_die: watch::Sender<bool>,
    /// Keeps the supervising thread and the folder's lock alive.
    _vmm: Arc<Inner>,
}

impl Machine {
    pub(crate) fn new(name: String, launched: Launched, vmm: Arc<Inner>) -> io::Result<Machine> {
        let Launched {
            folder,
            listeners,
            console,
            pids,
            death,
            gone,
            ask_to_die,
        } = launched;
        let listeners = Listeners::adopt(listeners)?;
        Ok(Machine {
            name,
            folder,
            listeners,
            console,
            pids,
            death,
            gone,
            ask_to_die,
            _vmm: vmm,
        })
    }

    /// The name from its [`MachineSpec`](crate::MachineSpec).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a stream to a port the guest listens on.
    ///
    /// Dialling before the guest's agent listens is refused, so wait for its call first
    /// ([`Machine::accept`]).
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; after 10 s at the latest. At once when the machine is dead or dies.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the half-open connection; the guest may have seen it.
    pub async fn connect(&self, port: u32) -> Result<MachineStream, ConnectError> {
        let name = self.name.clone();
        tokio::select! {
            biased;
            death = self.died() => Err(ConnectError::Dead { name, status: death.status }),
            dialled = timeout(CONNECT_TIMEOUT, link::dial(&self.folder, port)) => dialled
                .unwrap_or(Err(ConnectError::Timeout { port, after: CONNECT_TIMEOUT })),
        }
    }

    /// Takes the guest's next call to `port`, one of [`MachineSpec::listen`]. Calls wait in a queue
    /// until they are taken.
    ///
    /// # Errors
    ///
    /// [`AcceptError`]; at once when the machine is dead or dies, or the listener is closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: a call that was not returned stays in the queue.
    ///
    /// [`MachineSpec::listen`]: crate::MachineSpec::listen
    pub async fn accept(&self, port: u32) -> Result<MachineStream, AcceptError> {
        let name = self.name.clone();
        tokio::select! {
            biased;
            death = self.died() => Err(AcceptError::Dead { name, status: death.status }),
            accepted = self.listeners.accept(port) => accepted,
        }
    }

    /// From now on the guest's calls to `port` are refused, and waiting ones dropped. Idempotent.
    pub fn close_listener(&self, port: u32) {
        self.listeners.close(&self.folder, port);
    }

    /// Resolves as soon as the machine's processes are gone, whatever ended them; at once for one
    /// that is dead. Does not borrow the machine and does not keep it alive.
    pub fn died(&self) -> impl Future<Output = Death> + Send + 'static + use<> {
        let mut death = self.death.clone();
        async move {
            let told = death
                .wait_for(Option::is_some)
                .await
                .map(|death| death.clone());
            told.ok().flatten().unwrap_or_else(Death::unsupervised)
        }
    }

    /// The console's last 64 KiB as text, with control characters made visible.
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// Kills the machine now, and waits until its processes are reaped and its folder is gone.
    /// Idempotent; dropping the future does not take the kill back.
    pub async fn stop(&self) {
        self.ask_to_die.send_replace(true);
        let mut gone = self.gone.clone();
        // An error means the supervisor is gone, and the processes with it.
        let _ = gone.wait_for(|gone| *gone).await.is_err();
    }

    /// The ids of the processes it was started with, QEMU's first. They may belong to others once
    /// the machine is dead.
    pub fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Before `_vmm`, whose end may wait for this machine's.
        self.ask_to_die.send_replace(true);
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("name", &self.name)
            .field("pids", &self.pids)
            .finish_non_exhaustive()
    }
}
