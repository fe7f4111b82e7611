// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A local file or folder as a tar archive, written as it is read.
//!
//! Symbolic links are packed as links, but for the source itself, which is followed. Owners and
//! set-user-id bits stay here. Devices, pipes and sockets are left out, and told.

use std::{
    ffi::OsString,
    fs::{File, Metadata},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use tar::{Builder, EntryType, Header};
use walkdir::WalkDir;

use super::{CopyError, channel::Writer};

/// Bytes that are sent at a time.
const PIECE: usize = 64 * 1024;

/// Why an archive could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder could not be read.
    #[error("cannot read a folder")]
    Walk(#[from] walkdir::Error),
    /// A file got shorter while it was read.
    #[error("{} got shorter while it was read; copy it again", .0.display())]
    Shrank(PathBuf),
    /// The archive could not be written.
    #[error("cannot send the archive")]
    Archive(#[source] io::Error),
}

/// What to pack.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    name: OsString,
}

impl Source {
    pub(super) fn new(given: &Path) -> Result<Self, CopyError> {
        let path = given.canonicalize().map_err(|source| PackError::Read {
            path: given.to_owned(),
            source,
        })?;
        // The name that was given; of `.` and `..` that of the folder they are.
        let name = given.file_name().or_else(|| path.file_name());
        let name = name
            .ok_or_else(|| CopyError::LocalPath(given.to_owned()))?
            .to_owned();
        Ok(Self { path, name })
    }
}

/// Writes `source` to `archive`, and its end.
pub(super) fn pack(
    source: &Source,
    archive: Writer,
    mut warn: impl FnMut(&str),
) -> Result<(), PackError> {
    let archive = write(source, archive, &mut warn)?;
    archive.end().map_err(PackError::Archive)
}

fn write<W: Write>(
    source: &Source,
    archive: W,
    warn: &mut impl FnMut(&str),
) -> Result<W, PackError> {
    let mut builder = Builder::new(BufWriter::with_capacity(PIECE, archive));
    for entry in WalkDir::new(&source.path) {
        let entry = entry?;
        let path = entry.path();
        let failed = |source| PackError::Read {
            path: path.to_owned(),
            source,
        };
        // `join` with nothing would add a slash.
        let name = match path.strip_prefix(&source.path) {
            Ok(below) if !below.as_os_str().is_empty() => Path::new(&source.name).join(below),
            _ => PathBuf::from(&source.name),
        };
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        let packed = if kind.is_dir() {
            let mut header = header(&metadata, EntryType::Directory, 0);
            builder.append_data(&mut header, &name, io::empty())
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path).map_err(failed)?;
            let mut header = header(&metadata, EntryType::Symlink, 0);
            builder.append_link(&mut header, &name, target)
        } else if kind.is_file() {
            let file = File::open(path).map_err(failed)?;
            // Of the file that is open, not of what has its name by now.
            let metadata = file.metadata().map_err(failed)?;
            let size = metadata.len();
            let mut header = header(&metadata, EntryType::Regular, size);
            let mut exact = Exact {
                file,
                left: size,
                fault: None,
            };
            let packed = builder.append_data(&mut header, &name, &mut exact);
            match exact.fault {
                Some(Fault::Read(error)) => return Err(failed(error)),
                Some(Fault::Shrank) => return Err(PackError::Shrank(path.to_owned())),
                None => packed,
            }
        } else {
            warn(&format!(
                "left out {path:?}: it is a device, a pipe or a socket"
            ));
            Ok(())
        };
        packed.map_err(PackError::Archive)?;
    }
    let buffered = builder.into_inner().map_err(PackError::Archive)?;
    buffered
        .into_inner()
        .map_err(|error| PackError::Archive(error.into_error()))
}

fn header(metadata: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(metadata.permissions().mode() & 0o777);
    header.set_uid(0);
    header.set_gid(0);
    let modified = metadata.modified().ok();
    let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    header.set_mtime(since.unwrap_or_default().as_secs());
    header
}

/// As many bytes of a file as its header announces: one that grows is cut, one that shrinks is a
/// fault. Anything else would shift all that follows.
struct Exact {
    file: File,
    left: u64,
    fault: Option<Fault>,
}

enum Fault {
    Read(io::Error),
    Shrank,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let (buffer, _) = buffer.split_at_mut(most);
        let fault = match self.file.read(buffer) {
            Ok(0) => Fault::Shrank,
            Ok(length) => {
                self.left = self
                    .left
                    .saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
                return Ok(length);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => Fault::Read(error),
        };
        self.fault = Some(fault);
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_folder_is_packed_under_its_name() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let root = folder.path().join("root");
        let long = "n".repeat(200);
        std::fs::create_dir_all(root.join("sub").join(&long)).expect("folders");
        std::fs::write(root.join("sub").join(&long).join("file"), b"content").expect("a file");
        let program = root.join("program");
        std::fs::write(&program, b"#!").expect("a file");
        std::fs::set_permissions(&program, Permissions::from_mode(0o4755)).expect("a mode");
        symlink("/etc/passwd", root.join("link")).expect("a link");
        let socket = std::os::unix::net::UnixListener::bind(root.join("socket"));

        let source = Source::new(&root).expect("it exists");
        let mut warnings = Vec::new();
        let archive = write(&source, Vec::new(), &mut |line: &str| {
            warnings.push(line.to_owned());
        })
        .expect("packed");
        drop(socket);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("socket"), "{warnings:?}");
        let mut found = std::collections::BTreeMap::new();
        let mut archive = tar::Archive::new(archive.as_slice());
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mode = entry.header().mode().expect("a mode");
            let link = entry
                .link_name()
                .expect("a link")
                .map(|to| to.display().to_string());
            let mut content = String::new();
            entry.read_to_string(&mut content).expect("content");
            found.insert(path, (mode, link, content));
        }
        let names: Vec<_> = found
            .keys()
            .map(|name| name.trim_end_matches('/'))
            .collect();
        let deep = format!("root/sub/{long}");
        let file = format!("{deep}/file");
        assert_eq!(
            names,
            [
                "root",
                "root/link",
                "root/program",
                "root/sub",
                &deep,
                &file
            ]
        );
        assert_eq!(found[&file].2, "content");
        assert_eq!(found["root/program"].0, 0o755, "no set-user-id");
        assert_eq!(found["root/link"].1.as_deref(), Some("/etc/passwd"));
    }

    #[test]
    fn a_file_that_shrinks_is_a_fault_and_one_that_grows_is_cut() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"12345").expect("a file");
        let read = |left| {
            let file = File::open(&path).expect("it exists");
            let mut exact = Exact {
                file,
                left,
                fault: None,
            };
            let mut content = Vec::new();
            let outcome = exact.read_to_end(&mut content);
            (outcome.is_ok(), content, exact.fault.is_some())
        };
        assert_eq!(read(3), (true, b"123".to_vec(), false));
        assert_eq!(read(6), (false, b"12345".to_vec(), true));
    }

    #[test]
    fn a_source_has_a_name() {
        assert!(Source::new(Path::new("/")).is_err());
        let here = Source::new(Path::new(".")).expect("this folder");
        assert_eq!(Some(here.name.as_os_str()), here.path.file_name());
        assert!(Source::new(Path::new("/no/such/thing")).is_err());
    }
}
