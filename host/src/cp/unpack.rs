// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A tar archive that a guest has made, unpacked on this host.
//!
//! The guest is hostile: the archive may be anything. Invariants:
//! - Nothing outside the destination is written. Paths are walked from it by file descriptor, part
//!   by part, through no symbolic link, whoever made the link; `..` and absolute paths are refused.
//! - No symbolic link is made that leads out of the destination: its target is relative, goes up at
//!   its beginning only and no higher than the destination, and from there on meets folders and links
//!   of which the same holds. Others are left out, and told.
//! - Hard links are made to regular files below the destination only (a link to a symbolic link could
//!   move it to where it leads out).
//! - No devices, pipes, set-id or sticky bits; an existing file is replaced, never written into.
//! - What is held in memory is bounded, whatever the archive says.

use std::{
    borrow::Cow,
    cell::Cell,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat},
    sys::stat::{Mode, SFlag, fstatat, mkdirat},
    unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat},
};
use tar::{Archive, Entry, EntryType};

/// Longest path and link target, in bytes: Linux takes no longer ones.
const PATH_MAX: usize = 4095;

/// Most bytes of an entry's headers, which the crate holds: long names, attributes, and the parts of a
/// file with holes, of which the guest's tool makes 10,000 at most (240 KiB).
const HEADERS_MAX: u64 = 1024 * 1024;

/// Most bytes behind an archive's end: tar fills its last record, GNU's of 10 KiB.
const PADDING_MAX: u64 = 1024 * 1024;

/// Bytes that are read at a time. A piece of nothing but zeros becomes a hole.
const PIECE: usize = 64 * 1024;

/// Most bytes that an archive's files with holes may have together, holes included. A hole takes no
/// room in the archive, but is walked: this much takes minutes, and more than a guest has disk for.
const SPARSE_MAX: u64 = 1 << 40;

/// Most lines of warning; the rest is counted.
const WARNINGS_MAX: usize = 20;

/// Why an archive was not unpacked to its end.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// There is nowhere to unpack to.
    #[error("{} is no folder to copy into; make it first, or name another", .0.display())]
    NoFolder(PathBuf),
    /// The archive is not one, or broke off.
    #[error("the archive cannot be read")]
    Archive(#[source] io::Error),
    /// The archive has what no honest one has.
    #[error("the archive is not acceptable: {0}")]
    Refused(String),
    /// Something could not be written.
    #[error("cannot write {path:?}")]
    Write {
        /// What.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Where to unpack: a folder that exists, and the name in it that the archive's first part becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    folder: PathBuf,
    name: OsString,
}

impl Target {
    /// As `cp -r` decides: into `destination` under the source's `name` if that is a folder, else as
    /// `destination`.
    pub(super) fn new(destination: &Path, name: &OsStr) -> Result<Self, UnpackError> {
        if destination.is_dir() {
            return Ok(Self {
                folder: destination.to_owned(),
                name: name.to_owned(),
            });
        }
        let parent = match destination.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(UnpackError::NoFolder(destination.to_owned())),
        };
        match destination.file_name() {
            Some(name) if parent.is_dir() => Ok(Self {
                folder: parent.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(UnpackError::NoFolder(parent.to_owned())),
        }
    }
}

/// Unpacks `archive`, and reads it to its end.
pub(super) fn unpack<R: Read>(
    archive: R,
    target: &Target,
    warn: impl FnMut(&str),
) -> Result<(), UnpackError> {
    let folder = openat(AT_FDCWD, &target.folder, FOLDER, Mode::empty());
    let mut unpacking = Unpacking {
        folder: folder.map_err(|error| UnpackError::Write {
            path: target.folder.display().to_string(),
            source: error.into(),
        })?,
        name: &target.name,
        root: None,
        sparse: 0,
        warn,
        warnings: 0,
    };
    // What is left to read of headers; none while an entry's content is read.
    let headers = Cell::new(Some(HEADERS_MAX));
    let mut archive = Archive::new(Bounded {
        inner: archive,
        left: &headers,
    });
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        headers.set(None);
        unpacking.entry(&mut entry)?;
        // What is left of it would count as headers.
        io::copy(&mut entry, &mut io::sink()).map_err(UnpackError::Archive)?;
        headers.set(Some(HEADERS_MAX));
    }
    if unpacking.root.is_none() {
        return Err(UnpackError::Refused("it is empty".to_owned()));
    }
    unpacking.sum_up();
    headers.set(None);
    let mut rest = archive.into_inner().inner.take(PADDING_MAX);
    io::copy(&mut rest, &mut io::sink()).map_err(UnpackError::Archive)?;
    if rest.limit() == 0 {
        let text = "more follows behind its end";
        return Err(UnpackError::Refused(text.to_owned()));
    }
    Ok(())
}

/// An archive of which the crate may read so much at a time. It holds an entry's headers in memory,
/// however long they say they are.
struct Bounded<'a, R> {
    inner: R,
    /// Bytes that may be read; any number if there is none.
    left: &'a Cell<Option<u64>>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(left) = self.left.get() {
            let read = u64::try_from(length).unwrap_or(u64::MAX);
            let left = left.checked_sub(read).ok_or_else(|| {
                let text = format!("an entry has more than {HEADERS_MAX} bytes of headers");
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            self.left.set(Some(left));
        }
        Ok(length)
    }
}

const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

const NEW_FILE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

struct Unpacking<'a, W> {
    folder: OwnedFd,
    name: &'a OsStr,
    /// The first part of the archive's paths, all of which have the same.
    root: Option<OsString>,
    /// Bytes of the files with holes so far.
    sparse: u64,
    warn: W,
    warnings: usize,
}

/// A path within the archive: its parts, the first of which is the archive's root.
struct Parts {
    parts: Vec<OsString>,
    shown: String,
}

impl<W: FnMut(&str)> Unpacking<'_, W> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let path = self.parts(&entry.path_bytes())?;
        let link = entry.link_name_bytes().map(Cow::into_owned);
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(entry, &path, mode)
            }
            EntryType::Directory => self.directory(&path, mode),
            EntryType::Symlink => self.symlink(&path, &link.unwrap_or_default()),
            EntryType::Link => self.hard_link(&path, &link.unwrap_or_default()),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.warn(&path, "it is a device or a pipe");
                Ok(())
            }
            other => Err(UnpackError::Refused(format!(
                "{} is an entry of type {:?}",
                path.shown,
                char::from(other.as_byte())
            ))),
        }
    }

    /// Checks a path of the archive.
    fn parts(&mut self, path: &[u8]) -> Result<Parts, UnpackError> {
        // Names come from the guest: what a terminal would obey is escaped.
        let shown = format!("{:?}", String::from_utf8_lossy(path));
        let refused = |why| Err(UnpackError::Refused(format!("{shown} {why}")));
        if path.len() > PATH_MAX {
            return Err(UnpackError::Refused(format!(
                "it has a path of {} bytes",
                path.len()
            )));
        }
        if path.starts_with(b"/") || path.contains(&0) {
            return refused("is no relative path");
        }
        let mut parts = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return refused("leads upwards"),
                part => parts.push(OsStr::from_bytes(part).to_owned()),
            }
        }
        let Some(first) = parts.first() else {
            return refused("names nothing");
        };
        let root = self.root.get_or_insert_with(|| first.clone());
        if root != first {
            return refused("lies beside what was asked for");
        }
        if let Some(first) = parts.first_mut() {
            self.name.clone_into(first);
        }
        Ok(Parts { parts, shown })
    }

    /// The folder that holds `path`, made if it is missing, and the last part.
    fn above<'p>(&self, path: &'p Parts) -> Result<(OwnedFd, &'p OsStr), UnpackError> {
        let written = |source: Errno| path.failed(source.into());
        let mut folder = self
            .folder
            .try_clone()
            .map_err(|error| path.failed(error))?;
        let Some((last, parts)) = path.parts.split_last() else {
            return Err(path.failed(io::ErrorKind::InvalidInput.into()));
        };
        for part in parts {
            match mkdirat(&folder, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(written(error)),
            }
            folder = open_folder(&folder, part).map_err(written)?;
        }
        Ok((folder, last))
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        path: &Parts,
        mode: u32,
    ) -> Result<(), UnpackError> {
        let size = entry.size();
        if entry.header().entry_type() == EntryType::GNUSparse {
            self.sparse = self.sparse.saturating_add(size);
            if self.sparse > SPARSE_MAX {
                return Err(UnpackError::Refused(format!(
                    "with {}, its files with holes have more than {SPARSE_MAX} bytes; leave it out, \
                     or take the archive as it is, with - as the destination",
                    path.shown
                )));
            }
        }
        let (folder, name) = self.above(path)?;
        let mode = Mode::from_bits_truncate(mode);
        let created = replacing(&folder, name, || openat(&folder, name, NEW_FILE, mode));
        let mut file = File::from(created.map_err(|error| path.failed(error.into()))?);
        let failed = |error| path.failed(error);
        // At once: a size that no file can have ends it here, and its end may be a hole.
        file.set_len(size).map_err(failed)?;
        let mut buffer = vec![0; PIECE];
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let (piece, _) = buffer.split_at_mut(most);
            entry.read_exact(piece).map_err(UnpackError::Archive)?;
            let length = u64::try_from(most).unwrap_or(u64::MAX);
            left = left.saturating_sub(length);
            if most == PIECE && piece.iter().all(|byte| *byte == 0) {
                let ahead = i64::try_from(most).unwrap_or(i64::MAX);
                file.seek(SeekFrom::Current(ahead)).map_err(failed)?;
            } else {
                file.write_all(piece).map_err(failed)?;
            }
        }
        let modified = entry.header().mtime().ok().map(Duration::from_secs);
        if let Some(at) = modified.and_then(|since| UNIX_EPOCH.checked_add(since)) {
            // A time that this file system cannot hold is no reason to fail.
            let _ = file.set_modified(at);
        }
        Ok(())
    }

    fn directory(&mut self, path: &Parts, mode: u32) -> Result<(), UnpackError> {
        let (folder, name) = self.above(path)?;
        // Its owner must be able to fill it.
        let mode = Mode::from_bits_truncate(mode | 0o700);
        let made = match mkdirat(&folder, name, mode) {
            Err(Errno::EEXIST) => open_folder(&folder, name).map(drop),
            made => made,
        };
        made.map_err(|error| path.failed(error.into()))
    }

    fn symlink(&mut self, path: &Parts, target: &[u8]) -> Result<(), UnpackError> {
        // How many folders lie between the link and the archive's root: one that is itself the root
        // has nothing of the archive around it.
        let depth = path.parts.len().checked_sub(2);
        if !depth.is_some_and(|depth| stays_inside(target, depth)) {
            let target = String::from_utf8_lossy(target);
            self.warn(
                path,
                &format!("it is a symbolic link to {target:?}, which leads out of the copy"),
            );
            return Ok(());
        }
        let (folder, name) = self.above(path)?;
        let target = OsStr::from_bytes(target);
        replacing(&folder, name, || symlinkat(target, &folder, name))
            .map_err(|error| path.failed(error.into()))
    }

    fn hard_link(&mut self, path: &Parts, target: &[u8]) -> Result<(), UnpackError> {
        let target = self.parts(target)?;
        if target.parts == path.parts {
            let text = format!("{} is a link to itself", path.shown);
            return Err(UnpackError::Refused(text));
        }
        let (old_folder, old_name) = self.above(&target)?;
        let found = fstatat(&old_folder, old_name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let found = found.map_err(|error| target.failed(error.into()))?;
        if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            let text = format!("{} is a link to what is no file", path.shown);
            return Err(UnpackError::Refused(text));
        }
        let (folder, name) = self.above(path)?;
        let link = || linkat(&old_folder, old_name, &folder, name, AtFlags::empty());
        replacing(&folder, name, link).map_err(|error| path.failed(error.into()))
    }

    fn warn(&mut self, path: &Parts, why: &str) {
        self.warnings += 1;
        if self.warnings <= WARNINGS_MAX {
            (self.warn)(&format!("left out {}: {why}", path.shown));
        }
    }

    fn sum_up(&mut self) {
        let more = self.warnings.saturating_sub(WARNINGS_MAX);
        if more > 0 {
            (self.warn)(&format!("left out {more} more"));
        }
    }
}

impl Parts {
    fn failed(&self, source: io::Error) -> UnpackError {
        let path = self.shown.trim_matches('"').to_owned();
        UnpackError::Write { path, source }
    }
}

/// A folder below `folder`; a symbolic link is none.
fn open_folder(folder: &impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    openat(folder, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty())
}

/// Makes `name` in `folder`, in the place of what else has the name, unless that is a folder.
fn replacing<T>(
    folder: &impl AsFd,
    name: &OsStr,
    make: impl Fn() -> nix::Result<T>,
) -> nix::Result<T> {
    match make() {
        Err(Errno::EEXIST) => {
            unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?;
            make()
        }
        made => made,
    }
}

/// Whether a link in a folder `depth` levels below the root leads to the root or below it. It may go
/// up only at its beginning, where the way back is made of real folders.
fn stays_inside(target: &[u8], depth: usize) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.len() > PATH_MAX {
        return false;
    }
    let (mut up, mut down) = (0, false);
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if down => return false,
            b".." => up += 1,
            _ => down = true,
        }
    }
    up <= depth
}

#[cfg(test)]
mod tests;
