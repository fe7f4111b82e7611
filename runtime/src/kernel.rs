// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The guest kernel's file: taken from libkrunfw once, then reused.
//!
//! The file's name carries a hash of the library's path, size and modification time, so that a
//! start costs one `stat` and an updated library is noticed. Files of older libraries stay, since
//! another running host may still launch from them.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use crate::elf;
use crate::krunfw::{self, KrunfwError};

/// Raise when [`elf::header`] changes what it writes: old files are then left alone.
const FORMAT: u32 = 1;

/// Why there is no kernel file.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The library could not be used.
    #[error("cannot take the kernel from {}", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// What was wrong with it.
        source: KrunfwError,
    },
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel has no PVH entry, without which QEMU cannot start it.
    #[error("the kernel in {} has no pvh entry note", path.display())]
    NoPvhEntry {
        /// The library.
        path: PathBuf,
    },
}

/// Returns the kernel's file in `folder`, writing it if it is not there yet.
pub(crate) fn ensure(library: &Path, folder: &Path) -> Result<PathBuf, KernelError> {
    let file = folder.join(format!("kernel-{}.elf", key(library)?));
    if file.exists() {
        return Ok(file);
    }
    krunfw::with_kernel(library, |image| {
        let pvh = elf::pvh_entry(image.bytes).ok_or_else(|| KernelError::NoPvhEntry {
            path: library.to_owned(),
        })?;
        let size = image.bytes.len() as u64;
        let header = elf::header(image.load_address, image.entry, pvh, size);
        write_atomically(&file, &[&header, image.bytes]).map_err(|source| KernelError::Io {
            path: file.clone(),
            source,
        })
    })
    .map_err(|source| KernelError::Library {
        path: library.to_owned(),
        source,
    })??;
    Ok(file)
}

fn key(library: &Path) -> Result<String, KernelError> {
    let meta = fs::metadata(library).map_err(|source| KernelError::Io {
        path: library.to_owned(),
        source,
    })?;
    let facts = format!(
        "{FORMAT} {} {} {}",
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    Ok(short_hash(&[library.as_os_str(), OsStr::new(&facts)]))
}

/// First 16 hex digits of the SHA-256 of `parts`, each ended by a NUL (which no path holds).
pub(crate) fn short_hash(parts: &[&OsStr]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes `file` so that it is either absent or whole, even when two hosts start at once.
///
/// # Errors
///
/// What the system said; nothing is left behind then.
pub fn write_atomically(file: &Path, chunks: &[&[u8]]) -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let temporary = file.with_extension(format!("{}-{}.tmp", unique.0, unique.1));
    let written = fs::File::create(&temporary).and_then(|mut out| {
        for chunk in chunks {
            out.write_all(chunk)?;
        }
        out.sync_all()?;
        fs::rename(&temporary, file)
    });
    if written.is_err() {
        // The error being returned matters more than a leftover.
        let _ = fs::remove_file(&temporary);
    }
    written
}
