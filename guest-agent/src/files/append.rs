// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Appending to a file.
//!
//! Invariants: what comes goes to the file's end at once, wherever that is by then (`O_APPEND`), so
//! that several may append at a time; only a regular file is opened, and in a way that cannot block.
//! An upload cut short leaves what came of it.
//!
//! A symbolic link at the path is followed, as in [`super::write`]. What is needed is the right to
//! write the *file*, or the folder if there is none yet.

use std::fs::{File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use tokio::io::{AsyncRead, AsyncWrite};
use waggle_protocol::frame::Kind;
use waggle_protocol::message::{Failure, Reply, WriteFile};

use super::write::{NEW_FILE_MODE, Target};
use super::{require_regular, upload};
use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::{refused, refused_errno};
use crate::guest_path::GuestPath;
use crate::identity::Identity;
use crate::serve::OperationError;

/// Appends the upload that follows `request` and returns the terminal reply.
///
/// # Errors
///
/// [`OperationError`].
pub async fn append<T>(
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
    let (file, size) = open(&target, identity, request.mode)?;

    let bytes = upload::take(connection, &file, &target.path, identity, size).await?;
    upload::sync(&file)
        .await
        .map_err(|error| refused(&target.path, &error))?;
    Ok(Reply::Written { bytes })
}

/// Opens the file, or makes it, and tells its size.
fn open(target: &Target, owner: &Identity, mode: Option<u32>) -> Result<(File, u64), Failure> {
    let path = target.path.as_path();
    let flags = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    owner.act(|| {
        let open = |flags| {
            let new = Mode::S_IRUSR | Mode::S_IWUSR;
            openat(&target.folder, target.name.as_os_str(), flags, new)
        };
        // A file that someone made meanwhile keeps its mode too.
        let (file, mode) = match open(flags | OFlag::O_CREAT | OFlag::O_EXCL) {
            // Not left to the open, which knows the agent's mask.
            Ok(file) => (Ok(file), Some(mode.unwrap_or(NEW_FILE_MODE))),
            Err(Errno::EEXIST) => (open(flags), mode),
            Err(errno) => (Err(errno), mode),
        };
        let file = File::from(file.map_err(|errno| refused_errno(path, errno))?);
        let found = file.metadata().map_err(|error| refused(path, &error))?;
        require_regular(path, &found)?;
        if let Some(mode) = mode {
            file.set_permissions(Permissions::from_mode(mode & 0o7777))
                .map_err(|error| refused(path, &error))?;
        }
        Ok((file, found.len()))
    })
}
