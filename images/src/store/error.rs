// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use crate::Digest;
use crate::layer::LayerError;
use crate::limits::{SETTING_ENTRIES, SETTING_LAYER, SETTING_UNPACKED};
use crate::root::RootError;

/// Why the store cannot do what was asked. After any of these it holds what it held before, whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder cannot be made or used.
    #[error("cannot use {} as the image cache: check its path and permissions", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may write to the folder, so nothing in it can be trusted.
    #[error(
        "the image cache {} belongs to another user or can be written by others: \
         make it yours and run `chmod go-w` on it, or choose another folder",
        dir.display()
    )]
    Exposed {
        /// The folder.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done, a verb.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is full, or would be but for the reserve.
    #[error(
        "not enough room in {}: {needed} bytes are needed, {free} are free: make room with \
         `waggle image prune`, or choose another folder with WAGGLE_IMAGE_CACHE_DIR",
        dir.display()
    )]
    NoSpace {
        /// The store's folder.
        dir: PathBuf,
        /// Bytes that must be free, the reserve included.
        needed: u64,
        /// Bytes that are.
        free: u64,
    },
    /// A blob has other content than its digest says.
    #[error("blob {expected} has the digest {found}: what sent it is broken or was tampered with")]
    Mismatch {
        /// The digest that it is named by.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// A blob has more bytes than its descriptor says.
    #[error("blob {digest} is longer than the {size} bytes that its descriptor states")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// The size stated.
        size: u64,
    },
    /// A blob has fewer bytes than its descriptor says, however often it is asked for.
    #[error("blob {digest} ends after {received} of {size} bytes")]
    Truncated {
        /// The blob.
        digest: Digest,
        /// The size stated.
        size: u64,
        /// What came.
        received: u64,
    },
    /// A blob without a stated size is longer than any may be.
    #[error("a layer is longer than {limit} bytes: raise {SETTING_LAYER} to allow it")]
    TooLarge {
        /// The ceiling, in bytes.
        limit: u64,
    },
    /// A layer unpacks to something else than the image's configuration says.
    #[error("layer {blob} unpacks to {found}, but the image's configuration says {expected}")]
    DiffId {
        /// The layer as transferred.
        blob: Digest,
        /// The diff id of the configuration.
        expected: Digest,
        /// The digest of the unpacked tar.
        found: Digest,
    },
    /// A layer is not one that an environment can have.
    #[error("layer {blob} cannot be used")]
    Layer {
        /// The layer as transferred.
        blob: Digest,
        /// Why.
        source: LayerError,
    },
    /// The layers of an image together unpack to more than an image may have.
    #[error(
        "the image's layers have more than {limit} bytes when unpacked: raise {SETTING_UNPACKED} to allow it"
    )]
    BombOfBytes {
        /// The ceiling.
        limit: u64,
    },
    /// The layers of an image together have more entries than an image may have.
    #[error(
        "the image's layers have more than {limit} entries: raise {SETTING_ENTRIES} to allow it"
    )]
    BombOfEntries {
        /// The ceiling.
        limit: u64,
    },
    /// The layers do not make a root.
    #[error("cannot make a root of the layers")]
    Root(#[source] RootError),
    /// Something that was there a moment ago is damaged or gone.
    #[error("{what} of {digest} is missing or damaged in {}: pull or import the image again", dir.display())]
    Missing {
        /// Blob, layer or root.
        what: &'static str,
        /// Which.
        digest: Digest,
        /// The store's folder.
        dir: PathBuf,
    },
    /// A newer release has written to the store.
    #[error("{} was written by a newer release: use that one, or another folder", path.display())]
    Newer {
        /// What it wrote.
        path: PathBuf,
    },
    /// Pulls are under way, which nothing may be taken from.
    #[error("images are being pulled into {}: try again when they are done", dir.display())]
    Busy {
        /// The store's folder.
        dir: PathBuf,
    },
    /// Whoever asked has gone.
    #[error("stopped")]
    Stopped,
}

impl StoreError {
    /// For `map_err`: what was being done, to which path.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the disk had no room for it: it then passes when there is some.
    #[must_use]
    pub fn is_full(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}
