// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! PID 1: what `waggle-init` does.
//!
//! Owns: the order of the boot, and its end. The steps are in [`config`] (the call to the host),
//! [`disks`] and [`mounts`] (the root), [`system`] (name, clock, entropy, loopback), [`user`] (the
//! user `sandbox`), [`supervise`] (the agent, orphans, the end), [`console`] (the last words).
//!
//! Does not own: anything the host asks later; that is the agent's.
//!
//! **What the boot disk must hold**: `/init`, the agent at `protocol::boot::AGENT_PATH`, its tool at
//! `TOOL_PATH`, and the empty folders `/dev`, `/proc`, `/sys` and `/mnt`. The disk is read-only; every further mount point
//! is made in a tmpfs over `/mnt`.
//!
//! **Order.** The call to the host comes first, because the host takes it for the start of the guest;
//! the root is built while the host answers.
//!
//! Invariants: init never exits. An error that stops the boot is one line on the console, then the
//! machine restarts, which ends it: the VMM runs it once.

mod config;
mod console;
mod disks;
mod mounts;
mod supervise;
mod system;
mod user;

use std::fs;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use waggle_protocol::boot::{BootConfig, PROBE_ANSWER, PROBE_WORD};
use waggle_protocol::codec::CodecError;
use waggle_protocol::frame::FrameError;
use waggle_protocol::handshake::HandshakeError;

use self::config::ConfigCall;
use self::supervise::Supervisor;
use crate::agent::monotonic_us;

/// Why the machine cannot boot.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file system did not mount.
    #[error("cannot mount {what} on {target}: {errno}")]
    Mount {
        /// Its name or device.
        what: String,
        /// Where.
        target: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// A system call on a path failed.
    #[error("cannot {action} {path}: {source}")]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no disk with that serial.
    #[error("no disk with serial {serial} (found: {found})")]
    NoDisk {
        /// The wanted serial.
        serial: &'static str,
        /// The serials there are.
        found: String,
    },
    /// The host does not answer on vsock.
    #[error("cannot reach the host on vsock port {port}: {source}")]
    Dial {
        /// The host's port.
        port: u32,
        /// Why.
        source: io::Error,
    },
    /// The host's answer broke off.
    #[error("the host's configuration did not arrive: {0}")]
    Receive(#[source] io::Error),
    /// The host's answer is not framed as it should be.
    #[error("the host's configuration is malformed: {0}")]
    Frame(#[from] FrameError),
    /// The host's answer does not decode.
    #[error("the host's configuration is malformed: {0}")]
    Codec(#[from] CodecError),
    /// The host is not of our kind.
    #[error("no common protocol with the host: {0}")]
    Handshake(#[from] HandshakeError),
    /// The agent does not start.
    #[error("cannot start the agent {path}: {source}")]
    Agent {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent starts, and dies, again and again.
    #[error("the agent crashed {crashes} times in {seconds} s, last by {last}")]
    AgentCrashes {
        /// How often.
        crashes: usize,
        /// In what time.
        seconds: u64,
        /// Its last end.
        last: String,
    },
    /// There is nothing to wait for, which cannot be.
    #[error("cannot wait for processes: {0}")]
    Wait(Errno),
}

/// Boots the machine, keeps it, ends it. Returns only where it is not PID 1.
pub fn main() {
    if std::process::id() != 1 {
        eprintln!("waggle-init: only the kernel starts this, as PID 1");
        return;
    }
    let started_us = monotonic_us();
    let outcome = boot(started_us);
    if let Err(error) = outcome {
        console::say(&format!("fatal: {error}"));
    }
    supervise::end_machine();
}

fn boot(started_us: u64) -> Result<(), InitError> {
    mounts::mount_early()?;
    if is_probe() {
        console::print(PROBE_ANSWER);
        return Ok(());
    }
    let call = ConfigCall::dial()?;
    let root = mounts::build_root()?;
    let config = call.receive()?;
    let agent = root.enter(config.inject_agent)?;
    set_up(&config);
    Supervisor::new(agent, &config, started_us).run()
}

/// Settles what is not vital: a machine without a loopback is of more use than none, so that these
/// failures are notes on the console.
fn set_up(config: &BootConfig) {
    let note = |what: &str, outcome: Result<(), io::Error>| {
        if let Err(error) = outcome {
            console::say(&format!("cannot set {what}: {error}"));
        }
    };
    note("the clock", system::set_clock(config.unix_time_ns));
    note("entropy", system::add_entropy(&config.entropy));
    note("protections", system::protect_shared_folders());
    note("the host name", system::set_hostname(&config.hostname));
    note("the loopback interface", system::raise_loopback());
    note("the user", user::ensure_sandbox());
}

fn is_probe() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace().any(|word| word == PROBE_WORD)
}
