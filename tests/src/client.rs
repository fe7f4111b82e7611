// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An official MCP client (PyPI `mcp`, by `clients/driver.py`), as a value with async calls.
//!
//! Owns the driver process; dropping the client kills it. Calls may run side by side.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::timeout;

use crate::poll::PATIENCE;
use crate::settings;

/// How long one call may take: a machine's boot has two minutes.
const CALL_TIMEOUT: Duration = Duration::from_secs(240);

/// Which release of the Python SDK to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// 2.3: speaks the stateless revision 2026-07-28 where the server does.
    V2,
    /// 1.30: speaks 2025-11-25, with sessions.
    V1,
}

impl Sdk {
    fn python(self) -> PathBuf {
        let venv = match self {
            Self::V2 => "WAGGLE_TEST_VENV_2",
            Self::V1 => "WAGGLE_TEST_VENV_1",
        };
        settings::path(venv).join("bin/python")
    }
}

/// What a tool answered.
#[derive(Debug, Clone)]
pub struct ToolResult {
    /// Whether it is marked as an error.
    pub is_error: bool,
    /// Its structured content, or null.
    pub structured: Value,
    /// Its text contents, joined by newlines.
    pub text: String,
}

impl ToolResult {
    fn parse(result: &Value) -> Self {
        let texts = result["content"].as_array().into_iter().flatten();
        let texts: Vec<_> = texts
            .filter_map(|content| content["text"].as_str())
            .collect();
        Self {
            is_error: result["isError"].as_bool().unwrap_or(false),
            structured: result["structuredContent"].clone(),
            text: texts.join("\n"),
        }
    }

    /// The structured content of a call that must have worked.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn done(self) -> Value {
        assert!(!self.is_error, "the call failed: {}", self.text);
        self.structured
    }

    /// The text of a call that must have been refused.
    ///
    /// # Panics
    /// If it was not.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(
            self.is_error,
            "the call was accepted: {} {}",
            self.structured, self.text
        );
        assert!(!self.text.trim().is_empty(), "the error says nothing");
        self.text
    }
}

/// A JSON-RPC error, or what the SDK made of a broken connection.
#[derive(Debug, Clone)]
pub struct CallError {
    /// The JSON-RPC code, if the server sent one.
    pub code: Option<i64>,
    /// The text.
    pub message: String,
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// One connected MCP client.
pub struct Client {
    driver: Child,
    input: AsyncMutex<Option<ChildStdin>>,
    pending: Pending,
    next_id: AtomicU64,
    protocol: String,
}

impl Client {
    /// Connects to a server over HTTP.
    pub async fn http(sdk: Sdk, url: &str) -> Self {
        Self::start(sdk, |driver| {
            driver.args(["http", url]);
        })
        .await
    }

    /// Starts `program arguments...` with these variables and connects to it over stdio.
    pub async fn stdio(
        sdk: Sdk,
        program: &Path,
        arguments: &[&str],
        variables: &[(String, String)],
    ) -> Self {
        Self::start(sdk, |driver| {
            driver
                .arg("stdio")
                .arg(program)
                .args(arguments)
                .envs(variables.iter().cloned());
        })
        .await
    }

    async fn start(sdk: Sdk, configure: impl FnOnce(&mut Command)) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/driver.py");
        let mut command = Command::new(sdk.python());
        command.arg(script);
        configure(&mut command);
        // What the driver or a stdio server writes to stderr shows in the test's own output.
        let mut driver = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the client's Python starts");
        let input = driver.stdin.take().expect("stdin is piped");
        let mut lines = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();

        let first = timeout(PATIENCE, lines.next_line()).await;
        let first = first
            .expect("the client connects in time")
            .expect("the client's output");
        let first = first.expect("the client connects; its stderr says why it could not");
        let ready: Value = serde_json::from_str(&first).expect("the client's first line is JSON");
        let protocol = ready["ready"]["protocol"]
            .as_str()
            .expect("a protocol version")
            .to_owned();

        let pending = Pending::default();
        tokio::spawn(deliver(lines, pending.clone()));
        let input = AsyncMutex::new(Some(input));
        Self {
            driver,
            input,
            pending,
            next_id: AtomicU64::new(1),
            protocol,
        }
    }

    /// The protocol revision that client and server agreed on.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// The driver's process id: a stdio server is its child.
    #[must_use]
    pub fn driver_pid(&self) -> i32 {
        self.driver
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or_default()
    }

    /// The server's tools, as the protocol spells them.
    pub async fn list_tools(&self) -> Vec<Value> {
        let answer = self.ask(json!({"op": "list_tools"})).await;
        let tools = answer.expect("tools/list works")["tools"].take();
        tools.as_array().expect("a list of tools").clone()
    }

    /// Calls a tool.
    ///
    /// # Panics
    /// If the answer is a protocol error.
    pub async fn call(&self, tool: &str, arguments: Value) -> ToolResult {
        match self.try_call(tool, arguments).await {
            Ok(result) => result,
            Err(error) => panic!("{tool} gave a protocol error instead of a result: {error:?}"),
        }
    }

    /// Calls a tool that may answer with a protocol error.
    ///
    /// # Errors
    /// That error.
    pub async fn try_call(&self, tool: &str, arguments: Value) -> Result<ToolResult, CallError> {
        let request = json!({
            "op": "call", "tool": tool, "arguments": arguments, "timeout": CALL_TIMEOUT.as_secs(),
        });
        self.ask(request)
            .await
            .map(|result| ToolResult::parse(&result))
    }

    /// Ends the session as the SDK does, and waits for the driver (and so for a stdio server).
    pub async fn close(mut self) {
        drop(self.input.lock().await.take());
        let status = timeout(PATIENCE, self.driver.wait()).await;
        let status = status
            .expect("the client closes in time")
            .expect("the client's status");
        assert!(status.success(), "the client ended with {status}");
    }

    async fn ask(&self, mut request: Value) -> Result<Value, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        request["id"] = id.into();
        let (sender, answer) = oneshot::channel();
        self.pending
            .lock()
            .expect("no panic holds the lock")
            .insert(id, sender);
        let line = format!("{request}\n");
        {
            let mut input = self.input.lock().await;
            let input = input.as_mut().expect("the client is open");
            input
                .write_all(line.as_bytes())
                .await
                .expect("the client reads its requests");
        }
        let answer = timeout(CALL_TIMEOUT + PATIENCE, answer).await;
        let mut answer = answer
            .unwrap_or_else(|_| panic!("the client never answered {request}"))
            .unwrap_or_else(|_| panic!("the client ended before it answered {request}"));
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(CallError {
                code: answer["error"]["code"].as_i64(),
                message: answer["error"]["message"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            }),
        }
    }
}

/// Hands each answer to who waits for it. At the end of the output those who still wait learn it,
/// since their senders are dropped.
async fn deliver(mut lines: Lines<BufReader<ChildStdout>>, pending: Pending) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else {
            eprintln!("the client wrote something that is not JSON: {line}");
            continue;
        };
        let id = answer["id"].as_u64().unwrap_or_default();
        let waiter = pending.lock().expect("no panic holds the lock").remove(&id);
        if let Some(waiter) = waiter {
            // A test that stopped waiting wants no answer.
            let _ = waiter.send(answer);
        }
    }
    pending.lock().expect("no panic holds the lock").clear();
}
