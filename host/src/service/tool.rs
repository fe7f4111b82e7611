// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Waggle's own program in the guest, as a program to run, and what it says when it fails.

use std::time::Duration;

use serde_bytes::ByteBuf;
use waggle_protocol::message::{
    EndReason, Exec, ExecEnd, ExitStatus, Failure, FailureCode, Program, Tool, User,
};

use crate::session::LinkError;

/// Most bytes of the tool's error output that are kept: one line is what it writes.
pub(super) const STDERR_MAX: usize = 8 * 1024;

/// The tool as a program to run, for at most `limit`.
pub(super) fn exec(tool: Tool, user: User, limit: Duration) -> Exec {
    Exec {
        program: Program::Tool(tool),
        env: Vec::new(),
        // The user's home may be gone; the tool takes absolute paths alone.
        directory: Some(ByteBuf::from(*b"/")),
        user,
        deadline_ms: Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        output_limit: None,
        stdin: false,
    }
}

/// Why the tool failed, if it did. `stderr` is its error output.
pub(super) fn failure(end: &ExecEnd, stderr: &str) -> Option<Failure> {
    let failed = |code, message: &str| {
        let message = message.to_owned();
        Some(Failure { code, message })
    };
    match (end.reason, end.status) {
        (EndReason::Exited, ExitStatus::Code(0)) => None,
        (EndReason::Exited, ExitStatus::Code(_)) => Some(parse(stderr)),
        (EndReason::Exited, ExitStatus::Signal(signal)) => {
            let message = format!("signal {signal} ended waggle's tool in the guest");
            failed(FailureCode::Io, &message)
        }
        (EndReason::Deadline, _) => failed(FailureCode::TooLarge, "it took too long"),
        (EndReason::OutputLimit, _) => failed(FailureCode::TooLarge, "it is too much"),
        (EndReason::OutOfMemory, _) => failed(FailureCode::Io, "the environment's memory ran out"),
    }
}

/// `CODE: message`, the first line of `stderr`, and how many there are more.
fn parse(stderr: &str) -> Failure {
    let mut lines = stderr.lines();
    let line = lines.next().unwrap_or_default();
    let told = line
        .split_once(": ")
        .and_then(|(name, message)| Some((FailureCode::from_name(name)?, message)));
    let (code, message) = match told {
        Some(told) => told,
        None if line.is_empty() => (FailureCode::Io, "waggle's tool in the guest failed"),
        None => (FailureCode::Io, line),
    };
    let message = match lines.count() {
        0 => message.to_owned(),
        more => format!("{message} (and {more} more like it)"),
    };
    Failure { code, message }
}

/// As it is, but a tool that is not there is the image's fault, not the caller's.
pub(super) fn not_started(error: LinkError) -> LinkError {
    match error {
        LinkError::Failed(Failure {
            code: FailureCode::SpawnFailed | FailureCode::NotFound,
            ..
        }) => LinkError::Failed(Failure {
            code: FailureCode::Unsupported,
            message: "waggle's tool is missing in the guest".to_owned(),
        }),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use waggle_protocol::message::StreamTotals;

    use super::*;

    fn ended(reason: EndReason, status: ExitStatus) -> ExecEnd {
        ExecEnd {
            status,
            reason,
            wall_us: 0,
            user_us: 0,
            system_us: 0,
            stdout: StreamTotals::default(),
            stderr: StreamTotals::default(),
        }
    }

    #[test]
    fn the_tools_words_become_a_failure() {
        let one = ended(EndReason::Exited, ExitStatus::Code(1));
        let told = |stderr| failure(&one, stderr).expect("it failed");
        let failure = told("permission_denied: /root: permission denied\nmore");
        assert_eq!(failure.code, FailureCode::PermissionDenied);
        assert_eq!(
            failure.message,
            "/root: permission denied (and 1 more like it)"
        );
        assert_eq!(told("panicked: at x").code, FailureCode::Io);
        assert_eq!(told("panicked: at x").message, "panicked: at x");
        assert!(!told("").message.is_empty());
    }

    #[test]
    fn only_a_clean_end_is_a_success() {
        let failed = |reason, status| failure(&ended(reason, status), "").is_some();
        assert!(!failed(EndReason::Exited, ExitStatus::Code(0)));
        assert!(failed(EndReason::Exited, ExitStatus::Signal(9)));
        assert!(failed(EndReason::Deadline, ExitStatus::Code(0)));
        assert!(failed(EndReason::OutOfMemory, ExitStatus::Signal(9)));
    }
}
