// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The official clients that people use: two releases of the Python SDK over both transports, each
//! through the whole life of an environment; and stdio without any SDK.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;
use waggle_tests::poll::PATIENCE;
use waggle_tests::server::{PROMPT, run_files};
use waggle_tests::{Client, Sdk, Server, Settings, machines, processes, scene};

/// Every tool with its required and its other arguments.
const TOOLS: &[(&str, &[&str], &[&str])] = &[
    (
        "create_environment",
        &["runtime"],
        &["name", "timeout_minutes", "network", "image"],
    ),
    ("destroy_environment", &["environment_id"], &[]),
    ("list_environments", &[], &[]),
    (
        "execute",
        &["environment_id", "code"],
        &[
            "language",
            "timeout_seconds",
            "stdin",
            "env",
            "working_directory",
            "user",
            "max_output_bytes",
            "background",
            "idempotency_key",
        ],
    ),
    (
        "process",
        &["environment_id", "action"],
        &[
            "process_id",
            "cursor",
            "input",
            "close_input",
            "timeout_seconds",
            "signal",
            "max_output_bytes",
        ],
    ),
    (
        "install_packages",
        &["environment_id", "packages"],
        &["timeout_seconds"],
    ),
    (
        "write_file",
        &["environment_id", "path", "content"],
        &["encoding", "mode", "append"],
    ),
    (
        "read_file",
        &["environment_id", "path"],
        &["encoding", "offset", "length", "start_line", "line_count"],
    ),
    (
        "edit_file",
        &["environment_id", "path", "old_text", "new_text"],
        &["expected_replacements", "replace_all", "sha256"],
    ),
    (
        "list_files",
        &["environment_id"],
        &["path", "depth", "glob", "limit"],
    ),
    (
        "search_files",
        &["environment_id", "pattern"],
        &[
            "path",
            "glob",
            "literal",
            "ignore_case",
            "all_files",
            "context_lines",
            "limit",
        ],
    ),
    (
        "forward_port",
        &["environment_id", "port"],
        &["host_port", "close"],
    ),
];

fn check_tools(tools: &[Value]) {
    let tools: BTreeMap<_, _> = tools
        .iter()
        .map(|tool| (tool["name"].as_str().expect("a name"), tool))
        .collect();
    let names: BTreeSet<_> = tools.keys().copied().collect();
    assert_eq!(names, TOOLS.iter().map(|(name, _, _)| *name).collect());
    for (name, required, optional) in TOOLS {
        let tool = tools[name];
        assert!(
            tool["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{tool}"
        );
        let schema = &tool["inputSchema"];
        let listed: BTreeSet<_> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(
            listed,
            required.iter().copied().collect(),
            "required by {name}"
        );
        let arguments: BTreeSet<_> = schema["properties"]
            .as_object()
            .map(|properties| properties.keys().map(String::as_str).collect())
            .unwrap_or_default();
        let expected = required.iter().chain(*optional).copied().collect();
        assert_eq!(arguments, expected, "arguments of {name}");
    }
}

async fn live_a_life(client: &Client) {
    check_tools(&client.list_tools().await);

    let arguments = json!({"runtime": "python", "name": "matrix", "timeout_minutes": 7});
    let created = client.call("create_environment", arguments).await.done();
    assert_eq!(created["name"], "matrix");
    assert_eq!(created["runtime"], "python");
    assert_eq!(created["status"], "running");
    assert_eq!(created["timeout"], 7);
    let created_at = created["created_at"].as_str().expect("a time");
    created_at.parse::<jiff::Timestamp>().expect("RFC 3339");
    let id = created["environment_id"].as_str().expect("an id");

    let arguments = json!({"environment_id": id, "code": "print(6 * 7)"});
    let result = client.call("execute", arguments).await;
    assert!(
        result.text.contains("42"),
        "clients that read only text see it too: {}",
        result.text
    );
    let result = result.done();
    assert_eq!(result["stdout"], "42\n");
    assert_eq!(result["stderr"], "");
    assert_eq!(result["exit_code"], 0);
    assert_eq!(result["ended"], "exited");
    assert!(result["duration_ms"].is_number(), "{result}");

    let listed = client.call("list_environments", json!({})).await.done();
    let expected = json!({
        "environment_id": id, "name": "matrix", "runtime": "python", "status": "running",
        "created_at": created_at,
        "network": "packages", "image": "localhost/waggle-python:latest",
        "image_digest": created["image_digest"],
    });
    assert_eq!(listed, json!({"environments": [expected], "count": 1}));

    let arguments = json!({"environment_id": id});
    let destroyed = client.call("destroy_environment", arguments).await.done();
    assert_eq!(destroyed["status"], "destroyed");
    assert!(destroyed["message"].is_string(), "{destroyed}");
    let listed = client.call("list_environments", json!({})).await.done();
    assert_eq!(listed, json!({"environments": [], "count": 0}));
}

async fn over_http(sdk: Sdk) {
    let _permit = machines(1).await;
    let server = Server::start(Settings::default()).await;
    let client = Client::http(sdk, &server.url()).await;
    assert_eq!(client.protocol(), sdk.protocol());
    live_a_life(&client).await;
    server.until_childless().await;
    client.close().await;
    server.stop(Signal::SIGTERM).await;
}

async fn over_stdio(sdk: Sdk) {
    let _permit = machines(1).await;
    let data = TempDir::new().expect("a temporary folder");
    let client = scene::stdio_client(sdk, &data).await;
    assert_eq!(client.protocol(), sdk.protocol());
    live_a_life(&client).await;

    // An environment that still runs at the end of the session goes with it.
    let left_running = scene::create(&client, "shell").await;
    let family = processes::descendants(client.driver_pid());
    let vmm = family
        .iter()
        .find(|process| process.command.contains("qemu-system"));
    assert!(
        vmm.is_some(),
        "{left_running} has a machine among {family:#?}"
    );
    client.close().await;
    waggle_tests::poll::until("the server's processes are gone", async || {
        family
            .iter()
            .all(|process| !process.is_alive())
            .then_some(())
    })
    .await;
    let left = processes::of_folder(data.path());
    assert!(left.is_empty(), "left behind: {left:#?}");
    let files = run_files(data.path());
    assert!(files.is_empty(), "left behind: {files:#?}");
}

#[tokio::test]
async fn sdk_2_over_http() {
    over_http(Sdk::V2).await;
}

#[tokio::test]
async fn sdk_1_over_http() {
    over_http(Sdk::V1).await;
}

#[tokio::test]
async fn sdk_2_over_stdio() {
    over_stdio(Sdk::V2).await;
}

#[tokio::test]
async fn sdk_1_over_stdio() {
    over_stdio(Sdk::V1).await;
}

/// The SDKs kill a server that lingers after its input ended. This one is not killed: it must end
/// by itself, soon, with a machine running, and leave nothing.
#[tokio::test]
async fn stdio_ends_with_its_input() {
    let _permit = machines(1).await;
    let data = TempDir::new().expect("a temporary folder");
    let mut server = Settings::default()
        .command(&["mcp"], data.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the server starts");
    let mut input = server.stdin.take().expect("stdin is piped");
    let mut lines = BufReader::new(server.stdout.take().expect("stdout is piped")).lines();
    let requests = [
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "waggle-tests", "version": "0"},
        }}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
            "name": "create_environment", "arguments": {"runtime": "shell"},
        }}),
    ];
    for request in requests {
        input
            .write_all(format!("{request}\n").as_bytes())
            .await
            .expect("the server reads");
    }
    let created = loop {
        let line = timeout(PATIENCE, lines.next_line())
            .await
            .expect("an answer in time");
        let line = line
            .expect("the server's output")
            .expect("an answer before the end");
        let message: Value = serde_json::from_str(&line).expect("only JSON-RPC on stdout");
        if message["id"] == 2 {
            break message;
        }
    };
    assert_eq!(
        created["result"]["structuredContent"]["status"], "running",
        "{created}"
    );

    let closed = Instant::now();
    drop(input);
    let status = timeout(PATIENCE, server.wait())
        .await
        .expect("the server ends")
        .expect("status");
    assert_eq!(status.code(), Some(0));
    assert!(
        closed.elapsed() < PROMPT,
        "it took {:?} to end",
        closed.elapsed()
    );
    let left = processes::of_folder(data.path());
    assert!(left.is_empty(), "left behind: {left:#?}");
    let files = run_files(data.path());
    assert!(files.is_empty(), "left behind: {files:#?}");
}

/// A signal ends it as well, though its input is still open.
#[tokio::test]
async fn stdio_ends_on_a_signal() {
    let data = TempDir::new().expect("a temporary folder");
    let mut server = Settings::default()
        .command(&["mcp"], data.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the server starts");
    let mut input = server.stdin.take().expect("stdin is piped");
    let mut lines = BufReader::new(server.stdout.take().expect("stdout is piped")).lines();
    // Once it answers, it listens to signals too.
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "waggle-tests", "version": "0"},
    }});
    let sent = input.write_all(format!("{request}\n").as_bytes()).await;
    sent.expect("the server reads");
    let line = timeout(PATIENCE, lines.next_line()).await;
    line.expect("an answer in time").expect("an answer");

    let pid = server.id().expect("it runs").try_into().expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).expect("a signal");
    let status = timeout(PATIENCE, server.wait()).await;
    let status = status.expect("it ends while its input is open");
    assert_eq!(status.expect("a status").code(), Some(0));
    drop(input);
    assert!(processes::of_folder(data.path()).is_empty());
}
