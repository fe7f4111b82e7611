// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A folder whose files are opened without following any link in it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::{Content, SourceError};

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    dir: File,
}

impl Folder {
    /// Of an open folder.
    pub(super) fn new(path: &Path, dir: File) -> Self {
        Self {
            path: path.to_owned(),
            dir,
        }
    }

    /// A regular file by its name, parts joined by `/`, which the caller has made itself: it has no `..`.
    pub(super) fn open(&self, name: &str) -> Result<Option<Content>, SourceError> {
        let link = || SourceError::Link {
            path: self.path.clone(),
            name: name.to_owned(),
        };
        let failed = |source| SourceError::Io {
            path: self.path.join(name),
            source,
        };
        // Part by part, so that no folder in between is a link either. Without waiting for a pipe's other end.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let mut at: Option<File> = None;
        for part in name.split('/') {
            let within = at.as_ref().unwrap_or(&self.dir);
            match openat(within, part, flags, Mode::empty()) {
                Ok(file) => at = Some(file.into()),
                Err(Errno::ENOENT) => return Ok(None),
                Err(Errno::ELOOP | Errno::ENOTDIR | Errno::ENXIO) => return Err(link()),
                Err(error) => return Err(failed(error.into())),
            }
        }
        let Some(file) = at else { return Ok(None) };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(link());
        }
        Content::whole(Arc::new(file)).map(Some).map_err(failed)
    }
}
