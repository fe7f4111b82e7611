// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Measures the product on this host: `./dev bench [--json FILE]`.
//!
//! Two machines run side by side. One belongs to this process, which speaks the protocol to its
//! agent itself; the other to a `waggle serve`, reached through MCP over a kept HTTP connection.
//! What is compared is measured in turns, so that noise of the host falls on all of it alike.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use nix::sys::signal::Signal;
use serde_bytes::ByteBuf;
use serde_json::json;
use tempfile::TempDir;
use waggle::boot_disk;
use waggle::session::{BootOptions, Run, Session, WriteMode, capture::Captured};
use waggle_images::ImageStore;
use waggle_protocol::boot::{PROBE_ANSWER, PROBE_WORD};
use waggle_protocol::message::{Exec, ExitStatus, Program, ReadFile, User, WriteFile};
use waggle_runtime::{AcceleratorChoice, Options, Probe, Vmm};
use waggle_tests::http::Connection;
use waggle_tests::report::{Report, Row};
use waggle_tests::{Server, Settings, settings};

/// Measures pings, spawns, files and boots
#[derive(Debug, Parser)]
struct Line {
    /// Writes the rows to this file as well
    #[arg(long)]
    json: Option<PathBuf>,

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

/// Pings in a round: they are short against the rest of it.
const PINGS: u32 = 10;
/// Rounds before measuring: caches fill, pools open their connections.
const WARM_UP: u32 = 5;
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
    let session = host.boot("bench-raw").await?;
    let (rows, session_exec) = calls(&host, &session, line.rounds).await?;
    report.extend(rows);
    report.extend(files(&session, line.files).await?);
    session.close().await;
    report.extend(boots(&host, line.boots).await?);

    say(&format!("\n{report}"));
    say(&ratios(&report, &session_exec));
    if let Some(path) = &line.json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// What machines are made of here.
struct Host {
    vmm: Vmm,
    boot_disk: PathBuf,
    image: PathBuf,
}

impl Host {
    async fn open(data: &Path) -> anyhow::Result<Self> {
        let boot_disk = boot_disk::materialize(data)?;
        let accelerator = match std::env::var(settings::ACCELERATOR).as_deref() {
            Err(_) | Ok("auto") => AcceleratorChoice::Auto,
            Ok("kvm") => AcceleratorChoice::Kvm,
            Ok("tcg") => AcceleratorChoice::Tcg,
            Ok(other) => anyhow::bail!("{}: {other:?}", settings::ACCELERATOR),
        };
        let vmm = Vmm::open(Options {
            data_dir: data.to_owned(),
            lib_dir: Some(settings::path(settings::LIB_DIR)),
            accelerator,
            boot_disk: boot_disk.clone(),
            probe: Probe {
                kernel_word: PROBE_WORD.to_owned(),
                answer: PROBE_ANSWER.to_owned(),
            },
        })
        .await?;
        let images = ImageStore::open(settings::path(settings::IMAGE_CACHE_DIR))?;
        Ok(Self {
            vmm,
            boot_disk,
            image: images.resolve("shell")?.path,
        })
    }

    /// A machine as `waggle serve` makes them by default.
    async fn boot(&self, name: &str) -> anyhow::Result<Session> {
        let options = BootOptions {
            name: name.to_owned(),
            boot_disk: self.boot_disk.clone(),
            image: self.image.clone(),
            vcpus: 1,
            memory_mib: 512,
            scratch_mib: 4096,
            inject_agent: false,
            kernel_log_level: 0,
            timeout: Duration::from_secs(120),
        };
        Ok(Session::boot(&self.vmm, &options).await?)
    }
}

/// `true` as the tool `execute` runs it: a shell script of one line.
fn script_true() -> Exec {
    Exec {
        program: Program::Code {
            interpreter: vec![ByteBuf::from(b"/bin/sh".to_vec())],
            extension: "sh".to_owned(),
            code: ByteBuf::from(b"true".to_vec()),
        },
        env: Vec::new(),
        directory: None,
        user: User::Sandbox,
        deadline_ms: Some(30_000),
        output_limit: None,
        stdin: false,
    }
}

/// Runs `true` and gives the time between its spawn and its end, by the guest's own clock.
async fn spawn(session: &Session) -> anyhow::Result<Duration> {
    let run = Run {
        exec: script_true(),
        log: None,
        stdin: None,
    };
    let mut output = Captured::new(OUTPUT_LIMIT);
    let end = session.run(run, &mut output).await?.end;
    ensure!(
        end.status == ExitStatus::Code(0),
        "true ended with {:?}",
        end.status
    );
    Ok(Duration::from_micros(end.wall_us))
}

/// Pings, spawns and calls through MCP, in turns. The last row is the spawn as the host sees it,
/// without MCP: it tells in which half a slow call is slow.
async fn calls(host: &Host, session: &Session, rounds: u32) -> anyhow::Result<([Row; 3], Row)> {
    let mut ping = Row::new("vsock_ping");
    let mut execute = Row::new("execute_true_mcp");
    let mut in_guest = Row::new("spawn_in_guest");
    let mut session_exec = Row::new("session_exec");

    // Both sides use the same accelerator, and nobody probes it twice.
    let accelerator = host.vmm.accelerator().to_string();
    let server = Server::start(Settings::default().with(settings::ACCELERATOR, accelerator)).await;
    let mut mcp = Connection::open(server.authority()).await?;
    let created = mcp
        .call("create_environment", &json!({"runtime": "shell"}))
        .await?;
    let id = created
        .pointer("/structuredContent/environment_id")
        .cloned();
    let arguments = json!({"environment_id": id.context("an environment")?, "code": "true"});

    for round in 0..WARM_UP + rounds {
        let warm = round >= WARM_UP;
        for _ in 0..PINGS {
            let start = Instant::now();
            session.ping().await?;
            if warm {
                ping.add(start.elapsed());
            }
        }
        let start = Instant::now();
        let took = spawn(session).await?;
        if warm {
            session_exec.add(start.elapsed());
            in_guest.add(took);
        }
        let start = Instant::now();
        let result = mcp.call("execute", &arguments).await?;
        let took = start.elapsed();
        let exit_code = result.pointer("/structuredContent/exit_code");
        ensure!(exit_code == Some(&json!(0)), "true through MCP: {result}");
        if warm {
            execute.add(took);
        }
    }
    server.stop(Signal::SIGTERM).await;
    Ok(([ping, execute, in_guest], session_exec))
}

/// A file of 16 MiB written, then read.
async fn files(session: &Session, count: u32) -> anyhow::Result<[Row; 2]> {
    let mut write = Row::new("file_write_16m");
    let mut read = Row::new("file_read_16m");
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
        spawn(&session).await?;
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
fn ratios(report: &Report, session_exec: &Row) -> String {
    let p50 = |name: &str| report.row(name).map_or(0, Row::p50) as f64;
    let overhead = p50("execute_true_mcp") - p50("spawn_in_guest");
    let rate = |name: &str| (FILE_BYTES as f64 / 1e6) / (p50(name) / 1e6);
    format!(
        "execute_true_mcp less spawn_in_guest: {:.3} ms, {:.1} times vsock_ping\n\
         of which over vsock, without MCP: {:.3} ms\n\
         boot_ready less boot_pid1: {:.0} ms\n\
         file_write_16m: {:.0} MB/s, file_read_16m: {:.0} MB/s",
        overhead / 1e3,
        overhead / p50("vsock_ping"),
        (session_exec.p50() as f64 - p50("spawn_in_guest")) / 1e3,
        (p50("boot_ready") - p50("boot_pid1")) / 1e3,
        rate("file_write_16m"),
        rate("file_read_16m"),
    )
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
}

fn say(text: &str) {
    // A closed standard output ends nothing.
    let _ = writeln!(std::io::stdout(), "{text}");
}
