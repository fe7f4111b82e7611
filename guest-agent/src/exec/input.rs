// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A program's standard input: stdin frames on their way into its pipe.
//!
//! Owns: the queue between the two. Invariant: it holds at most [`QUEUE_MAX`] bytes and one frame;
//! beyond that the host is left waiting, by vsock's own flow control.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;

/// Most bytes that wait for the program: some frames, so that a slow reader does not stop the
/// agent from noticing at once that the host is gone.
const QUEUE_MAX: usize = 256 * 1024;

/// The way to a program's standard input.
#[derive(Debug)]
pub(super) struct Input {
    /// `None` if the program closed it, or the host ended it, or there never was one.
    pipe: Option<Sender>,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Whether the host may send more.
    open: bool,
}

impl Input {
    /// `pipe` is the agent's end, or `None` if the host sends nothing.
    #[must_use]
    pub(super) fn new(pipe: Option<OwnedFd>) -> Self {
        let open = pipe.is_some();
        Self {
            pipe: pipe.and_then(|pipe| Sender::from_owned_fd(pipe).ok()),
            queue: VecDeque::new(),
            queued: 0,
            open,
        }
    }

    /// Takes one frame's payload, empty at the end. `false` if none was due.
    #[must_use]
    pub(super) fn push(&mut self, payload: &Bytes) -> bool {
        if !self.open {
            return false;
        }
        if payload.is_empty() {
            self.open = false;
            self.close_if_done();
        } else if self.pipe.is_some() {
            self.queued += payload.len();
            self.queue.push_back(payload.clone());
        }
        true
    }

    /// Whether the program has to read before the host may send more.
    #[must_use]
    pub(super) fn is_full(&self) -> bool {
        self.queued >= QUEUE_MAX
    }

    /// Whether there is something to write.
    #[must_use]
    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Writes some of the queue. Cancel-safe.
    pub(super) async fn write(&mut self) {
        let (Some(pipe), Some(first)) = (&mut self.pipe, self.queue.front_mut()) else {
            return;
        };
        if let Ok(count) = pipe.write(first).await {
            self.queued = self.queued.saturating_sub(count);
            first.advance(count.min(first.len()));
            if first.is_empty() {
                self.queue.pop_front();
            }
        } else {
            // The program closed its standard input. It may; the rest is dropped.
            self.pipe = None;
            self.queue.clear();
            self.queued = 0;
        }
        self.close_if_done();
    }

    fn close_if_done(&mut self) {
        if !self.open && self.queue.is_empty() {
            self.pipe = None;
        }
    }
}
