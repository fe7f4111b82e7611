// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Measures the product on this host: `./dev bench [--json FILE]`.
//!
//! Two machines run side by side. One belongs to this process, which speaks the protocol to its
//! agent itself; the other to a `waggle serve`, reached through MCP over a kept HTTP connection.
//! What is compared is measured in turns, so that noise of the host falls on all of it alike.

mod calls;
mod creates;
mod download;
mod floor;
mod host;
mod output;
mod pulls;
mod streams;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use serde_bytes::ByteBuf;
use tempfile::TempDir;
use waggle::session::{Session, WriteMode};
use waggle_protocol::message::{ReadFile, User, WriteFile};
use waggle_tests::report::{Report, Row};

use host::Host;

/// Measures calls, files, boots and streams
#[derive(Debug, Parser)]
struct Line {
    /// Writes the rows to this file as well
    #[arg(long)]
    json: Option<PathBuf>,

    /// Measures only this; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Part>,

    /// Rounds of pings, spawns and calls
    #[arg(long, default_value_t = 200)]
    rounds: u32,

    /// Files written and read
    #[arg(long, default_value_t = 20)]
    files: u32,

    /// Machines booted
    #[arg(long, default_value_t = 10)]
    boots: u32,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Pings, spawns, calls of `execute`
    Calls,
    /// Files of 16 MiB
    Files,
    /// What MCP costs over HTTP
    Floor,
    /// Machines
    Boots,
    /// 256 MiB through the agent and beside it
    Streams,
    /// A program that prints 1 GiB
    Output,
    /// 256 MiB through the egress proxy
    Download,
    /// An image of 1 GiB, and what environments of one image cost
    Images,
}

const FILE_BYTES: usize = 16 << 20;
const OUTPUT_LIMIT: usize = 64 << 10;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let line = Line::parse();
    let data = TempDir::new()?;
    let host = Host::open(data.path()).await?;
    let mut report = Report::default();

    say(&format!(
        "accelerator {}, {} cores",
        host.vmm.accelerator(),
        cores()
    ));
    let wanted = |part| line.only.is_empty() || line.only.contains(&part);
    let mut session_exec = None;
    if wanted(Part::Calls) || wanted(Part::Files) {
        let session = host.boot("bench-raw").await?;
        if wanted(Part::Calls) {
            let (rows, seen) = calls::calls(&host, &session, line.rounds).await?;
            report.extend(rows);
            session_exec = Some(seen);
        }
        if wanted(Part::Files) {
            report.extend(files(&session, line.files).await?);
        }
        session.close().await;
    }
    if wanted(Part::Floor) {
        report.extend(floor::floor().await?);
    }
    if wanted(Part::Boots) {
        report.extend(boots(&host, line.boots).await?);
    }
    if wanted(Part::Streams) {
        report.extend(streams::streams(&host).await?);
    }
    if wanted(Part::Output) {
        let (rows, grown) = output::output(&host).await?;
        report.extend(rows);
        report.add_size("host_rss_1g_output", grown);
    }
    if wanted(Part::Download) {
        report.extend(download::download(&host).await?);
    }
    if wanted(Part::Images) {
        images(&host, &mut report).await?;
    }

    say(&format!("\n{report}"));
    say(&ratios(&report, session_exec.as_ref()));
    if let Some(path) = &line.json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// An image of 1 GiB pulled, and environments of an image that is there.
async fn images(host: &Host, report: &mut Report) -> anyhow::Result<()> {
    if let Some(pulls) = pulls::pulls().await? {
        report.extend(pulls.rows);
        for (name, kib) in pulls.peaks {
            report.add_size(name, kib);
        }
    }
    let creates = creates::creates(host).await?;
    report.extend(creates.rows);
    for (name, kib) in creates.sizes {
        report.add_size(name, kib);
    }
    Ok(())
}

/// A file of 16 MiB written, then read.
async fn files(session: &Session, count: u32) -> anyhow::Result<[Row; 2]> {
    let mut write = Row::stream("file_write_16m", FILE_BYTES as u64);
    let mut read = Row::stream("file_read_16m", FILE_BYTES as u64);
    let path = ByteBuf::from(b"/home/sandbox/bench.bin".to_vec());
    // Nothing on the way could compress it.
    let mut state = 1_u64;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(FILE_BYTES)
    .collect();

    for _ in 0..count {
        let request = WriteFile {
            path: path.clone(),
            mode: None,
            create_parents: true,
            user: User::Sandbox,
        };
        let start = Instant::now();
        session
            .write_file(request, WriteMode::Replace, &content)
            .await?;
        write.add(start.elapsed());

        let request = ReadFile {
            path: path.clone(),
            offset: 0,
            length: None,
            user: User::Sandbox,
        };
        let start = Instant::now();
        let (_, back) = session.read_file(request, u64::MAX).await?;
        read.add(start.elapsed());
        ensure!(back == content, "the file came back changed");
    }
    Ok([write, read])
}

/// Machines from launch to the end of their first program, one after the other.
async fn boots(host: &Host, count: u32) -> anyhow::Result<[Row; 3]> {
    let mut pid1 = Row::new("boot_pid1");
    let mut ready = Row::new("boot_ready");
    let mut first = Row::new("boot_first_execute");
    for n in 0..count {
        let start = Instant::now();
        let session = host.boot(&format!("bench-{n}")).await?;
        calls::spawn(&session).await?;
        first.add(start.elapsed());
        let times = session.boot_times();
        pid1.add(times.init);
        ready.add(times.ready);
        session.close().await;
    }
    Ok([pid1, ready, first])
}

/// What a reader wants to compare: medians of one run against each other.
#[allow(
    clippy::cast_precision_loss,
    reason = "microseconds of a bench fit a double"
)]
fn ratios(report: &Report, session_exec: Option<&Row>) -> String {
    let p50 = |name: &str| report.row(name).map(|row| row.p50() as f64 / 1e3);
    let p95 = |name: &str| report.row(name).map(|row| row.p95() as f64 / 1e3);
    let rate = |name: &str| report.row(name).and_then(Row::mib_per_s);
    let mut lines = Vec::new();
    // A line whose rows were not measured is left out.
    let mut line = |text: Option<String>| lines.extend(text);
    line((|| {
        let overhead = p50("execute_true_mcp")? - p50("spawn_in_guest")?;
        let ping = p50("vsock_ping")?;
        Some(format!(
            "execute_true_mcp less spawn_in_guest: {overhead:.3} ms, {:.1} times vsock_ping",
            overhead / ping
        ))
    })());
    line((|| {
        let without = session_exec?.p50() as f64 / 1e3 - p50("spawn_in_guest")?;
        Some(format!("of which over vsock, without MCP: {without:.3} ms"))
    })());
    line((|| {
        let overhead = p50("execute_true_mcp_16")? - p50("spawn_in_guest_16")?;
        Some(format!(
            "execute_true_mcp_16 less spawn_in_guest_16: {overhead:.3} ms"
        ))
    })());
    line((|| {
        let overhead = (p50("mcp_noop")? - p50("http_raw")?) * 1e3;
        Some(format!("mcp_noop less http_raw: {overhead:.0} us"))
    })());
    line((|| {
        let agent = p50("boot_ready")? - p50("boot_pid1")?;
        Some(format!("boot_ready less boot_pid1: {agent:.0} ms"))
    })());
    for way in ["out", "in"] {
        line((|| {
            let file = rate(&format!("file_stream_{way}"))?;
            let bare = rate(&format!("vsock_stream_{way}"))?;
            Some(format!(
                "file_stream_{way} {file:.0} MiB/s, vsock_stream_{way} {bare:.0} MiB/s: {:.0} %",
                100.0 * file / bare
            ))
        })());
    }
    line((|| {
        let (busy, idle) = (p95("ping_under_bulk")?, p95("ping_idle")?);
        Some(format!(
            "ping_under_bulk p95 {busy:.3} ms, ping_idle p95 {idle:.3} ms: {:.1} times",
            busy / idle
        ))
    })());
    line((|| {
        let (ours, theirs) = (p50("pull_root_1g")?, p50("skopeo_umoci_1g")?);
        Some(format!(
            "pull_root_1g {:.1} s, skopeo_umoci_1g {:.1} s: {:.0} %",
            ours / 1e3,
            theirs / 1e3,
            100.0 * ours / theirs
        ))
    })());
    for name in ["download_256m_proxy", "download_256m_tunnel"] {
        line((|| {
            let (ours, alone) = (rate(name)?, rate("download_256m_host")?);
            Some(format!(
                "{name} {ours:.0} MiB/s, download_256m_host {alone:.0} MiB/s: {:.0} %",
                100.0 * ours / alone
            ))
        })());
    }
    lines.join("\n")
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
}

fn say(text: &str) {
    // A closed standard output ends nothing.
    let _ = writeln!(std::io::stdout(), "{text}");
}
