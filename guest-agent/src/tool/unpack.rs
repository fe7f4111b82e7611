// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A tar archive as files.
//!
//! Owns: where the entries go, and that they go nowhere else. Invariants: every folder on the way to
//! an entry is opened by itself, from the one above it, and never through a link, so neither `..` nor
//! an absolute path nor a link, of the archive or there before, leads out of the destination; what is
//! written is a new file, never one that was there under another name too.
//!
//! **What is kept.** Content (holes of sparse entries stay holes), permission bits without set-user-ID
//! and set-group-ID, times to the second, links, hard links within the destination. Everything belongs
//! to the running user. Devices, FIFOs and entries that would lead out are refused one by one; the
//! others are unpacked. A folder that was there keeps its mode; a file that was there is replaced.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use tar::{Archive, Entry, EntryType};
use waggle_protocol::message::{Failure, FailureCode, Unpack};

use super::Problems;
use crate::failure::{code, errno, failure, reason, refused_errno, shown};
use crate::guest_path::GuestPath;

/// Bytes that are copied at once.
const COPY_BYTES: usize = 64 * 1024;
/// Zeros that are worth a hole, in a sparse file: a block of most file systems.
const HOLE_BYTES: usize = 4096;
/// Mode of folders that the archive does not describe, before the umask.
const FOLDER_MODE: Mode = Mode::S_IRWXU
    .union(Mode::S_IRGRP)
    .union(Mode::S_IXGRP)
    .union(Mode::S_IROTH)
    .union(Mode::S_IXOTH);
/// Which bits of a mode are kept: not those that lend the owner's rights to others.
const MODE_KEPT: u32 = 0o1777;
const FOLDER_FLAGS: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC);

/// Unpacks what `input` holds to where `request` says.
///
/// # Errors
///
/// A [`Failure`] if the destination is not acceptable, the archive is malformed or the disk is full;
/// what was unpacked until then stays.
pub(super) fn unpack<E: Write>(
    request: Unpack,
    input: impl Read,
    problems: &mut Problems<E>,
) -> Result<(), Failure> {
    let path = GuestPath::parse(request.path.into_vec())?;
    let mut destination = Destination::find(path.as_path())?;
    let mut archive = Archive::new(input);
    let mut is_empty = true;
    for entry in archive.entries().map_err(|error| malformed(&error))? {
        is_empty = false;
        match destination.take(entry.map_err(|error| malformed(&error))?) {
            Ok(()) => {}
            Err(Stopped::Entry(failure)) => problems.tell(&failure),
            Err(Stopped::Archive(failure)) => return Err(failure),
        }
    }
    for failure in destination.finish() {
        problems.tell(&failure);
    }
    // Archives are padded, and whoever sends this one should not find the pipe closed.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| malformed(&error))?;
    if is_empty {
        let text = "the archive is empty";
        return Err(failure(FailureCode::InvalidRequest, text));
    }
    Ok(())
}

/// Why an entry is not unpacked in full.
#[derive(Debug)]
enum Stopped {
    /// This one is not.
    Entry(Failure),
    /// Nor will any other be.
    Archive(Failure),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        if failure.code == FailureCode::NoSpace {
            Self::Archive(failure)
        } else {
            Self::Entry(failure)
        }
    }
}

fn malformed(error: &io::Error) -> Failure {
    let text = match error.raw_os_error() {
        Some(_) => format!("standard input: {}", reason(errno(error))),
        None => format!(
            "not a tar archive, or a damaged one: {}",
            shown(error.to_string().as_bytes())
        ),
    };
    failure(FailureCode::InvalidRequest, &text)
}

/// Where entries go.
#[derive(Debug)]
struct Destination {
    /// The folder that all of it is in.
    root: OwnedFd,
    /// What stands for the first part of every entry's path, if the path asked for is not a folder
    /// yet; and that first part, once one was seen.
    renamed: Option<(OsString, Option<OsString>)>,
    /// The folder that was used last, and its parts below `root`.
    last: Option<(Vec<OsString>, OwnedFd)>,
    /// Folders made on the way, and what is known of them: set at the end, when nothing is written
    /// into them any more.
    made: BTreeMap<Vec<OsString>, Option<Attributes>>,
}

/// What an entry says of itself.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: Mode,
    modified: Option<TimeSpec>,
}

impl Destination {
    fn find(path: &Path) -> Result<Self, Failure> {
        let is_folder = fs::metadata(path).is_ok_and(|found| found.is_dir());
        let (root, renamed) = if is_folder {
            (path, None)
        } else {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(refused_errno(path, Errno::ENOENT));
            };
            (parent, Some((name.to_owned(), None)))
        };
        let folder = open(root, OFlag::O_PATH | FOLDER_FLAGS, Mode::empty());
        Ok(Self {
            root: folder.map_err(|errno| refused_errno(root, errno))?,
            renamed,
            last: None,
            made: BTreeMap::new(),
        })
    }

    /// Unpacks one entry.
    fn take<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), Stopped> {
        let name = entry.path_bytes().into_owned();
        let shown = shown(&name);
        // What is not unpacked does not count as one of several entries at the top.
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => return Ok(()),
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link => {}
            _ => {
                let text = format!("{shown}: not unpacked, not a file, folder or link");
                return Err(failure(FailureCode::NotRegular, &text).into());
            }
        }
        if is_pax_sparse(&mut entry) {
            let text = format!(
                "{shown}: not unpacked: a sparse file in pax's format; tar --format=gnu makes one that is"
            );
            return Err(failure(FailureCode::Unsupported, &text).into());
        }
        let place = self.place(&name)?;
        // Folders of their own, for the destination itself.
        let Some((last, above)) = place.split_last() else {
            return Ok(());
        };
        let header = entry.header();
        let attributes = Attributes {
            mode: Mode::from_bits_truncate(header.mode().unwrap_or(0o644) & MODE_KEPT),
            modified: header
                .mtime()
                .ok()
                .and_then(|seconds| i64::try_from(seconds).ok())
                .map(|seconds| TimeSpec::new(seconds, 0)),
        };
        let told = |errno: Errno| failure(code(errno), &format!("{shown}: {}", reason(errno)));
        match header.entry_type() {
            // How tars of old told folders.
            EntryType::Regular if name.ends_with(b"/") => {
                self.folder(&place, attributes).map_err(told)?;
            }
            EntryType::Directory => self.folder(&place, attributes).map_err(told)?,
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target: &[u8] = &target;
                let folder = self.open(above).map_err(told)?;
                replacing(folder, last, || symlinkat(target, folder, last.as_os_str()))
                    .map_err(told)?;
                set_link_time(folder, last, attributes);
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = self.place(&target)?;
                self.hard_link(&target, &place).map_err(told)?;
            }
            // A file, of some kind.
            _ => {
                let sparse = header.entry_type() == EntryType::GNUSparse;
                let folder = self.open(above).map_err(told)?;
                let mut file = new_file(folder, last).map_err(told)?;
                copy(&mut entry, &mut file, sparse, &shown)?;
                set(&file, attributes).map_err(told)?;
            }
        }
        Ok(())
    }

    /// The parts of a path in the archive, below [`Destination::root`].
    fn place(&mut self, name: &[u8]) -> Result<Vec<OsString>, Failure> {
        let refuse = |reason: &str| {
            let text = format!("{}: not unpacked: {reason}", shown(name));
            failure(FailureCode::InvalidPath, &text)
        };
        let path: &Path = OsStr::from_bytes(name).as_ref();
        let mut parts = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(part) => parts.push(part.to_owned()),
                // Only the first can be one: `./a`.
                Component::CurDir => parts.push(OsString::from(".")),
                Component::ParentDir => return Err(refuse("'..' may lead out of the destination")),
                Component::RootDir | Component::Prefix(_) => {
                    return Err(refuse("its path is absolute"));
                }
            }
        }
        let Some(first) = parts.first_mut() else {
            return Err(refuse("it has no name"));
        };
        match &mut self.renamed {
            Some((name, expected)) => {
                if expected.get_or_insert_with(|| first.clone()) != first {
                    let text = "the destination is no folder, and the archive has several entries at its top";
                    return Err(refuse(text));
                }
                first.clone_from(name);
            }
            None if first == "." => {
                parts.remove(0);
            }
            None => {}
        }
        Ok(parts)
    }

    /// The folder with these parts, made if it is missing.
    fn open(&mut self, parts: &[OsString]) -> Result<&OwnedFd, Errno> {
        if parts.is_empty() {
            return Ok(&self.root);
        }
        // Mostly it is the one before, or one below it.
        let known = self
            .last
            .take()
            .filter(|(known, _)| parts.starts_with(known));
        let (mut known, mut folder) = match known {
            Some((known, folder)) => (known, folder),
            None => (
                Vec::new(),
                self.root.try_clone().map_err(|error| errno(&error))?,
            ),
        };
        for part in parts.iter().skip(known.len()) {
            known.push(part.clone());
            let open = || {
                openat(
                    &folder,
                    part.as_os_str(),
                    OFlag::O_PATH | OFlag::O_NOFOLLOW | FOLDER_FLAGS,
                    Mode::empty(),
                )
            };
            folder = match open() {
                Err(Errno::ENOENT) => {
                    mkdirat(&folder, part.as_os_str(), FOLDER_MODE)?;
                    self.made.insert(known.clone(), None);
                    open()?
                }
                opened => opened?,
            };
        }
        let (_, folder) = self.last.insert((known, folder));
        Ok(folder)
    }

    /// Makes a folder, or takes the one that is there.
    fn folder(&mut self, place: &[OsString], attributes: Attributes) -> Result<(), Errno> {
        self.open(place)?;
        if let Some(known) = self.made.get_mut(place) {
            *known = Some(attributes);
        }
        Ok(())
    }

    fn hard_link(&mut self, target: &[OsString], place: &[OsString]) -> Result<(), Errno> {
        let (Some((from, from_above)), Some((to, to_above))) =
            (target.split_last(), place.split_last())
        else {
            return Err(Errno::EINVAL);
        };
        if target == place {
            return Err(Errno::EINVAL);
        }
        let source = self
            .open(from_above)?
            .try_clone()
            .map_err(|error| errno(&error))?;
        let found = fstatat(&source, from.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind(found.st_mode) != SFlag::S_IFREG {
            return Err(Errno::EPERM);
        }
        let folder = self.open(to_above)?;
        replacing(folder, to, || {
            linkat(
                &source,
                from.as_os_str(),
                folder,
                to.as_os_str(),
                AtFlags::empty(),
            )
        })
    }

    /// Gives the folders that were made what the archive says of them, the deepest first.
    fn finish(mut self) -> Vec<Failure> {
        let mut failures = Vec::new();
        for (place, attributes) in std::mem::take(&mut self.made).into_iter().rev() {
            let (Some(attributes), Some((last, above))) = (attributes, place.split_last()) else {
                continue;
            };
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | FOLDER_FLAGS;
            let outcome = self
                .open(above)
                .and_then(|folder| openat(folder, last.as_os_str(), flags, Mode::empty()))
                .and_then(|folder| set(&folder, attributes));
            if let Err(errno) = outcome {
                failures.push(refused_errno(&place.iter().collect::<PathBuf>(), errno));
            }
        }
        failures
    }
}

/// Whether an entry's content is a list of parts and then the parts, as GNU tar packs sparse files in
/// pax's format. To any other tar it is a strange file under a strange name.
fn is_pax_sparse<R: Read>(entry: &mut Entry<'_, R>) -> bool {
    let extensions = entry.pax_extensions().ok().flatten();
    extensions.is_some_and(|mut all| {
        all.any(|one| one.is_ok_and(|one| one.key_bytes().starts_with(b"GNU.sparse.")))
    })
}

/// A new file under that name.
fn new_file(folder: &OwnedFd, name: &OsStr) -> Result<File, Errno> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    replacing(folder, name, || openat(folder, name, flags, mode)).map(File::from)
}

/// Makes what may stand for a file or link that is there.
fn replacing<R>(
    folder: &OwnedFd,
    name: &OsStr,
    make: impl Fn() -> nix::Result<R>,
) -> nix::Result<R> {
    match make() {
        Err(Errno::EEXIST) => {
            // Says EISDIR of a folder.
            unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?;
            make()
        }
        outcome => outcome,
    }
}

fn kind(mode: libc::mode_t) -> SFlag {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT
}

fn set(file: &impl AsFd, attributes: Attributes) -> nix::Result<()> {
    if let Some(modified) = attributes.modified {
        futimens(file, &TimeSpec::UTIME_OMIT, &modified)?;
    }
    fchmod(file, attributes.mode)
}

/// A link's own time: no one misses it.
fn set_link_time(folder: &OwnedFd, name: &OsStr, attributes: Attributes) {
    if let Some(modified) = attributes.modified {
        let flag = UtimensatFlags::NoFollowSymlink;
        let _ = utimensat(folder, name, &TimeSpec::UTIME_OMIT, &modified, flag);
    }
}

/// Copies an entry's content.
fn copy<R: Read>(
    entry: &mut Entry<'_, R>,
    file: &mut File,
    sparse: bool,
    shown: &str,
) -> Result<(), Stopped> {
    let size = entry.size();
    let refused = |error: io::Error| {
        let errno = errno(&error);
        failure(code(errno), &format!("{shown}: {}", reason(errno)))
    };
    if sparse {
        // A size that the file system does not take shows before all the zeros are read.
        file.set_len(size).map_err(refused)?;
    }
    let mut buffer = vec![0; COPY_BYTES];
    let mut copied: u64 = 0;
    loop {
        let count = match entry.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Stopped::Archive(malformed(&error))),
        };
        let Some(content) = buffer.get(..count).filter(|content| !content.is_empty()) else {
            break;
        };
        copied += count as u64;
        for block in content.chunks(if sparse { HOLE_BYTES } else { COPY_BYTES }) {
            let is_hole = sparse && block.iter().all(|byte| *byte == 0);
            let outcome = match i64::try_from(block.len()) {
                Ok(length) if is_hole => file.seek(SeekFrom::Current(length)).map(drop),
                _ => file.write_all(block),
            };
            outcome.map_err(refused)?;
        }
    }
    if copied < size {
        let text = format!("{shown}: the archive ends after {copied} of its {size} bytes");
        return Err(Stopped::Archive(failure(
            FailureCode::InvalidRequest,
            &text,
        )));
    }
    Ok(())
}
