// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The folder of one running host: `<data_dir>/run/<random>/`, held by a lock.
//!
//! The lock is an `flock`, which the kernel releases however the holder dies: a folder whose lock
//! is free belongs to a dead host and is removed by the next one. `run/lock` orders creation and
//! clean-up, so that a folder is never seen between its creation and its locking.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";

/// A locked folder, removed when dropped.
#[derive(Debug)]
pub(crate) struct Instance {
    folder: PathBuf,
    _lock: File,
}

impl Instance {
    /// Removes the folders of dead hosts below `data_dir` and takes a new one.
    pub(crate) fn take(data_dir: &Path) -> io::Result<Instance> {
        let run = data_dir.join("run");
        private_folders(&run)?;
        let order = lock_file(&run.join(LOCK))?;
        order.lock()?;
        remove_dead(&run)?;
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let folder = run.join(id.trim());
        DirBuilder::new().mode(0o700).create(&folder)?;
        let locked = lock_file(&folder.join(LOCK)).and_then(|file| {
            file.lock()?;
            Ok(file)
        });
        match locked {
            Ok(lock) => Ok(Instance {
                folder,
                _lock: lock,
            }),
            Err(error) => {
                // Without a lock it counts as dead, so the next host removes what this leaves.
                let _ = fs::remove_dir_all(&folder);
                Err(error)
            }
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot remove run folder");
        }
    }
}

/// Creates `folder` and its parents; those it creates are for this user only.
pub(crate) fn private_folders(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn lock_file(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Removes each folder below `run` whose lock is free. Called with `run/lock` held.
fn remove_dead(run: &Path) -> io::Result<()> {
    for entry in fs::read_dir(run)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let folder = entry.path();
        let free = match File::open(folder.join(LOCK)).map(|lock| lock.try_lock()) {
            Ok(Ok(())) => true,
            Ok(Err(TryLockError::WouldBlock)) => false,
            Ok(Err(TryLockError::Error(error))) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot tell whether it is dead");
                false
            }
            // No lock: its host died between the two steps of `take` or while it cleaned up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            // Another user's, say: whoever can look into it will clean it up.
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot tell whether it is dead");
                false
            }
        };
        if !free {
            continue;
        }
        match fs::remove_dir_all(&folder) {
            Ok(()) => tracing::info!(folder = %folder.display(), "removed a dead host's folder"),
            // Its host may be removing it itself, at the end of its life.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "cannot remove dead folder");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::Instance;

    #[test]
    fn dead_folders_go_and_live_ones_stay() {
        let data = tempfile::tempdir().expect("temporary folder");
        let live = Instance::take(data.path()).expect("first");
        let run = data.path().join("run");
        let dead = run.join("dead");
        fs::create_dir_all(dead.join("machine")).expect("folder");
        fs::write(dead.join("lock"), "").expect("lock");
        let lockless = run.join("lockless");
        fs::create_dir(&lockless).expect("folder");

        let second = Instance::take(data.path()).expect("second");
        assert!(!dead.exists() && !lockless.exists());
        assert!(live.folder().exists() && second.folder().exists());
        let mode = fs::metadata(second.folder())
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);

        let folder = live.folder().to_owned();
        drop(live);
        assert!(!folder.exists());
        assert!(second.folder().exists());
    }
}
