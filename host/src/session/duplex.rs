// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A stream of bytes each way over one connection with a guest, as frames
//! ([`waggle_protocol`], "Streams").
//!
//! Owns: the frames, the end of each direction, and giving up. Does not own: what the bytes say, nor
//! where they come from and go to.
//!
//! Invariants: to the guest at most one frame is held, from the guest at most [`STREAM_WINDOW`] bytes; nothing
//! is read ahead of that. A stream that is dropped before both directions have ended is given up: the
//! guest is told, and what is on its way from there is taken for a moment, since a connection closed on
//! top of it would never be told to the guest ([`super::pool`]). No half is ever shut down, which would
//! lose bytes of the other.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::timeout,
};
use tokio_util::io::poll_read_buf;
use waggle_protocol::{
    codec,
    frame::{self, Frame, Kind},
    limits::{HEADER_BYTES, PAYLOAD_MAX_MIN, REPLY_PAYLOAD_MAX, STREAM_GRANT, STREAM_WINDOW},
    message::{Connect, Reply, Request, StreamMessage},
};
use waggle_runtime::MachineStream;

use super::{
    OPEN_TIMEOUT, Session,
    connection::{Connection, LinkError, settle},
    within,
};

/// The protocol version that knows streams.
const VERSION_STREAMS: u16 = 3;

/// Most streams to one guest's ports at once. Its agent carries twice as many: those that were given
/// up may still be on their way out there.
pub const STREAMS_MAX: usize = 32;

/// How long a guest that calls may take over its `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stream that was given up may take to end, before its connection is closed anyway.
const GIVE_UP_MAX: Duration = Duration::from_secs(15);

/// Room for what is read at once while no frame is under way.
const READ_BYTES: usize = 16 * 1024;

/// What a stream runs over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for S {}

/// A stream of bytes each way.
///
/// [`AsyncWrite::poll_shutdown`] ends the direction to the guest; the other goes on until it reads as
/// ended. Writing fills a frame, and is done when that is flushed, as with a buffered writer.
#[derive(Debug)]
pub struct FramedStream<S: Transport> {
    /// Taken when it is dropped.
    wire: Option<Wire<S>>,
    /// Held until the guest has heard of the end.
    place: Option<OwnedSemaphorePermit>,
}

/// The two directions.
#[derive(Debug)]
struct Wire<S> {
    stream: S,
    /// Bytes from the guest that are not a whole frame yet, or more than one.
    received: BytesMut,
    /// What was not read yet.
    queue: BytesMut,
    /// Bytes that were read, and of which the guest does not know.
    taken: usize,
    /// The guest has ended its direction.
    is_ended: bool,
    /// The frames that are being sent: one of data, and what was taken.
    unsent: BytesMut,
    /// Bytes that the guest has room for.
    window: usize,
    /// This side has ended its direction.
    is_written: bool,
    /// The connection is of no further use to either side.
    is_broken: bool,
    /// Most bytes of a payload to the guest.
    payload_max: usize,
    wakers: Arc<Wakers>,
}

/// Who waits for the connection. Reading may have to send, and writing to receive, so whatever happens
/// to the connection is for both.
#[derive(Debug, Default)]
struct Wakers {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

impl<S: Transport> FramedStream<S> {
    /// Takes a call of the guest's: the two sides greet each other, and the stream begins.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the guest does not greet as one of ours, in time, in a version that has
    /// streams.
    pub async fn accept(stream: S) -> Result<Self, LinkError> {
        let connection = within(HELLO_TIMEOUT, Connection::welcome(stream)).await?;
        connection.require(VERSION_STREAMS)?;
        Ok(Self::new(connection))
    }

    /// Keeps `place` until the guest has heard of the stream's end: who bounds streams by places then
    /// also bounds those that were given up.
    #[must_use]
    pub fn holding(mut self, place: OwnedSemaphorePermit) -> Self {
        self.place = Some(place);
        self
    }

    /// Connects to `port` on the guest's loopback, over a connection to its agent. The stream keeps
    /// `place` as in [`FramedStream::holding`], from before the guest has answered.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; [`LinkError::Failed`] if nobody listens there.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the connection up.
    pub async fn connect(
        mut connection: Connection<S>,
        port: u16,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, LinkError> {
        connection.require(VERSION_STREAMS)?;
        connection.send(&Request::Connect(Connect { port })).await?;
        // From here on it is the stream's, whose end tells the guest.
        let mut stream = Self::new(connection).holding(place);
        let wire = stream.wire.as_mut().ok_or(LinkError::Closed)?;
        let reply = wire.reply().await;
        match reply.and_then(settle) {
            Ok(Reply::Connected) => Ok(stream),
            outcome => {
                // There is no stream to give up.
                wire.is_broken = true;
                outcome.and(Err(LinkError::Unexpected(
                    "an answer to a connection that it does not have",
                )))
            }
        }
    }

    fn new(connection: Connection<S>) -> Self {
        let (stream, received, payload_max) = connection.into_parts();
        let wire = Wire {
            stream,
            received,
            queue: BytesMut::new(),
            taken: 0,
            is_ended: false,
            unsent: BytesMut::new(),
            window: STREAM_WINDOW,
            is_written: false,
            is_broken: false,
            // With its header it then fits the guest's packets.
            payload_max: payload_max.saturating_sub(HEADER_BYTES),
            wakers: Arc::default(),
        };
        Self {
            wire: Some(wire),
            place: None,
        }
    }

    fn wire(&mut self) -> io::Result<&mut Wire<S>> {
        // It is there until the drop.
        self.wire
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Session {
    /// Refuses a guest whose agent does not know streams.
    ///
    /// # Errors
    ///
    /// [`LinkError::TooOld`], or that the agent cannot be reached.
    pub async fn require_streams(&self) -> Result<(), LinkError> {
        self.ask(async |connection| connection.require(VERSION_STREAMS))
            .await
    }

    /// Connects to a TCP port on the guest's loopback. Waits for a place while [`STREAMS_MAX`] are open,
    /// or were given up a moment ago.
    ///
    /// # Errors
    ///
    /// [`LinkError`]: [`LinkError::Failed`] if nobody listens there, [`LinkError::Unanswered`] if it
    /// takes too long, the wait for a place included, [`LinkError::TooOld`] on an agent of version 2.
    pub async fn connect_port(&self, port: u16) -> Result<FramedStream<MachineStream>, LinkError> {
        let connect = async {
            // Never closed.
            let place = self.streams.clone().acquire_owned().await;
            let place = place.map_err(|_| LinkError::Closed)?;
            let connection = self.pool.unused().await?;
            FramedStream::connect(connection, port, place).await
        };
        within(OPEN_TIMEOUT, connect).await
    }
}

impl<S: Transport> Wire<S> {
    /// The next frame; control frames of at most `control_max` bytes are accepted.
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
        control_max: usize,
    ) -> Poll<Result<Frame, LinkError>> {
        loop {
            if let Some(frame) = frame::decode(&mut self.received, control_max)? {
                return Poll::Ready(Ok(frame));
            }
            self.received.reserve(READ_BYTES);
            let stream = Pin::new(&mut self.stream);
            match ready!(poll_read_buf(stream, context, &mut self.received)) {
                Ok(0) => return Poll::Ready(Err(LinkError::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    async fn reply(&mut self) -> Result<Reply, LinkError> {
        let frame = std::future::poll_fn(|context| self.poll_frame(context, REPLY_PAYLOAD_MAX));
        Ok(codec::message(&frame.await?)?)
    }

    /// Takes the guest's next frame.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        // A stream's messages are short.
        let frame = ready!(self.poll_frame(context, PAYLOAD_MAX_MIN))?;
        let length = frame.payload.len();
        match frame.kind {
            Kind::Control => match codec::message(&frame)? {
                StreamMessage::Taken { bytes } => {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    self.window = self.window.saturating_add(bytes);
                    if self.window > STREAM_WINDOW {
                        return Poll::Ready(Err(LinkError::Unexpected(
                            "more of a stream taken than was sent",
                        )));
                    }
                }
                StreamMessage::GivenUp => return Poll::Ready(Err(LinkError::Closed)),
            },
            Kind::File if self.is_ended => {
                return Poll::Ready(Err(LinkError::Unexpected("more of a stream after its end")));
            }
            Kind::File if self.queue.len() + self.taken + length > STREAM_WINDOW => {
                return Poll::Ready(Err(LinkError::Unexpected(
                    "more of a stream than there is room for",
                )));
            }
            Kind::File => {
                self.is_ended = length == 0;
                self.queue.extend_from_slice(&frame.payload);
            }
            Kind::Stdin | Kind::Stdout | Kind::Stderr => {
                return Poll::Ready(Err(LinkError::Unexpected(
                    "a data frame that a stream does not have",
                )));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is left of the frames under way.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let stream = Pin::new(&mut self.stream);
            match ready!(stream.poll_write(context, &self.unsent)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.unsent.advance(count),
                Err(error) => {
                    self.is_broken = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands `buffer` what came. Sends what is to be sent on the way.
    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), LinkError>> {
        while self.queue.is_empty() && !self.is_ended {
            // A failure shows to whoever writes, and here as the connection's end.
            let was_unsent = !self.unsent.is_empty();
            let sent = self.poll_send(context).is_ready();
            let received = self.poll_receive(context);
            // Only then: two sides that wake each other for nothing never rest.
            if (was_unsent && sent) || received.is_ready() {
                // The guest may have made room.
                self.wakers.writer.wake();
            }
            ready!(received)?;
        }
        let count = self.queue.len().min(buffer.remaining());
        buffer.put_slice(&self.queue.split_to(count));
        self.taken += count;
        if self.taken >= STREAM_GRANT && !self.is_ended {
            let bytes = u32::try_from(self.taken).unwrap_or(u32::MAX);
            self.taken = 0;
            codec::put(&StreamMessage::Taken { bytes }, &mut self.unsent);
        }
        // What does not go now goes with the next call, of either kind.
        let _ = self.poll_send(context).is_ready();
        Poll::Ready(Ok(()))
    }

    /// Waits until a frame can be sent at all.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        ready!(self.poll_send(context))?;
        while self.window == 0 {
            let received = self.poll_receive(context);
            if received.is_ready() {
                self.wakers.reader.wake();
            }
            ready!(received)?;
        }
        Poll::Ready(Ok(()))
    }

    /// The guest broke the rules, or left in the middle.
    fn broken(&mut self, error: LinkError) -> io::Error {
        self.is_broken = true;
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    }

    /// Whether nothing is left to tell the guest.
    fn is_over(&self) -> bool {
        self.is_broken || (self.is_ended && self.is_written && self.unsent.is_empty())
    }

    /// Tells the guest that this is the end, and takes what is on its way until it hears that.
    async fn give_up(self) {
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let mut last = self.unsent;
        codec::put(&StreamMessage::GivenUp, &mut last);
        let tell = async {
            // If that fails the guest is gone, which shows at the other half.
            let _ = writer.write_all(&last).await;
            let _ = writer.flush().await;
            std::future::pending::<()>().await;
        };
        let mut nowhere = tokio::io::sink();
        let taken = async {
            tokio::select! {
                _ = tokio::io::copy(&mut reader, &mut nowhere) => {}
                () = tell => {}
            }
        };
        if timeout(GIVE_UP_MAX, taken).await.is_err() {
            tracing::debug!("a guest did not hear of the end of a stream");
        }
    }
}

impl<S: Transport> AsyncRead for FramedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.wire()?;
        wire.wakers.reader.register(context.waker());
        let waker = Waker::from(Arc::clone(&wire.wakers));
        let taken = ready!(wire.poll_take(&mut Context::from_waker(&waker), buffer));
        Poll::Ready(taken.map_err(|error| wire.broken(error)))
    }
}

impl<S: Transport> AsyncWrite for FramedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wire = self.wire()?;
        if wire.is_written || wire.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        wire.wakers.writer.register(context.waker());
        let waker = Waker::from(Arc::clone(&wire.wakers));
        let context = &mut Context::from_waker(&waker);
        ready!(wire.poll_room(context)).map_err(|error| wire.broken(error))?;
        let most = wire.payload_max.min(wire.window);
        let piece = bytes.get(..most).unwrap_or(bytes);
        // Without a payload it would be the end.
        if !piece.is_empty() {
            wire.window -= piece.len();
            frame::encode(Kind::File, piece, &mut wire.unsent);
            // As much as goes at once; the rest waits for the next write, or the flush.
            if let Poll::Ready(outcome) = wire.poll_send(context) {
                outcome?;
            }
        }
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.wire()?;
        wire.wakers.writer.register(context.waker());
        let waker = Waker::from(Arc::clone(&wire.wakers));
        let context = &mut Context::from_waker(&waker);
        ready!(wire.poll_send(context))?;
        Pin::new(&mut wire.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.wire()?;
        if !wire.is_written {
            frame::encode(Kind::File, &[], &mut wire.unsent);
            wire.is_written = true;
        }
        self.poll_flush(context)
    }
}

impl<S: Transport> Drop for FramedStream<S> {
    fn drop(&mut self) {
        let Some(wire) = self.wire.take().filter(|wire| !wire.is_over()) else {
            return;
        };
        // Without a runtime the process ends, and the machine with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let place = self.place.take();
            runtime.spawn(async move {
                wire.give_up().await;
                drop(place);
            });
        }
    }
}

#[cfg(test)]
mod tests;
