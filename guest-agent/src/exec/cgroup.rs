// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A control group (cgroup v2) for each program: the one set of processes that code without root's
//! rights cannot leave, neither by `setsid` nor by forking twice.
//!
//! Owns: the groups' folders, from `mkdir` to `rmdir`. Does not own: when to kill, nor what is done
//! where there are no groups (`members`).
//!
//! Invariants: a group outlives its program only while a process lives in it (a service that was
//! started on purpose) or a group that root's code made in it, so that what is remembered here is
//! bounded by what really exists; an empty one is removed, if not at once then soon; nothing here waits,
//! but for the one call that says so.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

/// Where init mounts the hierarchy.
pub const HIERARCHY: &str = "/sys/fs/cgroup";
/// The folder in it that is the agent's.
const FOLDER: &str = "waggle";

/// When to look again at a group whose last processes are dying. What is still there after the last
/// look is a service, most likely.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(300),
    Duration::from_millis(1000),
    Duration::from_millis(4000),
];

/// How many groups of services are looked at when a new group is made: more than the one that a
/// program can leave behind, so that the queue does not grow with the number of programs.
const LOOKS: usize = 8;

/// The agent's groups.
#[derive(Debug)]
pub struct Cgroups {
    /// `None` where the kernel offers none.
    folder: Option<PathBuf>,
    /// Groups whose program is gone and which still had a process at the last look.
    busy: Mutex<VecDeque<PathBuf>>,
}

impl Cgroups {
    /// Makes the agent's folder below `hierarchy`, and ends what a crashed agent left in it.
    #[must_use]
    pub fn open(hierarchy: &Path) -> Arc<Self> {
        let folder = match make_folder(hierarchy) {
            Ok(folder) => Some(folder),
            Err(error) => {
                let hierarchy = hierarchy.display();
                eprintln!(
                    "waggle-guest: no cgroups in {hierarchy} ({error}): daemons outlive deadlines"
                );
                None
            }
        };
        let stale: VecDeque<_> = folder.as_deref().map(groups_in).unwrap_or_default();
        let groups = Arc::new(Self {
            folder,
            busy: Mutex::default(),
        });
        for path in stale {
            let _ = kill(&path);
            drop(Cgroup {
                path,
                groups: Arc::clone(&groups),
            });
        }
        groups
    }

    /// Has the kernel keep ready for processes that change groups, `favordynmods`: else each change
    /// waits for all CPUs to pass a point of rest, milliseconds every time. To be called on a thread of
    /// its own, since this is the last such wait.
    pub fn favour_changes(&self) {
        // A remount says all flags anew; these are init's.
        let flags =
            MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let options = Some("favordynmods");
        if let Some(hierarchy) = self.folder.as_deref().and_then(Path::parent)
            && let Err(errno) = mount(None::<&str>, hierarchy, None::<&str>, flags, options)
        {
            // Since Linux 6.0. Without, programs start a little later.
            let hierarchy = hierarchy.display();
            eprintln!("waggle-guest: remount {hierarchy} with favordynmods: {errno}");
        }
    }

    /// For a kernel without: every group is `None`.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::new(Self {
            folder: None,
            busy: Mutex::default(),
        })
    }

    /// A new group, and the file by which a process enters it. `None` where there are no groups, or
    /// if the kernel will make no more.
    #[must_use]
    pub(super) fn create(self: &Arc<Self>, id: u64) -> Option<(Cgroup, OwnedFd)> {
        let path = self.folder.as_ref()?.join(format!("{id:016x}"));
        self.look_at_busy();
        fs::create_dir(&path).ok()?;
        let group = Cgroup {
            path,
            groups: Arc::clone(self),
        };
        let entrance = OpenOptions::new()
            .write(true)
            .open(group.path.join("cgroup.procs"));
        Some((group, entrance.ok()?.into()))
    }

    /// Removes some of the groups whose services have ended since.
    fn look_at_busy(&self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..LOOKS.min(busy.len()) {
            let Some(path) = busy.pop_front() else {
                return;
            };
            if !remove(&path) {
                busy.push_back(path);
            }
        }
    }

    /// Remembers a group for later.
    fn is_busy(&self, path: PathBuf) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.push_back(path);
    }
}

/// One program's group. When dropped it is removed as soon as it is empty; it is not killed.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    groups: Arc<Cgroups>,
}

impl Cgroup {
    /// Kills every process in it, and whom they are forking just now, `cgroup.kill`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn kill(&self) -> io::Result<()> {
        kill(&self.path)
    }

    /// Whether no process lives in it; the dead that nobody has reaped do not count.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        let events = fs::read_to_string(self.path.join("cgroup.events"));
        events.is_ok_and(|text| text.lines().any(|line| line == "populated 0"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if remove(&self.path) {
            return;
        }
        let (path, groups) = (self.path.clone(), Arc::clone(&self.groups));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return groups.is_busy(path);
        };
        runtime.spawn(async move {
            for pause in PAUSES {
                tokio::time::sleep(pause).await;
                if remove(&path) {
                    return;
                }
            }
            groups.is_busy(path);
        });
    }
}

fn kill(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
}

/// Whether the group is gone. The kernel refuses while a process lives in it; the dead that nobody
/// has reaped do not count.
fn remove(path: &Path) -> bool {
    match fs::remove_dir(path) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(()) => true,
    }
}

fn make_folder(hierarchy: &Path) -> io::Result<PathBuf> {
    // Anywhere else this would make a plain folder.
    File::open(hierarchy.join("cgroup.controllers"))?;
    let folder = hierarchy.join(FOLDER);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Since Linux 5.14.
    fs::metadata(folder.join("cgroup.kill"))?;
    Ok(folder)
}

fn groups_in(folder: &Path) -> VecDeque<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;
    use std::time::Instant;

    use super::*;
    use crate::testing::Hierarchy;

    #[test]
    fn without_a_hierarchy_there_are_no_groups_and_no_folders() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Cgroups::open(folder.path());
        assert!(groups.create(1).is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_busy_group_is_removed_later() {
        let Some(hierarchy) = Hierarchy::find() else {
            return;
        };
        let groups = Cgroups::open(hierarchy.path());
        let (group, entrance) = groups.create(7).unwrap();
        let path = group.path.clone();
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        File::from(entrance)
            .write_all(child.id().to_string().as_bytes())
            .unwrap();
        groups.is_busy(group.path.clone());
        groups.look_at_busy();
        assert!(path.exists());
        assert_eq!(groups.busy.lock().unwrap().len(), 1);
        group.kill().unwrap();
        child.wait().unwrap();
        drop(groups.create(8).unwrap());
        assert!(!path.exists());
        assert!(groups.busy.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_crashed_agent_left_is_killed_and_removed() {
        let Some(hierarchy) = Hierarchy::find() else {
            return;
        };
        let (group, entrance) = Cgroups::open(hierarchy.path()).create(7).unwrap();
        let path = group.path.clone();
        std::mem::forget(group);
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        File::from(entrance)
            .write_all(child.id().to_string().as_bytes())
            .unwrap();
        let _groups = Cgroups::open(hierarchy.path());
        child.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while path.exists() {
            assert!(Instant::now() < until, "the group is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
