// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The server driven by equipment that others wrote: the four official SDKs through lists, calls,
//! progress, cancellation, timeouts and a call of 330 silent seconds; agent frameworks; checkers.
//!
//! All of it is the test kit (`tools/kit.sh`). Where there is none, each test says so and ends.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use waggle_tests::poll::{PATIENCE, until};
use waggle_tests::{Client, Sdk, Server, Settings, machines, scene, settings};

const SDKS: [Sdk; 4] = [Sdk::V2, Sdk::V1, Sdk::Js2, Sdk::Js1];

/// How many tools there are at least: a list that was cut or mangled has fewer.
const TOOLS: usize = 8;

/// Runs a program of the kit to its end.
async fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(2 * PATIENCE, output).await;
    output.expect("it ends in time").expect("it starts")
}

/// Its standard output, which must be JSON, and its standard error.
#[track_caller]
fn report(output: &Output) -> (Value, String) {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{}\n{stdout}\n{stderr}",
        output.status
    );
    let report = serde_json::from_str(&stdout);
    (
        report.unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}")),
        stderr,
    )
}

#[tokio::test]
async fn mcpcheck_passes_8_of_8() {
    let Some(kit) = settings::kit() else { return };
    let server = Server::start(Settings::default()).await;
    let mut mcpcheck = Command::new(kit.join("py/bin/mcpcheck"));
    mcpcheck.args(["--legacy-probes", "--strict", "--json", &server.url()]);
    let (report, _) = report(&run(&mut mcpcheck).await);
    let checks = report["checks"].as_array().expect("checks");
    assert_eq!(checks.len(), 8, "{report:#}");
    for check in checks {
        assert_eq!(check["status"], "pass", "{check:#}");
    }
    assert_eq!(report["era"], "dual-era");
    server.stop(Signal::SIGTERM).await;
}

#[tokio::test]
async fn the_inspector_finds_nothing_in_either_era() {
    let Some(kit) = settings::kit() else { return };
    let server = Server::start(Settings::default()).await;
    // It keeps its settings below HOME.
    let home = TempDir::new().expect("a temporary folder");
    let inspect = async |era: &str, method: &[&str]| {
        let mut inspector = Command::new(kit.join("node/bin/node"));
        inspector
            .arg(kit.join(
                "npm/node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js",
            ))
            .args([
                "--cli",
                &server.url(),
                "--transport",
                "http",
                "--format",
                "json",
            ])
            .args(["--protocol-era", era, "--method"])
            .args(method)
            .env("HOME", home.path());
        report(&run(&mut inspector).await)
    };
    for era in ["modern", "legacy"] {
        let (listed, said) = inspect(era, &["tools/list", "--strict"]).await;
        let tools = listed["result"]["tools"].as_array().expect("a list");
        assert!(tools.len() >= TOOLS, "{listed}");
        // It speaks of each problem with a schema, errors and warnings alike.
        assert!(!said.contains("Issue:"), "{said}");

        let call = ["tools/call", "--tool-name", "list_environments"];
        let (answer, _) = inspect(era, &call).await;
        assert_eq!(answer["result"]["isError"], false, "{answer}");
        assert_eq!(
            answer["result"]["structuredContent"]["count"], 0,
            "{answer}"
        );
    }
    server.stop(Signal::SIGTERM).await;
}

#[tokio::test]
async fn frameworks_list_and_call() {
    let Some(kit) = settings::kit() else { return };
    let _permit = machines(1).await;
    let scene = scene::Scene::open().await;
    let id = scene.create("shell").await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/frameworks.py");
    for (venv, framework) in [
        ("py", "fastmcp"),
        ("py", "openai-agents"),
        ("py", "pydantic-ai"),
        ("py-1", "langchain"),
    ] {
        let mut program = Command::new(kit.join(venv).join("bin/python"));
        let code = format!("echo {framework} $((6 * 7))");
        program.args([script, framework, &scene.server.url(), &id, &code]);
        let (report, _) = report(&run(&mut program).await);
        let tools = report["tools"].as_array().expect("a list");
        assert!(tools.len() >= TOOLS, "{report}");
        assert!(tools.contains(&"execute".into()), "{report}");
        let answer = report["answer"].as_str().expect("a text");
        assert!(answer.contains(&format!("{framework} 42")), "{report}");
    }
    scene.destroy(&id).await;
    scene.close().await;
}

/// One SDK at work in an environment that it may share.
struct Work<'a> {
    sdk: Sdk,
    client: &'a Client,
    environment: &'a str,
}

impl Work<'_> {
    async fn output(&self, code: &str) -> String {
        let arguments = json!({"environment_id": self.environment, "code": code});
        let result = self.client.call("execute", arguments).await.done();
        assert_eq!(result["exit_code"], 0, "{:?}: {result}", self.sdk);
        result["stdout"].as_str().expect("a text").to_owned()
    }

    async fn all(&self) {
        let (sdk, client) = (self.sdk, self.client);
        assert_eq!(client.protocol(), sdk.protocol(), "{sdk:?}");
        assert!(client.list_tools().await.len() >= TOOLS, "{sdk:?}");
        assert_eq!(self.output("echo $((6 * 7))").await, "42\n", "{sdk:?}");
        self.progress().await;
        self.cancel().await;
        self.timeout().await;
    }

    /// Reports come while the program runs, grow, carry its newest line and the time, and end with it.
    async fn progress(&self) {
        let (sdk, client) = (self.sdk, self.client);
        let code = "for n in 1 2 3 4 5 6; do echo line-$n; sleep 1; done";
        let arguments = json!({"environment_id": self.environment, "code": code});
        let call = client.begin("execute", arguments, 2 * PATIENCE, true).await;
        let id = call.id();
        let result = call.answer(3 * PATIENCE).await;
        let result = result.expect("a result").done();
        assert_eq!(result["exit_code"], 0, "{sdk:?}: {result}");
        // One that came too late would come now.
        sleep(Duration::from_secs(1)).await;
        let reports = client.progress(id);
        assert!(
            (2..30).contains(&reports.len()),
            "{sdk:?}: a few in six seconds: {reports:#?}"
        );
        assert!(
            reports
                .windows(2)
                .all(|pair| pair[0].progress < pair[1].progress),
            "{sdk:?}: each beyond the last: {reports:#?}"
        );
        assert!(
            reports.iter().all(|report| !report.late),
            "{sdk:?}: none after the result: {reports:#?}"
        );
        let newest = |message: &str| {
            let (_, rest) = message.rsplit_once("line-")?;
            rest.chars().next()?.to_digit(10)
        };
        let lines: Vec<_> = reports
            .iter()
            .filter_map(|report| newest(&report.message))
            .collect();
        assert!(lines.is_sorted(), "{sdk:?}: {reports:#?}");
        assert!(
            lines.last().is_some_and(|last| *last >= 3),
            "{sdk:?}: they carry the newest line: {reports:#?}"
        );
        assert!(
            reports.iter().all(|report| tells_seconds(&report.message)),
            "{sdk:?}: they carry the elapsed time: {reports:#?}"
        );
        let complaints = client.complaints();
        assert!(complaints.is_empty(), "{sdk:?}: {complaints:#?}");
    }

    /// Starts a program that lasts, with a child that left its session, under a name of its own.
    async fn begin_long(&self, name: &str, limit: Duration) -> waggle_tests::Call {
        let file = self.pids(name);
        let code = format!(
            "setsid sleep 1000 & echo $! $$ >{file}.new && mv {file}.new {file} && exec sleep 1000"
        );
        let arguments =
            json!({"environment_id": self.environment, "code": code, "timeout_seconds": 300});
        self.client.begin("execute", arguments, limit, false).await
    }

    fn pids(&self, name: &str) -> String {
        format!("/tmp/{:?}-{name}.pids", self.sdk)
    }

    /// How many of its two processes there are; nothing before it started.
    async fn alive(&self, name: &str) -> Option<usize> {
        let code = format!(
            "[ -e {file} ] || exit 0; read child main <{file}
             for pid in $child $main; do [ ! -d /proc/$pid ] || printf x; done; echo .",
            file = self.pids(name)
        );
        let output = self.output(&code).await;
        output.trim_end().strip_suffix('.').map(str::len)
    }

    /// A call that is given up ends in the guest, with all that it started.
    async fn cancel(&self) {
        let (sdk, client) = (self.sdk, self.client);
        let call = self.begin_long("cancel", 2 * PATIENCE).await;
        until("the program runs", async || {
            (self.alive("cancel").await == Some(2)).then_some(())
        })
        .await;
        client.cancel(&call).await;
        let error = call.answer(PATIENCE).await.expect_err("it was given up");
        assert_eq!(error.kind, "cancelled", "{sdk:?}: {error:?}");
        until("the program is gone", async || {
            (self.alive("cancel").await == Some(0)).then_some(())
        })
        .await;
    }

    /// A client that waits no longer gets its own error, soon, and goes on.
    async fn timeout(&self) {
        let (sdk, started) = (self.sdk, Instant::now());
        let call = self.begin_long("timeout", Duration::from_secs(5)).await;
        let error = call.answer(PATIENCE).await.expect_err("it waits 5 seconds");
        assert!(
            error.message.to_lowercase().contains("timed out"),
            "{sdk:?}: {error:?}"
        );
        let waited = started.elapsed().as_secs();
        assert!((4..60).contains(&waited), "{sdk:?} waited {waited} s");
        assert_eq!(self.output("echo on").await, "on\n", "{sdk:?}");
        // PyPI's 1.x tells the server nothing: there the program's own time limit ends it.
        if sdk != Sdk::V1 {
            until("the program is gone", async || {
                (self.alive("timeout").await == Some(0)).then_some(())
            })
            .await;
        }
    }
}

/// Whether a text has a number of seconds: `3 s`, `3.5s`, `3 seconds`.
fn tells_seconds(text: &str) -> bool {
    let words: Vec<_> = text
        .split(|character: char| !(character.is_alphanumeric() || character == '.'))
        .collect();
    let number = |word: &str| word.parse::<f64>().is_ok();
    words.iter().enumerate().any(|(index, word)| {
        word.strip_suffix('s').is_some_and(number)
            || number(word)
                && words
                    .get(index + 1)
                    .is_some_and(|unit| ["s", "sec", "second", "seconds"].contains(unit))
    })
}

/// All at once on one machine, as clients of one server are.
#[tokio::test]
async fn every_sdk_over_http() {
    if settings::kit().is_none() {
        return;
    }
    let _permit = machines(1).await;
    let server = Server::start(Settings::default()).await;
    let [a, b, c, d] = connected(&server).await;
    let environment = scene::create(&a, "shell").await;
    let work = |sdk, client| Work {
        sdk,
        client,
        environment: &environment,
    };
    let works = [
        work(SDKS[0], &a),
        work(SDKS[1], &b),
        work(SDKS[2], &c),
        work(SDKS[3], &d),
    ];
    tokio::join!(
        works[0].all(),
        works[1].all(),
        works[2].all(),
        works[3].all()
    );
    destroy(&a, &environment).await;
    for client in [a, b, c, d] {
        client.close().await;
    }
    server.stop(Signal::SIGTERM).await;
}

/// Longer than any of them waits for a first or a next byte (300 seconds), with not one byte of output.
/// Only what their documentation tells users to raise is raised: the limit of the call itself.
#[tokio::test]
async fn a_silent_call_of_330_seconds() {
    if settings::kit().is_none() {
        return;
    }
    let _permit = machines(1).await;
    let server = Server::start(Settings::default().with("WAGGLE_MAX_EXEC_TIMEOUT", "10m")).await;
    let clients = connected(&server).await;
    let environment = scene::create(&clients[0], "shell").await;
    let mut calls = Vec::new();
    for (sdk, client) in SDKS.iter().zip(&clients) {
        let code = format!("sleep 330; echo {sdk:?}");
        let arguments =
            json!({"environment_id": environment, "code": code, "timeout_seconds": 500});
        let limit = Duration::from_secs(540);
        calls.push((sdk, client.begin("execute", arguments, limit, false).await));
    }
    let mut failed = Vec::new();
    for (sdk, call) in calls {
        match call.answer(Duration::from_secs(600)).await {
            Ok(result) => {
                let result = result.done();
                assert_eq!(result["stdout"], format!("{sdk:?}\n"), "{result}");
                let duration = result["duration_ms"].as_u64().expect("a duration");
                assert!(duration >= 330_000, "{result}");
            }
            Err(error) => failed.push((sdk, error)),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    destroy(&clients[0], &environment).await;
    for client in clients {
        client.close().await;
    }
    server.stop(Signal::SIGTERM).await;
}

async fn connected(server: &Server) -> [Client; 4] {
    let url = server.url();
    let [a, b, c, d] = SDKS.map(|sdk| Client::http(sdk, &url));
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    [a, b, c, d]
}

async fn destroy(client: &Client, environment: &str) {
    let arguments = json!({"environment_id": environment});
    client.call("destroy_environment", arguments).await.done();
}

async fn over_stdio(sdk: Sdk) {
    if settings::kit().is_none() {
        return;
    }
    let _permit = machines(1).await;
    let data = TempDir::new().expect("a temporary folder");
    let client = scene::stdio_client(sdk, &data).await;
    let environment = scene::create(&client, "shell").await;
    let work = Work {
        sdk,
        client: &client,
        environment: &environment,
    };
    work.all().await;
    destroy(&client, &environment).await;
    client.close().await;
}

#[tokio::test]
async fn pypi_2_over_stdio() {
    over_stdio(Sdk::V2).await;
}

#[tokio::test]
async fn pypi_1_over_stdio() {
    over_stdio(Sdk::V1).await;
}

#[tokio::test]
async fn npm_2_over_stdio() {
    over_stdio(Sdk::Js2).await;
}

#[tokio::test]
async fn npm_1_over_stdio() {
    over_stdio(Sdk::Js1).await;
}
