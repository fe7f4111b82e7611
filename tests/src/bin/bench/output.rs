// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A program that prints 1 GiB: what it costs the server in memory, and other callers in time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use waggle_tests::Server;
use waggle_tests::http::Connection;
use waggle_tests::report::Row;

use super::calls::create;
use super::host::Host;

/// What the program prints.
const OUTPUT_BYTES: u64 = 1 << 30;
/// Pause between two looks at the server, and two calls of the other client.
const PAUSE: Duration = Duration::from_millis(20);

/// How long `list_environments` takes for another client meanwhile, and by how many KiB the resident
/// memory of the server grew at most.
pub(crate) async fn output(host: &Host) -> anyhow::Result<([Row; 1], u64)> {
    let server = host.serve().await;
    let mut mcp = Connection::open(server.authority()).await?;
    let mut other = Connection::open(server.authority()).await?;
    let environment = create(&mut mcp).await?;
    let arguments =
        |code: String| json!({"environment_id": environment, "code": code, "timeout_seconds": 240});
    // What every server has after its first calls is no growth.
    mcp.call(
        "execute",
        &arguments("head -c 1000000 /dev/zero".to_owned()),
    )
    .await?;
    other.call("list_environments", &json!({})).await?;

    let before = resident_kib(&server)?;
    let mut most = before;
    let mut row = Row::new("call_under_1g_output");
    let code = arguments(format!("head -c {OUTPUT_BYTES} /dev/zero"));
    let mut look = async || {
        let start = Instant::now();
        other.call("list_environments", &json!({})).await?;
        row.add(start.elapsed());
        most = most.max(resident_kib(&server)?);
        tokio::time::sleep(PAUSE).await;
        Ok(())
    };
    let watch = async {
        loop {
            if let Err(error) = look().await {
                let error: anyhow::Error = error;
                break error;
            }
        }
    };
    let result = tokio::select! {
        result = mcp.call("execute", &code) => result?,
        error = watch => return Err(error),
    };
    let number = |name: &str| {
        result
            .pointer(&format!("/structuredContent/{name}"))
            .cloned()
    };
    ensure!(number("exit_code") == Some(json!(0)), "1 GiB: {result}");
    let left_out = number("bytes_left_out").and_then(|value| value.as_u64());
    ensure!(
        left_out.is_some_and(|bytes| bytes > OUTPUT_BYTES / 2),
        "1 GiB came, of which left out: {left_out:?}"
    );
    server.stop(Signal::SIGTERM).await;
    Ok(([row], most - before))
}

fn resident_kib(server: &Server) -> anyhow::Result<u64> {
    let pid = server.pid().context("the server runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .context("a process has resident memory")?
        .parse()
        .context("a number of KiB")
}
