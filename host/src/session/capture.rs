// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A program's output, kept within bounds: its beginning and its end, and how much lay between.
//!
//! Invariant: never holds more than its limit, whatever the guest sends.

use std::collections::VecDeque;

use bytes::Bytes;

use super::run::{Output, OutputStream};

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

    /// Bytes that came, kept or not.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The stream as text within `limit` bytes, and how many of its bytes are left out: a gap becomes
    /// one line that says its size and what `hint` adds. No character is cut; bytes that are not UTF-8
    /// become U+FFFD, which may make the text longer than the limit.
    #[must_use]
    pub fn text(&self, limit: usize, hint: &str) -> Text {
        let (front, back) = self.tail.as_slices();
        let kept = self.head.len() + self.tail.len();
        let complete = self.total == u64::try_from(kept).unwrap_or(u64::MAX);
        if complete && kept <= limit {
            return Text {
                text: lossy(&[&self.head, front, back].concat()),
                left_out: 0,
            };
        }
        let half = limit / 2;
        // Where nothing is missing yet, head and tail are one piece, and either may need the other's.
        let mut head = self.head.clone();
        let mut tail = [front, back].concat();
        if complete {
            head.extend_from_slice(&tail);
            tail.clone_from(&head);
        }
        let head = head.get(..half).unwrap_or(&head);
        let tail = tail.get(tail.len().saturating_sub(half)..);
        let (head, tail) = (whole_end(head), whole_start(tail.unwrap_or_default()));
        let shown = u64::try_from(head.len() + tail.len()).unwrap_or(u64::MAX);
        let left_out = self.total.saturating_sub(shown);
        let (head, tail) = (lossy(head), lossy(tail));
        Text {
            text: format!("{head}\n[... {left_out} bytes left out{hint} ...]\n{tail}"),
            left_out,
        }
    }
}

/// A stream, or its ends, as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    /// What is shown.
    pub text: String,
    /// Bytes of the stream that are not.
    pub left_out: u64,
}

/// `bytes` as text; what is not UTF-8 becomes U+FFFD.
#[must_use]
pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `bytes` without a character that their end cuts.
#[must_use]
pub fn whole_end(bytes: &[u8]) -> &[u8] {
    let begins = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
    // A character has at most four bytes; its first one tells how many.
    let back = bytes.iter().rev().take(4).position(begins);
    let Some((rest, last)) = back.and_then(|back| bytes.split_at_checked(bytes.len() - 1 - back))
    else {
        return bytes;
    };
    let is_cut = std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
    if is_cut { rest } else { bytes }
}

/// `bytes` without the rest of a character that their start has cut.
fn whole_start(bytes: &[u8]) -> &[u8] {
    let continues = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    let cut = bytes.iter().take(3).take_while(continues).count();
    bytes.get(cut..).unwrap_or_default()
}

/// Both streams of a program, captured.
#[derive(Debug)]
pub struct Captured {
    /// Standard output.
    pub stdout: Capture,
    /// Standard error.
    pub stderr: Capture,
}

impl Captured {
    /// Keeps at most `limit` bytes of each.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            stdout: Capture::new(limit),
            stderr: Capture::new(limit),
        }
    }

    /// The stream's capture.
    pub fn stream(&mut self, stream: OutputStream) -> &mut Capture {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

impl Output for Captured {
    async fn take(&mut self, stream: OutputStream, bytes: Bytes) {
        self.stream(stream).push(&bytes);
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
            let gap = stream.len() - head.len() - tail.len();
            prop_assert_eq!(capture.total(), stream.len() as u64);
            prop_assert_eq!(capture.text(2 * half, "").left_out > 0, gap > 0);
        }
    }

    fn captured(stream: &[u8], limit: usize) -> Capture {
        let mut capture = Capture::new(limit);
        capture.push(stream);
        capture
    }

    proptest::proptest! {
        #[test]
        fn text_is_cut_between_characters_whatever_the_limits(
            stream in "[a-z\u{20ac}\u{1f600}\u{e9}]{0,60}",
            limit in 1_usize..100,
            less in 0_usize..100,
        ) {
            let limit_now = limit.saturating_sub(less);
            let Text { text, left_out } = captured(stream.as_bytes(), limit).text(limit_now, "");
            prop_assert!(!text.contains('\u{fffd}'), "{:?}", text);
            let Some((head, rest)) = text.split_once("\n[... ") else {
                prop_assert_eq!((text.as_str(), left_out), (stream.as_str(), 0));
                return Ok(());
            };
            let (_, tail) = rest.split_once(" ...]\n").expect("the mark's end");
            prop_assert!(stream.starts_with(head) && stream.ends_with(tail));
            let shown = u64::try_from(head.len() + tail.len());
            prop_assert_eq!(shown.map(|shown| shown + left_out), u64::try_from(stream.len()));
            prop_assert!(head.len() + tail.len() <= limit_now);
        }
    }

    #[test]
    fn a_gap_is_marked_with_its_size_and_the_way_to_the_rest() {
        let Text { text, left_out } = captured(b"abcdefghijklmnop", 8).text(8, "; see x");
        assert_eq!(text, "abcd\n[... 8 bytes left out; see x ...]\nmnop");
        assert_eq!(left_out, 8);
        let shorter = captured(b"abcdefgh", 8).text(4, "");
        assert_eq!(shorter.text, "ab\n[... 4 bytes left out ...]\ngh");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_the_rest() {
        let text = captured(b"a\xffb", 100).text(100, "");
        assert_eq!(text.text, "a\u{fffd}b");
        assert_eq!(whole_end(b"ab\xe2\x82"), b"ab");
        assert_eq!(whole_end(b"ab\xff"), b"ab\xff", "no character begins so");
        assert_eq!(whole_end(b""), b"");
    }
}
