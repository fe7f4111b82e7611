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

use std::fs::Metadata;
use std::path::Path;

use nix::errno::Errno;
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

const NANOS: i64 = 1_000_000_000;

/// Counts the bytes of a long operation and lets others run now and then.
#[derive(Debug, Default)]
struct Turn {
    bytes: usize,
}

impl Turn {
    /// Returns whether the others had their turn.
    async fn moved(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        let is_due = self.bytes >= TURN_BYTES;
        if is_due {
            self.bytes = 0;
            tokio::task::yield_now().await;
        }
        is_due
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
