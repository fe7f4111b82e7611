// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A file or folder as a tar archive, in GNU's format.
//!
//! Owns: what is packed, and that the archive is well-formed whatever happens to the files meanwhile.
//! The headers' layout is the crate `tar`'s; it is not left to read the files, for it believes a
//! file's size while others change it.
//!
//! Invariants: no link is followed (but for one that is the path itself, with a slash at its end); no
//! more than one file and some folders are open; what is not a file, folder or link is left out with
//! a remark, and what cannot be read is told and left out. The archive is whole all the same.
//!
//! Names, modes, owners' numbers and times (to the second) are kept. A file's holes take no room.
//! Hard links become files of their own.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use tar::{Builder, EntryType, GnuExtSparseHeader, Header};
use waggle_protocol::message::{Failure, FailureCode, Pack};
use walkdir::WalkDir;

use super::{Problems, open_regular, stream_failed};
use crate::failure::{errno, failure, reason, refused, refused_errno};
use crate::guest_path::{GuestPath, shown_path};

/// Bytes that are gathered before they go out.
const OUTPUT_BYTES: usize = 64 * 1024;
/// Bytes of a file that are read at once.
const READ_BYTES: usize = 256 * 1024;
/// Most folders that the walk holds open.
const OPEN_FOLDERS_MAX: usize = 64;
/// Most parts of a file with holes; what follows is packed as one.
const SPARSE_PARTS_MAX: usize = 10_000;
/// Size of `st_blocks`' unit in bytes, `stat(2)`.
const STAT_BLOCK_BYTES: u64 = 512;
/// Everything in an archive fills blocks of so many bytes.
const ARCHIVE_BLOCK_BYTES: u64 = 512;
/// The name of an entry that holds the next one's name, or its link's target, as GNU tar has it.
const LONG_LINK: &[u8] = b"././@LongLink";

/// Writes what `request` names to `out`.
///
/// # Errors
///
/// A [`Failure`] if there is nothing to pack, or if `out` fails.
pub(super) fn pack<E: Write>(
    request: Pack,
    out: impl Write,
    problems: &mut Problems<E>,
) -> Result<(), Failure> {
    let path = GuestPath::parse(request.path.into_vec())?;
    let path = path.as_path();
    let follow = path.as_os_str().as_bytes().ends_with(b"/");
    let found = if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    let found = found.map_err(|error| refused(path, &error))?;
    let name = path.file_name().ok_or_else(|| {
        let text = format!("{}: has no name to pack it under", shown_path(path));
        failure(FailureCode::InvalidPath, &text)
    })?;
    let mut archive = Archive {
        builder: Builder::new(BufWriter::with_capacity(OUTPUT_BYTES, out)),
        problems,
    };
    let outcome = if found.is_dir() {
        fs::read_dir(path).map_err(|error| refused(path, &error))?;
        archive.folder(path, name)
    } else if found.is_file() || found.is_symlink() {
        archive.entry(path, Path::new(name), &found)
    } else {
        return Err(refused_errno(path, Errno::ENXIO));
    };
    outcome
        .and_then(|()| archive.builder.into_inner()?.flush())
        .map_err(|error| stream_failed("standard output", &error))
}

/// An archive that is being written. The errors of its methods are those of its output.
struct Archive<'a, W: Write, E> {
    builder: Builder<BufWriter<W>>,
    problems: &'a mut Problems<E>,
}

impl<W: Write, E: Write> Archive<'_, W, E> {
    /// Packs `root` and what is below it; the paths begin with `name`.
    fn folder(&mut self, root: &Path, name: &OsStr) -> io::Result<()> {
        let walk = WalkDir::new(root)
            .follow_links(false)
            .max_open(OPEN_FOLDERS_MAX)
            .sort_by_file_name();
        for entry in walk {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = error.path().unwrap_or(root);
                    let io_error = error.io_error().map_or(Errno::ELOOP, errno);
                    self.problems.tell(&refused_errno(path, io_error));
                    continue;
                }
            };
            let path = entry.path();
            // The root may be a link, and is then the folder that it leads to.
            let found = if entry.depth() == 0 {
                fs::metadata(path)
            } else {
                fs::symlink_metadata(path)
            };
            match found {
                Ok(found) => {
                    let below = path.strip_prefix(root).unwrap_or(path);
                    self.entry(path, &Path::new(name).join(below), &found)?;
                }
                Err(error) => self.problems.tell(&refused(path, &error)),
            }
        }
        Ok(())
    }

    /// Packs one entry.
    fn entry(&mut self, path: &Path, name: &Path, found: &Metadata) -> io::Result<()> {
        let kind = found.file_type();
        // A join with nothing leaves a slash.
        let name = name.as_os_str().as_bytes();
        let name = name.strip_suffix(b"/").unwrap_or(name);
        if kind.is_dir() {
            // As every tar has it, with a slash at its end.
            let name = [name, b"/"].concat();
            self.put(
                &name,
                header(found, EntryType::Directory),
                None,
                io::empty(),
            )
        } else if kind.is_symlink() {
            match fs::read_link(path) {
                Ok(target) => {
                    let header = header(found, EntryType::Symlink);
                    let target = target.as_os_str().as_bytes();
                    self.put(name, header, Some(target), io::empty())
                }
                Err(error) => {
                    self.problems.tell(&refused(path, &error));
                    Ok(())
                }
            }
        } else if kind.is_file() {
            match open_regular(path) {
                Ok((file, found)) => self.file(path, name, file, &found),
                Err(error) => {
                    self.problems.tell(&refused(path, &error));
                    Ok(())
                }
            }
        } else {
            let text = format!("{}: left out, not a file, folder or link", shown_path(path));
            let remark = failure(FailureCode::NotRegular, &text);
            self.problems.remark(remark);
            Ok(())
        }
    }

    fn file(&mut self, path: &Path, name: &[u8], file: File, found: &Metadata) -> io::Result<()> {
        let size = found.size();
        let whole = Part {
            offset: 0,
            length: size,
        };
        let mut header = header(found, EntryType::Regular);
        // Headers that continue the first one's list of parts.
        let mut more = Vec::new();
        let mut parts = vec![whole];
        if found.blocks().saturating_mul(STAT_BLOCK_BYTES) < size
            && let Some(found) = data_parts(&file, size)
        {
            more = make_sparse(&mut header, &found, size);
            parts = found;
        }
        header.set_size(parts.iter().map(|part| part.length).sum());
        let mut content = Content {
            file,
            parts: parts.into_iter(),
            current: None,
            failed: None,
        };
        let buffered = BufReader::with_capacity(READ_BYTES, &mut content);
        self.put(name, header, None, more.as_slice().chain(buffered))?;
        if let Some(why) = content.failed {
            let path = shown_path(path);
            let text = format!("{path}: {why} while it was packed: zeros stand for the rest");
            self.problems.tell(&failure(FailureCode::Io, &text));
        }
        Ok(())
    }

    /// Writes one entry. `content` is as long as `header` says.
    fn put(
        &mut self,
        name: &[u8],
        mut header: Header,
        target: Option<&[u8]>,
        content: impl Read,
    ) -> io::Result<()> {
        // Not by the crate's own way, which takes some names that are no UTF-8 for too short.
        let fields = header.as_old_mut();
        for (kind, text, field) in [
            (
                EntryType::GNULongLink,
                target.unwrap_or_default(),
                &mut fields.linkname,
            ),
            (EntryType::GNULongName, name, &mut fields.name),
        ] {
            for (to, from) in field.iter_mut().zip(text) {
                *to = *from;
            }
            if text.len() > field.len() {
                let mut long = Header::new_gnu();
                long.set_entry_type(kind);
                for (to, from) in long.as_old_mut().name.iter_mut().zip(LONG_LINK) {
                    *to = *from;
                }
                long.set_mode(0o644);
                long.set_uid(0);
                long.set_gid(0);
                long.set_mtime(0);
                // A NUL ends it.
                long.set_size(text.len() as u64 + 1);
                long.set_cksum();
                self.builder.append(&long, text.chain(&[0][..]))?;
            }
        }
        header.set_cksum();
        self.builder.append(&header, content)
    }
}

/// A header for `found`, but for its name and its size.
fn header(found: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.mode() & 0o7777);
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

/// A run of bytes in a file.
#[derive(Debug, Clone, Copy)]
struct Part {
    offset: u64,
    length: u64,
}

/// What of the first `size` bytes of `file` is not hole, in order; `None` if the file system does not
/// say.
fn data_parts(file: &File, size: u64) -> Option<Vec<Part>> {
    let seek = |from: u64, whence| {
        let found = lseek(file, i64::try_from(from).ok()?, whence);
        match found {
            Ok(offset) => u64::try_from(offset).ok().map(|offset| offset.min(size)),
            // Nothing of it from there on.
            Err(Errno::ENXIO) => Some(size),
            Err(_) => None,
        }
    };
    let mut parts = Vec::new();
    let mut end = 0;
    while end < size {
        let start = seek(end, Whence::SeekData)?;
        if start == size {
            break;
        }
        // In an archive every part but the last fills its blocks.
        let start = (start - start % ARCHIVE_BLOCK_BYTES).max(end);
        let hole = if parts.len() < SPARSE_PARTS_MAX {
            seek(start, Whence::SeekHole)?
        } else {
            size
        };
        end = hole
            .max(start + 1)
            .next_multiple_of(ARCHIVE_BLOCK_BYTES)
            .min(size);
        parts.push(Part {
            offset: start,
            length: end - start,
        });
    }
    if end < size {
        // So much for a hole at the end.
        parts.push(Part {
            offset: size,
            length: 0,
        });
    }
    Some(parts)
}

/// Makes `header` that of a file with holes, and returns the headers that follow it.
fn make_sparse(header: &mut Header, parts: &[Part], size: u64) -> Vec<u8> {
    header.set_entry_type(EntryType::GNUSparse);
    let mut parts = parts.iter().peekable();
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.set_real_size(size);
        for (place, part) in gnu.sparse.iter_mut().zip(&mut parts) {
            place.set_offset(part.offset);
            place.set_length(part.length);
        }
        gnu.set_is_extended(parts.peek().is_some());
    }
    let mut more = Vec::new();
    while parts.peek().is_some() {
        let mut next = GnuExtSparseHeader::new();
        for (place, part) in next.sparse.iter_mut().zip(&mut parts) {
            place.set_offset(part.offset);
            place.set_length(part.length);
        }
        next.set_is_extended(parts.peek().is_some());
        more.extend_from_slice(next.as_bytes());
    }
    more
}

/// Parts of a file, exactly as long as they were said to be: what is missing by now reads as zeros.
#[derive(Debug)]
struct Content {
    file: File,
    parts: std::vec::IntoIter<Part>,
    current: Option<Part>,
    /// Why zeros stand for something.
    failed: Option<String>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let part = loop {
            match &mut self.current {
                Some(part) if part.length > 0 => break part,
                _ => match self.parts.next() {
                    Some(part) => self.current = Some(part),
                    None => return Ok(0),
                },
            }
        };
        let most = usize::try_from(part.length).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let Some(room) = buffer.get_mut(..most).filter(|room| !room.is_empty()) else {
            return Ok(0);
        };
        let count = loop {
            if self.failed.is_some() {
                room.fill(0);
                break most;
            }
            match self.file.read_at(room, part.offset) {
                Ok(0) => self.failed = Some("it shrank".into()),
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.failed = Some(reason(errno(&error))),
            }
        };
        part.offset += count as u64;
        part.length -= count as u64;
        Ok(count)
    }
}
