// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The process table, read from `/proc`: who descends from whom, and who still works in a folder.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process at the moment it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    parent: i32,
    /// Clock ticks since boot: tells it from a later process of the same id.
    started: u64,
    /// Its arguments, joined by spaces.
    pub command: String,
    /// Its working directory, if it may be read.
    pub directory: Option<PathBuf>,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): the name is in parentheses and may hold any character; state follows it.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        Some(Self {
            pid,
            parent,
            started,
            command: command.trim_end().to_owned(),
            directory,
        })
    }

    /// Whether it still runs. A zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Sends it a signal, if it is still the same process.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end between the two lines; nobody minds.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    fn mentions(&self, folder: &Path) -> bool {
        let text = folder.as_os_str().as_bytes();
        let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        self.directory
            .as_ref()
            .is_some_and(|directory| directory.starts_with(folder))
            || holds(self.command.as_bytes())
            || fs::read(format!("/proc/{}/environ", self.pid)).is_ok_and(|bytes| holds(&bytes))
    }
}

/// Every process that runs now and may be read.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .collect()
}

/// The processes that descend from `root`, itself not among them.
#[must_use]
pub fn descendants(root: i32) -> Vec<Process> {
    let mut rest = all();
    let mut family = vec![root];
    let mut found = Vec::new();
    while let Some(parent) = family.pop() {
        let (children, others): (Vec<_>, Vec<_>) = rest
            .into_iter()
            .partition(|process| process.parent == parent);
        family.extend(children.iter().map(|process| process.pid));
        found.extend(children);
        rest = others;
    }
    found
}

/// The processes that have `folder` in their arguments or environment, or work inside it: those of a
/// server whose data lives there, whoever their parent is by now. This process is not among them.
#[must_use]
pub fn of_folder(folder: &Path) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    all()
        .into_iter()
        .filter(|process| process.pid != own && process.mentions(folder))
        .collect()
}
