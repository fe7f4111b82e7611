// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Reading whole lines.
//!
//! Owns: where lines begin and end: behind each newline, and at the file's end. Invariants: neither a
//! line nor the file is held in memory, so the lines asked for are first measured, then sent; the
//! totals are of what was sent, also if the file changed in between; a search for a line far down ends
//! when the host hangs up.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use memchr::memchr_iter;
use tokio::io::{AsyncRead, AsyncWrite};
use waggle_protocol::frame::Kind;
use waggle_protocol::message::{Failure, FailureCode, LinesEnd, ReadLines, Reply};

use super::Turn;
use super::read::{open, read_at};
use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError, Liveness};
use crate::failure::{failure, refused};
use crate::guest_path::GuestPath;
use crate::serve::OperationError;

/// Bytes that are looked at at once.
const SCAN_BYTES: usize = 64 * 1024;

/// Sends [`Reply::File`] and the lines that `request` asks for, and returns the terminal reply.
///
/// # Errors
///
/// [`OperationError`].
pub async fn read_lines<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: ReadLines,
) -> Result<Reply, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let path = GuestPath::parse(request.path.into_vec())?;
    for (what, value) in [
        ("first line", request.first),
        ("line count", request.count),
        ("byte limit", request.bytes_max),
    ] {
        if value == 0 {
            let text = format!("{what} 0: it is at least 1");
            return Err(failure(FailureCode::InvalidRequest, &text).into());
        }
    }
    let path = path.as_path();
    let (file, info) = open(path, agent.identity(request.user))?;
    let mut frame = connection.out_frame();
    frame.put_reply(&Reply::File(info));
    connection.send_frame(&mut frame).await?;

    let mut scan = Scan {
        file: &file,
        path,
        buffer: vec![0; SCAN_BYTES],
        turn: Turn::default(),
        host: &connection.liveness,
    };
    let start = scan.skip(request.first - 1).await?;
    let stop = scan
        .measure(start, request.count, request.bytes_max)
        .await?;
    drop(scan);

    let mut turn = Turn::default();
    let mut end = LinesEnd {
        next_offset: start,
        ..LinesEnd::default()
    };
    let mut last = b'\n';
    loop {
        let left = stop.saturating_sub(end.next_offset);
        let count = read_at(&file, frame.room(), end.next_offset, left)
            .map_err(|error| refused(path, &error))?;
        let Some(sent) = frame.room().get(..count).filter(|sent| !sent.is_empty()) else {
            break;
        };
        end.lines += memchr_iter(b'\n', sent).count() as u64;
        last = sent.last().copied().unwrap_or(last);
        end.bytes += count as u64;
        end.next_offset += count as u64;
        frame.finish(Kind::File, count);
        connection.send_frame(&mut frame).await?;
        turn.moved(count).await;
    }
    // The last one has no newline: the file's last line, or a cut one.
    end.lines += u64::from(last != b'\n');
    let more = read_at(&file, &mut [0], end.next_offset, 1);
    end.at_end = more.map_err(|error| refused(path, &error))? == 0;
    Ok(Reply::LinesEnd(end))
}

/// Looks for newlines.
struct Scan<'a> {
    file: &'a File,
    path: &'a Path,
    buffer: Vec<u8>,
    turn: Turn,
    host: &'a Liveness,
}

impl Scan<'_> {
    /// The offset behind the first `lines` newlines, or the file's end.
    async fn skip(&mut self, mut lines: u64) -> Result<u64, OperationError> {
        let mut offset = 0;
        while lines > 0 {
            let bytes = self.next(offset, u64::MAX).await?;
            if bytes.is_empty() {
                break;
            }
            for newline in memchr_iter(b'\n', bytes) {
                lines -= 1;
                if lines == 0 {
                    return Ok(offset + newline as u64 + 1);
                }
            }
            offset += bytes.len() as u64;
        }
        Ok(offset)
    }

    /// The offset behind the `count` lines from `start` on, or those of them that end within
    /// `bytes_max`; if none does, so much of the first.
    async fn measure(
        &mut self,
        start: u64,
        count: u64,
        bytes_max: u64,
    ) -> Result<u64, OperationError> {
        let most = start.saturating_add(bytes_max);
        let (mut offset, mut lines, mut stop) = (start, 0, start);
        while offset < most {
            let bytes = self.next(offset, most - offset).await?;
            if bytes.is_empty() {
                return Ok(offset);
            }
            for newline in memchr_iter(b'\n', bytes) {
                stop = offset + newline as u64 + 1;
                lines += 1;
                if lines == count {
                    return Ok(stop);
                }
            }
            offset += bytes.len() as u64;
        }
        // The file may end right there.
        let is_whole = self.next(offset, 1).await?.is_empty();
        Ok(if is_whole || stop == start {
            offset
        } else {
            stop
        })
    }

    /// Some bytes at `offset`, at most `most`; none at the file's end.
    async fn next(&mut self, offset: u64, most: u64) -> Result<&[u8], OperationError> {
        let refused = |error| -> Failure { refused(self.path, &error) };
        let count = read_at(self.file, &mut self.buffer, offset, most).map_err(refused)?;
        if self.turn.moved(count).await && self.host.peer_gone() {
            return Err(ConnectionError::Cancelled.into());
        }
        Ok(self.buffer.get(..count).unwrap_or_default())
    }
}
