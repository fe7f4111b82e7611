// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The little of QEMU's machine protocol (QMP) that is needed: to know when QEMU has started a
//! machine, and when and why it stopped one. One JSON object a line, over QEMU's stdin and stdout.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};

/// Longest line believed. QEMU's are below 1 KiB; a bound, because the peer runs hostile guests.
const MAX_LINE: usize = 64 << 10;
/// Between two questions whether the machine runs. Devices come up within a few of these.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// What QEMU says unasked, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The virtual CPUs stand still. Nobody asks for that here, so the accelerator failed.
    Stopped,
    /// The machine ends, with QEMU's word for why (`guest-reset`, `guest-shutdown`, ...).
    Shutdown(String),
}

#[derive(Debug)]
pub(crate) struct Qmp {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The beginning of a line whose end has not come yet: kept here for cancel safety.
    line: Vec<u8>,
}

impl Qmp {
    pub(crate) fn new(input: ChildStdin, output: ChildStdout) -> Qmp {
        Qmp {
            input,
            output: BufReader::new(output),
            line: Vec::new(),
        }
    }

    /// Waits until the machine runs. Ends with an error when QEMU closes the connection (of kind
    /// `UnexpectedEof`) or the accelerator fails.
    pub(crate) async fn wait_until_running(&mut self) -> io::Result<()> {
        self.ask("qmp_capabilities").await?;
        loop {
            let status = self.ask("query-status").await?;
            if status.get("running") == Some(&Value::Bool(true)) {
                return Ok(());
            }
            if status.get("status").and_then(Value::as_str) == Some("internal-error") {
                return Err(io::Error::other("the accelerator failed"));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The next event, or `None` when QEMU has closed the connection. Cancel-safe.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        while let Ok(Some(message)) = self.message().await {
            match message.get("event").and_then(Value::as_str) {
                Some("STOP") => return Some(Event::Stopped),
                Some("SHUTDOWN") => {
                    let reason = message.pointer("/data/reason").and_then(Value::as_str);
                    return Some(Event::Shutdown(reason.unwrap_or("unknown").to_owned()));
                }
                _ => {}
            }
        }
        None
    }

    /// Sends a command and waits for its answer; events before it are of no interest yet.
    async fn ask(&mut self, command: &str) -> io::Result<Value> {
        let line = format!("{{\"execute\":\"{command}\"}}\n");
        // A QEMU that has ended is reported by the read, with one kind of error.
        let _ = self.input.write_all(line.as_bytes()).await;
        loop {
            let mut message = self.message().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
        }
    }

    /// One message. Cancel-safe: what was read stays in `self`.
    async fn message(&mut self) -> io::Result<Option<Value>> {
        loop {
            let chunk = self.output.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let end = chunk
                .iter()
                .position(|byte| *byte == b'\n')
                .map(|at| at + 1);
            let taken = end.unwrap_or(chunk.len());
            self.line
                .extend_from_slice(chunk.get(..taken).unwrap_or_default());
            self.output.consume(taken);
            if self.line.len() > MAX_LINE {
                let text = format!("qmp line of {} bytes exceeds {MAX_LINE}", self.line.len());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            if end.is_some() {
                let message = serde_json::from_slice(&self.line);
                self.line.clear();
                return Ok(Some(message?));
            }
        }
    }
}
