// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From what the kernel says to what the host is told.
//!
//! Owns: the one mapping from error numbers to [`FailureCode`], and the form of a failure's text:
//! `SUBJECT: reason`, lower case, printable, within the protocol's limit.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use waggle_protocol::limits::FAILURE_TEXT_MAX;
use waggle_protocol::message::{Failure, FailureCode};

use crate::guest_path::shown_path;

/// Longest path or word quoted in a text, in bytes: leaves room for the reason.
const SHOWN_MAX: usize = 700;

/// A failure with this text, cut to the protocol's limit.
#[must_use]
pub fn failure(code: FailureCode, text: &str) -> Failure {
    let end = floor_char_boundary(text, FAILURE_TEXT_MAX);
    Failure {
        code,
        message: text.get(..end).unwrap_or_default().to_owned(),
    }
}

/// The kernel refused something about `path`.
#[must_use]
pub fn refused(path: &Path, error: &io::Error) -> Failure {
    refused_errno(path, errno(error))
}

/// As [`refused`], from a bare error number.
#[must_use]
pub fn refused_errno(path: &Path, errno: Errno) -> Failure {
    let text = format!("{}: {}", shown_path(path), reason(errno));
    failure(code(errno), &text)
}

/// The code of an error number. The single mapping.
#[must_use]
pub fn code(errno: Errno) -> FailureCode {
    match errno {
        Errno::ENOENT => FailureCode::NotFound,
        Errno::EISDIR => FailureCode::IsDirectory,
        Errno::ENOTDIR => FailureCode::NotDirectory,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => FailureCode::PermissionDenied,
        Errno::ENAMETOOLONG | Errno::ELOOP => FailureCode::InvalidPath,
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => FailureCode::NoSpace,
        Errno::ENXIO | Errno::ENODEV => FailureCode::NotRegular,
        _ => FailureCode::Io,
    }
}

/// The error number behind an error of std.
#[must_use]
pub fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// The kernel's own text, in lower case like every other of ours.
#[must_use]
pub fn reason(errno: Errno) -> String {
    let text = errno.desc();
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // An acronym such as "I/O error" stays.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

/// `bytes` as printable text: escapes control characters, replaces what is not UTF-8, and keeps the
/// end of what is too long, which for a path is what tells it from others.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes)
        .chars()
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            let plain = escape.is_none().then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.len() <= SHOWN_MAX {
        return text;
    }
    let start = text.len() - floor_char_boundary(&text, SHOWN_MAX);
    let start = floor_char_boundary(&text, start);
    format!("...{}", text.get(start..).unwrap_or_default())
}

/// The last character boundary of `text` at or before byte `index`.
fn floor_char_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_text_names_the_path_and_the_reason() {
        let failure = refused_errno(Path::new("/x/y"), Errno::ENOENT);
        assert_eq!(failure.code, FailureCode::NotFound);
        assert_eq!(failure.message, "/x/y: no such file or directory");
        assert_eq!(reason(Errno::EIO), "I/O error");
    }

    #[test]
    fn odd_and_long_paths_stay_within_the_limit() {
        let odd = std::ffi::OsStr::from_bytes(b"/a\nb\xff");
        assert_eq!(shown_path(Path::new(odd)), "/a\\nb\u{fffd}");
        let long = "/ü".repeat(2000);
        let failure = refused_errno(Path::new(&long), Errno::ENOENT);
        assert!(failure.message.len() <= FAILURE_TEXT_MAX);
        assert!(failure.message.ends_with(": no such file or directory"));
    }
}
