// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The life of a machine after its launch: one task on the warden's thread owns its processes,
//! waits for the first end, and cleans up.
//!
//! ```text
//! running --(QEMU ends | device ends | QEMU stops the CPUs | stop or drop)--> killed, reaped
//!         --> death published --> folder removed --> gone published
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::console::{Log, TAIL_LIMIT};
use crate::qmp::{Event, Qmp};
use crate::spawn::{Streams, spawn};
use crate::text::appendix;
use crate::warden::Busy;

/// How long the last output of a dead process may take to arrive. It is in a pipe already.
const DRAIN: Duration = Duration::from_millis(500);

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// What ended it, in words.
    pub status: String,
    /// The console's last 4 KiB, as text that is safe to show.
    pub console_tail: String,
}

impl Death {
    /// For the case that the supervising task itself is gone.
    pub(crate) fn unsupervised() -> Death {
        let status = "its supervisor is gone".to_owned();
        Death {
            status,
            console_tail: String::new(),
        }
    }
}

/// A child process and what it wrote to stderr.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) child: Child,
    errors: Log,
    drain: JoinHandle<()>,
}

impl Process {
    /// Starts a child. On the warden's thread only.
    pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(
        name: &'static str,
        program: &Path,
        arguments: impl IntoIterator<Item = S>,
        folder: &Path,
        streams: Streams,
    ) -> io::Result<Process> {
        let mut child = spawn(program, arguments, folder, streams)?;
        let errors = Log::new(TAIL_LIMIT);
        let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let drain = tokio::spawn(errors.clone().fill_from(stderr));
        Ok(Process {
            name,
            child,
            errors,
            drain,
        })
    }

    /// Waits for the end and reaps. Cancel-safe. Says how it ended, and what it complained of.
    pub(crate) async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        self.drain_errors().await;
        let how = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        format!(
            "{} ended with {how}{}",
            self.name,
            appendix(&self.errors.text())
        )
    }

    /// Kills and reaps. Idempotent.
    pub(crate) async fn kill(&mut self) {
        // Fails only when it has ended and been reaped, which is what is wanted.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
        self.drain_errors().await;
    }

    pub(crate) fn complaint(&self) -> String {
        appendix(&self.errors.text())
    }

    async fn drain_errors(&mut self) {
        if !self.drain.is_finished() {
            // A process that outlived the child could hold the pipe; its words are not awaited.
            let _ = timeout(DRAIN, &mut self.drain).await;
        }
    }
}

/// What is to be cleaned up, as far as a launch has got.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) folder: PathBuf,
    pub(crate) device: Option<Process>,
    pub(crate) vmm: Option<Process>,
}

impl Tree {
    /// Kills and reaps all processes.
    pub(crate) async fn kill(&mut self) {
        for process in self.processes() {
            let _ = process.child.start_kill();
        }
        for process in self.processes() {
            process.kill().await;
        }
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.vmm.iter_mut().chain(&mut self.device)
    }

    /// Removes the folder. On a pool thread, since freeing a large scratch disk takes a while.
    pub(crate) async fn remove_folder(&self) {
        let folder = self.folder.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        let error = match removed {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        };
        tracing::warn!(folder = %self.folder.display(), %error, "cannot remove machine folder");
    }
}

/// What the supervisor holds of a running machine.
pub(crate) struct Running {
    pub(crate) tree: Tree,
    pub(crate) qmp: Qmp,
    pub(crate) console: Log,
    pub(crate) console_reader: JoinHandle<()>,
}

/// The supervisor's ends of the channels to the [`Machine`](crate::Machine).
pub(crate) struct Reports {
    pub(crate) asked_to_die: watch::Receiver<bool>,
    pub(crate) death: watch::Sender<Option<Death>>,
    pub(crate) gone: watch::Sender<bool>,
}

/// Runs until the machine is dead and nothing of it is left.
pub(crate) async fn supervise(mut running: Running, mut reports: Reports, busy: Option<Busy>) {
    let status = first_end(&mut running, &mut reports.asked_to_die).await;
    running.tree.kill().await;
    if timeout(DRAIN, &mut running.console_reader).await.is_err() {
        running.console_reader.abort();
    }
    let status = match status {
        End::Said(status) => status,
        End::Stalled => {
            let complaint = running
                .tree
                .vmm
                .as_ref()
                .map(Process::complaint)
                .unwrap_or_default();
            format!("the accelerator stopped the virtual cpus{complaint}")
        }
    };
    tracing::debug!(folder = %running.tree.folder.display(), status, "machine died");
    let console_tail = running.console.tail(TAIL_LIMIT);
    reports.death.send_replace(Some(Death {
        status,
        console_tail,
    }));
    running.tree.remove_folder().await;
    reports.gone.send_replace(true);
    drop(busy);
}

enum End {
    /// The end in words.
    Said(String),
    /// QEMU stopped the CPUs; its stderr says why, once it is dead.
    Stalled,
}

async fn first_end(running: &mut Running, asked_to_die: &mut watch::Receiver<bool>) -> End {
    let Running {
        tree: Tree { device, vmm, .. },
        qmp,
        ..
    } = running;
    let mut reason = None;
    let mut listening = true;
    loop {
        tokio::select! {
            // The device outlives QEMU, but QEMU may not outlive the device: look there first.
            biased;
            () = asked(asked_to_die) => return End::Said("stopped by the host".to_owned()),
            how = ended(device) => return End::Said(how),
            how = ended(vmm) => {
                while let Ok(Some(event)) = timeout(DRAIN, qmp.event()).await {
                    note(&mut reason, event);
                }
                return End::Said(explain(reason.as_deref(), how));
            }
            event = qmp.event(), if listening => match event {
                Some(Event::Stopped) if reason.is_none() => return End::Stalled,
                Some(event) => note(&mut reason, event),
                None => listening = false,
            },
        }
    }
}

fn note(reason: &mut Option<String>, event: Event) {
    if let Event::Shutdown(why) = event {
        *reason = Some(why);
    }
}

/// QEMU's words for an end the guest chose (`ShutdownCause` in its `qapi/run-state.json`).
fn explain(reason: Option<&str>, how: String) -> String {
    match reason {
        Some("guest-reset") => "the guest restarted or panicked".to_owned(),
        Some("guest-shutdown") => "the guest powered off".to_owned(),
        Some("guest-panic") => "the guest panicked".to_owned(),
        Some(_) | None => how,
    }
}

/// Resolves when the machine is stopped or its handle dropped.
async fn asked(asked_to_die: &mut watch::Receiver<bool>) {
    // An error means the handle is gone, which asks for the same.
    let _ = asked_to_die.wait_for(|asked| *asked).await.is_err();
}

async fn ended(process: &mut Option<Process>) -> String {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}
