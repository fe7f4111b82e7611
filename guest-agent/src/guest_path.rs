// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A path that the host named: absolute, without NUL, within Linux's limit.
//!
//! Owns: that check, made once, when the request arrives. Does not own: what stands at the path.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use waggle_protocol::limits::PATH_MAX;
use waggle_protocol::message::{Failure, FailureCode};

use crate::failure::{failure, shown};

/// An acceptable guest path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPath(PathBuf);

impl GuestPath {
    /// Takes `bytes` as a path.
    ///
    /// # Errors
    ///
    /// [`FailureCode::InvalidPath`] if it is relative, too long or holds a NUL.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Failure> {
        let reason = if bytes.len() > PATH_MAX {
            let length = bytes.len();
            format!("path length {length} exceeds limit {PATH_MAX}")
        } else if bytes.contains(&0) {
            format!("path {} holds a NUL byte", shown(&bytes))
        } else if bytes.first() != Some(&b'/') {
            format!("path '{}' is not absolute", shown(&bytes))
        } else {
            return Ok(Self(OsString::from_vec(bytes).into()));
        };
        Err(failure(FailureCode::InvalidPath, &reason))
    }

    /// As a path of std.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

/// `path` for a failure's text.
#[must_use]
pub fn shown_path(path: &Path) -> String {
    shown(OsStr::as_bytes(path.as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_within_the_limit_pass() {
        assert!(GuestPath::parse(b"/tmp/\xff\n".to_vec()).is_ok());
        let long = [&b"/"[..], &[b'a'; PATH_MAX]].concat();
        for bad in [&b""[..], b"tmp", b"/a\0b", &long] {
            let failure = GuestPath::parse(bad.to_vec()).unwrap_err();
            assert_eq!(failure.code, FailureCode::InvalidPath);
        }
    }
}
