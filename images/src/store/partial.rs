// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A blob that is being received: a file in `partial`, hashed while it grows, which outlives whoever receives it.
//!
//! All of it blocks. Whoever has one holds the exclusive lock of its digest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::space::Watch;
use super::{Stop, Store, StoreError, Wanted, seal_rights};
use crate::Digest;

pub(super) struct Partial {
    store: Store,
    wanted: Wanted,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    /// What is written and hashed.
    length: u64,
    /// Whether some of it was there before: then a wrong digest may be the disk's doing.
    resumed: bool,
    watch: Watch,
}

/// How much is read at a time: large enough that the system calls cost nothing beside the hashing.
const CHUNK: usize = 256 << 10;

impl Partial {
    /// What is there of the blob, hashed anew, or nothing yet.
    pub(super) fn open(store: &Store, wanted: Wanted, stop: &Stop) -> Result<Self, StoreError> {
        let path = store.partial_path(&wanted);
        let mut file = open(&path).map_err(|error| store.failed("open", &path, error))?;
        let hashed = hash_up_to(&mut file, wanted.size, stop);
        let (hasher, length) = match hashed {
            Ok(hashed) => hashed,
            Err(Hashing::Stopped) => return Err(StoreError::Stopped),
            Err(Hashing::Failed(error)) => return Err(StoreError::io("read", &path)(error)),
        };
        let mut partial = Self {
            store: store.clone(),
            wanted,
            file,
            path,
            hasher,
            length,
            resumed: length > 0,
            watch: Watch::new(),
        };
        partial.fit()?;
        Ok(partial)
    }

    /// Sees to it that what is still to come has room. If it has none, not even what is there is kept.
    fn fit(&mut self) -> Result<(), StoreError> {
        let left = self.wanted.size.saturating_sub(self.length);
        self.store.room(left).inspect_err(|_| self.discard())
    }

    /// How much of it is there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Appends.
    ///
    /// # Errors
    ///
    /// More than the stated size, or no room: the file is then gone.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let count = bytes.len() as u64;
        let length = self.length.saturating_add(count);
        if length > self.wanted.size {
            self.discard();
            return Err(StoreError::TooLong {
                digest: self.wanted.digest,
                size: self.wanted.size,
            });
        }
        if let Err(error) = self.file.write_all(bytes) {
            if StoreError::is_full(&error) {
                self.discard();
            }
            return Err(self.store.failed("write", &self.path, error));
        }
        self.hasher.update(bytes);
        self.length = length;
        let left = self.wanted.size - length;
        self.watch
            .wrote(&self.store, count, left)
            .inspect_err(|_| self.discard())
    }

    /// Gives the blob its name, if it is what it should be. Else nothing of it stays.
    ///
    /// # Errors
    ///
    /// [`Unfinished::Retry`] if what was there before is to blame.
    pub(super) fn finish(self) -> Result<(), Unfinished> {
        let Wanted { digest, size } = self.wanted;
        if self.length < size {
            return Err(Unfinished::Failed(StoreError::Truncated {
                digest,
                size,
                received: self.length,
            }));
        }
        let found = Digest::finish(self.hasher.clone());
        if found != digest {
            self.discard();
            if self.resumed {
                return Err(Unfinished::Retry);
            }
            return Err(Unfinished::Failed(StoreError::Mismatch {
                expected: digest,
                found,
            }));
        }
        let path = self.store.blob_path(&digest);
        // Its rights come last: a part that cannot be written to would be in the next one's way, if this one is killed.
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &path))
            .and_then(|()| seal_rights(&self.file))
            .map_err(|error| Unfinished::Failed(self.store.failed("write", &path, error)))
    }

    /// Leaves it to whoever receives the blob next, unless others need the room more.
    pub(super) fn leave(self) {
        if self.length == 0 || self.store.room(0).is_err() {
            self.discard();
        }
    }

    /// Removes it. If even that fails, the next one goes on with it, or a prune removes it.
    fn discard(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a partial download stays");
        }
    }
}

/// Why a blob did not get its name.
pub(super) enum Unfinished {
    /// The disk's doing: once again from the beginning.
    Retry,
    Failed(StoreError),
}

/// Opens a part, or begins one. One that may not be written to is of no use, and nobody else is at it.
fn open(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::remove_file(path)?;
            open()
        }
        opened => opened,
    }
}

enum Hashing {
    Stopped,
    Failed(io::Error),
}

/// Hashes a file from its beginning, and cuts off what is beyond `size`: no blob of ours is longer.
fn hash_up_to(file: &mut File, size: u64, stop: &Stop) -> Result<(Sha256, u64), Hashing> {
    let mut hasher = Sha256::new();
    let mut length = 0_u64;
    file.seek(SeekFrom::Start(0)).map_err(Hashing::Failed)?;
    let mut chunk = vec![0; CHUNK];
    let mut limited = Read::by_ref(file).take(size);
    loop {
        if stop.asked() {
            return Err(Hashing::Stopped);
        }
        let count = limited.read(&mut chunk).map_err(Hashing::Failed)?;
        let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hasher.update(bytes);
        length += count as u64;
    }
    file.set_len(length).map_err(Hashing::Failed)?;
    file.seek(SeekFrom::Start(length))
        .map_err(Hashing::Failed)?;
    Ok((hasher, length))
}

/// The digest of all that a reader gives, and how much that was.
pub(super) fn digest_of(
    mut reader: impl Read,
    path: &Path,
    stop: &Stop,
) -> Result<(Digest, u64), StoreError> {
    let mut hasher = Sha256::new();
    let mut length = 0_u64;
    let mut chunk = vec![0; CHUNK];
    loop {
        stop.check()?;
        let count = reader
            .read(&mut chunk)
            .map_err(StoreError::io("read", path))?;
        let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok((Digest::finish(hasher), length));
        };
        hasher.update(bytes);
        length += count as u64;
    }
}
