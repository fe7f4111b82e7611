// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A guest that breaks the rules: the host neither crashes, hangs nor grows.
//!
//! The peer here is the test itself, at the other end of an in-memory pipe: no agent of ours would
//! send these bytes.

use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::{any, prop};
use serde_bytes::ByteBuf;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
    time::timeout,
};
use waggle::session::{
    LinkError, Run, WriteMode,
    capture::Captured,
    connection::{Connection, Reusable},
};
use waggle_protocol::{
    codec,
    frame::{self, FrameError, Kind},
    handshake::{Hello, VERSION_MAX},
    message::{
        EndReason, Entry, Exec, ExecEnd, ExitStatus, Failure, FailureCode, FileInfo, FileKind,
        ListFiles, Program, ReadFile, Reply, StreamTotals, User, WriteFile,
    },
};

/// Bytes that the pipe holds: small, so that a peer that does not read blocks a writer soon.
const PIPE: usize = 4096;

fn hello() -> BytesMut {
    let mut bytes = BytesMut::new();
    codec::put(&Hello::GUEST, &mut bytes);
    bytes
}

/// A connection whose guest sends `script` and then keeps silent, connection open.
async fn opened(script: BytesMut) -> (Connection<DuplexStream>, tokio::task::JoinHandle<()>) {
    let (host, mut guest) = tokio::io::duplex(PIPE);
    let guest = tokio::spawn(async move {
        let mut all = hello();
        all.extend_from_slice(&script);
        // The host may hang up in the middle: that is its right.
        let _ = guest.write_all(&all).await;
        let _ = guest.read_to_end(&mut Vec::new()).await;
    });
    let connection = Connection::open(host).await.expect("a proper hello");
    (connection, guest)
}

fn run() -> Run {
    let exec = Exec {
        program: Program::Command(vec![ByteBuf::from(&b"true"[..])]),
        env: Vec::new(),
        directory: None,
        user: User::Sandbox,
        deadline_ms: None,
        output_limit: None,
        stdin: false,
    };
    Run {
        exec,
        log: None,
        stdin: None,
    }
}

fn read() -> ReadFile {
    let path = ByteBuf::from(&b"/x"[..]);
    ReadFile {
        path,
        offset: 0,
        length: None,
        user: User::Sandbox,
    }
}

fn frames(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut bytes = BytesMut::new();
    build(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_stranger_and_a_guest_of_another_age_are_told_apart() {
    for (magic, version) in [(*b"HTTP", 1), (*b"WGGL", VERSION_MAX + 1)] {
        let (host, mut guest) = tokio::io::duplex(PIPE);
        let theirs = Hello {
            magic,
            version_min: version,
            version_max: version,
            ..Hello::GUEST
        };
        let mut bytes = BytesMut::new();
        codec::put(&theirs, &mut bytes);
        guest.write_all(&bytes).await.expect("room");
        let error = Connection::open(host).await.expect_err("no agreement");
        assert!(matches!(error, LinkError::Handshake(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_frame_that_announces_gigabytes_is_refused_at_its_header() {
    let mut script = BytesMut::new();
    script.extend_from_slice(&u32::MAX.to_le_bytes());
    script.extend_from_slice(&[Kind::Stdout as u8]);
    let (mut connection, _guest) = opened(script).await;
    let error = connection
        .run(run(), &mut Captured::new(100))
        .await
        .0
        .expect_err("too long");
    assert!(
        matches!(error, LinkError::Frame(FrameError::TooLong { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn endless_output_is_kept_within_its_bounds() {
    let (host, mut guest) = tokio::io::duplex(PIPE);
    let flood = tokio::spawn(async move {
        let mut bytes = hello();
        codec::put(&Reply::Started { pid: 1 }, &mut bytes);
        for _ in 0..2000 {
            frame::encode(Kind::Stdout, &[b'x'; 60_000], &mut bytes);
            guest
                .write_all(&bytes.split())
                .await
                .expect("the host reads on");
        }
        let totals = StreamTotals {
            sent: 0,
            cut: false,
        };
        let end = ExecEnd {
            status: ExitStatus::Code(0),
            reason: EndReason::Exited,
            wall_us: 1,
            user_us: 1,
            system_us: 0,
            stdout: totals,
            stderr: totals,
        };
        codec::put(&Reply::Ended(end), &mut bytes);
        guest.write_all(&bytes).await.expect("the host reads on");
        guest
    });
    let mut connection = Connection::open(host).await.expect("a proper hello");
    let mut captured = Captured::new(1000);
    let (outcome, reusable) = connection.run(run(), &mut captured).await;
    outcome.expect("it ends");
    assert_eq!(reusable, Reusable::Yes);
    let stdout = captured.stdout.text(1000, "");
    assert_eq!(stdout.left_out, 2000 * 60_000 - 1000);
    assert!(stdout.text.len() < 1100);
    drop(flood.await.expect("no panic"));
}

#[tokio::test]
async fn a_file_and_a_list_stop_at_what_was_asked_for() {
    let (mut connection, _guest) = opened(frames(|bytes| {
        codec::put(
            &Reply::File(FileInfo {
                size: 5,
                mode: 0,
                modified_ns: 0,
            }),
            bytes,
        );
        for _ in 0..100 {
            frame::encode(Kind::File, &[0; 1000], bytes);
        }
    }))
    .await;
    let error = connection
        .read_file(read(), 10_000)
        .await
        .expect_err("more than asked for");
    assert!(
        matches!(error, LinkError::TooMuch { limit: 10_000, .. }),
        "{error:?}"
    );

    let entry = Entry {
        name: ByteBuf::from(&b"n"[..]),
        kind: FileKind::File,
        size: 0,
        mode: 0,
        modified_ns: 0,
    };
    let (mut connection, _guest) = opened(frames(|bytes| {
        codec::put(&Reply::Entries(vec![entry; 50]), bytes);
    }))
    .await;
    let path = ByteBuf::from(&b"/"[..]);
    let request = ListFiles {
        path,
        depth: 1,
        limit: 49,
        user: User::Sandbox,
    };
    let error = connection
        .list_files(request)
        .await
        .expect_err("more than asked for");
    assert!(
        matches!(error, LinkError::TooMuch { limit: 49, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_program_that_ends_without_reading_its_input_does_not_block_the_host() {
    let (host, mut guest) = tokio::io::duplex(PIPE);
    let mut bytes = hello();
    let totals = StreamTotals::default();
    let end = ExecEnd {
        status: ExitStatus::Code(0),
        reason: EndReason::Exited,
        wall_us: 1,
        user_us: 1,
        system_us: 0,
        stdout: totals,
        stderr: totals,
    };
    codec::put(&Reply::Ended(end), &mut bytes);
    guest.write_all(&bytes).await.expect("room");
    let mut connection = Connection::open(host).await.expect("a proper hello");
    let (input, stdin) = mpsc::channel(1);
    input.try_send(vec![0; 1 << 20].into()).expect("room");
    let run = Run {
        stdin: Some(stdin),
        ..run()
    };
    let mut captured = Captured::new(10);
    let work = connection.run(run, &mut captured);
    let (outcome, reusable) = timeout(Duration::from_secs(60), work)
        .await
        .expect("the host does not wait for ever");
    outcome.expect("it ended");
    assert_eq!(reusable, Reusable::No, "its input may be half sent");
}

#[tokio::test]
async fn replies_of_another_operation_are_refused() {
    for reply in [
        Reply::Pong,
        Reply::Written { bytes: 1 },
        Reply::ShuttingDown,
    ] {
        let (mut connection, _guest) = opened(frames(|bytes| codec::put(&reply, bytes))).await;
        let error = connection
            .run(run(), &mut Captured::new(10))
            .await
            .0
            .expect_err("out of turn");
        assert!(
            matches!(error, LinkError::Unexpected(_)),
            "{reply:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_guest_that_refuses_a_write_without_reading_it_does_not_block_the_host() {
    let failure = Failure {
        code: FailureCode::NoSpace,
        message: "/x: no space left on device".into(),
    };
    let (host, mut guest) = tokio::io::duplex(PIPE);
    let mut bytes = hello();
    codec::put(&Reply::Failed(failure.clone()), &mut bytes);
    guest.write_all(&bytes).await.expect("room");
    let mut connection = Connection::open(host).await.expect("a proper hello");
    let request = WriteFile {
        path: ByteBuf::from(&b"/x"[..]),
        mode: None,
        create_parents: true,
        user: User::Sandbox,
    };
    let content = vec![0; 1 << 20];
    let write = connection.write_file(request, WriteMode::Replace, &content);
    let (outcome, reusable) = timeout(Duration::from_secs(60), write)
        .await
        .expect("the host does not wait for ever");
    assert!(matches!(outcome, Err(LinkError::Failed(told)) if told == failure));
    assert_eq!(
        reusable,
        Reusable::No,
        "bytes of this write may still be under way"
    );
}

#[tokio::test]
async fn an_end_in_the_middle_is_an_error() {
    let (host, mut guest) = tokio::io::duplex(PIPE);
    let mut bytes = hello();
    frame::encode(Kind::Stdout, b"part", &mut bytes);
    guest.write_all(&bytes).await.expect("room");
    let mut connection = Connection::open(host).await.expect("a proper hello");
    drop(guest);
    let mut captured = Captured::new(100);
    let error = connection
        .run(run(), &mut captured)
        .await
        .0
        .expect_err("cut off");
    // Writing to a peer that is gone, or reading from it: either says so.
    assert!(
        matches!(error, LinkError::Closed | LinkError::Io(_)),
        "{error:?}"
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_an_operation_panic_or_hang(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        framed in any::<bool>(),
        kind in 0_u8..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for operation in 0..3 {
                let (host, mut guest) = tokio::io::duplex(PIPE);
                let mut bytes = hello();
                if framed {
                    let length = u32::try_from(noise.len()).unwrap();
                    bytes.extend_from_slice(&length.to_le_bytes());
                    bytes.extend_from_slice(&[kind]);
                }
                bytes.extend_from_slice(&noise);
                guest.write_all(&bytes).await.unwrap();
                let mut connection = Connection::open(host).await.unwrap();
                let peer = tokio::spawn(async move {
                    // Ends its side, so that a wait for more ends too.
                    guest.shutdown().await.unwrap();
                    let _ = guest.read_to_end(&mut Vec::new()).await;
                });
                let work = async {
                    match operation {
                        0 => drop(connection.run(run(), &mut Captured::new(64)).await),
                        1 => drop(connection.read_file(read(), 1000).await),
                        _ => drop(connection.ping().await),
                    }
                };
                timeout(Duration::from_secs(60), work).await.expect("it ends");
                drop(connection);
                peer.await.unwrap();
            }
        });
    }
}
