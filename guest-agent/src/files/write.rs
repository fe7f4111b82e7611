// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Replacing a file as a whole.
//!
//! Owns: the temporary file beside the target, its upload, its rename. Invariants: a reader sees the
//! old content or the new, never a part; the temporary file is gone after any failure, and after a
//! dropped future; the folder is held open, so that exchanging it meanwhile leads nowhere else.
//!
//! A symbolic link at the path is written through, as an editor would: the file it names is replaced
//! (or made), the link stays. What is needed is the right to write the *folder*, as for any rename:
//! a writable file in a folder that is not is refused.
//!
//! The new content is on disk before the rename (fsync). The folder itself is not synced: after a
//! crash of the guest the name may still stand for the old content, never for a part of the new.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tokio::io::{AsyncRead, AsyncWrite};
use waggle_protocol::frame::Kind;
use waggle_protocol::message::{Failure, FailureCode, Reply, WriteFile};

use super::{require_regular, upload};
use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::{failure, refused, refused_errno};
use crate::guest_path::{GuestPath, shown_path};
use crate::identity::Identity;
use crate::serve::OperationError;

/// Mode of a file that replaces none, if the request names no mode.
pub(super) const NEW_FILE_MODE: u32 = 0o644;
/// Mode of folders made on request.
const NEW_FOLDER_MODE: u32 = 0o755;
/// Most links from one path to the file, as in the kernel (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Takes the upload that follows `request` and returns the terminal reply.
///
/// # Errors
///
/// [`OperationError`]; the old file is then as it was.
pub async fn write<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: WriteFile,
) -> Result<Reply, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    connection.expect_upload(Kind::File);
    let path = GuestPath::parse(request.path.into_vec())?;
    let identity = agent.identity(request.user);
    let target = identity.act(|| Target::find(path.as_path(), request.create_parents))?;
    let draft = Draft::create(target, identity.clone())?;

    let Draft {
        target,
        owner,
        file,
        ..
    } = &draft;
    let bytes = upload::take(connection, file, &target.path, owner, 0).await?;
    draft.publish(request.mode, None).await?;
    Ok(Reply::Written { bytes })
}

/// What tells a file, as it is, from another one and from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    file: (libc::dev_t, libc::ino_t),
    size: libc::off_t,
    modified: (libc::time_t, i64),
    changed: (libc::time_t, i64),
}

impl Version {
    pub(super) fn of(found: &libc::stat) -> Self {
        Self {
            file: (found.st_dev, found.st_ino),
            size: found.st_size,
            modified: (found.st_mtime, found.st_mtime_nsec),
            changed: (found.st_ctime, found.st_ctime_nsec),
        }
    }
}

/// Where the new content goes: a name in an open folder.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
    /// Mode of the file that is there.
    pub(super) old_mode: Option<u32>,
}

impl Target {
    /// Finds the file behind `path`. Runs with the user's permissions.
    pub(super) fn find(path: &Path, create_parents: bool) -> Result<Self, Failure> {
        let (path, old_mode) = follow_links(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // `/`, or a path that ends in `..`.
            return Err(failure(
                FailureCode::IsDirectory,
                &format!("{}: names a directory", shown_path(&path)),
            ));
        };
        let name = name.to_owned();
        if create_parents {
            DirBuilder::new()
                .recursive(true)
                .mode(NEW_FOLDER_MODE)
                .create(parent)
                .map_err(|error| refused(parent, &not_a_folder(error)))?;
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder =
            open(parent, flags, Mode::empty()).map_err(|errno| refused_errno(parent, errno))?;
        Ok(Self {
            path,
            folder,
            name,
            old_mode,
        })
    }
}

/// `mkdir` says EEXIST of a file that stands where a folder was asked for.
fn not_a_folder(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::AlreadyExists {
        nix::errno::Errno::ENOTDIR.into()
    } else {
        error
    }
}

/// The path of the file itself, and its mode if it exists.
fn follow_links(path: &Path) -> Result<(PathBuf, Option<u32>), Failure> {
    // A trailing slash asks for a folder; `Path` would quietly drop it.
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(refused_errno(path, nix::errno::Errno::EISDIR));
    }
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let link = fs::read_link(&path).map_err(|error| refused(&path, &error))?;
                path.pop();
                path.push(link);
            }
            Ok(found) => {
                require_regular(&path, &found)?;
                return Ok((path, Some(found.mode() & 0o7777)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, None)),
            Err(error) => return Err(refused(&path, &error)),
        }
    }
    Err(refused_errno(&path, nix::errno::Errno::ELOOP))
}

/// The new content until it is published; removed if it never is.
#[derive(Debug)]
pub(super) struct Draft {
    target: Target,
    owner: Identity,
    file: File,
    /// `None` once it bears the target's name.
    name: Option<String>,
}

impl Draft {
    pub(super) fn create(target: Target, owner: Identity) -> Result<Self, Failure> {
        let id: u64 = rand::random();
        let name = format!(".waggle_{id:016x}.tmp");
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = owner
            .act(|| openat(&target.folder, name.as_str(), flags, mode))
            .map_err(|errno| refused_errno(&target.path, errno))?;
        Ok(Self {
            target,
            owner,
            file: file.into(),
            name: Some(name),
        })
    }

    /// Adds to the new content.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<(), OperationError> {
        upload::write_all(&self.file, &self.target.path, &self.owner, bytes)
    }

    /// Gives it its mode and the target's name; if it comes of a `read` file, only as long as that one
    /// bears the name and is as it was.
    pub(super) async fn publish(
        mut self,
        mode: Option<u32>,
        read: Option<Version>,
    ) -> Result<(), Failure> {
        let mode = mode.or(self.target.old_mode).unwrap_or(NEW_FILE_MODE) & 0o7777;
        let target = &self.target;
        let Some(name) = self.name.as_deref() else {
            return Ok(());
        };
        let refused = |error: io::Error| refused(&target.path, &error);
        self.owner
            .act(|| self.file.set_permissions(Permissions::from_mode(mode)))
            .map_err(refused)?;
        upload::sync(&self.file).await.map_err(refused)?;
        let (folder, place) = (&target.folder, target.name.as_os_str());
        // In one go: no other operation comes between, and a program hardly.
        self.owner.act(|| {
            if let Some(read) = read {
                let found = fstatat(folder, place, AtFlags::AT_SYMLINK_NOFOLLOW);
                if !found.is_ok_and(|found| Version::of(&found) == read) {
                    let path = shown_path(&target.path);
                    let text = format!("{path}: changed while it was edited; read it again");
                    return Err(failure(FailureCode::Changed, &text));
                }
            }
            renameat(folder, name, folder, place)
                .map_err(|errno| refused_errno(&target.path, errno))
        })?;
        self.name = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let folder = &self.target.folder;
            // Whoever removed it or the folder before us did our work.
            let _ = self
                .owner
                .act(|| unlinkat(folder, name.as_str(), UnlinkatFlags::NoRemoveDir));
        }
    }
}
