// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Replacing text in a file.
//!
//! Owns: the preconditions, and the texts that say why they do not hold. Invariants: the file is
//! replaced as a whole, as in [`super::write`], or is as it was; what others made of it meanwhile is
//! not lost (the edit fails); its size is bounded before and after; there is one edit at a time, for
//! each holds its file in memory twice, and two of one file come one after the other.
//!
//! Text is bytes. Occurrences do not overlap, and are found from the front.

use std::fmt::Write;
use std::os::fd::AsFd;
use std::path::Path;

use memchr::memchr_iter;
use memchr::memmem::{self, Finder};
use nix::sys::stat::fstat;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use waggle_protocol::limits::{EDIT_FILE_MAX, EDIT_TEXT_MAX};
use waggle_protocol::message::{EditFile, Edited, Failure, FailureCode, Reply};

use super::read::{open, read_at};
use super::write::{Draft, Target, Version};
use super::{TURN_BYTES, Turn};
use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::{failure, refused, refused_errno};
use crate::guest_path::{GuestPath, shown_path};
use crate::identity::Identity;
use crate::serve::OperationError;

/// The one edit there is at a time: some 25 MiB, and of one file they do not get in each other's way.
static EDITS: Semaphore = Semaphore::const_new(1);
/// Most lines that a failure names.
const LINES_TOLD: usize = 5;

/// Edits as `request` says and returns the terminal reply.
///
/// # Errors
///
/// [`OperationError`]; the file is then as it was.
pub async fn edit<T>(
    connection: &Connection<T>,
    agent: &Agent,
    request: EditFile,
) -> Result<Reply, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let path = GuestPath::parse(request.path.clone().into_vec())?;
    check(&request)?;
    // Never closed. No edit waits for its host, so this one does not wait for another's.
    let place = EDITS.acquire().await.ok();
    if connection.liveness.peer_gone() {
        return Err(crate::connection::ConnectionError::Cancelled.into());
    }
    let reply = edit_checked(agent.identity(request.user), path.as_path(), &request).await;
    drop(place);
    reply
}

fn check(request: &EditFile) -> Result<(), Failure> {
    let text = if request.old.is_empty() {
        "the text to replace is empty".to_owned()
    } else if request.old == request.new {
        "the new text is the old one".to_owned()
    } else if request.expected == Some(0) {
        "expected 0 occurrences: nothing to replace".to_owned()
    } else {
        let longest = request.old.len().max(request.new.len());
        if longest <= EDIT_TEXT_MAX {
            return Ok(());
        }
        format!("text length {longest} exceeds limit {EDIT_TEXT_MAX}")
    };
    Err(failure(FailureCode::InvalidRequest, &text))
}

async fn edit_checked(
    identity: &Identity,
    path: &Path,
    request: &EditFile,
) -> Result<Reply, OperationError> {
    let mut turn = Turn::default();
    let (content, version) = read_whole(path, identity, &mut turn).await?;
    if let Some(expected) = request.sha256 {
        let found = sha256(&content, &mut turn).await;
        if found != expected {
            let text = format!(
                "{}: its SHA-256 is {}, not {}: it has changed",
                shown_path(path),
                digits(&found),
                digits(&expected)
            );
            return Err(failure(FailureCode::Changed, &text).into());
        }
    }

    let finder = Finder::new(request.old.as_slice());
    let mut found = Occurrences::default();
    let mut last = 0;
    for at in finder.find_iter(&content) {
        found.add(content.get(last..at).unwrap_or_default());
        turn.moved(at - last).await;
        last = at;
    }
    let is_expected = match request.expected {
        Some(expected) => found.count == expected,
        None => found.count > 0,
    };
    if !is_expected {
        let reason = found.told(request.expected, &content, &request.old);
        let text = format!("{}: {reason}", shown_path(path));
        return Err(failure(FailureCode::NoMatch, &text).into());
    }

    let count = usize::try_from(found.count).unwrap_or(usize::MAX);
    let kept = content.len() - count * request.old.len();
    let size = count.saturating_mul(request.new.len()).saturating_add(kept);
    require_size(path, size as u64)?;
    let target = identity.act(|| Target::find(path, false))?;
    let draft = Draft::create(target, identity.clone())?;
    let mut new = Vec::with_capacity(size);
    let mut rest = 0;
    for at in finder.find_iter(&content) {
        new.extend_from_slice(content.get(rest..at).unwrap_or_default());
        new.extend_from_slice(&request.new);
        turn.moved(at - rest + request.new.len()).await;
        rest = at + request.old.len();
    }
    new.extend_from_slice(content.get(rest..).unwrap_or_default());
    drop(content);
    for part in new.chunks(TURN_BYTES) {
        draft.append(part)?;
        turn.moved(part.len()).await;
    }
    let sha256 = sha256(&new, &mut turn).await;
    draft.publish(None, Some(version)).await?;
    Ok(Reply::Edited(Edited {
        replaced: found.count,
        bytes: new.len() as u64,
        sha256,
    }))
}

async fn read_whole(
    path: &Path,
    identity: &Identity,
    turn: &mut Turn,
) -> Result<(Vec<u8>, Version), OperationError> {
    let (file, info) = open(path, identity)?;
    // Before the first byte is read: a change during the reading shows as well.
    let version = fstat(&file).map_err(|errno| refused_errno(path, errno))?;
    let version = Version::of(&version);
    require_size(path, info.size)?;
    let mut content = Vec::with_capacity(usize::try_from(info.size).unwrap_or(0));
    loop {
        let length = content.len();
        content.resize(length + TURN_BYTES, 0);
        let room = content.get_mut(length..).unwrap_or_default();
        let count =
            read_at(&file, room, length as u64, u64::MAX).map_err(|error| refused(path, &error))?;
        content.truncate(length + count);
        // It may have grown, or have had no size to tell, as in /proc.
        require_size(path, content.len() as u64)?;
        if count == 0 {
            return Ok((content, version));
        }
        turn.moved(count).await;
    }
}

fn require_size(path: &Path, size: u64) -> Result<(), Failure> {
    if size <= EDIT_FILE_MAX {
        return Ok(());
    }
    let path = shown_path(path);
    let text = format!("{path}: {size} bytes exceed the limit of an edit, {EDIT_FILE_MAX}");
    Err(failure(FailureCode::TooLarge, &text))
}

async fn sha256(bytes: &[u8], turn: &mut Turn) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in bytes.chunks(TURN_BYTES) {
        hasher.update(part);
        turn.moved(part.len()).await;
    }
    hasher.finalize().into()
}

fn digits(digest: &[u8; 32]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How often a text occurs, and where.
#[derive(Debug)]
struct Occurrences {
    count: u32,
    /// The line that was reached.
    line: usize,
    /// The first lines in which one begins.
    lines: Vec<usize>,
}

impl Default for Occurrences {
    fn default() -> Self {
        Self {
            count: 0,
            line: 1,
            lines: Vec::new(),
        }
    }
}

impl Occurrences {
    /// Counts one more, with `between` it and the one before.
    fn add(&mut self, between: &[u8]) {
        self.count += 1;
        if self.lines.len() < LINES_TOLD {
            self.line += memchr_iter(b'\n', between).count();
            self.lines.push(self.line);
        }
    }

    /// Why they are not as many as expected.
    fn told(&self, expected: Option<u32>, content: &[u8], old: &[u8]) -> String {
        if self.count == 0 {
            return match near_miss(content, old) {
                Some(hint) => format!("the text to replace does not occur; {hint}"),
                None => "the text to replace does not occur".to_owned(),
            };
        }
        let lines: Vec<String> = self.lines.iter().map(usize::to_string).collect();
        let more = usize::try_from(self.count).is_ok_and(|count| count > lines.len());
        format!(
            "the text to replace occurs {} (line {}{}), not {}",
            times(self.count),
            lines.join(", "),
            if more { ", ..." } else { "" },
            times(expected.unwrap_or(1)),
        )
    }
}

fn times(count: u32) -> String {
    if count == 1 {
        "once".to_owned()
    } else {
        format!("{count} times")
    }
}

/// What of `content` is like `old` but for white space, said so that the next try hits.
fn near_miss(content: &[u8], old: &[u8]) -> Option<String> {
    let has_crlf = memmem::find(old, b"\r\n").is_some();
    let other_ends = if has_crlf {
        replaced(old, b"\r\n", b"\n")
    } else {
        replaced(old, b"\n", b"\r\n")
    };
    if let Some(at) = memmem::find(content, &other_ends) {
        let line = line_of(content, at);
        let ends = if has_crlf { "\\n" } else { "\\r\\n" };
        return Some(format!(
            "it does in line {line} with line ends {ends}, which are the file's"
        ));
    }
    let is_text = |byte: &u8| !byte.is_ascii_whitespace();
    let old: Vec<u8> = old.iter().copied().filter(is_text).collect();
    if old.is_empty() {
        return None;
    }
    let text: Vec<u8> = content.iter().copied().filter(is_text).collect();
    let nth = memmem::find(&text, &old)?;
    let mut places = content.iter().enumerate().filter(|(_, byte)| is_text(byte));
    let (at, _) = places.nth(nth)?;
    let line = line_of(content, at);
    Some(format!(
        "it does in line {line} with other white space: read the file and copy the text exactly"
    ))
}

fn replaced(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = 0;
    for at in memmem::find_iter(text, old) {
        out.extend_from_slice(text.get(rest..at).unwrap_or_default());
        out.extend_from_slice(new);
        rest = at + old.len();
    }
    out.extend_from_slice(text.get(rest..).unwrap_or_default());
    out
}

/// The number of the line that `offset` is in.
fn line_of(content: &[u8], offset: usize) -> usize {
    let before = content.get(..offset).unwrap_or_default();
    memchr_iter(b'\n', before).count() + 1
}
