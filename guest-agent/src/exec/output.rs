// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A program's standard output and standard error: their pipes, their totals, their limit.
//!
//! Owns: what is read, what of it is kept. Does not own: sending it.
//!
//! Invariants: at most the limit is kept, of both streams together; after the program's end at most
//! [`DRAIN_MAX`] bytes a stream are read, so that a process that left its group and goes on writing
//! cannot keep the operation alive.

use std::io;
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe::Receiver;
use waggle_protocol::frame::Kind;
use waggle_protocol::message::StreamTotals;

/// The most that a pipe can hold when the program ends: `/proc/sys/fs/pipe-max-size`, to which an
/// unprivileged program may enlarge it.
const DRAIN_MAX: usize = 1024 * 1024;

/// Both streams.
#[derive(Debug)]
pub(super) struct Output {
    streams: [Stream; 2],
    /// Which stream to look at first: the one that was not read last.
    turn: usize,
    /// Bytes that may still be kept.
    left: u64,
}

#[derive(Debug)]
struct Stream {
    kind: Kind,
    pipe: Option<Receiver>,
    totals: StreamTotals,
    /// Bytes that may still be read, once the program has ended.
    drain_left: Option<usize>,
}

/// Outcome of one read.
#[derive(Debug)]
pub(super) struct Read {
    /// Which stream.
    pub(super) kind: Kind,
    /// How many bytes of the buffer to send.
    pub(super) keep: usize,
    /// Whether the limit is passed.
    pub(super) over: bool,
}

impl Output {
    /// Takes over the agent's ends; `limit` is in bytes, of both together.
    #[must_use]
    pub(super) fn new(
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
        limit: Option<u64>,
    ) -> Self {
        Self {
            streams: [
                Stream::new(Kind::Stdout, stdout),
                Stream::new(Kind::Stderr, stderr),
            ],
            turn: 0,
            left: limit.unwrap_or(u64::MAX),
        }
    }

    /// Reads from whichever stream has something, by turns; waits for ever once both are closed.
    /// Cancel-safe.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> Read {
        loop {
            let [stdout, stderr] = &self.streams;
            let ready = if self.turn == 0 {
                tokio::select! {
                    biased;
                    () = stdout.readable() => 0,
                    () = stderr.readable() => 1,
                }
            } else {
                tokio::select! {
                    biased;
                    () = stderr.readable() => 1,
                    () = stdout.readable() => 0,
                }
            };
            self.turn = 1 - ready;
            let [stdout, stderr] = &mut self.streams;
            let stream = if ready == 0 { stdout } else { stderr };
            if let Some(count) = stream.try_read(buffer) {
                return stream.keep(count, &mut self.left);
            }
        }
    }

    /// From now on only what is left in the pipes is read.
    pub(super) fn program_ended(&mut self) {
        for stream in &mut self.streams {
            stream.drain_left = Some(DRAIN_MAX);
        }
    }

    /// Whether there is nothing more to read.
    #[must_use]
    pub(super) fn is_closed(&self) -> bool {
        self.streams.iter().all(|stream| stream.pipe.is_none())
    }

    /// Closes what is still open, and marks it as cut.
    pub(super) fn cut(&mut self) {
        for stream in &mut self.streams {
            stream.cut();
        }
    }

    /// What became of standard output.
    #[must_use]
    pub(super) fn stdout_totals(&self) -> StreamTotals {
        let [stdout, _] = &self.streams;
        stdout.totals
    }

    /// What became of standard error.
    #[must_use]
    pub(super) fn stderr_totals(&self) -> StreamTotals {
        let [_, stderr] = &self.streams;
        stderr.totals
    }
}

impl Stream {
    fn new(kind: Kind, pipe: Option<OwnedFd>) -> Self {
        Self {
            kind,
            pipe: pipe.and_then(|pipe| Receiver::from_owned_fd(pipe).ok()),
            totals: StreamTotals::default(),
            drain_left: None,
        }
    }

    async fn readable(&self) {
        match &self.pipe {
            // An error shows again when the pipe is read.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Bytes read, 0 at the end of the stream; `None` if there was nothing after all.
    fn try_read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.pipe.as_ref()?.try_read(buffer) {
            Ok(count) => Some(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(0),
        }
    }

    /// Accounts for `count` bytes that were read; `left` is the limit's rest.
    fn keep(&mut self, count: usize, left: &mut u64) -> Read {
        if count == 0 {
            self.pipe = None;
        }
        let mut keep = count;
        if let Some(drain_left) = &mut self.drain_left {
            keep = keep.min(*drain_left);
            *drain_left -= keep;
        }
        let rest = usize::try_from(*left).unwrap_or(usize::MAX);
        let over = keep > rest;
        keep = keep.min(rest);
        if keep < count {
            self.cut();
        }
        *left -= keep as u64;
        self.totals.sent += keep as u64;
        Read {
            kind: self.kind,
            keep,
            over,
        }
    }

    fn cut(&mut self) {
        self.totals.cut |= self.pipe.take().is_some();
    }
}
