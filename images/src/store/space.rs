// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Room on the disk: asked for before it is taken, and a full disk told apart from other failures.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::{Stop, Store, StoreError};

/// How many bytes are written between two looks at what is free.
pub(super) const STEP: u64 = 16 << 20;

impl Store {
    /// Bytes that this user may still write on the store's file system.
    pub(super) fn free(&self) -> Result<u64, StoreError> {
        let status = statvfs(self.dir())
            .map_err(io::Error::from)
            .map_err(StoreError::io("measure the free space of", self.dir()))?;
        Ok(status
            .blocks_available()
            .saturating_mul(status.fragment_size()))
    }

    /// # Errors
    ///
    /// [`StoreError::NoSpace`] if these bytes do not fit beside the reserve.
    pub(super) fn room(&self, bytes: u64) -> Result<(), StoreError> {
        let free = self.free()?;
        let needed = bytes.saturating_add(self.reserve);
        if free < needed {
            return Err(StoreError::NoSpace {
                dir: self.dir().to_owned(),
                needed,
                free,
            });
        }
        Ok(())
    }

    /// A failure to write, of which a full disk is told apart.
    pub(super) fn failed(&self, doing: &'static str, path: &Path, error: io::Error) -> StoreError {
        if StoreError::is_full(&error) {
            let free = self.free().unwrap_or_default();
            let dir = self.dir().to_owned();
            // What was to be written is not known here; with the reserve free it would have fitted.
            return StoreError::NoSpace {
                dir,
                needed: free.saturating_add(self.reserve),
                free,
            };
        }
        StoreError::io(doing, path)(error)
    }
}

/// Looks at the free space whenever another [`STEP`] is written.
#[derive(Debug)]
pub(super) struct Watch {
    unwatched: u64,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { unwatched: 0 }
    }

    /// To be called with each piece that is written; `left` is what is still to come, if that is known.
    pub(super) fn wrote(&mut self, store: &Store, bytes: u64, left: u64) -> Result<(), StoreError> {
        self.unwatched = self.unwatched.saturating_add(bytes);
        if self.unwatched < STEP {
            return Ok(());
        }
        self.unwatched = 0;
        store.room(left)
    }
}

/// Asked again and again by work that takes long: ends it when nobody waits any more, and when the files that it writes
/// leave no room.
pub(super) struct Guard<'a> {
    store: &'a Store,
    stop: &'a Stop,
    files: Vec<PathBuf>,
    seen: RefCell<Seen>,
}

struct Seen {
    bytes: u64,
    watch: Watch,
    reason: Option<StoreError>,
}

impl<'a> Guard<'a> {
    /// For work that writes these files.
    ///
    /// # Errors
    ///
    /// There is no room to begin with.
    pub(super) fn new(
        store: &'a Store,
        stop: &'a Stop,
        files: Vec<PathBuf>,
    ) -> Result<Self, StoreError> {
        store.room(0)?;
        Ok(Self::begun(store, stop, files))
    }

    pub(super) fn begun(store: &'a Store, stop: &'a Stop, files: Vec<PathBuf>) -> Self {
        let seen = RefCell::new(Seen {
            bytes: 0,
            watch: Watch::new(),
            reason: None,
        });
        Self {
            store,
            stop,
            files,
            seen,
        }
    }

    /// Whether the work must end. [`Self::reason`] then says why.
    pub(super) fn must_stop(&self) -> bool {
        let mut seen = self.seen.borrow_mut();
        if self.stop.asked() {
            seen.reason = Some(StoreError::Stopped);
            return true;
        }
        let grown = self.written().saturating_sub(seen.bytes);
        seen.bytes += grown;
        if let Err(error) = seen.watch.wrote(self.store, grown, 0) {
            seen.reason = Some(error);
        }
        seen.reason.is_some()
    }

    /// Bytes of the files. What is not there yet, or cannot be measured, has none: its own ceilings bound it.
    fn written(&self) -> u64 {
        let sizes = self.files.iter().map(std::fs::metadata);
        sizes.flatten().map(|status| status.len()).sum()
    }

    /// What the work's failure comes from, if that is not the work's own affair: the guard, or a full disk.
    pub(super) fn reason(
        &self,
        failure: &(dyn std::error::Error + 'static),
        writing: &Path,
    ) -> Option<StoreError> {
        let reason = self.seen.borrow_mut().reason.take();
        reason.or_else(|| Some(self.store.failed("write", writing, full(failure)?)))
    }
}

/// The full disk among what an error comes from, as an error of its own.
fn full(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && StoreError::is_full(io)
        {
            return Some(io.kind().into());
        }
        next = error.source();
    }
    None
}
