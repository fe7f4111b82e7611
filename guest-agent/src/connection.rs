// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One connection of the host's: bytes to frames and back.
//!
//! Owns: framing, the handshake, the rule that only the frames which are due are accepted.
//! Does not own: what a request means (`serve`, `exec`, `files`), nor the socket's origin (`agent`).
//!
//! Invariants: any error here ends the connection and nothing else. Before the handshake no more
//! than a few bytes are accepted; after it nothing is sent that the host said it does not accept. A
//! data frame's payload is never copied on its way in, and on its
//! way out is read straight into [`OutFrame`], behind the header's place.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::codec::{Decoder, FramedRead};
use waggle_protocol::codec::{self, CodecError};
use waggle_protocol::frame::{self, Frame, FrameError, Kind};
use waggle_protocol::handshake::{Agreed, HandshakeError, Hello, negotiate};
use waggle_protocol::limits::{HEADER_BYTES, PAYLOAD_MAX_MIN, REQUEST_PAYLOAD_MAX};
use waggle_protocol::message::{FailureCode, Reply, Request};

use crate::failure::failure;

/// How long a peer may take over its `Hello`: generous for a host that is swapping, short enough
/// that silent connections do not fill the agent's table.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest control payload before the handshake; a `Hello` has at most 20 bytes in any version.
const HELLO_PAYLOAD_MAX: usize = 64;

/// Why a connection ends before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The socket failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// The peer went away in the middle of an operation, which cancels it.
    #[error("peer closed the connection during an operation")]
    Cancelled,
    /// The peer broke the rules of framing.
    #[error("malformed frame")]
    Frame(#[from] FrameError),
    /// The peer sent a message that does not decode.
    #[error("malformed message")]
    Codec(#[from] CodecError),
    /// No common version, or no peer of ours.
    #[error("handshake failed")]
    Handshake(#[from] HandshakeError),
    /// The peer said nothing.
    #[error("no handshake within {HANDSHAKE_TIMEOUT:?}")]
    HandshakeTimeout,
    /// The frame is well-formed but not due now.
    #[error("unexpected {0:?} frame")]
    Unexpected(Kind),
}

impl ConnectionError {
    /// Whether the peer simply left: how a host cancels, nothing to report.
    #[must_use]
    pub fn is_hang_up(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ),
            _ => false,
        }
    }
}

/// `protocol::frame` as a codec of tokio.
#[derive(Debug)]
pub struct FrameDecoder {
    control_max: usize,
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = ConnectionError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, ConnectionError> {
        Ok(frame::decode(buffer, self.control_max)?)
    }
}

/// The receiving side.
pub type FrameReader<T> = FramedRead<ReadHalf<T>, FrameDecoder>;

/// A framed connection.
#[derive(Debug)]
pub struct Connection<T> {
    /// Frames from the host.
    pub reader: FrameReader<T>,
    /// Bytes to the host.
    pub writer: WriteHalf<T>,
    /// The same socket again, to ask whether the peer is gone while its bytes are left unread.
    pub liveness: Liveness,
    /// What the handshake came to; before it, the least that any host accepts.
    pub agreed: Agreed,
    /// Data frames that a finished operation's host may still be sending; dropped unread.
    upload: Option<Kind>,
}

impl<T: AsyncRead + AsyncWrite + AsFd + Unpin> Connection<T> {
    /// Takes over a connected socket.
    ///
    /// # Errors
    ///
    /// If the descriptor cannot be duplicated.
    pub fn new(socket: T) -> Result<Self, ConnectionError> {
        let liveness = Liveness(socket.as_fd().try_clone_to_owned()?);
        let (reader, writer) = tokio::io::split(socket);
        let decoder = FrameDecoder {
            control_max: HELLO_PAYLOAD_MAX,
        };
        Ok(Self {
            reader: FramedRead::new(reader, decoder),
            writer,
            liveness,
            agreed: Agreed {
                version: Hello::GUEST.version_min,
                control_max: PAYLOAD_MAX_MIN,
                data_max: PAYLOAD_MAX_MIN,
            },
            upload: None,
        })
    }

    /// Exchanges `Hello`s with a host that speaks first, and keeps what came of it in
    /// [`Connection::agreed`].
    ///
    /// # Errors
    ///
    /// [`ConnectionError`]; a host without a common version has then had our `Hello` all the same.
    pub async fn accept_handshake(&mut self) -> Result<(), ConnectionError> {
        let theirs = self.receive_hello().await?;
        if theirs.magic != Hello::GUEST.magic {
            return Err(HandshakeError::BadMagic(theirs.magic).into());
        }
        self.send(&Hello::GUEST).await?;
        self.agree(theirs)
    }

    /// Exchanges `Hello`s, speaking first: for the calls that the guest makes.
    ///
    /// # Errors
    ///
    /// [`ConnectionError`].
    pub async fn open_handshake(&mut self) -> Result<(), ConnectionError> {
        self.open_handshake_with(Hello::GUEST).await
    }

    /// As [`Connection::open_handshake`], with `ours`.
    pub(crate) async fn open_handshake_with(&mut self, ours: Hello) -> Result<(), ConnectionError> {
        self.send(&ours).await?;
        let theirs = self.receive_hello().await?;
        self.agree(theirs)
    }

    fn agree(&mut self, theirs: Hello) -> Result<(), ConnectionError> {
        self.agreed = negotiate(Hello::GUEST, theirs)?;
        self.reader.decoder_mut().control_max = REQUEST_PAYLOAD_MAX;
        Ok(())
    }

    async fn receive_hello(&mut self) -> Result<Hello, ConnectionError> {
        let frame = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.reader.next())
            .await
            .map_err(|_| ConnectionError::HandshakeTimeout)?;
        let frame = frame.ok_or(ConnectionError::Cancelled)??;
        Ok(codec::message(&frame)?)
    }

    /// The next request, or `None` once the host has closed the connection. A control frame that
    /// does not decode comes as its own error: the frames are still in step.
    ///
    /// # Errors
    ///
    /// [`ConnectionError`].
    pub async fn next_request(
        &mut self,
    ) -> Result<Option<Result<Request, CodecError>>, ConnectionError> {
        while let Some(frame) = self.reader.next().await.transpose()? {
            if frame.kind == Kind::Control {
                self.upload = None;
                return Ok(Some(codec::message(&frame)));
            }
            if self.upload != Some(frame.kind) {
                return Err(ConnectionError::Unexpected(frame.kind));
            }
            self.note_upload(&frame.payload);
        }
        Ok(None)
    }

    /// Announces that the current request is followed by frames of `kind`, the last one empty. Those
    /// that the operation does not take are dropped before the next request.
    pub fn expect_upload(&mut self, kind: Kind) {
        self.upload = Some(kind);
    }

    /// Records one payload of the announced upload: an empty one is its end.
    pub fn note_upload(&mut self, payload: &[u8]) {
        if payload.is_empty() {
            self.upload = None;
        }
    }

    /// The next payload of the announced upload; empty at its end.
    ///
    /// # Errors
    ///
    /// [`ConnectionError`] if the host goes away or sends anything else.
    pub async fn next_upload(&mut self, kind: Kind) -> Result<Bytes, ConnectionError> {
        let frame = self.reader.next().await.transpose()?;
        let frame = frame.ok_or(ConnectionError::Cancelled)?;
        if frame.kind != kind {
            return Err(ConnectionError::Unexpected(frame.kind));
        }
        self.note_upload(&frame.payload);
        Ok(frame.payload)
    }

    /// Sends one message.
    ///
    /// # Errors
    ///
    /// If the socket fails. Not cancel-safe: a dropped call may leave half a frame behind.
    pub async fn send<M: serde_message::Message>(
        &mut self,
        message: &M,
    ) -> Result<(), ConnectionError> {
        let mut buffer = BytesMut::new();
        message.put(&mut buffer);
        Ok(self.writer.write_all(&buffer).await?)
    }

    /// Sends one reply; if the host does not accept one of that length, a failure that says so.
    ///
    /// # Errors
    ///
    /// As [`Connection::send`].
    pub async fn send_reply(&mut self, reply: &Reply) -> Result<(), ConnectionError> {
        let mut buffer = BytesMut::new();
        codec::put(reply, &mut buffer);
        let (length, limit) = (buffer.len() - HEADER_BYTES, self.agreed.control_max);
        if length > limit {
            let text = format!("reply length {length} exceeds the host's limit {limit}");
            let failed = Reply::Failed(failure(FailureCode::Unsupported, &text));
            buffer.clear();
            codec::put(&failed, &mut buffer);
        }
        Ok(self.writer.write_all(&buffer).await?)
    }

    /// An empty frame with room for as much as the host accepts in one, its header included: the
    /// most that the kernel puts into one packet. Five bytes more would be a packet of their own.
    #[must_use]
    pub fn out_frame(&self) -> OutFrame {
        OutFrame::new(self.agreed.data_max.saturating_sub(HEADER_BYTES))
    }

    /// Sends all of `frame`, and leaves it empty.
    ///
    /// # Errors
    ///
    /// As [`Connection::send`].
    pub async fn send_frame(&mut self, frame: &mut OutFrame) -> Result<(), ConnectionError> {
        let length = frame.unsent().len();
        self.writer.write_all(frame.unsent()).await?;
        frame.advance(length);
        Ok(())
    }
}

/// What the agent sends besides replies.
mod serde_message {
    use bytes::BytesMut;
    use waggle_protocol::boot::Ready;
    use waggle_protocol::codec;
    use waggle_protocol::handshake::Hello;

    /// A message that opens a connection, guest to host.
    pub trait Message {
        /// Appends it as a control frame.
        fn put(&self, buffer: &mut BytesMut);
    }

    macro_rules! messages {
        ($($name:ty),*) => {$(
            impl Message for $name {
                fn put(&self, buffer: &mut BytesMut) {
                    codec::put(self, buffer);
                }
            }
        )*};
    }
    messages!(Hello, Ready);
}

/// A second descriptor of a connection's socket.
#[derive(Debug)]
pub struct Liveness(OwnedFd);

impl Liveness {
    /// Whether the peer has closed its end, unread bytes or not.
    #[must_use]
    pub fn peer_gone(&self) -> bool {
        crate::sys::peer_has_closed(&self.0)
    }
}

/// One outgoing frame, filled in place and sent in as many pieces as the socket takes.
#[derive(Debug)]
pub struct OutFrame {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl OutFrame {
    /// With room for `payload_max` bytes.
    fn new(payload_max: usize) -> Self {
        Self {
            bytes: vec![0; HEADER_BYTES + payload_max].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Room for a payload. Only meaningful while nothing is unsent.
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(HEADER_BYTES..).unwrap_or_default()
    }

    /// Makes the first `length` bytes of the room a data frame.
    pub fn finish(&mut self, kind: Kind, length: usize) {
        let length = length.min(self.bytes.len().saturating_sub(HEADER_BYTES));
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = frame::header(kind, length);
        }
        (self.start, self.end) = (0, HEADER_BYTES + length);
    }

    /// Makes it the frame of a short reply, which fits the least that any host accepts.
    pub fn put_reply(&mut self, reply: &Reply) {
        self.put_control(&codec::to_payload(reply));
    }

    /// Makes it a control frame with this short payload.
    pub fn put_control(&mut self, payload: &[u8]) {
        debug_assert!(payload.len() <= self.room().len(), "no short message");
        if let Some(room) = self.room().get_mut(..payload.len()) {
            room.copy_from_slice(payload);
        }
        self.finish(Kind::Control, payload.len());
    }

    /// What the socket has not taken yet.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether there is nothing unsent.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.start >= self.end
    }

    /// The socket took `count` bytes.
    pub fn advance(&mut self, count: usize) {
        self.start += count;
    }
}
