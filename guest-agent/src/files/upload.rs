// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the host sends, into an open file.
//!
//! Owns: taking the frames, starting their way to the disk, waiting for its end. Invariant: dirty
//! pages do not fill the guest's memory, however much comes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncWrite};
use waggle_protocol::frame::Kind;

use super::{Turn, WRITEBACK_BYTES, start_writeback};
use crate::connection::Connection;
use crate::failure::refused;
use crate::identity::Identity;
use crate::serve::OperationError;

/// Writes the upload that is due to `file`, whose next byte is at `start`, and returns its length.
///
/// # Errors
///
/// [`OperationError`] that names `path`; what came until then is written.
pub(super) async fn take<T>(
    connection: &mut Connection<T>,
    file: &File,
    path: &Path,
    owner: &Identity,
    start: u64,
) -> Result<u64, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let mut turn = Turn::default();
    let mut written: u64 = 0;
    let mut synced: u64 = 0;
    loop {
        let payload = connection.next_upload(Kind::File).await?;
        if payload.is_empty() {
            return Ok(written);
        }
        write_all(file, path, owner, &payload)?;
        written += payload.len() as u64;
        if written - synced >= WRITEBACK_BYTES {
            start_writeback(file, start.saturating_add(synced), written - synced);
            synced = written;
        }
        turn.moved(payload.len()).await;
    }
}

/// Writes `bytes` as `owner`, whose quota and limits hold.
pub(super) fn write_all(
    mut file: &File,
    path: &Path,
    owner: &Identity,
    bytes: &[u8],
) -> Result<(), OperationError> {
    owner
        .act(|| file.write_all(bytes))
        .map_err(|error| refused(path, &error).into())
}

/// Waits until the content is on disk, on a thread of its own: an fsync may take seconds, and
/// deadlines of other operations hold meanwhile. The one exception to the single thread (`crate`): it
/// touches a descriptor and nothing else.
pub(super) async fn sync(file: &File) -> io::Result<()> {
    let file = file.try_clone()?;
    tokio::task::spawn_blocking(move || file.sync_all())
        .await
        .map_err(io::Error::other)?
}
