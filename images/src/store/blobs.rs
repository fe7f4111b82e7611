// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Blobs: bytes by their digest.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::partial::digest_of;
use super::space::Watch;
use super::{Stop, StoreError, Visit, seal, write_whole};
use crate::Digest;

/// What is known beforehand of a blob that is copied in.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// What it may have at most, in bytes.
    pub limit: u64,
}

impl Visit {
    /// Whether a blob is there. One of another size than it should have is not. Cheap: its content is not read.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn has_blob(&self, digest: &Digest, size: Option<u64>) -> Result<bool, StoreError> {
        let path = self.store().blob_path(digest);
        let Some(found) = file_size(&path)? else {
            return Ok(false);
        };
        if let Some(size) = size.filter(|&size| size != found) {
            tracing::warn!(%digest, found, size, "a blob was damaged and counts as not there");
            return Ok(false);
        }
        Ok(true)
    }

    /// A blob's size in bytes, if it is there.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        file_size(&self.store().blob_path(digest))
    }

    /// Where a blob is, if it is there.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.store().blob_path(digest)
    }

    /// A blob's file, to be read.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`] if it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.store().blob_path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => StoreError::Missing {
                what: "the blob",
                digest: *digest,
                dir: self.store().dir().to_owned(),
            },
            _ => StoreError::io("open", &path)(error),
        })
    }

    /// A small blob, read and checked. None if it is not there, or not what it should be.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.store().blob_path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("read", &path))?;
        if Digest::of(&bytes) == *digest {
            return Ok(Some(bytes));
        }
        tracing::warn!(%digest, "a blob was damaged and counts as not there");
        Ok(None)
    }

    /// Takes a blob away if its content is not what its digest says, so that it is received anew. Says whether it was
    /// damaged. Waits for whoever receives it: what comes in the damaged one's place is not to be taken away. Blocks.
    ///
    /// # Errors
    ///
    /// It cannot be read or removed.
    pub fn drop_if_damaged(&self, digest: &Digest, stop: &Stop) -> Result<bool, StoreError> {
        let _lock = self.lock_blocking("blob", digest, stop)?;
        if !self.has_blob(digest, None)? {
            return Ok(false);
        }
        let path = self.store().blob_path(digest);
        let (found, _) = digest_of(self.open_blob(digest)?, &path, stop)?;
        if found == *digest {
            return Ok(false);
        }
        tracing::warn!(%digest, "a blob was damaged and is removed");
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        Ok(true)
    }

    /// Puts a small blob in. Blocks.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        // Read, not looked at: a small blob is cheap to read, and this is the chance to mend it.
        if self.read_blob(&digest, bytes.len() as u64)?.is_none() {
            write_whole(self.store(), &self.store().blob_path(&digest), bytes, 0o444)?;
        }
        Ok(digest)
    }

    /// Copies a blob in from a file, and says what it is and how large. Blocks.
    ///
    /// # Errors
    ///
    /// It is not what was expected, cannot be read, or there is no room. Nothing of it stays.
    pub fn copy_blob(
        &self,
        mut reader: impl Read,
        expected: Expected,
        from: &Path,
        stop: &Stop,
        on_bytes: &dyn Fn(u64),
    ) -> Result<(Digest, u64), StoreError> {
        let store = self.store();
        store.room(expected.size.unwrap_or_default())?;
        let temp_dir = store.temp();
        let failed = |error| store.failed("write", &temp_dir, error);
        let mut temp = tempfile::NamedTempFile::new_in(&temp_dir).map_err(failed)?;
        let mut hasher = Sha256::new();
        let mut length = 0_u64;
        let mut watch = Watch::new();
        let mut chunk = vec![0; 256 << 10];
        loop {
            stop.check()?;
            let count = reader
                .read(&mut chunk)
                .map_err(StoreError::io("read", from))?;
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            length = length.saturating_add(count as u64);
            expected.allow(length)?;
            temp.write_all(bytes).map_err(failed)?;
            hasher.update(bytes);
            on_bytes(count as u64);
            let left = expected.size.map_or(0, |size| size.saturating_sub(length));
            watch.wrote(store, count as u64, left)?;
        }
        let found = Digest::finish(hasher);
        expected.check(&found, length)?;
        let path = store.blob_path(&found);
        seal(temp.as_file()).map_err(failed)?;
        temp.persist(&path).map_err(|error| failed(error.error))?;
        Ok((found, length))
    }
}

impl Expected {
    /// Whether so much of it may have come.
    fn allow(&self, length: u64) -> Result<(), StoreError> {
        match (self.digest, self.size) {
            (Some(digest), Some(size)) if length > size => {
                Err(StoreError::TooLong { digest, size })
            }
            _ if length > self.limit => Err(StoreError::TooLarge { limit: self.limit }),
            _ => Ok(()),
        }
    }

    /// Whether it is what it should be.
    fn check(&self, found: &Digest, length: u64) -> Result<(), StoreError> {
        if let (Some(digest), Some(size)) = (self.digest, self.size)
            && length < size
        {
            return Err(StoreError::Truncated {
                digest,
                size,
                received: length,
            });
        }
        match self.digest {
            Some(expected) if expected != *found => Err(StoreError::Mismatch {
                expected,
                found: *found,
            }),
            _ => Ok(()),
        }
    }
}

/// The size of a regular file, in bytes; none if there is none.
pub(super) fn file_size(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(status) if status.is_file() => Ok(Some(status.len())),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("look at", path)(error)),
    }
}
