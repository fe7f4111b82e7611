// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Who has which of the bytes that the store's folder may take up.
//!
//! Owns: the bound of the folder, what stays free on its disk, and the shares of the files under way. Does not
//! own: the files ([`super::store`]).
//!
//! Invariants: what is kept, as far as it is known, and all shares together are within the bound; shares have
//! at most half of it, so that what is under way does not push everything else out; the disk has room for what of
//! them is not written yet, and a reserve beside it.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use crate::lock::lock;

/// Left free on the disk for everything else: without it machines' disks would fill up.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSpace {
    /// In the folder: something must go, or nobody has looked yet what there is.
    #[error("the package cache is full")]
    Folder,
    /// Beside the other files under way.
    #[error("the package cache has no room beside what else is being fetched")]
    UnderWay,
    /// On the disk.
    #[error("the package cache's disk is full")]
    Disk,
}

/// The bytes of a folder.
#[derive(Debug)]
pub(super) struct Space {
    max_bytes: u64,
    used: Arc<Mutex<Used>>,
}

/// What they are used for.
#[derive(Debug, Default)]
struct Used {
    /// By files that are kept, as of the last look and with what was kept since; none before the first.
    kept: Option<u64>,
    /// Kept since then.
    added: u64,
    /// By files under way, written or not.
    shared: u64,
    /// Of that, what is not written yet.
    unwritten: u64,
}

/// What one file under way has. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    used: Arc<Mutex<Used>>,
    bytes: u64,
    written: u64,
}

impl Space {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            used: Arc::default(),
        }
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Most bytes of one file, and of all that are under way.
    pub(super) fn largest(&self) -> u64 {
        self.max_bytes / 2
    }

    /// A share of `bytes`, in the folder `dir`.
    pub(super) fn take(&self, dir: &Path, bytes: u64) -> Result<Share, NoSpace> {
        let mut used = lock(&self.used);
        let shared = used.shared.saturating_add(bytes);
        if shared > self.largest() {
            return Err(NoSpace::UnderWay);
        }
        // If it cannot be said, creating a file tells what is wrong.
        if let Ok(stat) = nix::sys::statvfs::statvfs(dir) {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let alone = bytes.saturating_add(RESERVE_BYTES);
            if free <= alone {
                return Err(NoSpace::Disk);
            }
            if free <= alone.saturating_add(used.unwritten) {
                return Err(NoSpace::UnderWay);
            }
        }
        let fits = |kept: u64| kept.saturating_add(shared) <= self.max_bytes;
        if !used.kept.is_some_and(fits) {
            return Err(NoSpace::Folder);
        }
        used.shared = shared;
        used.unwritten = used.unwritten.saturating_add(bytes);
        Ok(Share {
            used: Arc::clone(&self.used),
            bytes,
            written: 0,
        })
    }

    /// Whether so much was added that the folder should be looked at again.
    pub(super) fn is_due(&self) -> bool {
        lock(&self.used).added > self.max_bytes / 32
    }

    /// Somebody begins to look at the folder.
    pub(super) fn look(&self) {
        lock(&self.used).added = 0;
    }

    /// So much was found to be kept. What came meanwhile may have been seen or not.
    pub(super) fn looked(&self, kept: u64) {
        let mut used = lock(&self.used);
        used.kept = Some(kept.saturating_add(used.added));
    }

    /// What of the files under way is written.
    pub(super) fn written(&self) -> u64 {
        let used = lock(&self.used);
        used.shared.saturating_sub(used.unwritten)
    }

    /// How much may be kept, if `bytes` more shall come beside what is under way.
    pub(super) fn most_kept(&self, bytes: u64) -> u64 {
        let shared = lock(&self.used).shared;
        self.max_bytes.saturating_sub(shared).saturating_sub(bytes)
    }
}

impl Share {
    /// How much more it needs for `bytes` to be written.
    pub(super) fn missing(&self, bytes: u64) -> u64 {
        let wanted = self.written.saturating_add(bytes);
        wanted.saturating_sub(self.bytes)
    }

    /// Takes what `more` has.
    pub(super) fn join(&mut self, mut more: Self) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.written = self.written.saturating_add(more.written);
        (more.bytes, more.written) = (0, 0);
    }

    /// `bytes` of it were written.
    pub(super) fn wrote(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes.saturating_sub(self.written));
        self.written = self.written.saturating_add(bytes);
        let mut used = lock(&self.used);
        used.unwritten = used.unwritten.saturating_sub(bytes);
    }

    /// The file is kept, with so many bytes.
    pub(super) fn keep(self, len: u64) {
        let mut used = lock(&self.used);
        used.added = used.added.saturating_add(len);
        used.kept = used.kept.map(|kept| kept.saturating_add(len));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = lock(&self.used);
        used.shared = used.shared.saturating_sub(self.bytes);
        let unwritten = self.bytes.saturating_sub(self.written);
        used.unwritten = used.unwritten.saturating_sub(unwritten);
    }
}
