// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What is known of a call while it is under way: the newest line that its program printed, and
//! whether its caller has taken it back.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::session::capture::lossy;

/// Most bytes of a line that are told.
const LINE_MAX: usize = 200;

/// A call that is under way.
#[derive(Debug, Default)]
pub struct Call {
    newest: Mutex<Newest>,
    /// Cancelled when the caller took the call back expressly. A caller that is merely gone drops the
    /// call's future, which leaves this as it is.
    pub cancelled: CancellationToken,
}

#[derive(Debug, Default)]
struct Newest {
    /// What came behind the last end of a line, at most `LINE_MAX` bytes.
    unfinished: Vec<u8>,
    line: String,
}

impl Call {
    /// Notes the next piece of output.
    pub fn printed(&self, bytes: &[u8]) {
        self.newest().push(bytes);
    }

    /// The newest line that is not empty, shortened; an unfinished one counts.
    #[must_use]
    pub fn newest_line(&self) -> String {
        self.newest().line.clone()
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newest {
    fn push(&mut self, bytes: &[u8]) {
        // A carriage return alone is how progress bars end a line.
        let mut lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
        if let Some(first) = lines.next() {
            self.grow(first);
        }
        for line in lines {
            self.unfinished.clear();
            self.grow(line);
        }
    }

    fn grow(&mut self, bytes: &[u8]) {
        let room = LINE_MAX.saturating_sub(self.unfinished.len());
        let fits = bytes.get(..room).unwrap_or(bytes);
        self.unfinished.extend_from_slice(fits);
        if !self.unfinished.trim_ascii().is_empty() {
            self.line.clear();
            let shown = lossy(self.unfinished.trim_ascii());
            self.line.extend(shown.chars().filter(|c| !c.is_control()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_line_is_told_also_while_it_grows() {
        let call = Call::default();
        assert_eq!(call.newest_line(), "");
        call.printed(b"one\ntw");
        assert_eq!(call.newest_line(), "tw");
        call.printed(b"o\n\n  \n");
        assert_eq!(call.newest_line(), "two");
        call.printed(b"10%\r50%\r");
        assert_eq!(call.newest_line(), "50%");
        call.printed(&[b'x'; 10_000]);
        assert_eq!(call.newest_line().len(), LINE_MAX);
    }
}
