// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Scratch disks: empty file systems in sparse files, made with their machine and gone with it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use crate::launch::{LaunchError, not_ready};
use crate::spawn::Streams;
use crate::supervise::Process;

/// How long formatting may take: some 10 ms for 8 GiB.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes a sparse file with an empty ext4 in it: without a journal, since a scratch disk never
/// outlives a crash. mke2fs sees that a sparse file reads as zeroes and leaves its inode tables
/// unwritten for good.
pub(crate) async fn format(
    mkfs: &Path,
    folder: &Path,
    name: &str,
    mib: u32,
) -> Result<(), LaunchError> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join(name))
        .and_then(|file| file.set_len(u64::from(mib) << 20))
        .map_err(|source| LaunchError::Folder {
            what: "a scratch disk",
            folder: folder.to_owned(),
            source,
        })?;
    let features = [
        "-q",
        "-F",
        "-m",
        "0",
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=1",
    ];
    let mut process = Process::start(
        "mkfs.ext4",
        mkfs,
        features.into_iter().chain([name]),
        folder,
        Streams::Errors,
    )
    .map_err(|source| LaunchError::Spawn {
        program: mkfs.to_owned(),
        source,
    })?;
    match timeout(FORMAT_TIMEOUT, process.child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(_) => Err(LaunchError::Ended(process.ended().await)),
        Err(_) => {
            process.kill().await;
            Err(not_ready(&process, FORMAT_TIMEOUT))
        }
    }
}
