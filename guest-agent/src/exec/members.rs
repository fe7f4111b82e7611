// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The processes of running programs, and how a signal reaches them.
//!
//! Owns: the list of running programs, the kill of a program's control group and session. Does not
//! own: why anyone is killed, nor the reaping (`child`).
//!
//! Invariant: a program is in the list only while its leader is not reaped, so that its number, which
//! is also its session's and its process group's, cannot belong to anyone else.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getsid};
use waggle_protocol::message::{self, Failure, FailureCode, Reply};

use super::cgroup::Cgroup;
use crate::agent::Agent;
use crate::failure::{code, failure, reason};
use crate::sys;

/// Most looks at the process table for one session. Two do, unless its members fork while they are
/// looked for; and a process that was found forks no more.
const SCANS_MAX: usize = 100;

/// The signals of Linux, `signal(7)`: 32 of old, 32 real-time ones.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// The programs that run now, by their leaders' process ids.
#[derive(Debug, Default)]
pub struct Programs(Mutex<HashMap<u32, Arc<Members>>>);

impl Programs {
    /// Enters `leader`, an unreaped child that leads its own session and is in `group`.
    #[must_use]
    pub(super) fn enter(
        self: &Arc<Self>,
        leader: u32,
        group: Option<Cgroup>,
        may_leave: bool,
    ) -> Entered {
        let members = Arc::new(Members {
            leader,
            group,
            may_leave,
            killed: AtomicBool::new(false),
        });
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        programs.insert(leader, Arc::clone(&members));
        Entered {
            members,
            programs: Arc::clone(self),
        }
    }

    fn find(&self, leader: u32) -> Option<Arc<Members>> {
        let programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        programs.get(&leader).cloned()
    }

    /// How many run.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A program's place in the list, left when dropped: before the leader is reaped.
#[derive(Debug)]
pub(super) struct Entered {
    members: Arc<Members>,
    programs: Arc<Programs>,
}

impl std::ops::Deref for Entered {
    type Target = Members;

    fn deref(&self) -> &Members {
        &self.members
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let programs = self.programs.0.lock();
        programs
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.members.leader);
    }
}

/// Whom a program has started, itself included.
#[derive(Debug)]
pub(super) struct Members {
    leader: u32,
    group: Option<Cgroup>,
    /// Whether they could leave the group: root can.
    may_leave: bool,
    killed: AtomicBool,
}

impl Members {
    /// Kills everyone: the control group, which nobody but root can leave, and the session, for where
    /// there is no group, and for root's programs.
    pub(super) fn kill_all(&self) {
        self.killed.store(true, Ordering::Relaxed);
        if let Some(group) = &self.group
            && let Err(error) = group.kill()
        {
            eprintln!("waggle-guest: kill the group of {}: {error}", self.leader);
        }
        kill_session(self.leader);
    }

    /// Kills everyone in its session, and lets those live who left it.
    pub(super) fn kill_session(&self) {
        // The usual case, and cheaper to know than a search of the process table.
        let nobody_left = |group: &Cgroup| !self.may_leave && group.is_empty();
        if !self.group.as_ref().is_some_and(nobody_left) {
            kill_session(self.leader);
        }
    }

    /// Whether [`Members::kill_all`] was called.
    #[must_use]
    pub(super) fn are_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }
}

/// Sends a signal to a running program.
///
/// # Errors
///
/// A [`Failure`] that names the number at fault.
pub fn signal(agent: &Agent, request: message::Signal) -> Result<Reply, Failure> {
    let message::Signal { pid, signal } = request;
    if !SIGNALS.contains(&signal) {
        let text = format!("signal {signal} is not within 1 to 64");
        return Err(failure(FailureCode::InvalidRequest, &text));
    }
    let none = || {
        let text = format!("no program with process id {pid} runs");
        failure(FailureCode::NoProcess, &text)
    };
    let members = agent.exec.programs.find(pid).ok_or_else(none)?;
    if signal == nix::libc::SIGKILL {
        members.kill_all();
        return Ok(Reply::Signalled);
    }
    match sys::signal_group(members.leader, signal) {
        Ok(()) => Ok(Reply::Signalled),
        Err(Errno::ESRCH) => Err(none()),
        Err(errno) => {
            let text = format!("signal {signal} to process {pid}: {}", reason(errno));
            Err(failure(code(errno), &text))
        }
    }
}

/// Kills the session of `leader`, an unreaped child: its own process group, then those that it or a
/// shell's job control made. The kernel knows no signal to a session, so the process table is
/// searched until nobody new is found. Who was found forks no more: the kernel lets no fork complete
/// while a SIGKILL is pending.
fn kill_session(leader: u32) {
    let Ok(leader) = i32::try_from(leader).map(Pid::from_raw) else {
        return;
    };
    // It fails only if there is no such group any more.
    let _ = killpg(leader, Signal::SIGKILL);
    let mut found = HashSet::new();
    for _ in 0..SCANS_MAX {
        let mut news = false;
        for pid in processes() {
            if pid != leader && getsid(Some(pid)) == Ok(leader) && found.insert(pid) {
                news = true;
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        if !news {
            return;
        }
    }
}

/// Every process there is.
fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}
