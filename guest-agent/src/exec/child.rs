// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A running program: its end and its reaping.
//!
//! Owns: the child and its pidfd. Does not own: who else belongs to the program (`members`), nor why
//! it is killed.
//!
//! Invariants: the session is killed *before* its leader is reaped, while the leader's number cannot
//! belong to anyone else. A dropped child is killed with all it started, and reaped in the background.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::alarm;
use tokio::io::unix::AsyncFd;
use waggle_protocol::message::ExitStatus;

use super::cgroup::Cgroup;
use super::members::{Entered, Programs};
use crate::sys::{self, CpuTime};

/// Longest record that a read of `/dev/kmsg` returns, the kernel's `PRINTK_MESSAGE_MAX`.
const KMSG_RECORD_MAX: usize = 2048;

/// Seconds that a spawn may take. It waits for the child's exec, and between the change of user and
/// the exec other programs of that user may stop the child: the agent, which has one thread, would
/// wait for ever. The alarm ends it instead, and init ends everything else and starts it again.
const SPAWN_SECONDS: u32 = 10;

/// A program's status when a shell tells of its child's SIGKILL.
const SHELL_TELLS_KILLED: i32 = 128 + nix::libc::SIGKILL;

/// A spawned program, leader of its own session and process group.
#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    /// `None` once it is reaped.
    members: Option<Entered>,
    /// Readable once the program has exited.
    watch: Option<AsyncFd<OwnedFd>>,
    started_at: Instant,
    kernel_log: Option<KernelLog>,
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct End {
    /// What the kernel says.
    pub(super) status: ExitStatus,
    /// Whether the kernel's out-of-memory killer took it, or a child of which it tells.
    pub(super) out_of_memory: bool,
    /// From before it was spawned until it was reaped.
    pub(super) wall: Duration,
    /// What it and its reaped children took.
    pub(super) cpu: CpuTime,
}

impl Child {
    /// Spawns `command`, which must make its child a session leader and a member of `group`;
    /// `may_leave` says whether it could leave that.
    ///
    /// # Errors
    ///
    /// What std's `spawn` says. No process is left behind.
    pub(super) fn spawn(
        command: &mut process::Command,
        programs: &Arc<Programs>,
        group: Option<Cgroup>,
        may_leave: bool,
    ) -> io::Result<(Self, Pipes)> {
        let kernel_log = KernelLog::from_now_on();
        let started_at = Instant::now();
        alarm::set(SPAWN_SECONDS);
        let spawned = command.spawn();
        alarm::cancel();
        let mut process = spawned?;
        let pipes = Pipes {
            stdin: process.stdin.take().map(OwnedFd::from),
            stdout: process.stdout.take().map(OwnedFd::from),
            stderr: process.stderr.take().map(OwnedFd::from),
        };
        let mut child = Self {
            pid: process.id(),
            members: Some(programs.enter(process.id(), group, may_leave)),
            watch: None,
            started_at,
            kernel_log,
        };
        // If this fails, dropping the child kills and reaps it.
        child.watch = Some(sys::watch_child(child.pid)?);
        Ok((child, pipes))
    }

    /// Its process, session and group id.
    #[must_use]
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Taken right before it was spawned.
    #[must_use]
    pub(super) fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Waits until it has exited, without reaping it. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the pidfd cannot be watched.
    pub(super) async fn exited(&self) -> io::Result<()> {
        match &self.watch {
            Some(watch) => watch.readable().await.map(drop),
            None => Ok(()),
        }
    }

    /// Kills it and everyone it started.
    pub(super) fn kill_all(&self) {
        if let Some(members) = &self.members {
            members.kill_all();
        }
    }

    /// After [`Child::exited`]: kills what is left of its session and takes its exit status.
    ///
    /// # Errors
    ///
    /// If it was reaped already.
    pub(super) fn reap(&mut self) -> io::Result<End> {
        let members = self.members.take().ok_or(io::ErrorKind::NotFound)?;
        members.kill_session();
        let killed = members.are_killed();
        drop(members);
        let reaped = sys::reap_child(self.pid)?;
        let wall = self.started_at.elapsed();
        let status = match (reaped.status.code(), reaped.status.signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, signal) => ExitStatus::Signal(signal.unwrap_or_default()),
        };
        let was_killed = matches!(
            status,
            ExitStatus::Signal(nix::libc::SIGKILL) | ExitStatus::Code(SHELL_TELLS_KILLED)
        );
        let log = self.kernel_log.take().filter(|_| was_killed && !killed);
        Ok(End {
            status,
            out_of_memory: log.is_some_and(KernelLog::tells_of_out_of_memory),
            wall,
            cpu: reaped.cpu,
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(members) = self.members.take() else {
            return;
        };
        members.kill_all();
        drop(members);
        let pid = self.pid;
        let Some(watch) = self.watch.take() else {
            // It was started a moment ago and is dying: not worth more than this short wait.
            let _ = sys::reap_child(pid);
            return;
        };
        // A killed process may take a moment to die, and the agent has but one thread.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if watch.readable().await.is_ok() {
                    let _ = sys::reap_child(pid);
                }
            });
        }
    }
}

/// The agent's ends of a program's standard streams.
#[derive(Debug)]
pub(super) struct Pipes {
    /// Where its input goes, if it has any.
    pub(super) stdin: Option<OwnedFd>,
    /// Where its output comes from.
    pub(super) stdout: Option<OwnedFd>,
    /// Where its messages come from.
    pub(super) stderr: Option<OwnedFd>,
}

/// The kernel's log from some moment on. Sandboxed code cannot write to it. (The counters of
/// `/proc/vmstat` do not exist in libkrunfw's kernel.)
#[derive(Debug)]
struct KernelLog(File);

impl KernelLog {
    /// `None` where it cannot be read.
    fn from_now_on() -> Option<Self> {
        let log = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open("/dev/kmsg");
        let mut log = log.ok()?;
        log.seek(SeekFrom::End(0)).ok()?;
        Some(Self(log))
    }

    /// Whether the out-of-memory killer took anyone since. Whom it names need not be the program:
    /// it is as often a child of which the program's exit status tells.
    fn tells_of_out_of_memory(mut self) -> bool {
        let mut record = [0; KMSG_RECORD_MAX];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return false,
                Ok(count) if names_a_victim(record.get(..count).unwrap_or_default()) => {
                    return true;
                }
                Ok(_) => {}
                // The record was overwritten while we read; the next read goes on behind it.
                Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
                // EAGAIN: that was the last one.
                Err(_) => return false,
            }
        }
    }
}

/// `mm/oom_kill.c`: `Out of memory: Killed process 42 (python3) ...`, or the same of a cgroup.
fn names_a_victim(record: &[u8]) -> bool {
    String::from_utf8_lossy(record).contains("ut of memory: Killed process ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_victim_is_read_from_the_kernels_words() {
        let whole = b"3,512,98765,-;Out of memory: Killed process 42 (python3) total-vm:1kB";
        let group = b"3,512,98765,-;Memory cgroup out of memory: Killed process 42 (sh) x";
        assert!(names_a_victim(whole) && names_a_victim(group));
        assert!(!names_a_victim(b"6,1,1,-;process 42 ("));
    }
}
