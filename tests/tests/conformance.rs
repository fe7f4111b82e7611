// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The MCP project's own conformance suite against the product's HTTP stack.
//!
//! Its tools are in `waggle_tests::fixture`. What fails because Waggle does not have the feature is
//! listed, with reasons, in `conformance/`; the suite reports a failure that is not listed, and a
//! listed one that passes.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, time::timeout};
use waggle::mcp::http;
use waggle_tests::{Fixture, Server, Settings, settings};

/// The suite takes a few seconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs the suite against a server; its report goes to the test's output.
async fn suite(kit: &Path, url: &str, arguments: &[&str]) -> (ExitStatus, String) {
    let node = kit.join("node/bin/node");
    // It may write its results.
    let folder = TempDir::new().expect("a temporary folder");
    let mut command = Command::new(&node);
    command
        .arg(kit.join("npm/node_modules/@modelcontextprotocol/conformance/dist/index.js"))
        .args(["server", "--url", url])
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await;
    let output = output
        .expect("the suite ends in time")
        .unwrap_or_else(|error| panic!("{} does not start: {error}", node.display()));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    eprintln!("{text}");
    (output.status, text)
}

async fn conforms(revision: &str) {
    let Some(kit) = settings::kit() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = http::serve(Fixture::default(), listener, http::Options::default());

    let expected = format!("{}/conformance/{revision}.yml", env!("CARGO_MANIFEST_DIR"));
    let arguments = ["--requirements", revision, "--expected-failures", &expected];
    let (status, text) = suite(&kit, &format!("http://{address}/mcp"), &arguments).await;
    assert!(
        status.success(),
        "the suite for {revision} ended with {status}"
    );
    // It could also end well because it found nothing to do.
    assert!(
        text.contains("tools-call-simple-text"),
        "the suite did not call a tool"
    );
    server.finish().await;
}

#[tokio::test]
async fn the_stateless_revision_conforms() {
    conforms("2026-07-28").await;
}

#[tokio::test]
async fn the_revision_with_sessions_conforms() {
    conforms("2025-11-25").await;
}

/// The product with its own tools, in the scenarios that need no others.
#[tokio::test]
async fn the_product_conforms() {
    let Some(kit) = settings::kit() else { return };
    let server = Server::start(Settings::default()).await;
    for (revision, scenario) in [
        ("2026-07-28", "tools-list"),
        ("2026-07-28", "server-sse-multiple-streams"),
        ("2026-07-28", "dns-rebinding-protection"),
        ("2026-07-28", "http-header-validation"),
        ("2026-07-28", "input-required-result-unsupported-methods"),
        ("2025-11-25", "server-initialize"),
        ("2025-11-25", "server-session-lifecycle"),
        ("2025-11-25", "ping"),
        ("2025-11-25", "tools-list"),
        ("2025-11-25", "server-sse-multiple-streams"),
        ("2025-11-25", "dns-rebinding-protection"),
    ] {
        let arguments = ["--scenario", scenario, "--spec-version", revision];
        let (status, _) = suite(&kit, &server.url(), &arguments).await;
        assert!(
            status.success(),
            "{scenario} of {revision} ended with {status}"
        );
    }
    server.stop(Signal::SIGTERM).await;
}
