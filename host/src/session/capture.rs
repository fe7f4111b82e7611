// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A program's output, kept within bounds: its beginning and its end, and how much lay between.
//!
//! Invariant: never holds more than its limit, whatever the guest sends.

use std::collections::VecDeque;

/// One captured stream.
#[derive(Debug)]
pub struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    half: usize,
    total: u64,
}

impl Capture {
    /// Keeps at most `limit` bytes: half from the beginning, half from the end.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            half: limit / 2,
            total: 0,
        }
    }

    /// Takes the next piece of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total = self
            .total
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        // What would be pushed out at once need not go in.
        let rest = rest
            .get(rest.len().saturating_sub(self.half)..)
            .unwrap_or_default();
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// Bytes left out between the kept beginning and the kept end.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        let kept = u64::try_from(self.head.len() + self.tail.len()).unwrap_or(u64::MAX);
        self.total.saturating_sub(kept)
    }

    /// The stream as text; bytes that are not UTF-8 become U+FFFD, a gap becomes one line that
    /// says its size.
    #[must_use]
    pub fn into_text(self) -> String {
        let left_out = self.left_out();
        let mut bytes = self.head;
        if left_out > 0 {
            bytes.extend_from_slice(format!("\n[... {left_out} bytes left out ...]\n").as_bytes());
        }
        bytes.extend(self.tail);
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq};

    use super::*;

    proptest::proptest! {
        #[test]
        fn any_pieces_give_the_ends_of_the_stream(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..30),
            half in 1_usize..60,
        ) {
            let stream = pieces.concat();
            let mut capture = Capture::new(2 * half);
            for piece in &pieces {
                capture.push(piece);
                prop_assert!(capture.head.len() + capture.tail.len() <= 2 * half);
            }
            let head = &stream[..half.min(stream.len())];
            let tail = &stream[stream.len().saturating_sub(half).max(head.len())..];
            prop_assert_eq!(&capture.head, head);
            prop_assert_eq!(capture.tail.iter().copied().collect::<Vec<_>>(), tail);
            prop_assert_eq!(
                usize::try_from(capture.left_out()),
                Ok(stream.len() - head.len() - tail.len())
            );
        }
    }

    #[test]
    fn a_gap_is_marked_with_its_size() {
        let mut capture = Capture::new(8);
        capture.push(b"abcdefghijklmnop");
        assert_eq!(
            capture.into_text(),
            "abcd\n[... 8 bytes left out ...]\nmnop"
        );
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_the_rest() {
        let mut capture = Capture::new(100);
        capture.push(b"a\xffb");
        assert_eq!(capture.into_text(), "a\u{fffd}b");
    }
}
