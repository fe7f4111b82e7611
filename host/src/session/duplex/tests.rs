// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Streams with a guest that is the test itself: one that keeps to the rules, and many that do not.

use std::sync::Arc;

use proptest::prelude::{any, prop};
use tokio::{
    io::{AsyncReadExt as _, DuplexStream},
    sync::Semaphore,
    task::JoinHandle,
};
use waggle_protocol::{
    frame::FrameError,
    handshake::Hello,
    limits::{DATA_PAYLOAD_MAX, REQUEST_PAYLOAD_MAX},
    message::{Failure, FailureCode},
};

use super::*;

/// Bytes that the pipe holds: small, so that a peer that does not read blocks a writer soon.
const PIPE: usize = 4096;

/// A guest's end.
struct Guest {
    stream: DuplexStream,
    received: BytesMut,
}

impl Guest {
    async fn send(&mut self, kind: Kind, payload: &[u8]) {
        let mut bytes = BytesMut::new();
        frame::encode(kind, payload, &mut bytes);
        self.stream.write_all(&bytes).await.expect("a host");
    }

    /// The next frame; `None` once the host has closed the connection.
    async fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        loop {
            let frame = frame::decode(&mut self.received, REQUEST_PAYLOAD_MAX);
            if let Some(frame) = frame.expect("the host keeps to the rules") {
                return Some((frame.kind, frame.payload.to_vec()));
            }
            if self
                .stream
                .read_buf(&mut self.received)
                .await
                .expect("read")
                == 0
            {
                return None;
            }
        }
    }
}

fn greeting(hello: Hello) -> BytesMut {
    let mut bytes = BytesMut::new();
    codec::put(&hello, &mut bytes);
    bytes
}

/// A stream that a guest has opened.
async fn accepted() -> (FramedStream<DuplexStream>, Guest) {
    let (host, stream) = tokio::io::duplex(PIPE);
    let mut guest = Guest {
        stream,
        received: BytesMut::new(),
    };
    let hello = greeting(Hello::GUEST);
    guest.stream.write_all(&hello).await.expect("room");
    let stream = FramedStream::accept(host).await.expect("a proper hello");
    assert_eq!(guest.next().await.expect("a hello").0, Kind::Control);
    (stream, guest)
}

/// What a host gets that connects to a port of a guest which speaks as `hello` says.
async fn connected(
    hello: Hello,
    answer: Option<Reply>,
) -> (Result<FramedStream<DuplexStream>, LinkError>, Guest) {
    let (host, stream) = tokio::io::duplex(PIPE);
    let mut guest = Guest {
        stream,
        received: BytesMut::new(),
    };
    let hello = greeting(hello);
    guest.stream.write_all(&hello).await.expect("room");
    let connection = Connection::open(host).await.expect("a proper hello");
    if let Some(answer) = answer {
        guest.send(Kind::Control, &codec::to_payload(&answer)).await;
    }
    let places = Arc::new(Semaphore::new(1));
    let place = places.try_acquire_owned().expect("a place");
    (FramedStream::connect(connection, 80, place).await, guest)
}

#[tokio::test]
async fn bytes_and_ends_go_both_ways() {
    let (mut stream, mut guest) = accepted().await;
    guest.send(Kind::File, b"ques").await;
    guest.send(Kind::File, b"tion").await;
    guest.send(Kind::File, b"").await;
    let mut question = Vec::new();
    stream.read_to_end(&mut question).await.expect("its end");
    assert_eq!(question, b"question");
    // The other direction goes on.
    stream.write_all(b"answer").await.expect("written");
    stream.flush().await.expect("sent");
    assert_eq!(guest.next().await, Some((Kind::File, b"answer".to_vec())));
    stream.shutdown().await.expect("ended");
    assert_eq!(guest.next().await, Some((Kind::File, Vec::new())));
    stream.write_all(b"late").await.expect_err("ended");
    drop(stream);
    assert_eq!(guest.next().await, None, "both have ended: a plain close");
}

#[tokio::test]
async fn a_port_is_connected_to_or_the_guest_says_why_not() {
    let (stream, mut guest) = connected(Hello::GUEST, Some(Reply::Connected)).await;
    let mut stream = stream.expect("connected");
    guest.next().await.expect("a hello");
    let request = Request::Connect(Connect { port: 80 });
    let expected = codec::to_payload(&request);
    assert_eq!(guest.next().await, Some((Kind::Control, expected)));
    guest.send(Kind::File, b"ready").await;
    let mut told = [0; 5];
    stream.read_exact(&mut told).await.expect("told");

    let refusal = Failure {
        code: FailureCode::Refused,
        message: "nobody listens".into(),
    };
    let (stream, mut guest) = connected(Hello::GUEST, Some(Reply::Failed(refusal))).await;
    let error = stream.expect_err("refused");
    assert!(matches!(error, LinkError::Failed(_)), "{error:?}");
    guest.next().await.expect("a hello");
    guest.next().await.expect("the request");
    assert_eq!(guest.next().await, None, "there is no stream to give up");

    let (stream, _guest) = connected(Hello::GUEST, Some(Reply::Pong)).await;
    let error = stream.expect_err("no answer to that");
    assert!(matches!(error, LinkError::Unexpected(_)), "{error:?}");
}

#[tokio::test]
async fn an_older_guest_is_told_from_a_broken_one() {
    let old = Hello {
        version_max: 2,
        ..Hello::GUEST
    };
    let (stream, _guest) = connected(old, None).await;
    let error = stream.expect_err("too old");
    let expected = LinkError::TooOld {
        spoken: 2,
        needed: 3,
    };
    assert_eq!(error.to_string(), expected.to_string());

    let (host, mut guest) = tokio::io::duplex(PIPE);
    guest.write_all(&greeting(old)).await.expect("room");
    let error = FramedStream::accept(host).await.expect_err("too old");
    assert!(matches!(error, LinkError::TooOld { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_greet_is_not_waited_for() {
    let (host, _guest) = tokio::io::duplex(PIPE);
    let error = FramedStream::accept(host).await.expect_err("silence");
    assert!(matches!(error, LinkError::Unanswered { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dropped_stream_tells_the_guest_and_takes_what_is_on_its_way() {
    let (mut stream, mut guest) = accepted().await;
    stream.write_all(b"half").await.expect("written");
    drop(stream);
    // More than the pipe holds: it goes only if somebody takes it.
    for _ in 0..4 {
        guest.send(Kind::File, &[7; PIPE]).await;
    }
    assert_eq!(guest.next().await, Some((Kind::File, b"half".to_vec())));
    let given_up = codec::to_payload(&StreamMessage::GivenUp);
    assert_eq!(guest.next().await, Some((Kind::Control, given_up)));
    // The connection is the guest's to close.
    let more = timeout(Duration::from_millis(100), guest.next()).await;
    assert!(more.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_is_cancelled_keeps_its_place_until_the_guest_has_heard() {
    let places = Arc::new(Semaphore::new(1));
    let (host, mut guest) = tokio::io::duplex(PIPE);
    let hello = greeting(Hello::GUEST);
    guest.write_all(&hello).await.expect("room");
    let connection = Connection::open(host).await.expect("a proper hello");
    let place = Arc::clone(&places).try_acquire_owned().expect("a place");
    let connect = FramedStream::connect(connection, 80, place);
    let unanswered = timeout(Duration::from_secs(1), connect).await;
    assert!(unanswered.is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(places.available_permits(), 0);
    drop(guest);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(places.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_hear_holds_a_place_for_a_moment_only() {
    let places = Arc::new(Semaphore::new(1));
    let (mut stream, guest) = accepted().await;
    let place = Arc::clone(&places).try_acquire_owned().expect("a place");
    stream = stream.holding(place);
    let flood = vec![7; 3 * DATA_PAYLOAD_MAX];
    let write = timeout(Duration::from_secs(1), stream.write_all(&flood)).await;
    assert!(
        write.is_err(),
        "a guest that does not read holds the host back"
    );
    drop(stream);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(places.available_permits(), 0);
    tokio::time::sleep(GIVE_UP_MAX).await;
    assert_eq!(places.available_permits(), 1);
    drop(guest);
}

#[tokio::test]
async fn frames_are_no_longer_than_the_guest_accepts() {
    let modest = Hello {
        data_max: 4096,
        ..Hello::GUEST
    };
    let (stream, mut guest) = connected(modest, Some(Reply::Connected)).await;
    let mut stream = stream.expect("connected");
    let sending = tokio::spawn(async move {
        stream.write_all(&[7; 20_000]).await.expect("written");
        stream.flush().await.expect("sent");
    });
    guest.next().await.expect("a hello");
    guest.next().await.expect("the request");
    let mut left = 20_000;
    while left > 0 {
        let (kind, payload) = guest.next().await.expect("more");
        assert!(kind == Kind::File && (1..=4096).contains(&payload.len()));
        left -= payload.len();
    }
    sending.await.expect("sent");
}

/// What a host reads from a guest that sends `script`, and then closes.
async fn read_of(script: &[u8]) -> (Vec<u8>, io::Result<usize>) {
    let (mut stream, guest) = accepted().await;
    let mut guest = guest.stream;
    let script = script.to_vec();
    tokio::spawn(async move {
        // The host may hang up in the middle: that is its right.
        let _ = guest.write_all(&script).await;
    });
    let mut content = Vec::new();
    let outcome = timeout(Duration::from_secs(10), stream.read_to_end(&mut content)).await;
    (content, outcome.expect("it ends"))
}

fn frames(frames: &[(Kind, &[u8])]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for (kind, payload) in frames {
        frame::encode(*kind, payload, &mut bytes);
    }
    bytes.to_vec()
}

#[tokio::test]
async fn what_is_no_stream_breaks_it() {
    let large = vec![7; DATA_PAYLOAD_MAX + 1];
    for script in [
        frames(&[(Kind::Stdin, b"x")]),
        frames(&[(Kind::Stdout, b"x")]),
        frames(&[(Kind::Stderr, b"")]),
        frames(&[(Kind::Control, b"x")]),
        frames(&[(Kind::Control, b"")]),
        // Given up, and what was never sent is taken.
        frames(&[(Kind::Control, &codec::to_payload(&StreamMessage::GivenUp))]),
        frames(&[(
            Kind::Control,
            &codec::to_payload(&StreamMessage::Taken { bytes: 1 }),
        )]),
        frames(&[(Kind::File, &large)]),
        // A frame that is announced and does not come, or not whole; no end.
        vec![0xff, 0xff, 0xff, 0xff, Kind::File as u8],
        vec![9, 0, 0, 0, Kind::File as u8, 1],
        vec![0, 0, 0, 0, 200],
        vec![0, 0],
        Vec::new(),
    ] {
        let script = [frames(&[(Kind::File, b"before")]), script].concat();
        let (content, outcome) = read_of(&script).await;
        assert_eq!(content, b"before");
        let error = outcome.expect_err("broken");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    let (_, outcome) = read_of(&frames(&[(Kind::File, &large)])).await;
    let error = outcome.expect_err("broken");
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    let too_long = matches!(cause, Some(LinkError::Frame(FrameError::TooLong { .. })));
    assert!(too_long, "{cause:?}");
}

#[tokio::test]
async fn what_comes_after_the_end_is_not_read() {
    let script = frames(&[
        (Kind::File, b"all"),
        (Kind::File, b""),
        (Kind::File, b"more"),
    ]);
    let (content, outcome) = read_of(&script).await;
    assert_eq!(content, b"all");
    outcome.expect("an end");
}

/// A guest that takes all and tells of nothing, and sends `frames` frames of 1 KiB.
fn unheeding(guest: Guest, frames: usize) -> JoinHandle<usize> {
    let (mut reader, mut writer) = tokio::io::split(guest.stream);
    tokio::spawn(async move {
        let mut frame = BytesMut::new();
        frame::encode(Kind::File, &[7; 1024], &mut frame);
        for _ in 0..frames {
            if writer.write_all(&frame).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    });
    let mut rest = guest.received;
    tokio::spawn(async move {
        let mut payloads = 0;
        loop {
            while let Ok(Some(frame)) = frame::decode(&mut rest, REQUEST_PAYLOAD_MAX) {
                payloads += frame.payload.len();
            }
            let read = timeout(Duration::from_millis(500), reader.read_buf(&mut rest)).await;
            if !matches!(read, Ok(Ok(1..))) {
                return payloads;
            }
        }
    })
}

#[tokio::test]
async fn no_more_than_the_window_is_sent_and_held() {
    let (mut stream, guest) = accepted().await;
    let heard = unheeding(guest, STREAM_WINDOW / 1024);
    // Who waits for room has to listen, and so holds what comes.
    let flood = vec![9; 2 * STREAM_WINDOW];
    let written = timeout(Duration::from_secs(1), stream.write_all(&flood)).await;
    assert!(written.is_err(), "the guest tells of no room");
    assert_eq!(heard.await.expect("no panic"), STREAM_WINDOW);
    let wire = stream.wire.as_ref().expect("a stream");
    assert_eq!(wire.queue.len(), STREAM_WINDOW);
    let held = wire.received.capacity() + wire.queue.capacity() + wire.unsent.capacity();
    assert!(held <= 4 * STREAM_WINDOW, "{held}");
    let mut content = vec![0; STREAM_WINDOW];
    stream.read_exact(&mut content).await.expect("all of it");
}

#[tokio::test]
async fn a_stream_that_waits_both_ways_rests() {
    let (mut stream, guest) = accepted().await;
    let heard = unheeding(guest, 0);
    let flood = vec![9; STREAM_WINDOW];
    stream.write_all(&flood).await.expect("room");
    stream.flush().await.expect("sent");
    let mut polls = 0;
    let both = std::future::poll_fn(|context| {
        polls += 1;
        let mut room = [0; 10];
        let read = Pin::new(&mut stream).poll_read(context, &mut ReadBuf::new(&mut room));
        let written = Pin::new(&mut stream).poll_write(context, &[0]);
        assert!(read.is_pending() && written.is_pending());
        Poll::<()>::Pending
    });
    let waited = timeout(Duration::from_millis(300), both).await;
    assert!(waited.is_err() && polls < 10, "{polls} polls");
    heard.abort();
}

#[tokio::test]
async fn a_guest_that_sends_more_than_the_window_breaks_it() {
    let (mut stream, guest) = accepted().await;
    let heard = unheeding(guest, usize::MAX);
    let flood = vec![9; 2 * STREAM_WINDOW];
    let written = timeout(Duration::from_secs(10), stream.write_all(&flood)).await;
    let error = written.expect("it ends").expect_err("broken");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    heard.abort();
}

#[tokio::test]
async fn long_streams_go_through_both_ways_at_once_from_tasks_of_their_own() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let (one, other) = tokio::io::duplex(PIPE);
    let accept = tokio::spawn(FramedStream::accept(other));
    // The guest keeps to the same rules, so the code under test plays both.
    let guest = FramedStream::new(Connection::open(one).await.expect("a proper hello"));
    let host = accept.await.expect("no panic").expect("accepted");
    let mut tasks = Vec::new();
    for stream in [guest, host] {
        let (mut reader, mut writer) = tokio::io::split(stream);
        tasks.push(tokio::spawn(async move {
            for _ in 0..LENGTH / 10_000 {
                writer.write_all(&[7; 10_000]).await.expect("written");
            }
            writer.shutdown().await.expect("ended");
            LENGTH / 10_000 * 10_000
        }));
        tasks.push(tokio::spawn(async move {
            let mut content = Vec::new();
            reader.read_to_end(&mut content).await.expect("all")
        }));
    }
    for task in tasks {
        let count = timeout(Duration::from_secs(60), task)
            .await
            .expect("it does not hang");
        assert_eq!(count.expect("no panic"), LENGTH / 10_000 * 10_000);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_a_stream_panic_or_hang(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (content, _) = runtime.expect("a runtime").block_on(read_of(&bytes));
        proptest::prop_assert!(content.len() <= bytes.len());
    }
}
