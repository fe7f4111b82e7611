// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The temporary file that holds a program's text while it runs: `/tmp/waggle_<id>.<extension>`.
//!
//! Owns: its name, its creation, its removal. Invariant: removed when dropped, whatever happened.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::identity::Identity;

/// What the names of all the agent's files in the temporary folder begin with.
pub(super) const PREFIX: &str = "waggle_";
const ID_DIGITS: usize = 16;
/// Longest extension, as the protocol has it.
const EXTENSION_MAX: usize = 8;

/// A program text on disk.
#[derive(Debug)]
pub(super) struct CodeFile {
    path: PathBuf,
}

impl CodeFile {
    /// Writes `code` to a new file of `owner`'s in `folder`, readable by no one else. `id` is new and
    /// nobody can guess it.
    ///
    /// # Errors
    ///
    /// What the kernel says; nothing is left behind.
    pub(super) fn create(
        folder: &Path,
        id: u64,
        extension: &str,
        code: &[u8],
        owner: &Identity,
    ) -> io::Result<Self> {
        let path = folder.join(format!("{PREFIX}{id:016x}.{extension}"));
        owner.act(|| {
            let flags = OFlag::O_WRONLY
                | OFlag::O_CREAT
                | OFlag::O_EXCL
                | OFlag::O_NOFOLLOW
                | OFlag::O_CLOEXEC;
            let mut file = File::from(open(&path, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
            let created = Self { path };
            file.write_all(code)?;
            Ok(created)
        })
    }

    /// Where it is.
    #[must_use]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for CodeFile {
    fn drop(&mut self) {
        // The program may have removed it by itself; then there is nothing to do.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether `extension` is one that the protocol allows.
#[must_use]
pub(super) fn is_extension(extension: &str) -> bool {
    (1..=EXTENSION_MAX).contains(&extension.len())
        && extension
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Removes what a crashed agent left in `folder`.
pub fn remove_stale(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_code_file) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_code_file(name: &str) -> bool {
    id_in_name(name).is_some_and(|(_, extension)| is_extension(extension))
}

/// The id in the name of one of the agent's files, and what follows its dot.
#[must_use]
pub(super) fn id_in_name(name: &str) -> Option<(&str, &str)> {
    let parts = name.strip_prefix(PREFIX)?.split_once('.');
    parts.filter(|(id, _)| id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::current_user;

    #[test]
    fn it_is_private_and_goes_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let user = current_user(folder.path());
        let file = CodeFile::create(folder.path(), 7, "py", b"print(1)", &user).unwrap();
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(is_code_file(
            file.path().file_name().unwrap().to_str().unwrap()
        ));
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_code_files_are_stale() {
        let folder = tempfile::tempdir().unwrap();
        let others = [
            "waggle_0123456789abcdef.stdout.log",
            "waggle_notes.txt",
            "x.py",
        ];
        for name in others.into_iter().chain(["waggle_0123456789abcdef.py"]) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_stale(folder.path());
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, others.len());
    }

    #[test]
    fn extensions_are_short_and_plain() {
        for good in ["py", "js", "sh", "a1234567"] {
            assert!(is_extension(good));
        }
        for bad in ["", "PY", "a/b", "..", "a12345678", "p\0"] {
            assert!(!is_extension(bad));
        }
    }
}
