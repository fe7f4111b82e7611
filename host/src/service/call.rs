// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What is known of a call while it is under way: the newest line that its program printed, and
//! whether its caller has taken it back.

use std::sync::{Arc, Mutex, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::{lock::lock, session::capture::lossy};

/// Most bytes of a line that are told.
const LINE_MAX: usize = 200;

/// A call that is under way.
#[derive(Debug, Default)]
pub struct Call {
    newest: Mutex<Newest>,
    /// Whose program this call waits for, if it has none of its own.
    followed: OnceLock<Arc<Call>>,
    /// Cancelled when the caller took the call back expressly. A caller that is merely gone drops the
    /// call's future, which leaves this as it is.
    pub cancelled: CancellationToken,
}

#[derive(Debug, Default)]
struct Newest {
    /// What came behind the last end of a line, at most `LINE_MAX` bytes.
    unfinished: Vec<u8>,
    /// The newest line that is not blank, likewise.
    line: Vec<u8>,
    /// What the call is about, if it has several parts.
    stage: &'static str,
}

impl Call {
    /// Notes the next piece of output.
    pub fn printed(&self, bytes: &[u8]) {
        self.newest().push(bytes);
    }

    /// The call comes to its next part.
    pub(super) fn stage(&self, stage: &'static str) {
        *self.newest() = Newest {
            stage,
            ..Newest::default()
        };
    }

    /// From now on tells what `other` does.
    pub(super) fn follow(&self, other: &Arc<Self>) {
        // A call waits for one program only.
        let _ = self.followed.set(Arc::clone(other));
    }

    /// The newest line that is not empty, shortened; an unfinished one counts. In a call of several
    /// parts, behind what the present one is.
    #[must_use]
    pub fn newest_line(&self) -> String {
        if let Some(other) = self.followed.get() {
            return other.newest_line();
        }
        let newest = self.newest();
        let line = lossy(newest.line.trim_ascii());
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        match (newest.stage, line.is_empty()) {
            ("", _) => line,
            (stage, true) => stage.to_owned(),
            (stage, false) => format!("{stage}: {line}"),
        }
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, Newest> {
        lock(&self.newest)
    }
}

impl Newest {
    /// Looks from the end: of a flood only its last lines matter.
    fn push(&mut self, bytes: &[u8]) {
        // A carriage return alone is how progress bars end a line.
        let ends_line = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let mut lines = bytes.rsplit(ends_line);
        let last = lines.next().unwrap_or_default();
        if last.len() == bytes.len() {
            self.grow(last);
            return;
        }
        // What was unfinished goes on in the first line of this piece.
        let first = bytes.split(ends_line).next().unwrap_or_default();
        match lines.find(|line| !line.trim_ascii().is_empty()) {
            Some(whole) if !std::ptr::eq(whole, first) => {
                self.line.clear();
                self.line.extend_from_slice(start(whole));
            }
            _ => self.grow(first),
        }
        self.unfinished.clear();
        self.grow(last);
    }

    fn grow(&mut self, bytes: &[u8]) {
        let room = LINE_MAX.saturating_sub(self.unfinished.len());
        self.unfinished
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if !self.unfinished.trim_ascii().is_empty() {
            self.line.clone_from(&self.unfinished);
        }
    }
}

/// The start of a line, as much as is told.
fn start(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii_start();
    line.get(..LINE_MAX).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_joins_tells_of_the_other() {
        let (first, second) = (Arc::new(Call::default()), Call::default());
        second.follow(&first);
        first.printed(b"shared\n");
        assert_eq!(second.newest_line(), "shared");
    }

    #[test]
    fn a_part_is_told_before_its_newest_line() {
        let call = Call::default();
        call.stage("updating package lists");
        assert_eq!(call.newest_line(), "updating package lists");
        call.printed(b"Hit:1\n");
        assert_eq!(call.newest_line(), "updating package lists: Hit:1");
        call.stage("installing");
        assert_eq!(call.newest_line(), "installing");
    }

    #[test]
    fn the_newest_line_is_told_also_while_it_grows() {
        let call = Call::default();
        assert_eq!(call.newest_line(), "");
        call.printed(b"one\ntw");
        assert_eq!(call.newest_line(), "tw");
        call.printed(b"o\n\n  \n");
        assert_eq!(call.newest_line(), "two");
        call.printed(b"thr");
        call.printed(b"ee\n \n");
        assert_eq!(call.newest_line(), "three");
        call.printed(b"a\nb\n\nc\n\n");
        assert_eq!(call.newest_line(), "c");
        call.printed(b"10%\r50%\r");
        assert_eq!(call.newest_line(), "50%");
        call.printed(&[b'x'; 10_000]);
        assert_eq!(call.newest_line().len(), LINE_MAX);
    }
}
