// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Listing a folder, some levels deep: all of it, or what fits a pattern.
//!
//! Owns: the walk, its order, its batches. Invariants: links are not followed (but for the listed
//! path itself); names are relative, as bytes; a batch fits a reply; memory is bounded; a walk ends
//! when the host hangs up. With a pattern, folders that do not fit are descended all the same, and the
//! limit counts what fits; the kernel's file systems are left out, unless the path is in one.
//!
//! **Order.** Up to [`SORTED_MAX`] entries (and [`SORTED_BYTES_MAX`] of names) are gathered, sorted by
//! path component and cut to the limit, so that ordinary folders list the same way every time. A
//! larger tree is sent in the kernel's order, as the walk finds it, until the limit: sorting it would
//! take memory that the guest may not have.

use std::fs::{self, Metadata};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_bytes::ByteBuf;
use tokio::io::{AsyncRead, AsyncWrite};
use waggle_protocol::limits::ENTRIES_BATCH_BYTES;
use waggle_protocol::message::{
    Entry, Failure, FailureCode, FileKind, FindFiles, ListFiles, Reply,
};
use walkdir::WalkDir;

use super::{is_kernel_folder, nanoseconds};
use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError};
use crate::failure::{failure, refused, refused_errno};
use crate::glob::Glob;
use crate::guest_path::GuestPath;
use crate::identity::Identity;
use crate::serve::OperationError;

/// Most entries that are sorted: with their names within the bound below, some 3 MiB.
const SORTED_MAX: usize = 10_000;
/// Most bytes of names that are sorted.
const SORTED_BYTES_MAX: usize = 1024 * 1024;
/// Entries looked at before the other connections get a turn: some `lstat` calls each.
const STEP_ENTRIES: usize = 64;
/// No more are looked at after this time: a hard pattern takes some milliseconds for each.
const STEP_TIME: Duration = Duration::from_millis(5);
/// Most levels of a walk, which holds one folder open at each. (With fewer than that, walkdir would
/// read the rest of a folder into memory in one go.)
const DEPTH_MAX: u32 = 64;
/// Most folders that all walks together hold open: of eight of the deepest. `agent` counts them among
/// its descriptors.
pub const OPEN_FOLDERS_MAX: usize = 8 * DEPTH_MAX as usize;

/// Most bytes of one encoded entry besides its name: a length of up to 3 bytes, a kind, and three
/// numbers of up to 10, 5 and 10 bytes.
const ENTRY_OVERHEAD: usize = 29;
/// Most bytes of a list besides its entries: the reply's variant and a length.
const LIST_OVERHEAD: usize = 4;

/// Sends the entries that `request` asks for, and returns the terminal reply.
///
/// # Errors
///
/// [`OperationError`].
pub async fn list<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: ListFiles,
) -> Result<Reply, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    list_fitting(connection, agent, request, None).await
}

/// As [`list`], of what fits the request's pattern.
///
/// # Errors
///
/// [`OperationError`].
pub async fn find<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: FindFiles,
) -> Result<Reply, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let glob = Glob::parse(&request.glob)?;
    list_fitting(connection, agent, request.list, Some(glob)).await
}

async fn list_fitting<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: ListFiles,
    glob: Option<Glob>,
) -> Result<Reply, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let path = GuestPath::parse(request.path.into_vec())?;
    if request.depth == 0 {
        let text = "depth 0 lists nothing; 1 lists the folder itself";
        return Err(failure(FailureCode::InvalidRequest, text).into());
    }
    let identity = agent.identity(request.user).clone();
    let depth = request.depth.min(DEPTH_MAX);
    // Never closed. Held no longer than the walk, which for most requests ends before the first
    // entry is sent: a host that does not read keeps no one waiting.
    let places = agent.open_folders.acquire_many(depth).await.ok();
    let mut walk = Walk::open(path.as_path(), depth, identity, glob)?;
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);

    let mut gathered = Vec::new();
    let mut name_bytes = 0;
    while !walk.done && gathered.len() < SORTED_MAX && name_bytes < SORTED_BYTES_MAX {
        let first = gathered.len();
        walk.step(&mut gathered);
        name_bytes += gathered.iter().skip(first).map(name_length).sum::<usize>();
        others_turn(connection).await?;
    }
    if walk.done {
        gathered.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    }

    let mut left = limit;
    loop {
        let truncated = gathered.len() > left;
        gathered.truncate(left);
        left -= gathered.len();
        if truncated || walk.done {
            let mut unreadable = walk.unreadable;
            drop((walk, places));
            unreadable += send(connection, gathered).await?;
            return Ok(Reply::ListEnd {
                truncated,
                unreadable,
            });
        }
        walk.unreadable += send(connection, gathered).await?;
        gathered = Vec::new();
        walk.step(&mut gathered);
        // If there was nothing to send, the others still get their turn.
        others_turn(connection).await?;
    }
}

/// Lets others run. A host that hung up meanwhile wants no more: as long as nothing is sent, nothing
/// else would tell.
async fn others_turn<T>(connection: &Connection<T>) -> Result<(), OperationError> {
    tokio::task::yield_now().await;
    if connection.liveness.peer_gone() {
        return Err(ConnectionError::Cancelled.into());
    }
    Ok(())
}

/// Sends `entries` in batches that fit a reply, and returns how many do not fit one by themselves.
async fn send<T>(connection: &mut Connection<T>, entries: Vec<Found>) -> Result<u64, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let accepted = connection.agreed.control_max.saturating_sub(LIST_OVERHEAD);
    let most = ENTRIES_BATCH_BYTES.min(accepted);
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut too_long = 0;
    for found in entries {
        let length = name_length(&found) + ENTRY_OVERHEAD;
        if length > most {
            too_long += 1;
            continue;
        }
        if bytes + length > most {
            let full = std::mem::take(&mut batch);
            connection.send_reply(&Reply::Entries(full)).await?;
            bytes = 0;
        }
        bytes += length;
        batch.push(found.into_entry());
    }
    if !batch.is_empty() {
        connection.send_reply(&Reply::Entries(batch)).await?;
    }
    Ok(too_long)
}

/// One entry, its name still a path so that it sorts by component.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    kind: FileKind,
    size: u64,
    mode: u32,
    modified_ns: i64,
}

impl Found {
    fn new(path: PathBuf, found: &Metadata) -> Self {
        let kind = found.file_type();
        Self {
            path,
            kind: if kind.is_file() {
                FileKind::File
            } else if kind.is_dir() {
                FileKind::Directory
            } else if kind.is_symlink() {
                FileKind::Symlink
            } else {
                FileKind::Special
            },
            size: found.len(),
            mode: found.mode() & 0o7777,
            modified_ns: nanoseconds(found.mtime(), found.mtime_nsec()),
        }
    }

    fn into_entry(self) -> Entry {
        Entry {
            name: ByteBuf::from(self.path.into_os_string().into_vec()),
            kind: self.kind,
            size: self.size,
            mode: self.mode,
            modified_ns: self.modified_ns,
        }
    }
}

fn name_length(found: &Found) -> usize {
    found.path.as_os_str().len()
}

/// A walk that goes on step by step, each with the user's permissions.
struct Walk {
    root: PathBuf,
    entries: walkdir::IntoIter,
    identity: Identity,
    glob: Option<Glob>,
    unreadable: u64,
    done: bool,
}

impl Walk {
    fn open(
        root: &Path,
        depth: u32,
        identity: Identity,
        glob: Option<Glob>,
    ) -> Result<Self, Failure> {
        // walkdir would list a file as itself, and count an unreadable root as one bad entry.
        let root = identity.act(|| {
            let found = fs::metadata(root).map_err(|error| refused(root, &error))?;
            if !found.is_dir() {
                return Err(refused_errno(root, Errno::ENOTDIR));
            }
            fs::read_dir(root).map_err(|error| refused(root, &error))?;
            // So that the kernel's folders below it are known by their paths.
            fs::canonicalize(root).map_err(|error| refused(root, &error))
        })?;
        let entries = WalkDir::new(&root)
            .min_depth(1)
            .max_depth(usize::try_from(depth).unwrap_or(usize::MAX))
            .max_open(DEPTH_MAX as usize + 1)
            .into_iter();
        Ok(Self {
            root,
            entries,
            identity,
            glob,
            unreadable: 0,
            done: false,
        })
    }

    /// Takes the next few entries.
    fn step(&mut self, into: &mut Vec<Found>) {
        let Self {
            root,
            entries,
            identity,
            glob,
            unreadable,
            done,
        } = self;
        let until = Instant::now() + STEP_TIME;
        identity.act(|| {
            for count in 0..STEP_ENTRIES {
                if count > 0 && Instant::now() >= until {
                    return;
                }
                let Some(entry) = entries.next() else {
                    *done = true;
                    return;
                };
                if glob.is_some()
                    && let Ok(entry) = &entry
                    && entry.file_type().is_dir()
                    && is_kernel_folder(entry.path())
                {
                    entries.skip_current_dir();
                    continue;
                }
                let found = entry.and_then(|entry| {
                    let path = entry.path().strip_prefix(&*root).ok();
                    let fits = |path: &&Path| glob.as_ref().is_none_or(|glob| glob.matches(path));
                    let Some(path) = path.filter(fits) else {
                        return Ok(None);
                    };
                    Ok(Some(Found::new(path.to_owned(), &entry.metadata()?)))
                });
                match found {
                    Ok(found) => into.extend(found),
                    Err(_) => *unreadable += 1,
                }
            }
        });
    }
}
