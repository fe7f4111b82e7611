// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An official MCP client (PyPI `mcp`, by `clients/driver.py`, or npm's, by `clients/driver.mjs`), as a
//! value with async calls.
//!
//! Owns the driver process; dropping the client kills it. Calls may run side by side.

use std::collections::HashMap;
use std::path::Path;
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

/// Which SDK to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// PyPI `mcp` 2.3: speaks the stateless revision 2026-07-28 where the server does.
    V2,
    /// PyPI `mcp` 1.30: speaks 2025-11-25, with sessions.
    V1,
    /// npm `@modelcontextprotocol/client` 2.4, asked to speak 2026-07-28. Of the test kit.
    Js2,
    /// npm `@modelcontextprotocol/sdk` 1.32: speaks 2025-11-25. Of the test kit.
    Js1,
}

impl Sdk {
    /// The revision that it speaks with this server.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::V2 | Self::Js2 => "2026-07-28",
            Self::V1 | Self::Js1 => "2025-11-25",
        }
    }

    fn driver(self) -> Command {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let python = |venv| {
            let mut driver = Command::new(settings::path(venv).join("bin/python"));
            driver.arg(scripts.join("driver.py"));
            driver
        };
        let node = |package| {
            let kit = settings::path(settings::TEST_KIT);
            let mut driver = Command::new(kit.join("node/bin/node"));
            driver.arg(scripts.join("driver.mjs"));
            driver.arg(kit.join("npm")).arg(package);
            driver
        };
        match self {
            Self::V2 => python("WAGGLE_TEST_VENV_2"),
            Self::V1 => python("WAGGLE_TEST_VENV_1"),
            Self::Js2 => node("client"),
            Self::Js1 => node("sdk"),
        }
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
    /// The SDK's name for the error; `cancelled` if the test gave the call up.
    pub kind: String,
}

/// A report of progress, as the SDK handed it on.
#[derive(Debug, Clone)]
pub struct Progress {
    /// How far the call is.
    pub progress: f64,
    /// The text, if there is one.
    pub message: String,
    /// Whether it came after the call's answer, where it has no business.
    pub late: bool,
}

/// A call that was begun and not waited for.
#[derive(Debug)]
pub struct Call {
    id: u64,
    answer: oneshot::Receiver<Value>,
    // What it asked for, for error texts.
    request: String,
}

impl Call {
    /// What [`Client::progress`] knows it by.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// A JSON-RPC error, or the SDK's own, such as a timeout.
    ///
    /// # Panics
    /// If the client never answers.
    pub async fn answer(self, patience: Duration) -> Result<ToolResult, CallError> {
        self.raw(patience)
            .await
            .map(|result| ToolResult::parse(&result))
    }

    async fn raw(self, patience: Duration) -> Result<Value, CallError> {
        let request = self.request;
        let answer = timeout(patience, self.answer).await;
        let mut answer = answer
            .unwrap_or_else(|_| panic!("the client never answered {request}"))
            .unwrap_or_else(|_| panic!("the client ended before it answered {request}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(CallError {
                code: answer["error"]["code"].as_i64(),
                message: text(&answer["error"]["message"]),
                kind: text(&answer["error"]["kind"]),
            }),
        }
    }
}

/// What the client said beside answers.
#[derive(Debug, Default)]
struct Heard {
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    progress: HashMap<u64, Vec<Progress>>,
    complaints: Vec<String>,
}

type Shared = Arc<Mutex<Heard>>;

/// One connected MCP client.
pub struct Client {
    driver: Child,
    input: AsyncMutex<Option<ChildStdin>>,
    heard: Shared,
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
        let mut command = sdk.driver();
        configure(&mut command);
        // What the driver or a stdio server writes to stderr shows in the test's own output.
        let mut driver = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the client starts");
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

        let heard = Shared::default();
        tokio::spawn(deliver(lines, heard.clone()));
        let input = AsyncMutex::new(Some(input));
        Self {
            driver,
            input,
            heard,
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

    /// Begins a call and does not wait for it. With `progress`, the server is asked for reports.
    pub async fn begin(
        &self,
        tool: &str,
        arguments: Value,
        limit: Duration,
        progress: bool,
    ) -> Call {
        self.send(json!({
            "op": "call", "tool": tool, "arguments": arguments, "timeout": limit.as_secs(),
            "progress": progress,
        }))
        .await
    }

    /// Gives a call up, by the SDK's own means. Its answer is then an error of kind `cancelled`.
    pub async fn cancel(&self, call: &Call) {
        let cancelled = self.ask(json!({"op": "cancel", "call": call.id})).await;
        cancelled.expect("the call is under way");
    }

    /// The reports of a call's progress that came so far.
    ///
    /// # Panics
    /// Never: no panic holds the lock.
    #[must_use]
    pub fn progress(&self, call: u64) -> Vec<Progress> {
        let heard = self.heard.lock().expect("no panic holds the lock");
        heard.progress.get(&call).cloned().unwrap_or_default()
    }

    /// What the SDK said of messages that it could not place.
    ///
    /// # Panics
    /// Never: no panic holds the lock.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let heard = self.heard.lock().expect("no panic holds the lock");
        heard.complaints.clone()
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

    async fn ask(&self, request: Value) -> Result<Value, CallError> {
        self.send(request).await.raw(CALL_TIMEOUT + PATIENCE).await
    }

    async fn send(&self, mut request: Value) -> Call {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        request["id"] = id.into();
        let (sender, answer) = oneshot::channel();
        self.heard
            .lock()
            .expect("no panic holds the lock")
            .waiting
            .insert(id, sender);
        let request = request.to_string();
        let mut input = self.input.lock().await;
        let input = input.as_mut().expect("the client is open");
        input
            .write_all(format!("{request}\n").as_bytes())
            .await
            .expect("the client reads its requests");
        Call {
            id,
            answer,
            request,
        }
    }
}

/// Hands each answer to who waits for it, and keeps the rest. At the end of the output those who still
/// wait learn it, since their senders are dropped.
async fn deliver(mut lines: Lines<BufReader<ChildStdout>>, heard: Shared) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            eprintln!("the client wrote something that is not JSON: {line}");
            continue;
        };
        let mut heard = heard.lock().expect("no panic holds the lock");
        if let Some(complaint) = message["complaint"].as_str() {
            heard.complaints.push(complaint.to_owned());
            continue;
        }
        let id = message["id"].as_u64().unwrap_or_default();
        if let Some(progress) = message.get("progress") {
            let late = !heard.waiting.contains_key(&id);
            heard.progress.entry(id).or_default().push(Progress {
                progress: progress["progress"].as_f64().unwrap_or(f64::NAN),
                message: progress["message"].as_str().unwrap_or_default().to_owned(),
                late,
            });
        } else if let Some(waiter) = heard.waiting.remove(&id) {
            // A test that stopped waiting wants no answer.
            let _ = waiter.send(message);
        }
    }
    heard
        .lock()
        .expect("no panic holds the lock")
        .waiting
        .clear();
}
