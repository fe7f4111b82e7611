// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The rules of a connection, and what breaks them.

use bytes::BytesMut;
use futures_util::StreamExt;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use waggle_protocol::codec;
use waggle_protocol::frame::{Kind, encode};
use waggle_protocol::handshake::Hello;
use waggle_protocol::message::{FailureCode, ListFiles, ReadFile, Reply, Request, User};

use super::serve;
use crate::connection::{Connection, ConnectionError};
use crate::testing::{Host, agent, bytes_of, command};

#[tokio::test]
async fn pings_and_probes_are_answered() {
    let mut host = Host::connect().await;
    assert_eq!(*host.ask(Request::Ping).await.terminal(), Reply::Pong);
    let answer = host.ask(Request::Probe).await;
    assert!(matches!(answer.terminal(), Reply::Capabilities(_)));
}

#[tokio::test]
async fn a_closed_connection_ends_cleanly() {
    let (_, served) = Host::connect().await.hang_up().await;
    assert!(served.is_ok());
}

#[tokio::test]
async fn shutdown_is_answered_and_then_announced() {
    let folder = tempfile::tempdir().unwrap();
    let agent = std::sync::Arc::new(agent(folder.path()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serving = std::sync::Arc::clone(&agent);
    let served = tokio::spawn(async move { serve(theirs, &serving).await });
    let mut connection = Connection::new(ours).unwrap();
    connection.open_handshake().await.unwrap();
    let mut bytes = BytesMut::new();
    codec::put(&Request::Shutdown, &mut bytes);
    connection.writer.write_all(&bytes).await.unwrap();
    let frame = connection.reader.next().await.unwrap().unwrap();
    assert_eq!(codec::message::<Reply>(&frame), Ok(Reply::ShuttingDown));
    drop(connection);
    agent.machine_ends.notified().await;
    assert!(served.await.unwrap().is_ok());
}

/// What the agent makes of a host that opens with `bytes`.
async fn greeted_with(bytes: &[u8]) -> (Vec<u8>, Result<(), ConnectionError>) {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(folder.path());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let served = tokio::spawn(async move { serve(theirs, &agent).await });
    ours.write_all(bytes).await.unwrap();
    ours.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // A reset is how the kernel closes a socket with unread bytes.
    let _ = ours.read_to_end(&mut answer).await;
    (answer, served.await.unwrap())
}

#[tokio::test]
async fn strangers_get_no_answer() {
    let mut hello = BytesMut::new();
    let stranger = Hello {
        magic: *b"SSH-",
        ..Hello::HOST
    };
    codec::put(&stranger, &mut hello);
    let (answer, served) = greeted_with(&hello).await;
    assert!(answer.is_empty());
    assert!(matches!(served, Err(ConnectionError::Handshake(_))));
}

#[tokio::test]
async fn a_host_without_a_common_version_learns_ours() {
    let mut hello = BytesMut::new();
    let future = Hello {
        version_min: 900,
        version_max: 901,
        ..Hello::HOST
    };
    codec::put(&future, &mut hello);
    let (answer, served) = greeted_with(&hello).await;
    let mut ours = BytesMut::new();
    codec::put(&Hello::GUEST, &mut ours);
    assert_eq!(answer, ours);
    assert!(matches!(served, Err(ConnectionError::Handshake(_))));
}

#[tokio::test]
async fn nothing_large_is_accepted_before_the_handshake() {
    let mut frame = BytesMut::new();
    encode(Kind::Control, &[0; 65], &mut frame);
    let (answer, served) = greeted_with(&frame).await;
    assert!(answer.is_empty());
    assert!(matches!(served, Err(ConnectionError::Frame(_))));
}

#[tokio::test]
async fn what_is_malformed_closes_the_connection() {
    let frame = |kind, payload: &[u8]| {
        let mut bytes = BytesMut::new();
        encode(kind, payload, &mut bytes);
        bytes.to_vec()
    };
    for bad in [
        vec![0, 0, 0, 0, 9],
        vec![255, 255, 255, 255, 0],
        frame(Kind::Stdin, b"not asked for"),
        frame(Kind::File, b"not asked for"),
    ] {
        let mut host = Host::connect().await;
        host.raw(&bad).await;
        assert!(host.is_closed().await, "{bad:?}");
        assert!(host.served.await.unwrap().is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_decode_is_refused_and_the_connection_goes_on() {
    let mut surplus = codec::to_payload(&Request::Ping);
    surplus.push(0);
    let mut host = Host::connect().await;
    for unreadable in [b"\xff\xff\xff\xff".as_slice(), b"", b"\x63", &surplus] {
        host.data(Kind::Control, unreadable).await;
        let answer = host.answer().await;
        assert_eq!(answer.failure().code, FailureCode::Unsupported);
        assert_eq!(*host.ask(Request::Ping).await.terminal(), Reply::Pong);
    }
}

#[tokio::test]
async fn nothing_longer_is_sent_than_the_host_accepts() {
    let (control_max, data_max) = (4096, 5000);
    let mut host = Host::connect_as(Hello {
        control_max,
        data_max,
        ..Hello::HOST
    })
    .await;
    let (control_max, data_max) = (control_max as usize, data_max as usize);
    let folder = host.folder.path().to_owned();
    std::fs::write(folder.join("large"), vec![b'x'; 100_000]).unwrap();
    for number in 0..100 {
        std::fs::write(folder.join(format!("{number:0>200}")), "").unwrap();
    }
    let path = |path: &std::path::Path| bytes_of(path.to_str().unwrap());
    for request in [
        Request::Exec(command(&["head", "-c", "100000", "/dev/zero"])),
        Request::ReadFile(ReadFile {
            path: path(&folder.join("large")),
            offset: 0,
            length: None,
            user: User::Sandbox,
        }),
        Request::ListFiles(ListFiles {
            path: path(&folder),
            depth: 1,
            limit: 1000,
            user: User::Sandbox,
        }),
    ] {
        host.request(&request).await;
        let (mut bytes, mut entries) = (0, 0);
        loop {
            let frame = host.connection.reader.next().await.unwrap().unwrap();
            if frame.kind != Kind::Control {
                assert!(frame.payload.len() <= data_max, "{}", frame.payload.len());
                bytes += frame.payload.len();
                continue;
            }
            assert!(
                frame.payload.len() <= control_max,
                "{}",
                frame.payload.len()
            );
            let reply = codec::message::<Reply>(&frame).unwrap();
            if let Reply::Entries(batch) = &reply {
                entries += batch.len();
            }
            if reply.is_terminal() {
                assert!(!matches!(reply, Reply::Failed(_)), "{reply:?}");
                break;
            }
        }
        assert!(bytes == 100_000 || entries == 101, "{bytes} {entries}");
    }
}

#[tokio::test]
async fn a_reply_that_the_host_does_not_accept_becomes_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(folder.path());
    std::fs::write(folder.path().join("path"), "/x".repeat(4096)).unwrap();
    let hello = Hello {
        control_max: 4096,
        ..Hello::HOST
    };
    let mut host = Host::connect_with(agent, folder, hello).await;
    let answer = host.ask(Request::Probe).await;
    assert_eq!(answer.failure().code, FailureCode::Unsupported);
    assert!(answer.failure().message.contains("4096"));
}

fn hello_then(bytes: &[u8]) -> Vec<u8> {
    let mut all = BytesMut::new();
    codec::put(&Hello::HOST, &mut all);
    all.extend_from_slice(bytes);
    all.to_vec()
}

/// Whether `bytes` hold a request that would touch the test machine.
fn is_harmless(bytes: &[u8]) -> bool {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(frame)) = waggle_protocol::frame::decode(&mut buffer, 1024 * 1024) {
        if matches!(
            codec::message::<Request>(&frame),
            Ok(Request::Exec(_) | Request::WriteFile(_) | Request::Connect(_))
        ) {
            return false;
        }
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic_the_connection(
        bytes in prop::collection::vec(any::<u8>(), 0..512),
        greets in any::<bool>(),
        framed in any::<bool>(),
    ) {
        let mut body = BytesMut::new();
        if framed {
            encode(Kind::Control, &bytes, &mut body);
        } else {
            body.extend_from_slice(&bytes);
        }
        prop_assume!(is_harmless(&body));
        let input = if greets { hello_then(&body) } else { body.to_vec() };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // A panic of the served task would surface in `greeted_with`.
        let _ = runtime.block_on(greeted_with(&input));
    }
}
