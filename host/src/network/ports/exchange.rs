// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Both directions of a connection through a forwarded port, each with an end of its own.
//!
//! Invariants: what one side does not take stays with the other. A program that takes no more (it has reset its
//! connection, most often because it answered before it had read all) is no end of what it has said: that
//! comes to the client whole, and a client that is still sending is let, for a moment, so that it comes to
//! reading. A client that is gone ends both directions.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{HALF_MAX, TOUCH};
use crate::lock::lock;

/// Bytes that are moved at once, each way.
const PIECE: usize = 32 * 1024;

/// How long a client may go on sending to a program that takes no more.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// How long a client sends nothing if it is not sending.
const QUIET: Duration = Duration::from_millis(500);

/// Which side failed.
#[derive(Debug)]
enum Broke {
    /// The one that is read from.
    Reader(io::Error),
    /// The one that is written to.
    Writer(io::Error),
}

/// Whose fault the end was.
#[derive(Debug)]
enum Lost {
    Client(io::Error),
    Guest(io::Error),
}

/// When bytes moved last, and whether one side has ended.
struct Pulse<T> {
    touch: T,
    touched: Mutex<Instant>,
    moved: Mutex<Instant>,
    is_half: AtomicBool,
    half: Notify,
}

impl<T: Fn()> Pulse<T> {
    fn new(touch: T) -> Self {
        let now = Instant::now();
        Self {
            touch,
            touched: Mutex::new(now),
            moved: Mutex::new(now),
            is_half: AtomicBool::new(false),
            half: Notify::new(),
        }
    }

    /// Bytes moved.
    fn moved(&self) {
        let now = Instant::now();
        *lock(&self.moved) = now;
        let mut touched = lock(&self.touched);
        if now.duration_since(*touched) >= TOUCH {
            *touched = now;
            drop(touched);
            (self.touch)();
        }
    }

    /// One side has ended.
    fn ended(&self) {
        self.moved();
        self.is_half.store(true, Ordering::Release);
        self.half.notify_one();
    }

    /// Until nothing has moved for [`HALF_MAX`] after one side has ended.
    async fn rested(&self) {
        while !self.is_half.load(Ordering::Acquire) {
            self.half.notified().await;
        }
        loop {
            let until = *lock(&self.moved) + HALF_MAX;
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// Moves bytes both ways until both sides have ended, or one has and nothing moves for [`HALF_MAX`].
/// Calls `touch` now and then while they move.
pub(super) async fn exchange<C, G>(client: C, guest: G, touch: impl Fn()) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    G: AsyncRead + AsyncWrite + Unpin,
{
    let pulse = Pulse::new(touch);
    let (mut from_client, mut to_client) = split(client);
    let (mut from_guest, mut to_guest) = split(guest);
    let up = async {
        match pass(&mut from_client, &mut to_guest, &pulse).await {
            Ok(()) => Ok(()),
            Err(Broke::Reader(error)) => Err(Lost::Client(error)),
            Err(Broke::Writer(error)) => {
                pulse.ended();
                match timeout(LINGER_MAX, discard(&mut from_client)).await {
                    // The other direction says what became of it.
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(Lost::Client(error)),
                    Err(_) => Err(Lost::Guest(error)),
                }
            }
        }
    };
    let down = async {
        let passed = pass(&mut from_guest, &mut to_client, &pulse).await;
        passed.map_err(|broke| match broke {
            Broke::Reader(error) => Lost::Guest(error),
            Broke::Writer(error) => Lost::Client(error),
        })
    };
    let both = async { tokio::try_join!(up, down) };
    let outcome = tokio::select! {
        outcome = both => outcome,
        () = pulse.rested() => return Err(io::ErrorKind::TimedOut.into()),
    };
    match outcome {
        Ok(_) => Ok(()),
        Err(Lost::Client(error)) => Err(error),
        Err(Lost::Guest(error)) => {
            // A reset on top of what it sends could cost it what it has not read yet.
            let _ = timeout(LINGER_MAX, until_quiet(&mut from_client)).await;
            Err(error)
        }
    }
}

/// Moves bytes one way, and the end behind them.
async fn pass<R, W>(reader: &mut R, writer: &mut W, pulse: &Pulse<impl Fn()>) -> Result<(), Broke>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE];
    loop {
        let read = reader.read(&mut piece).await.map_err(Broke::Reader)?;
        let bytes = piece.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            pulse.ended();
            return writer.shutdown().await.map_err(Broke::Writer);
        }
        pulse.moved();
        writer.write_all(bytes).await.map_err(Broke::Writer)?;
        writer.flush().await.map_err(Broke::Writer)?;
        pulse.moved();
    }
}

/// Reads to the end, for nothing.
async fn discard(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    while reader.read(&mut piece).await? > 0 {}
    Ok(())
}

/// The same until nothing more comes for now.
async fn until_quiet(reader: &mut (impl AsyncRead + Unpin)) {
    let mut piece = vec![0; PIECE];
    while let Ok(Ok(1..)) = timeout(QUIET, reader.read(&mut piece)).await {}
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{
        net::{TcpListener, TcpStream},
        time::sleep,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_ended_and_rests_is_given_up_and_who_has_not_is_not() {
        let (mut client, ours) = tokio::io::duplex(1024);
        let (theirs, mut server) = tokio::io::duplex(1024);
        let exchange = tokio::spawn(exchange(ours, theirs, || ()));
        // Both are there: they may rest as long as they like.
        sleep(10 * HALF_MAX).await;
        client.write_all(b"x").await.expect("open");
        client.shutdown().await.expect("ended");
        // An answer that takes its time, with signs of life.
        for _ in 0..5 {
            sleep(HALF_MAX - TOUCH).await;
            server.write_all(b"y").await.expect("open");
            client.read_exact(&mut [0]).await.expect("an answer");
        }
        sleep(HALF_MAX - TOUCH).await;
        assert!(!exchange.is_finished());
        sleep(3 * TOUCH).await;
        let outcome = exchange.await.expect("no panic");
        let error = outcome.expect_err("given up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_move_are_a_use_now_and_then() {
        let (mut client, ours) = tokio::io::duplex(1024);
        let (theirs, mut server) = tokio::io::duplex(1024);
        let touched = std::sync::Arc::new(Mutex::new(0_u32));
        let count = std::sync::Arc::clone(&touched);
        let exchange = tokio::spawn(exchange(ours, theirs, move || *lock(&count) += 1));
        for _ in 0..30 {
            sleep(TOUCH / 10).await;
            client.write_all(b"x").await.expect("open");
            server.read_exact(&mut [0]).await.expect("there");
        }
        assert_eq!(*lock(&touched), 3);
        sleep(100 * TOUCH).await;
        assert_eq!(*lock(&touched), 3, "nothing moved");
        exchange.abort();
    }

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (there, here) = tokio::join!(TcpStream::connect(address), listener.accept());
        (there.expect("connected"), here.expect("accepted").0)
    }

    /// A client that sends without end until it has read an answer of that length; what it has read.
    async fn upload_and_read(mut client: TcpStream, answer: usize) -> Vec<u8> {
        let piece = vec![7; 64 * 1024];
        let mut told = Vec::new();
        let (mut reader, mut writer) = client.split();
        let sending = async { while writer.write_all(&piece).await.is_ok() {} };
        let reading = async {
            // It is slow to notice.
            sleep(Duration::from_millis(200)).await;
            let mut piece = [0; 4096];
            while told.len() < answer
                && let Ok(read @ 1..) = reader.read(&mut piece).await
            {
                told.extend_from_slice(piece.get(..read).expect("within"));
            }
        };
        tokio::select! {
            () = reading => {}
            () = async { (sending.await, pending().await).1 } => {}
        }
        told
    }

    // Of more than its peer has room for, the program's own kernel would lose the rest.
    const ANSWER: usize = 32 * 1024;

    #[tokio::test]
    async fn an_answer_before_a_reset_comes_whole_while_the_client_still_sends() {
        for _ in 0..5 {
            let (client, ours) = connection().await;
            let (theirs, mut program) = connection().await;
            let exchange = tokio::spawn(exchange(ours, theirs, || ()));
            let program = async {
                program.read_exact(&mut [0; 1000]).await.expect("a request");
                program.write_all(&vec![9; ANSWER]).await.expect("sent");
                // With the rest unread that is a reset.
                drop(program);
            };
            let (told, ()) = tokio::join!(upload_and_read(client, ANSWER), program);
            assert_eq!(told.len(), ANSWER);
            drop(exchange.await.expect("no panic"));
        }
    }

    /// A guest's stream whose program is gone: what it takes is an error, and so is what comes behind its
    /// answer.
    struct Gone(&'static [u8]);

    impl AsyncRead for Gone {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            if self.0.is_empty() {
                return std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let (now, rest) = self.0.split_at(self.0.len().min(100));
            buffer.put_slice(now);
            self.0 = rest;
            std::task::Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::task::Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_behind_an_answer_is_no_end_of_the_answer() {
        let (client, ours) = connection().await;
        let answer = &[9; 5000];
        let exchange = tokio::spawn(async move {
            let mut ours = ours;
            let outcome = exchange(&mut ours, Gone(answer), || ()).await;
            // As a forward does.
            ours.set_zero_linger().expect("set");
            outcome
        });
        assert_eq!(upload_and_read(client, answer.len()).await, answer);
        let error = exchange.await.expect("no panic").expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
