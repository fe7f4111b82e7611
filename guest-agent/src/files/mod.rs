// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The file operations, one file each: [`read`], [`read_lines`], [`write`], [`append`], [`edit`],
//! [`list`], which also finds.
//!
//! Owns: what they share. Does not own: permissions (`identity`), texts (`failure`).
//!
//! Invariants: every system call that looks at a path of the host's runs with the requested user's
//! permissions; memory does not grow with the size of a file or folder; between steps of bounded
//! size the other connections get their turn.

mod append;
mod edit;
mod lines;
mod list;
mod read;
#[cfg(test)]
mod tests;
mod upload;
mod write;

use std::fs::{File, Metadata};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use waggle_protocol::message::{Failure, FailureCode};

pub use self::append::append;
pub use self::edit::edit;
pub use self::lines::read_lines;
pub use self::list::{OPEN_FOLDERS_MAX, find, list};
pub use self::read::read;
pub use self::write::write;
use crate::failure::{failure, refused_errno};
use crate::guest_path::shown_path;

/// Bytes that one operation moves before the others get a turn: about a tenth of a millisecond.
const TURN_BYTES: usize = 256 * 1024;

/// What a walk for names or text from above does not descend into: no one's files.
const KERNEL_FOLDERS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Write-back to disk starts every so many bytes of a file, so that the final fsync has little left to
/// do and dirty pages do not fill the guest's memory.
pub(crate) const WRITEBACK_BYTES: u64 = 4 * 1024 * 1024;

const NANOS: i64 = 1_000_000_000;

/// Counts the bytes of a long operation and lets others run now and then.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    bytes: usize,
}

impl Turn {
    /// Returns whether the others had their turn.
    pub(crate) async fn moved(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let is_due = self.bytes >= TURN_BYTES;
        if is_due {
            self.bytes = 0;
            tokio::task::yield_now().await;
        }
        is_due
    }
}

/// Whether a walk from above leaves out the folder with this path.
pub(crate) fn is_kernel_folder(path: &Path) -> bool {
    KERNEL_FOLDERS
        .iter()
        .any(|folder| path == Path::new(folder))
}

/// Starts to write a part of `file` back to disk, without waiting for it, and to let go of its pages.
/// (`sync_file_range` would do nothing on an overlay, which passes this one on.)
pub(crate) fn start_writeback(file: &File, offset: u64, length: u64) {
    if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        // An error is of no concern: where it matters, a later fsync reports real ones.
        let _ = posix_fadvise(file, offset, length, advice);
    }
}

/// Refuses what is not a regular file.
pub(crate) fn require_regular(path: &Path, found: &Metadata) -> Result<(), Failure> {
    if found.is_file() {
        Ok(())
    } else if found.is_dir() {
        Err(refused_errno(path, Errno::EISDIR))
    } else {
        let text = format!("{}: not a regular file", shown_path(path));
        Err(failure(FailureCode::NotRegular, &text))
    }
}

/// A time of `stat(2)` in nanoseconds since the epoch, held at the type's ends.
fn nanoseconds(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(NANOS).saturating_add(nanos)
}
