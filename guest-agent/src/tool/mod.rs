// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle-tool`: what takes too long, or too much memory, to be done inside the agent.
//!
//! The agent runs it like any program: as the requested user, in a cgroup, under a deadline, with
//! streams. Its one argument is a [`Tool`], postcard-encoded, in hexadecimal digits.
//!
//! Owns: that argument, the exit code and the form of what goes to standard error. Does not own: what
//! the tools do ([`search`], [`pack`], [`unpack`]).
//!
//! **What the caller sees.** Exit code 0: done. Exit code 1: not done, or not in full; every line of
//! standard error is `CODE: message`, the first one says what went wrong first, and what could be done
//! is done. Lines on standard error with exit code 0 are remarks.

mod pack;
mod search;
#[cfg(test)]
mod tests;
mod unpack;

use std::io::{self, Write};
use std::process::ExitCode;

use waggle_protocol::codec;
use waggle_protocol::frame::{Frame, Kind};
use waggle_protocol::message::{Failure, FailureCode, Tool};

use crate::failure::{code, errno, failure, reason};

/// Most problems that are told one by one.
const PROBLEMS_TOLD_MAX: u64 = 100;

/// Runs the program.
pub fn main() -> ExitCode {
    let mut problems = Problems::new(io::stderr().lock());
    let argument = std::env::args_os().nth(1).unwrap_or_default();
    let outcome = from_argument(&argument.to_string_lossy()).and_then(|tool| {
        // Not locked line by line: each tool buffers by itself.
        let stdout = io::stdout().lock();
        match tool {
            Tool::Search(request) => search::search(&request, stdout),
            Tool::Pack(request) => pack::pack(request, stdout, &mut problems),
            Tool::Unpack(request) => unpack::unpack(request, io::stdin().lock(), &mut problems),
        }
    });
    if let Err(failure) = outcome {
        problems.tell(&failure);
    }
    problems.finish()
}

/// `tool` as the program's argument. (Linux takes no argument beyond 128 KiB, so a pattern for a
/// search has at most some 60 KiB.)
#[must_use]
pub fn to_argument(tool: &Tool) -> String {
    let digits = codec::to_payload(tool);
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The tool that `argument` stands for.
fn from_argument(argument: &str) -> Result<Tool, Failure> {
    let bytes = argument.as_bytes().chunks(2).map(|digits| {
        let digits = std::str::from_utf8(digits).ok()?;
        u8::from_str_radix(digits, 16).ok()
    });
    let frame = bytes.collect::<Option<Vec<u8>>>().map(|payload| Frame {
        kind: Kind::Control,
        payload: payload.into(),
    });
    let tool = frame.and_then(|frame| codec::message(&frame).ok());
    tool.ok_or_else(|| {
        let text = "this program knows no such task: it is for the agent beside it";
        failure(FailureCode::Unsupported, text)
    })
}

/// What went wrong on the way, told as it comes.
#[derive(Debug)]
struct Problems<W> {
    out: W,
    told: u64,
    /// Whether the task is not done in full.
    failed: bool,
}

impl<W: Write> Problems<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            told: 0,
            failed: false,
        }
    }

    /// Something was not done.
    fn tell(&mut self, failure: &Failure) {
        self.failed = true;
        self.remark(failure);
    }

    /// Something is worth a word, and no failure.
    fn remark(&mut self, failure: &Failure) {
        self.told += 1;
        if self.told <= PROBLEMS_TOLD_MAX {
            // Who does not read has no use for it.
            let _ = writeln!(self.out, "{}: {failure}", failure.code.name());
        }
    }

    fn finish(mut self) -> ExitCode {
        if let Some(more) = self.told.checked_sub(PROBLEMS_TOLD_MAX)
            && more > 0
        {
            let _ = writeln!(self.out, "{}: and {more} more", FailureCode::Io.name());
        }
        ExitCode::from(u8::from(self.failed))
    }
}

/// One of the program's own streams failed.
fn stream_failed(stream: &str, error: &io::Error) -> Failure {
    let text = format!("{stream}: {}", reason(errno(error)));
    failure(code(errno(error)), &text)
}
