// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the image offers: the agent's [`Capabilities`].
//!
//! Owns: the look at the image's files. Does not own: what the host makes of it.
//!
//! Invariant: nothing is spawned and no directory is read, only a few dozen paths are looked at, so
//! that the report is ready as soon as the agent is.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde_bytes::ByteBuf;
use waggle_protocol::message::{Capabilities, PackageManager};

use crate::identity::Identity;

/// An image may fix the `PATH` of its programs by one line in this file, for example to put a
/// virtual environment first. Without it, [`DEFAULT_PATH`] applies.
pub const PATH_FILE: &str = "/etc/waggle/path";
/// `PATH` of an image that says nothing: Debian's for root.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PACKAGE_MANAGERS: [(PackageManager, &str); 5] = [
    (PackageManager::Apk, "apk"),
    (PackageManager::AptGet, "apt-get"),
    (PackageManager::Dnf, "dnf"),
    (PackageManager::Yum, "yum"),
    (PackageManager::Zypper, "zypper"),
];

/// `PATH` that the image's programs get, as [`PATH_FILE`] said when it was last looked at.
#[derive(Debug)]
pub struct ImagePath {
    file: PathBuf,
    known: RwLock<Arc<OsStr>>,
}

impl ImagePath {
    /// What `file` says now.
    #[must_use]
    pub fn of_file(file: &Path) -> Self {
        let path = Self {
            file: file.to_owned(),
            known: RwLock::new(OsStr::new(DEFAULT_PATH).into()),
        };
        path.look_again();
        path
    }

    /// What it said last.
    #[must_use]
    pub fn get(&self) -> Arc<OsStr> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The host may have written it, for an image that states its `PATH` elsewhere.
    pub fn look_again(&self) {
        let path = path_of_file(&fs::read(&self.file).unwrap_or_default());
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = path.into();
    }
}

fn path_of_file(text: &[u8]) -> OsString {
    let line = text.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.trim_ascii();
    if line.is_empty() || line.contains(&0) {
        DEFAULT_PATH.into()
    } else {
        OsString::from_vec(line.to_vec())
    }
}

/// Looks at the image, as `user` sees it.
#[must_use]
pub fn probe(path: &OsStr, user: &Identity) -> Capabilities {
    user.act(|| {
        let find = |name: &str| find_program(OsStr::new(name), path);
        let first = |names: [&str; 2]| names.into_iter().find_map(find);
        let python = first(["python3", "python"]);
        Capabilities {
            python_venv: python.as_deref().is_some_and(can_make_venv),
            python: python.map(into_bytes),
            pip: first(["pip3", "pip"]).map(into_bytes),
            node: find("node").map(into_bytes),
            npm: find("npm").map(into_bytes),
            package_managers: PACKAGE_MANAGERS
                .into_iter()
                .filter(|(_, name)| find(name).is_some())
                .map(|(manager, _)| manager)
                .collect(),
            user_is_root: user.uid == 0,
            path: ByteBuf::from(path.as_bytes()),
        }
    })
}

/// The first executable regular file called `name` in the folders of `path`, as `execvp(3)` looks
/// for it.
#[must_use]
pub fn find_program(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|folder| folder.join(name))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

/// Whether `python` can make virtual environments: its library has `venv`, and `ensurepip` to put a
/// pip into them (Debian packs that apart). The library stands beside the real interpreter, under
/// the interpreter's versioned name: `/usr/bin/python3` is `/usr/bin/python3.11`, hence
/// `/usr/lib/python3.11`.
fn can_make_venv(python: &Path) -> bool {
    let Ok(real) = fs::canonicalize(python) else {
        return false;
    };
    let (Some(name), Some(prefix)) = (real.file_name(), real.parent().and_then(Path::parent))
    else {
        return false;
    };
    ["lib", "lib64"].into_iter().any(|lib| {
        let library = prefix.join(lib).join(name);
        library.join("venv").is_dir() && library.join("ensurepip").is_dir()
    })
}

fn into_bytes(path: PathBuf) -> ByteBuf {
    ByteBuf::from(path.into_os_string().into_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::testing::current_user;

    fn program(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_first_line_of_the_path_file_wins() {
        assert_eq!(
            path_of_file(b"/opt/venv/bin:/bin \n/else\n"),
            "/opt/venv/bin:/bin"
        );
        assert_eq!(path_of_file(b""), DEFAULT_PATH);
        assert_eq!(path_of_file(b"\n/late"), DEFAULT_PATH);
    }

    #[test]
    fn a_path_file_that_is_written_later_counts_when_it_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("path");
        let path = ImagePath::of_file(&file);
        assert_eq!(&*path.get(), DEFAULT_PATH);
        fs::write(&file, "/opt/tool/bin:/bin\n").unwrap();
        assert_eq!(&*path.get(), DEFAULT_PATH);
        path.look_again();
        assert_eq!(&*path.get(), "/opt/tool/bin:/bin");
    }

    #[test]
    fn programs_are_found_and_plain_files_are_not() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("usr/bin");
        program(&bin.join("python3.11"));
        symlink("python3.11", bin.join("python3")).unwrap();
        program(&bin.join("apt-get"));
        program(&bin.join("node"));
        fs::write(bin.join("npm"), "not executable").unwrap();
        let user = current_user(root.path());

        let found = probe(bin.as_os_str(), &user);
        assert_eq!(found.python, Some(into_bytes(bin.join("python3"))));
        assert!(!found.python_venv);
        assert_eq!((found.pip, found.npm), (None, None));
        assert!(found.node.is_some());
        assert_eq!(found.package_managers, [PackageManager::AptGet]);

        for module in ["venv", "ensurepip"] {
            fs::create_dir_all(root.path().join("usr/lib/python3.11").join(module)).unwrap();
        }
        assert!(probe(bin.as_os_str(), &user).python_venv);
    }
}
