// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Reading a file, or a part of it.
//!
//! Invariants: only regular files are opened, and never in a way that could block: a FIFO or a
//! device is refused by what `stat` says, and if it took the file's place in between, the open does
//! not wait for a writer and `fstat` refuses it. What ends the stream is the file's end, not the size
//! that `stat` tells, so that `/proc` reads too.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use tokio::io::{AsyncRead, AsyncWrite};
use waggle_protocol::frame::Kind;
use waggle_protocol::message::{Failure, FileInfo, ReadFile, Reply};

use super::{Turn, nanoseconds, require_regular};
use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::refused;
use crate::guest_path::GuestPath;
use crate::identity::Identity;
use crate::serve::OperationError;

/// Sends [`Reply::File`] and the bytes that `request` asks for, and returns the terminal reply.
///
/// # Errors
///
/// [`OperationError`].
pub async fn read<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: ReadFile,
) -> Result<Reply, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let path = GuestPath::parse(request.path.into_vec())?;
    let (file, info) = open(path.as_path(), agent.identity(request.user))?;
    let mut frame = connection.out_frame();
    frame.put_reply(&Reply::File(info));
    connection.send_frame(&mut frame).await?;

    let mut turn = Turn::default();
    let mut bytes: u64 = 0;
    loop {
        let left = request.length.map_or(u64::MAX, |length| length - bytes);
        // Beyond the largest offset there is nothing, as in `pread(2)` beyond the end.
        let Some(offset) = request.offset.checked_add(bytes) else {
            break;
        };
        let count = read_at(&file, frame.room(), offset, left)
            .map_err(|error| refused(path.as_path(), &error))?;
        if count == 0 {
            break;
        }
        bytes += count as u64;
        frame.finish(Kind::File, count);
        connection.send_frame(&mut frame).await?;
        turn.moved(count).await;
    }
    Ok(Reply::FileEnd { bytes })
}

/// Opens a regular file, without waiting for anyone.
pub(super) fn open(path: &Path, identity: &Identity) -> Result<(File, FileInfo), Failure> {
    let opened = identity.act(|| {
        require_regular(path, &fs::metadata(path).map_err(|e| refused(path, &e))?)?;
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .and_then(|file| Ok((file.metadata()?, file)))
            .map_err(|error| refused(path, &error))
    });
    let (found, file) = opened?;
    require_regular(path, &found)?;
    let info = FileInfo {
        size: found.len(),
        mode: found.mode() & 0o7777,
        modified_ns: nanoseconds(found.mtime(), found.mtime_nsec()),
    };
    Ok((file, info))
}

/// Reads at most `left` bytes into `room`; 0 at the end.
pub(super) fn read_at(file: &File, room: &mut [u8], offset: u64, left: u64) -> io::Result<usize> {
    let most = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    let Some(room) = room.get_mut(..most).filter(|room| !room.is_empty()) else {
        return Ok(0);
    };
    // `pread` knows no offsets above this.
    if i64::try_from(offset).is_err() {
        return Ok(0);
    }
    loop {
        match file.read_at(room, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
