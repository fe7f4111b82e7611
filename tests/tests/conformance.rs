// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The MCP project's own conformance suite against the product's HTTP stack.
//!
//! Its tools are in `waggle_tests::fixture`. What fails because Waggle does not have the feature is
//! listed, with reasons, in `conformance/`; the suite reports a failure that is not listed, and a
//! listed one that passes.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, time::timeout};
use waggle::mcp::http;
use waggle_tests::Fixture;

/// The folder with the equipment that `./dev` fetches.
const KIT: &str = "WAGGLE_TEST_KIT";

/// The suite takes a few seconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(180);

async fn conforms(revision: &str) {
    let Some(kit) = std::env::var_os(KIT).map(PathBuf::from) else {
        eprintln!("skipped: {KIT} names no folder with the conformance suite");
        return;
    };
    let node = kit.join("node/bin/node");
    let suite = kit.join("npm/node_modules/@modelcontextprotocol/conformance/dist/index.js");
    let expected = format!("{}/conformance/{revision}.yml", env!("CARGO_MANIFEST_DIR"));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = http::serve(Fixture::default(), listener, http::Options::default());

    let folder = TempDir::new().expect("a temporary folder");
    let mut command = Command::new(&node);
    command
        .arg(&suite)
        .args(["server", "--url", &format!("http://{address}/mcp")])
        .args(["--requirements", revision])
        .args(["--expected-failures", &expected])
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
    assert!(
        output.status.success(),
        "the suite for {revision} ended with {}",
        output.status
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
