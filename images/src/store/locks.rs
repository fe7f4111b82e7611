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
//! A process that this one starts has a copy of all descriptors until it executes its program, a moment later. So a
//! lock that was just freed may seem taken for that moment: who does not wait for one asks twice.
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

/// How often a lock is found taken until it counts as that.
const ASKED: usize = 5;

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

    /// Whether others have the lock of a file that is there. What is not there is not locked.
    pub(super) fn is_taken(path: &Path) -> io::Result<bool> {
        for _ in 0..ASKED {
            // Opened, not made.
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            if Self::of(file, Mode::Exclusive)?.is_some() {
                return Ok(false);
            }
            std::thread::sleep(SHORTEST);
        }
        Ok(true)
    }

    /// The lock of a file that is open already.
    fn of(file: File, mode: Mode) -> io::Result<Option<Self>> {
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

    const SOON: Duration = Duration::from_millis(5);
    /// Other tests start processes, which keep a freed lock for a moment.
    const LATE: Duration = Duration::from_secs(5);

    #[test]
    fn shared_locks_go_together_and_exclude_an_exclusive_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate");
        let take = |mode, patience| Lock::take_within(&path, mode, patience).unwrap();
        let first = take(Mode::Shared, LATE).unwrap();
        let second = take(Mode::Shared, LATE).unwrap();
        drop(first);
        assert!(take(Mode::Exclusive, SOON).is_none());
        drop(second);
        let alone = take(Mode::Exclusive, LATE).unwrap();
        assert!(take(Mode::Shared, SOON).is_none());
        drop(alone);
        assert!(take(Mode::Shared, LATE).is_some());
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
        assert!(
            Lock::take_within(&path, Mode::Exclusive, LATE)
                .unwrap()
                .is_some()
        );
    }
}
