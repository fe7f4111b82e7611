// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How a child process of a machine is started. Holds the code that runs between fork and exec.
//!
//! Every child: dies with the host (`PR_SET_PDEATHSIG`), has its own session (a terminal's Ctrl-C
//! is the host's business), makes files for its user only, dumps no core (it would hold guest
//! memory), inherits no descriptor but its standard streams and no environment but what loading
//! itself needs.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpid, getppid, setsid};
use tokio::process::{Child, Command};

/// Variables a child keeps: those its loader reads. Anything else could carry a secret.
const KEPT: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// Which standard streams are pipes to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    /// stderr only; the others are `/dev/null`.
    Errors,
    /// All three.
    All,
}

/// Starts `program` in `folder`. Dropping the [`Child`] kills it.
///
/// Call it on the warden's thread only: the parent-death signal follows the *thread* that forked,
/// so a child of a pool's thread would die when the pool retires that thread.
pub(crate) fn spawn<S: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = S>,
    folder: &Path,
    streams: Streams,
) -> io::Result<Child> {
    let pipe = || match streams {
        Streams::Errors => Stdio::null(),
        Streams::All => Stdio::piped(),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(
            KEPT.iter()
                .filter_map(|key| Some((key, std::env::var_os(key)?))),
        )
        .stdin(pipe())
        .stdout(pipe())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let parent = getpid();
    // SAFETY: `pre_exec` requires that the closure be sound in a forked child of a process with
    // threads: only async-signal-safe calls, no allocation, no lock. `confine` makes nothing but
    // system calls on values it owns; its errors are made of plain numbers.
    unsafe { command.pre_exec(move || confine(parent)) };
    command.spawn()
}

/// Runs in the child, between fork and exec.
fn confine(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // A parent that died before the line above sends no signal any more.
    if getppid() != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    setsid()?;
    umask(Mode::from_bits_retain(0o177));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let close_on_exec = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
    // SAFETY: a system call that takes three numbers. It only marks descriptors, which no Rust
    // value in this short-lived copy of the process relies upon. Kernels before 5.11 refuse it;
    // Rust opens everything close-on-exec anyway, so the refusal is ignored.
    let _ = unsafe { libc::close_range(3, libc::c_uint::MAX, close_on_exec) };
    Ok(())
}
