// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Locks between processes, and between tasks of one: `flock` on empty files.
//!
//! The kernel frees a lock with its last descriptor, so also when its holder is killed. A lock belongs to an open
//! file, so two tasks of one process exclude each other like two processes do.
//!
//! Waiters look again and again instead of blocking a thread: so waiting ends at once when it is dropped, and
//! nothing has to be woken up when a holder of another process dies.
//!
//! Lock files are removed by a sweep only. A sweep excludes all visits, and only a visit takes locks: so nobody
//! holds or waits for a file that is removed, and no two hold the same lock by two files of one name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A held lock. Dropping it frees it.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for as long as it is open")] File);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// How long a waiter sleeps at first and at most: a lock on what is there already is free within microseconds,
/// one on a download for as long as that takes.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(100);

impl Lock {
    /// The lock of this file, which is made if it is not there. None: somebody else has it.
    pub(super) fn try_take(path: &Path, mode: Mode) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Self::of(file, mode)
    }

    /// The lock of a file that is open already.
    pub(super) fn of(file: File, mode: Mode) -> io::Result<Option<Self>> {
        let taken = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match taken {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits for the lock. Dropping the future ends that.
    pub(super) async fn take(path: &Path, mode: Mode) -> io::Result<Self> {
        let mut pause = SHORTEST;
        loop {
            if let Some(lock) = Self::try_take(path, mode)? {
                return Ok(lock);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Waits for the lock on this thread, for so long at most.
    pub(super) fn take_within(
        path: &Path,
        mode: Mode,
        patience: Duration,
    ) -> io::Result<Option<Self>> {
        let mut pause = SHORTEST;
        let mut waited = Duration::ZERO;
        loop {
            if let Some(lock) = Self::try_take(path, mode)? {
                return Ok(Some(lock));
            }
            if waited >= patience {
                return Ok(None);
            }
            std::thread::sleep(pause);
            waited += pause;
            pause = (pause * 2).min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_locks_go_together_and_exclude_an_exclusive_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate");
        let first = Lock::try_take(&path, Mode::Shared).unwrap().unwrap();
        let second = Lock::try_take(&path, Mode::Shared).unwrap().unwrap();
        drop(first);
        assert!(Lock::try_take(&path, Mode::Exclusive).unwrap().is_none());
        let soon = Duration::from_millis(5);
        assert!(Lock::take_within(&path, Mode::Exclusive, soon).unwrap().is_none());
        drop(second);
        let alone = Lock::try_take(&path, Mode::Exclusive).unwrap().unwrap();
        assert!(Lock::try_take(&path, Mode::Shared).unwrap().is_none());
        drop(alone);
        assert!(Lock::try_take(&path, Mode::Shared).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_waiter_gets_the_lock_and_a_dropped_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        let held = Lock::take(&path, Mode::Exclusive).await.unwrap();
        let mut dropped = Box::pin(Lock::take(&path, Mode::Exclusive));
        assert!(futures_util::poll!(&mut dropped).is_pending());
        let waiter = tokio::spawn({
            let path = path.clone();
            async move { Lock::take(&path, Mode::Exclusive).await.map(drop) }
        });
        drop(dropped);
        drop(held);
        waiter.await.unwrap().unwrap();
        assert!(Lock::try_take(&path, Mode::Exclusive).unwrap().is_some());
    }
}
