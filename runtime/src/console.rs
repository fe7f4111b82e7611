// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A bounded log of bytes: the last ones written, whoever floods it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::text::neutralise;

/// What a machine's console keeps: some hundred lines, enough for a kernel's whole boot log.
pub(crate) const CONSOLE_LIMIT: usize = 64 << 10;
/// What is kept of a child's stderr, and quoted of a console: what a person would read.
pub(crate) const TAIL_LIMIT: usize = 4 << 10;
/// One read; a pipe holds 64 KiB, so that a flood costs few wake-ups.
const CHUNK: usize = 16 << 10;

/// A shared log. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    limit: usize,
}

impl Log {
    pub(crate) fn new(limit: usize) -> Log {
        Log {
            bytes: Arc::default(),
            limit,
        }
    }

    pub(crate) fn push(&self, new: &[u8]) {
        let new = new
            .get(new.len().saturating_sub(self.limit)..)
            .unwrap_or_default();
        // A poisoned lock means a panic between two byte moves: the log is still a log.
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = (bytes.len() + new.len()).saturating_sub(self.limit);
        bytes.drain(..excess);
        bytes.extend(new);
    }

    /// The log's content, safe to show.
    pub(crate) fn text(&self) -> String {
        self.tail(self.limit)
    }

    /// The last `limit` bytes, safe to show.
    pub(crate) fn tail(&self, limit: usize) -> String {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let all: &[u8] = bytes.make_contiguous();
        neutralise(
            all.get(all.len().saturating_sub(limit)..)
                .unwrap_or_default(),
        )
    }

    /// Reads `source` to its end into the log. Never stops reading, so its writer never blocks.
    pub(crate) async fn fill_from(self, mut source: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; CHUNK];
        // An error ends the log as an end of file does: the source is a pipe of our own.
        while let Ok(n @ 1..) = source.read(&mut chunk).await {
            self.push(chunk.get(..n).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Log;

    #[test]
    fn keeps_the_last_bytes_only() {
        let log = Log::new(8);
        log.push(b"abc");
        assert_eq!(log.text(), "abc");
        log.push(b"defghij");
        assert_eq!(log.text(), "cdefghij");
        log.push(b"0123456789");
        assert_eq!(log.text(), "23456789");
        assert_eq!(log.tail(3), "789");
        log.push(b"");
        assert_eq!(log.text(), "23456789");
    }

    #[tokio::test]
    async fn a_flood_costs_no_memory() {
        let log = Log::new(1024);
        log.clone()
            .fill_from(tokio::io::AsyncReadExt::take(
                tokio::io::repeat(b'x'),
                1 << 24,
            ))
            .await;
        assert_eq!(log.text().len(), 1024);
    }
}
