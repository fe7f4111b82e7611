// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Bulk: 256 MiB through the agent against the same bytes over a bare vsock connection, and what a
//! ping takes meanwhile.
//!
//! The files lie in the guest's `/dev/shm`, so that no disk is measured. The bare connection ends in
//! a Python program in the same guest, which sends from and receives into one block of memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_bytes::ByteBuf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waggle::session::capture::Captured;
use waggle::session::{Run, Session, WriteMode};
use waggle_protocol::message::{Exec, Program, ReadFile, User, WriteFile};
use waggle_runtime::{ConnectError, MachineStream};
use waggle_tests::report::Row;

use super::OUTPUT_LIMIT;
use super::host::Host;

/// Bytes of one stream.
const STREAM_BYTES: usize = 256 << 20;
/// A stream is as fast as the median of so many.
const ROUNDS: u32 = 3;
/// Pings of an idle machine, before and after those under load.
const IDLE_PINGS: u32 = 500;
/// Room for the file twice in `/dev/shm`, which takes half of the memory.
const MEMORY_MIB: u32 = 1280;
/// Where the bare connection ends.
const PORT: u32 = 5200;
/// What it reads and writes at a time: as much as one of the protocol's frames carries.
const BLOCK_BYTES: usize = 64 << 10;

/// Sends or takes a stream, as the first byte of each connection says, then waits for the end of it:
/// closing first could lose the last bytes.
const PEER: &str = r#"
import socket
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, PORT))
listener.listen()
block = bytearray(BLOCK_BYTES)
while True:
    stream, _ = listener.accept()
    with stream:
        way = stream.recv(1)
        if way == b"o":
            for _ in range(STREAM_BYTES // BLOCK_BYTES):
                stream.sendall(block)
        elif way == b"i":
            left = STREAM_BYTES
            while left and (count := stream.recv_into(block)):
                left -= count
            stream.sendall(b"k")
        stream.recv(1)
"#;

/// The rows of this file.
pub(crate) async fn streams(host: &Host) -> anyhow::Result<Vec<Row>> {
    let session = host.boot_with("bench-bulk", "python", MEMORY_MIB).await?;
    let mut output = Captured::new(OUTPUT_LIMIT);
    // Dropped with the future, which ends the program.
    let rows = tokio::select! {
        end = session.run(peer(), &mut output) => {
            let text = output.stderr.text(OUTPUT_LIMIT, "").text;
            anyhow::bail!("the other end of the bare connection ended: {end:?} {text}")
        }
        rows = measure(&session) => rows?,
    };
    session.close().await;
    Ok(rows)
}

/// The program at the other end of the bare connection.
fn peer() -> Run {
    let code =
        format!("PORT, BLOCK_BYTES, STREAM_BYTES = {PORT}, {BLOCK_BYTES}, {STREAM_BYTES}\n{PEER}");
    Run {
        exec: Exec {
            program: Program::Code {
                interpreter: vec![ByteBuf::from(b"python3".to_vec())],
                extension: "py".to_owned(),
                code: ByteBuf::from(code.into_bytes()),
            },
            env: Vec::new(),
            directory: None,
            user: User::Sandbox,
            deadline_ms: None,
            output_limit: None,
            stdin: false,
        },
        log: None,
        stdin: None,
    }
}

async fn measure(session: &Session) -> anyhow::Result<Vec<Row>> {
    let bytes = STREAM_BYTES as u64;
    let mut vsock_out = Row::stream("vsock_stream_out", bytes);
    let mut vsock_in = Row::stream("vsock_stream_in", bytes);
    let mut file_out = Row::stream("file_stream_out", bytes);
    let mut file_in = Row::stream("file_stream_in", bytes);
    let mut idle = Row::new("ping_idle");
    let mut under_bulk = Row::new("ping_under_bulk");

    let mut block = vec![0; BLOCK_BYTES];
    drop(dial(session).await?);
    for _ in 0..ROUNDS {
        vsock_in.add(raw_in(session, &mut block).await?);
        file_in.add(write(session).await?);
        vsock_out.add(raw_out(session, &mut block).await?);
        file_out.add(read(session).await?);
    }

    pings(session, &mut idle, IDLE_PINGS).await?;
    tokio::select! {
        read = read(session) => { read?; }
        failed = pings(session, &mut under_bulk, u32::MAX) => failed?,
    }
    pings(session, &mut idle, IDLE_PINGS).await?;
    Ok(vec![
        vsock_out, file_out, vsock_in, file_in, idle, under_bulk,
    ])
}

/// Pings over one kept connection, one after the other.
async fn pings(session: &Session, row: &mut Row, count: u32) -> anyhow::Result<()> {
    session.ping().await?;
    for _ in 0..count {
        let start = Instant::now();
        session.ping().await?;
        row.add(start.elapsed());
    }
    Ok(())
}

/// A connection to the program in the guest, as soon as it listens.
async fn dial(session: &Session) -> anyhow::Result<MachineStream> {
    loop {
        match session.machine().connect(PORT).await {
            Err(ConnectError::Refused { .. }) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

async fn raw_out(session: &Session, block: &mut [u8]) -> anyhow::Result<Duration> {
    let mut stream = dial(session).await?;
    let start = Instant::now();
    stream.write_all(b"o").await?;
    let mut left = STREAM_BYTES;
    while left > 0 {
        let count = stream.read(block).await?;
        ensure!(count > 0, "the bare connection ended {left} bytes early");
        left -= count;
    }
    Ok(start.elapsed())
}

async fn raw_in(session: &Session, block: &mut [u8]) -> anyhow::Result<Duration> {
    let mut stream = dial(session).await?;
    let start = Instant::now();
    stream.write_all(b"i").await?;
    for _ in 0..STREAM_BYTES / BLOCK_BYTES {
        stream.write_all(block).await?;
    }
    let answer = stream.read_u8().await.context("the peer took it all")?;
    ensure!(answer == b'k', "the peer answered {answer}");
    Ok(start.elapsed())
}

fn path() -> ByteBuf {
    ByteBuf::from(b"/dev/shm/bench.bin".to_vec())
}

async fn write(session: &Session) -> anyhow::Result<Duration> {
    let content = vec![0x5a; STREAM_BYTES];
    let request = WriteFile {
        path: path(),
        mode: None,
        create_parents: false,
        user: User::Sandbox,
    };
    let start = Instant::now();
    session
        .write_file(request, WriteMode::Replace, &content)
        .await?;
    Ok(start.elapsed())
}

async fn read(session: &Session) -> anyhow::Result<Duration> {
    let request = ReadFile {
        path: path(),
        offset: 0,
        length: None,
        user: User::Sandbox,
    };
    let start = Instant::now();
    let (_, content) = session.read_file(request, u64::MAX).await?;
    let took = start.elapsed();
    ensure!(
        content.len() == STREAM_BYTES && content.iter().all(|byte| *byte == 0x5a),
        "the file came back changed"
    );
    Ok(took)
}
