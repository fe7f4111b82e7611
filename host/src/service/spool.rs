// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A background process's output until its reader has seen it: a bounded queue with cursors.
//!
//! A cursor is a number of bytes since the start, of both streams in the order in which they came.
//! Reading from a cursor acknowledges what is before it, which is then dropped; what was returned is
//! kept until the next read, so that a reader that lost an answer reads it again.
//!
//! Invariants: never more than the limit is held. When it is reached the oldest bytes go, and a reader
//! that had not seen them learns how many.

use std::collections::VecDeque;

use crate::session::{OutputStream, capture::whole_end};

/// Most bytes of a character in UTF-8.
const CHARACTER_MAX: usize = 4;

/// The queue.
#[derive(Debug)]
pub(super) struct Spool {
    limit: usize,
    bytes: VecDeque<u8>,
    /// Which stream the bytes are of, in runs; their lengths add up to those of `bytes`.
    runs: VecDeque<(OutputStream, usize)>,
    /// The first held byte's cursor.
    start: u64,
}

/// What a read returns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Bytes of standard output.
    pub(super) stdout: Vec<u8>,
    /// Bytes of standard error.
    pub(super) stderr: Vec<u8>,
    /// Where to read on.
    pub(super) cursor: u64,
    /// Bytes between the given cursor and the first returned byte, which are lost.
    pub(super) lost: u64,
    /// Whether there is more behind it already.
    pub(super) more: bool,
}

impl Spool {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: VecDeque::new(),
            runs: VecDeque::new(),
            start: 0,
        }
    }

    /// The cursor behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.start + length(self.bytes.len())
    }

    /// The cursor that was acknowledged last, or of the oldest byte if that is newer.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Whether a read from `cursor` returns anything: a character of which only a part is there does
    /// not count.
    pub(super) fn has_news(&self, cursor: u64) -> bool {
        let unseen = usize::try_from(self.end().saturating_sub(cursor)).unwrap_or(usize::MAX);
        let unseen = unseen.min(self.bytes.len());
        if unseen >= CHARACTER_MAX {
            return true;
        }
        let bytes: Vec<u8> = self
            .bytes
            .range(self.bytes.len() - unseen..)
            .copied()
            .collect();
        !whole_end(&bytes).is_empty()
    }

    pub(super) fn push(&mut self, stream: OutputStream, bytes: &[u8]) {
        // Of more than fits only the end would stay.
        let surplus = bytes.len().saturating_sub(self.limit);
        let kept = bytes.get(surplus..).unwrap_or_default();
        self.drop_first((self.bytes.len() + kept.len()).saturating_sub(self.limit));
        if surplus > 0 {
            self.start += length(surplus);
        }
        self.bytes.extend(kept);
        match self.runs.back_mut() {
            Some((last, count)) if *last == stream => *count += kept.len(),
            _ if kept.is_empty() => {}
            _ => self.runs.push_back((stream, kept.len())),
        }
    }

    fn drop_first(&mut self, count: usize) {
        let mut left = count.min(self.bytes.len());
        self.bytes.drain(..left);
        self.start += length(left);
        while let Some((_, first)) = self.runs.front_mut() {
            let part = left.min(*first);
            *first -= part;
            left -= part;
            if *first > 0 {
                break;
            }
            self.runs.pop_front();
        }
    }

    /// Up to `limit` bytes from `cursor` on; what is before it is dropped. No character is cut at the
    /// end, unless `ended` says that no more will come or nothing but its beginning fits.
    pub(super) fn read(&mut self, cursor: u64, limit: usize, ended: bool) -> Chunk {
        let cursor = cursor.min(self.end());
        let lost = self.start.saturating_sub(cursor);
        let seen = usize::try_from(cursor.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.drop_first(seen);

        let mut chunk = Chunk {
            lost,
            ..Chunk::default()
        };
        let mut taken = 0;
        let mut last = None;
        for (stream, count) in &self.runs {
            let count = (*count).min(limit - taken);
            let into = match stream {
                OutputStream::Stdout => &mut chunk.stdout,
                OutputStream::Stderr => &mut chunk.stderr,
            };
            into.extend(self.bytes.range(taken..taken + count));
            taken += count;
            last = Some(*stream);
            if taken == limit {
                break;
            }
        }
        let is_all = taken == self.bytes.len();
        if let Some(stream) = last.filter(|_| !(is_all && ended)) {
            let text = match stream {
                OutputStream::Stdout => &mut chunk.stdout,
                OutputStream::Stderr => &mut chunk.stderr,
            };
            let cut = text.len() - whole_end(text).len();
            // A limit below one character has to cut it, or the reader would never go on.
            if is_all || cut < taken {
                text.truncate(text.len() - cut);
                taken -= cut;
            }
        }
        chunk.cursor = self.start + length(taken);
        chunk.more = !is_all;
        chunk
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq};

    use super::*;

    const OUT: OutputStream = OutputStream::Stdout;
    const ERR: OutputStream = OutputStream::Stderr;

    #[test]
    fn a_reader_goes_on_where_it_was_and_may_ask_again() {
        let mut spool = Spool::new(100);
        spool.push(OUT, b"one ");
        spool.push(ERR, b"bad ");
        spool.push(OUT, b"two ");
        let first = spool.read(0, 100, false);
        assert_eq!(
            (first.stdout.as_slice(), first.stderr.as_slice()),
            (&b"one two "[..], &b"bad "[..])
        );
        assert_eq!((first.cursor, first.lost, first.more), (12, 0, false));
        assert_eq!(spool.read(0, 100, false), first, "its answer was lost");
        spool.push(OUT, b"three");
        let next = spool.read(first.cursor, 100, false);
        assert_eq!((next.stdout.as_slice(), next.cursor), (&b"three"[..], 17));
        assert_eq!(spool.start(), 12, "what was seen is dropped");
        let again = spool.read(0, 100, false);
        assert_eq!((again.stdout.as_slice(), again.lost), (&b"three"[..], 12));
    }

    #[test]
    fn what_did_not_fit_is_counted() {
        let mut spool = Spool::new(4);
        spool.push(OUT, b"abc");
        spool.push(ERR, b"defg");
        let chunk = spool.read(1, 100, false);
        assert_eq!((chunk.stderr.as_slice(), chunk.lost), (&b"defg"[..], 2));
        assert_eq!(chunk.cursor, 7);
        spool.push(OUT, b"0123456789");
        let chunk = spool.read(7, 100, false);
        assert_eq!((chunk.stdout.as_slice(), chunk.lost), (&b"6789"[..], 6));
        assert_eq!(spool.end(), 17);
        assert_eq!(spool.read(u64::MAX, 100, false).cursor, 17);
    }

    #[test]
    fn a_character_is_not_cut_while_the_rest_may_come() {
        let mut spool = Spool::new(100);
        spool.push(OUT, "a\u{20ac}b".as_bytes());
        assert_eq!(spool.read(0, 3, false).stdout, b"a");
        assert_eq!(spool.read(1, 1, false).stdout, b"\xe2", "it has to go on");
        let mut spool = Spool::new(100);
        spool.push(OUT, b"a\xe2\x82");
        assert!(spool.has_news(0) && !spool.has_news(1));
        assert_eq!(spool.read(0, 100, false).cursor, 1);
        assert_eq!(spool.read(1, 100, false).cursor, 1, "nothing to show yet");
        spool.push(OUT, b"\xac");
        assert!(spool.has_news(1));
        assert_eq!(spool.read(1, 100, false).stdout, "\u{20ac}".as_bytes());
        spool.push(OUT, b"\xe2");
        assert_eq!(spool.read(4, 100, true).cursor, 5, "no more will come");
    }

    proptest::proptest! {
        #[test]
        fn every_byte_is_read_or_counted_as_lost(
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)), 0..40),
            limit in 1_usize..30,
            take in 1_usize..10,
        ) {
            let mut spool = Spool::new(limit);
            let (mut cursor, mut read, mut lost, mut sent) = (0, 0, 0, 0);
            for (is_out, piece) in &pieces {
                spool.push(if *is_out { OUT } else { ERR }, piece);
                sent += piece.len() as u64;
                prop_assert!(spool.bytes.len() <= limit);
                prop_assert_eq!(spool.runs.iter().map(|run| run.1).sum::<usize>(), spool.bytes.len());
                let chunk = spool.read(cursor, take, false);
                prop_assert!(chunk.stdout.len() + chunk.stderr.len() <= take);
                read += (chunk.stdout.len() + chunk.stderr.len()) as u64;
                lost += chunk.lost;
                cursor = chunk.cursor;
            }
            let rest = spool.read(cursor, usize::MAX, true);
            prop_assert_eq!(read + (rest.stdout.len() + rest.stderr.len()) as u64 + lost + rest.lost, sent);
            prop_assert_eq!(rest.cursor, sent);
        }
    }
}
