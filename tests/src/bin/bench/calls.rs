// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `true` through MCP against the same spawn inside a guest, by one client and by 16 at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use waggle::session::{Run, Session, capture::Captured};
use waggle_protocol::message::{Exec, ExitStatus, Program, User};
use waggle_tests::http::Connection;
use waggle_tests::report::Row;

use super::OUTPUT_LIMIT;
use super::host::Host;

/// Pings in a round: they are short against the rest of it.
const PINGS: u32 = 10;
/// Rounds before measuring: caches fill, pools open their connections.
const WARM_UP: u32 = 5;
/// Clients that call at once.
const CLIENTS: usize = 16;
/// How often they do. The first time is not counted.
const WAVES: u32 = 16;

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
pub(crate) async fn spawn(session: &Session) -> anyhow::Result<Duration> {
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

/// The rows of this file. The last one is the spawn as the host sees it, without MCP: it tells in
/// which half a slow call is slow.
pub(crate) async fn calls(
    host: &Host,
    session: &Session,
    rounds: u32,
) -> anyhow::Result<(Vec<Row>, Row)> {
    let server = host.serve().await;
    let mut mcp = Connection::open(server.authority()).await?;
    let environment = create(&mut mcp).await?;
    let arguments = json!({"environment_id": environment, "code": "true"});
    let (mut rows, session_exec) = one_by_one(session, &mut mcp, &arguments, rounds).await?;
    rows.extend(at_once(session, server.authority(), &arguments).await?);
    server.stop(Signal::SIGTERM).await;
    Ok((rows, session_exec))
}

/// Creates an environment of the shell image.
pub(crate) async fn create(mcp: &mut Connection) -> anyhow::Result<Value> {
    let created = mcp
        .call("create_environment", &json!({"runtime": "shell"}))
        .await?;
    let id = created.pointer("/structuredContent/environment_id");
    id.cloned().context("an environment")
}

/// Calls `execute` with `true` and gives the time it took.
async fn execute(mcp: &mut Connection, arguments: &Value) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let result = mcp.call("execute", arguments).await?;
    let took = start.elapsed();
    let exit_code = result.pointer("/structuredContent/exit_code");
    ensure!(exit_code == Some(&json!(0)), "true through MCP: {result}");
    Ok(took)
}

/// Pings, spawns and calls through MCP, in turns.
async fn one_by_one(
    session: &Session,
    mcp: &mut Connection,
    arguments: &Value,
    rounds: u32,
) -> anyhow::Result<(Vec<Row>, Row)> {
    let mut ping = Row::new("vsock_ping");
    let mut through_mcp = Row::new("execute_true_mcp");
    let mut in_guest = Row::new("spawn_in_guest");
    let mut session_exec = Row::new("session_exec");

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
        let took = execute(mcp, arguments).await?;
        if warm {
            through_mcp.add(took);
        }
    }
    Ok((vec![ping, through_mcp, in_guest], session_exec))
}

/// The same by 16 clients at once, who call one machine, in turns with 16 spawns at once in the other.
async fn at_once(
    session: &Session,
    authority: &str,
    arguments: &Value,
) -> anyhow::Result<[Row; 2]> {
    let mut through_mcp = Row::new("execute_true_mcp_16");
    let mut in_guest = Row::new("spawn_in_guest_16");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Connection::open(authority).await?);
    }
    for round in 0..WAVES {
        let calls = clients.iter_mut().map(|mcp| execute(mcp, arguments));
        let called = try_join_all(calls).await?;
        let spawns = (0..CLIENTS).map(|_| spawn(session));
        let spawned = try_join_all(spawns).await?;
        // The first wave opens connections to the agents.
        if round > 0 {
            called.into_iter().for_each(|took| through_mcp.add(took));
            spawned.into_iter().for_each(|took| in_guest.add(took));
        }
    }
    Ok([through_mcp, in_guest])
}
