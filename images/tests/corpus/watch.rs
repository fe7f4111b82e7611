// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What is around a store, and whether it stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Everything in some folders: kind and mode, size, time, content.
pub(crate) type Listing = BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)>;

/// A store in a folder with all that a process may know: its home, its temporary and its working folder, files next to
/// them.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let this = Self { dir };
        for folder in ["home", "tmp", "work", "victim"] {
            fs::create_dir(this.around().join(folder)).expect("a folder");
            let file = this.around().join(folder).join("file");
            fs::write(file, "as it was").expect("a file");
        }
        fs::write(this.around().join("near"), "as it was").expect("a file");
        this
    }

    pub(crate) fn around(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.around().join("cache")
    }

    /// A folder with a file that nobody is to touch.
    pub(crate) fn victim(&self) -> PathBuf {
        self.around().join("victim")
    }

    /// All that is around the store.
    pub(crate) fn listing(&self) -> Listing {
        let cache = self.cache();
        let mut all = Listing::new();
        let mut folders = vec![self.around().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path == cache {
                    continue;
                }
                let status = fs::symlink_metadata(&path).expect("its status");
                let content = if status.is_file() && status.len() < 1 << 20 {
                    fs::read(&path).expect("its content")
                } else {
                    // A large one is the image, which is noticed by its time.
                    Vec::new()
                };
                let times = (status.mtime(), status.mtime_nsec());
                if status.is_dir() {
                    folders.push(path.clone());
                }
                let about = (status.mode(), status.size(), times.0, times.1, content);
                all.insert(path, about);
            }
        }
        all
    }

    /// Nothing of an image is unpacked: the store has folders and files of its own, none of them for anybody to run.
    pub(crate) fn check_store(&self) {
        let mut folders = vec![self.cache()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let status = fs::symlink_metadata(&path).expect("its status");
                let kind = status.file_type();
                assert!(
                    !kind.is_symlink() && !kind.is_fifo() && (kind.is_dir() || kind.is_file()),
                    "{} is {kind:?}",
                    path.display()
                );
                let odd = if kind.is_dir() { 0o7000 } else { 0o7111 };
                let mode = status.mode();
                assert_eq!(mode & odd, 0, "{} has mode {mode:o}", path.display());
                if kind.is_dir() {
                    folders.push(path);
                } else {
                    assert_eq!(status.nlink(), 1, "{}", path.display());
                }
            }
        }
    }
}
