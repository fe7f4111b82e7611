// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A running program: its end, its process group, its reaping.
//!
//! Owns: the child and its pidfd. Does not own: why it is killed.
//!
//! Invariants: the group is killed *before* the leader is reaped, while its number cannot belong to
//! anyone else. A dropped child is killed, and reaped in the background.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use waggle_protocol::message::ExitStatus;

use crate::sys;

/// Longest record that a read of `/dev/kmsg` returns, the kernel's `PRINTK_MESSAGE_MAX`.
const KMSG_RECORD_MAX: usize = 2048;

/// A spawned program, leader of its own session and process group.
#[derive(Debug)]
pub(super) struct Child {
    process: Option<process::Child>,
    pid: u32,
    /// Readable once the program has exited.
    watch: Option<AsyncFd<OwnedFd>>,
    started_at: Instant,
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct End {
    /// What the kernel says.
    pub(super) status: ExitStatus,
    /// Whether it was the kernel's out-of-memory killer that sent the SIGKILL it died of.
    pub(super) out_of_memory: bool,
    /// From before it was spawned until it was reaped.
    pub(super) wall: Duration,
}

impl Child {
    /// Spawns `command`, which must make its child a session leader.
    ///
    /// # Errors
    ///
    /// What std's `spawn` says. No process is left behind.
    pub(super) fn spawn(command: &mut process::Command) -> io::Result<(Self, Pipes)> {
        let started_at = Instant::now();
        let mut process = command.spawn()?;
        let pipes = Pipes {
            stdin: process.stdin.take().map(OwnedFd::from),
            stdout: process.stdout.take().map(OwnedFd::from),
            stderr: process.stderr.take().map(OwnedFd::from),
        };
        let mut child = Self {
            pid: process.id(),
            process: Some(process),
            watch: None,
            started_at,
        };
        // If this fails, dropping the child kills it.
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

    /// Kills its process group. Members that are forking are caught too: the kernel lets no fork
    /// complete while a signal is pending.
    pub(super) fn kill_group(&self) {
        if self.process.is_some()
            && let Ok(pid) = i32::try_from(self.pid)
        {
            // It fails only if there is no such group any more.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// After [`Child::exited`]: kills what is left of its group and takes its exit status.
    ///
    /// # Errors
    ///
    /// If it was reaped already.
    pub(super) fn reap(&mut self) -> io::Result<End> {
        self.kill_group();
        let mut process = self.process.take().ok_or(io::ErrorKind::NotFound)?;
        let status = process.wait()?;
        let wall = self.started_at.elapsed();
        let status = match (status.code(), status.signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, signal) => ExitStatus::Signal(signal.unwrap_or_default()),
        };
        let out_of_memory =
            status == ExitStatus::Signal(nix::libc::SIGKILL) && kernel_ran_out_of_memory(self.pid);
        Ok(End {
            status,
            out_of_memory,
            wall,
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill_group();
        let (Some(mut process), Some(watch)) = (self.process.take(), self.watch.take()) else {
            return;
        };
        // A killed process may take a moment to die, and the agent has but one thread.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if watch.readable().await.is_ok() {
                    let _ = process.wait();
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

/// Whether the kernel's log says that its out-of-memory killer took process `pid`. (The counters of
/// `/proc/vmstat` do not tell whom, and libkrunfw's kernel has none.) Looked at only after a SIGKILL;
/// sandboxed code cannot write to that log.
fn kernel_ran_out_of_memory(pid: u32) -> bool {
    let log = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open("/dev/kmsg");
    let Ok(mut log) = log else {
        return false;
    };
    let mut record = [0; KMSG_RECORD_MAX];
    loop {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(count) if names_victim(record.get(..count).unwrap_or_default(), pid) => return true,
            Ok(_) => {}
            // The record was overwritten while we read; the next read goes on behind it.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
            // EAGAIN: that was the last one.
            Err(_) => return false,
        }
    }
}

/// `mm/oom_kill.c`: `Out of memory: Killed process 42 (python3) ...`, or the same of a cgroup.
fn names_victim(record: &[u8], pid: u32) -> bool {
    let text = String::from_utf8_lossy(record);
    text.contains(&format!("ut of memory: Killed process {pid} ("))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_victim_is_read_from_the_kernels_words() {
        let whole = b"3,512,98765,-;Out of memory: Killed process 42 (python3) total-vm:1kB";
        let group = b"3,512,98765,-;Memory cgroup out of memory: Killed process 42 (sh) x";
        assert!(names_victim(whole, 42) && names_victim(group, 42));
        assert!(!names_victim(whole, 4) && !names_victim(b"6,1,1,-;process 42 (", 42));
    }
}
