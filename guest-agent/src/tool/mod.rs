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
//! is done. Remarks come last, and alone with exit code 0.
//!
//! Its memory is bounded, whatever files it meets: beyond [`MEMORY_MAX`] it ends.

mod pack;
mod search;
#[cfg(test)]
mod tests;
mod unpack;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use waggle_protocol::codec;
use waggle_protocol::frame::{Frame, Kind};
use waggle_protocol::message::{Failure, FailureCode, Tool};

use crate::failure::{code, errno, failure, reason};

/// Most failures, and most remarks, that are told one by one.
const PROBLEMS_TOLD_MAX: usize = 100;
/// Most memory, in bytes of address space: several times what the tools' own bounds add up to.
const MEMORY_MAX: rlim_t = 512 * 1024 * 1024;

/// Runs the program.
pub fn main() -> ExitCode {
    let mut problems = Problems::new(io::stderr().lock());
    if let Err(errno) = bound_memory() {
        let text = format!("memory limit: {}", reason(errno));
        problems.remark(failure(code(errno), &text));
    }
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

fn bound_memory() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_AS)?;
    let most = MEMORY_MAX.min(hard);
    setrlimit(Resource::RLIMIT_AS, most, most)
}

/// `tool` as the program's argument: two digits a byte.
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
    /// What is not done.
    failures: usize,
    /// Held back, for the first line says what went wrong.
    remarks: Vec<Failure>,
    /// Remarks beyond those.
    unheld: usize,
}

impl<W: Write> Problems<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            failures: 0,
            remarks: Vec::new(),
            unheld: 0,
        }
    }

    /// Something was not done.
    fn tell(&mut self, failure: &Failure) {
        self.failures += 1;
        if self.failures <= PROBLEMS_TOLD_MAX {
            self.print(failure);
        }
    }

    /// Something is worth a word, and no failure.
    fn remark(&mut self, remark: Failure) {
        if self.remarks.len() < PROBLEMS_TOLD_MAX {
            self.remarks.push(remark);
        } else {
            self.unheld += 1;
        }
    }

    fn print(&mut self, failure: &Failure) {
        // Who does not read has no use for it.
        let _ = writeln!(self.out, "{}: {failure}", failure.code.name());
    }

    fn print_more(&mut self, count: usize) {
        if count > 0 {
            self.print(&failure(FailureCode::Io, &format!("and {count} more")));
        }
    }

    fn finish(mut self) -> ExitCode {
        self.print_more(self.failures.saturating_sub(PROBLEMS_TOLD_MAX));
        for remark in std::mem::take(&mut self.remarks) {
            self.print(&remark);
        }
        self.print_more(self.unheld);
        ExitCode::from(u8::from(self.failures > 0))
    }
}

/// Opens a regular file and nothing else, without waiting for anyone.
fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
        .open(path)?;
    let found = file.metadata()?;
    if found.is_file() {
        Ok((file, found))
    } else {
        Err(Errno::ENXIO.into())
    }
}

/// One of the program's own streams failed.
fn stream_failed(stream: &str, error: &io::Error) -> Failure {
    let text = format!("{stream}: {}", reason(errno(error)));
    failure(code(errno(error)), &text)
}
