// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Streams between a host and real programs on the loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use waggle_protocol::frame::{Kind, encode};
use waggle_protocol::message::{Connect, FailureCode, Reply, Request};

use super::*;
use crate::testing::{Host, agent};

/// A host that is connected to a program of the test's.
async fn connected() -> (Host, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut host = Host::connect().await;
    let answer = host.ask(Request::Connect(Connect { port })).await;
    assert_eq!(*answer.terminal(), Reply::Connected);
    (host, listener.accept().await.unwrap().0)
}

async fn tell(host: &mut Host, message: StreamMessage) {
    host.data(Kind::Control, &codec::to_payload(&message)).await;
}

async fn next(host: &mut Host) -> Vec<u8> {
    let frame = host.connection.reader.next().await.unwrap().unwrap();
    assert_eq!(frame.kind, Kind::File);
    frame.payload.to_vec()
}

/// Ends `program`'s connection by a reset.
fn reset(program: TcpStream) {
    program.set_zero_linger().unwrap();
    drop(program);
}

#[tokio::test]
async fn bytes_and_ends_go_both_ways() {
    let (mut host, mut program) = connected().await;
    host.data(Kind::File, b"question").await;
    host.data(Kind::File, b"").await;
    let mut question = Vec::new();
    program.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    // The other direction goes on.
    program.write_all(b"answer").await.unwrap();
    assert_eq!(next(&mut host).await, b"answer");
    drop(program);
    assert_eq!(next(&mut host).await, b"");
    // The host closes, and that is the end.
    let (_, served) = host.hang_up().await;
    assert!(served.is_ok(), "{served:?}");
}

#[tokio::test]
async fn the_program_may_end_first() {
    let (mut host, mut program) = connected().await;
    program.shutdown().await.unwrap();
    assert_eq!(next(&mut host).await, b"");
    host.data(Kind::File, b"late").await;
    host.data(Kind::File, b"").await;
    let mut late = Vec::new();
    program.read_to_end(&mut late).await.unwrap();
    assert_eq!(late, b"late");
    let (_, served) = host.hang_up().await;
    assert!(served.is_ok(), "{served:?}");
}

#[tokio::test]
async fn nobody_there_is_told_and_the_connection_goes_on() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut host = Host::connect().await;
    let answer = host.ask(Request::Connect(Connect { port })).await;
    assert_eq!(answer.failure().code, FailureCode::Refused);
    assert!(answer.failure().message.contains(&port.to_string()));
    assert_eq!(*host.ask(Request::Ping).await.terminal(), Reply::Pong);
}

#[tokio::test]
async fn a_program_on_the_other_loopback_is_found() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else {
        eprintln!("skipped: no IPv6 here");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let mut host = Host::connect().await;
    let answer = host.ask(Request::Connect(Connect { port })).await;
    assert_eq!(*answer.terminal(), Reply::Connected);
}

#[tokio::test]
async fn who_does_not_read_holds_the_other_side_back() {
    const FAR_TOO_MUCH: usize = 64 * 1024 * 1024;
    let (mut host, mut program) = connected().await;
    let mut sent = 0;
    let flood = vec![7; 64 * 1024];
    while sent < FAR_TOO_MUCH {
        let write = program.write_all(&flood);
        if timeout(Duration::from_millis(300), write).await.is_err() {
            break;
        }
        sent += flood.len();
    }
    assert!(sent < FAR_TOO_MUCH, "nothing held it back");
    // The other direction is not held back by that.
    host.data(Kind::File, b"still here").await;
    let mut heard = [0; 10];
    program.read_exact(&mut heard).await.unwrap();
    assert!(!next(&mut host).await.is_empty());
}

#[tokio::test]
async fn a_reset_frees_the_connection_while_both_sides_are_silent() {
    let (mut host, program) = connected().await;
    reset(program);
    assert!(host.is_closed().await);
    assert!(host.served.await.unwrap().is_err());
}

#[tokio::test]
async fn a_reset_is_noticed_while_the_host_does_not_read() {
    let (host, mut program) = connected().await;
    let flood = vec![7; 64 * 1024];
    let write = async { while program.write_all(&flood).await.is_ok() {} };
    let _ = timeout(Duration::from_millis(300), write).await;
    reset(program);
    let served = timeout(Duration::from_secs(5), host.served).await;
    assert!(served.expect("noticed").unwrap().is_err());
}

/// All that the host still gets before its connection closes.
async fn rest(host: &mut Host) -> Vec<u8> {
    let mut rest = Vec::new();
    while let Some(Ok(frame)) = host.connection.reader.next().await {
        if frame.kind == Kind::Control {
            // What the program's kernel took.
            continue;
        }
        assert!(!frame.payload.is_empty(), "an end, as if all was well");
        rest.extend_from_slice(&frame.payload);
    }
    rest
}

#[tokio::test]
async fn an_answer_before_a_reset_reaches_the_host() {
    // Whether or not it has more to say to the program, which no longer listens.
    for has_more in [false, true] {
        let (mut host, mut program) = connected().await;
        let answer = vec![7; 100_000];
        if has_more {
            let piece = vec![1; 64 * 1024];
            for _ in 0..STREAM_WINDOW / piece.len() {
                host.data(Kind::File, &piece).await;
            }
        } else {
            host.data(Kind::File, b"a question that nobody reads").await;
        }
        program.peek(&mut [0]).await.unwrap();
        program.write_all(&answer).await.unwrap();
        // Closing on top of what was not read is a reset.
        drop(program);
        let heard = timeout(Duration::from_secs(2), rest(&mut host)).await;
        assert!(heard.expect("told at once") == answer);
        assert!(host.served.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn the_host_gives_up_by_a_frame_or_by_closing_and_the_program_is_told() {
    for by_frame in [true, false] {
        let (mut host, mut program) = connected().await;
        program.write_all(b"unread").await.unwrap();
        if by_frame {
            tell(&mut host, StreamMessage::GivenUp).await;
            assert!(host.served.await.unwrap().is_err());
        } else {
            let (_, served) = host.hang_up().await;
            assert!(served.is_err());
        }
        let mut rest = Vec::new();
        let read = timeout(Duration::from_secs(5), program.read_to_end(&mut rest)).await;
        // An end or a reset, whichever the kernel makes of it.
        assert!(read.is_ok());
    }
}

#[tokio::test]
async fn what_is_no_stream_ends_it() {
    for (kind, payload) in [
        (Kind::Stdin, b"x".as_slice()),
        (Kind::Control, b""),
        (Kind::Control, b"\0\x01"),
        (Kind::Stdout, b""),
    ] {
        let (mut host, _program) = connected().await;
        host.data(kind, payload).await;
        assert!(host.is_closed().await, "{kind:?}");
        assert!(host.served.await.unwrap().is_err());
    }
    let (mut host, _program) = connected().await;
    host.data(Kind::File, b"").await;
    host.data(Kind::File, b"more after the end").await;
    assert!(host.is_closed().await);
}

#[tokio::test]
async fn a_program_that_does_not_read_keeps_the_host_at_the_window() {
    let (mut host, mut program) = connected().await;
    let piece = vec![7; 32 * 1024];
    let mut granted = STREAM_WINDOW;
    let mut sent = 0;
    // Until what its kernel takes by itself is full.
    while granted - sent >= piece.len() {
        host.data(Kind::File, &piece).await;
        sent += piece.len();
        let heard = timeout(Duration::from_millis(300), host.connection.reader.next());
        if granted - sent < piece.len()
            && let Ok(Some(frame)) = heard.await
        {
            match codec::message(&frame.unwrap()).unwrap() {
                StreamMessage::Taken { bytes } => granted += bytes as usize,
                other @ StreamMessage::GivenUp => panic!("{other:?}"),
            }
        }
    }
    assert!(
        !host.served.is_finished(),
        "all of that was within the window"
    );
    // It hears that it is over all the same.
    let (mut deaf, _deaf_program) = connected().await;
    for _ in 0..STREAM_WINDOW / piece.len() {
        deaf.data(Kind::File, &piece).await;
    }
    tell(&mut deaf, StreamMessage::GivenUp).await;
    let served = timeout(Duration::from_secs(5), deaf.served).await;
    assert!(served.expect("it hears").unwrap().is_err());

    // What the program reads is told, and comes whole.
    let mut heard = vec![0; sent];
    program.read_exact(&mut heard).await.unwrap();
    assert!(heard.iter().all(|byte| *byte == 7));
    let frame = host.connection.reader.next().await.unwrap().unwrap();
    let told: StreamMessage = codec::message(&frame).unwrap();
    assert!(matches!(told, StreamMessage::Taken { .. }), "{told:?}");
}

#[tokio::test]
async fn more_than_the_window_is_no_stream() {
    let (mut host, _program) = connected().await;
    tell(&mut host, StreamMessage::Taken { bytes: 1 }).await;
    assert!(
        host.is_closed().await,
        "nothing was sent that could be taken"
    );

    let (mut host, _program) = connected().await;
    let piece = vec![7; 64 * 1024];
    // Without listening for what was taken. The connection may close on the way.
    for _ in 0..1000 {
        let mut bytes = BytesMut::new();
        encode(Kind::File, &piece, &mut bytes);
        if host.connection.writer.write_all(&bytes).await.is_err() {
            break;
        }
    }
    assert!(host.served.await.unwrap().is_err());
}

#[tokio::test]
async fn what_was_sent_before_the_end_is_delivered_to_a_slow_program() {
    let (mut host, mut program) = connected().await;
    let sent = vec![7; STREAM_WINDOW];
    for piece in sent.chunks(64 * 1024) {
        host.data(Kind::File, piece).await;
    }
    host.data(Kind::File, b"").await;
    tell(&mut host, StreamMessage::GivenUp).await;
    let (_, served) = host.hang_up().await;
    let mut heard = Vec::new();
    program.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), sent.len());
    assert!(served.is_ok(), "{served:?}");
}

#[tokio::test]
async fn there_are_only_so_many() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent(folder.path());
    agent.inbound = Semaphore::new(0);
    let mut host = Host::connect_to(agent, folder).await;
    let answer = host.ask(Request::Connect(Connect { port: 1 })).await;
    assert_eq!(answer.failure().code, FailureCode::Refused);
    assert!(answer.failure().message.contains("open already"));
}
