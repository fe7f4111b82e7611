// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One connection to an agent: the handshake, then one operation after another.
//!
//! The guest is not trusted. Frames are bounded by the protocol's limits before anything is
//! reserved; a frame that breaks the rules is a [`LinkError`], after which the connection is of no
//! further use. Only after `Ok` or [`LinkError::Failed`] may it carry another operation.
//!
//! Cancel safety: dropping any future here in the middle of an operation leaves the connection
//! unusable; drop it too. The agent takes that as cancellation.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder, Framed};
use waggle_protocol::{
    codec::{self, CodecError},
    frame::{self, Frame, FrameError, Kind},
    handshake::{Agreed, HandshakeError, Hello, negotiate},
    limits::REPLY_PAYLOAD_MAX,
    message::{Capabilities, Failure, Reply, Request, Signal},
};

use super::run::VERSION_TOOLS;

/// Why an operation in the guest did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The agent refused or could not; the connection is in order.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The connection could not be made.
    #[error("cannot connect to the guest's agent")]
    Connect(#[source] waggle_runtime::ConnectError),
    /// No connection could be had, so nothing was sent.
    #[error("cannot reach the guest's agent")]
    Unreachable(#[source] Box<LinkError>),
    /// The connection ended in the middle of an operation.
    #[error("the guest closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection to the guest broke")]
    Io(#[from] std::io::Error),
    /// The guest broke the rules of framing.
    #[error("the guest broke the protocol")]
    Frame(#[from] FrameError),
    /// The guest sent something that is no message.
    #[error("the guest broke the protocol")]
    Codec(#[from] CodecError),
    /// Host and guest have no protocol version in common.
    #[error("host and guest cannot talk")]
    Handshake(#[from] HandshakeError),
    /// The guest sent a message that is not due.
    #[error("the guest broke the protocol: {0}")]
    Unexpected(&'static str),
    /// The request is more than the guest's agent accepts; it was not sent.
    #[error("the request has {length} bytes, the guest's agent accepts {limit}")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
        /// The agent's limit in bytes.
        limit: usize,
    },
    /// The operation came with a later version of the protocol; it was not sent.
    #[error("the guest's agent speaks protocol version {spoken}, this needs {needed}")]
    TooOld {
        /// The version that was agreed on.
        spoken: u16,
        /// The version that has it.
        needed: u16,
    },
    /// The guest sent more than was asked for.
    #[error("the guest sent more than the {limit} {unit} asked for")]
    TooMuch {
        /// What was asked for.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The guest did not answer in time.
    #[error("the guest did not answer within {seconds} seconds")]
    Unanswered {
        /// How long the host waited.
        seconds: u64,
    },
}

/// The protocol's frames as tokio-util's codec.
#[derive(Debug)]
pub(super) struct Wire;

impl Decoder for Wire {
    type Item = Frame;
    type Error = LinkError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, LinkError> {
        Ok(frame::decode(buffer, REPLY_PAYLOAD_MAX)?)
    }
}

impl Encoder<Frame> for Wire {
    type Error = LinkError;

    fn encode(&mut self, frame: Frame, buffer: &mut BytesMut) -> Result<(), LinkError> {
        frame::encode(frame.kind, &frame.payload, buffer);
        Ok(())
    }
}

fn control<M: serde::Serialize>(message: &M) -> Frame {
    Frame {
        kind: Kind::Control,
        payload: Bytes::from(codec::to_payload(message)),
    }
}

/// A connection whose peer is a guest.
#[derive(Debug)]
pub struct Connection<S> {
    framed: Framed<S, Wire>,
    agreed: Agreed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Wraps a stream that the host opened to the agent, and shakes hands.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the peer does not answer as an agent.
    pub async fn open(stream: S) -> Result<Self, LinkError> {
        let mut framed = Framed::new(stream, Wire);
        framed.send(control(&Hello::HOST)).await?;
        let theirs = codec::message(&next(&mut framed).await?)?;
        let agreed = negotiate(Hello::HOST, theirs)?;
        Ok(Self { framed, agreed })
    }

    /// Wraps a stream that the guest opened to the host, and shakes hands: the guest speaks first.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the peer does not speak as a guest of ours.
    pub async fn welcome(stream: S) -> Result<Self, LinkError> {
        let mut framed = Framed::new(stream, Wire);
        let theirs = codec::message(&next(&mut framed).await?)?;
        // A peer without a common version still learns what this side speaks.
        framed.send(control(&Hello::HOST)).await?;
        let agreed = negotiate(Hello::HOST, theirs)?;
        Ok(Self { framed, agreed })
    }

    /// Whether the handshake agreed on this version of the protocol, or a later one.
    pub fn speaks(&self, version: u16) -> bool {
        self.agreed.version >= version
    }

    /// Refuses an operation of a version that the agent does not speak. Nothing was sent then.
    pub(super) fn require(&self, needed: u16) -> Result<(), LinkError> {
        if self.speaks(needed) {
            Ok(())
        } else {
            let spoken = self.agreed.version;
            Err(LinkError::TooOld { spoken, needed })
        }
    }

    /// Most bytes of data that the agent accepts in one frame.
    pub(super) fn data_max(&self) -> usize {
        self.agreed.data_max
    }

    /// The frames of the operation under way.
    pub(super) fn frames(&mut self) -> &mut Framed<S, Wire> {
        &mut self.framed
    }

    /// The stream below, what was read ahead from it, and most bytes of data that the agent accepts in
    /// one frame.
    pub(super) fn into_parts(self) -> (S, BytesMut, usize) {
        // Nothing waits to be sent: every send here is flushed.
        let parts = self.framed.into_parts();
        (parts.io, parts.read_buf, self.agreed.data_max)
    }

    /// The stream below.
    pub fn stream(&self) -> &S {
        self.framed.get_ref()
    }

    /// Sends one message.
    ///
    /// # Errors
    ///
    /// [`LinkError::TooLarge`] if the peer would not accept it, else [`LinkError::Io`].
    pub async fn send<M: serde::Serialize>(&mut self, message: &M) -> Result<(), LinkError> {
        let frame = control(message);
        let (length, limit) = (frame.payload.len(), self.agreed.control_max);
        if length > limit {
            return Err(LinkError::TooLarge { length, limit });
        }
        self.framed.send(frame).await
    }

    pub(super) async fn frame(&mut self) -> Result<Frame, LinkError> {
        next(&mut self.framed).await
    }

    /// Receives one message.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the connection ends or the next frame is no such message.
    pub async fn receive<M: serde::de::DeserializeOwned>(&mut self) -> Result<M, LinkError> {
        Ok(codec::message(&self.frame().await?)?)
    }

    /// A reply, with the agent's own failures turned into errors.
    pub(super) async fn reply(&mut self) -> Result<Reply, LinkError> {
        settle(self.receive().await?)
    }

    /// One round trip.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn ping(&mut self) -> Result<(), LinkError> {
        self.send(&Request::Ping).await?;
        match self.reply().await? {
            Reply::Pong => Ok(()),
            _ => Err(LinkError::Unexpected("an answer to ping that is no pong")),
        }
    }

    /// What the image offers.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn probe(&mut self) -> Result<Capabilities, LinkError> {
        self.send(&Request::Probe).await?;
        match self.reply().await? {
            Reply::Capabilities(capabilities) => Ok(capabilities),
            _ => Err(LinkError::Unexpected(
                "an answer to probe that is no capabilities",
            )),
        }
    }

    /// The next piece of an operation that nobody wants any more.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub(super) async fn leftover(&mut self) -> Result<Leftover, LinkError> {
        let frame = self.frame().await?;
        if frame.kind != Kind::Control {
            return Ok(Leftover::More);
        }
        Ok(match codec::message(&frame)? {
            Reply::Started { pid } => Leftover::Started(pid),
            reply if reply.is_terminal() => Leftover::Over,
            _ => Leftover::More,
        })
    }

    /// Sends a signal to a program that another connection runs.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub async fn signal(&mut self, pid: u32, signal: i32) -> Result<(), LinkError> {
        self.require(VERSION_TOOLS)?;
        let signal = Signal { pid, signal };
        self.send(&Request::Signal(signal)).await?;
        match self.reply().await? {
            Reply::Signalled => Ok(()),
            _ => Err(LinkError::Unexpected(
                "an answer to a signal that it does not have",
            )),
        }
    }
}

async fn next<S: AsyncRead + Unpin>(framed: &mut Framed<S, Wire>) -> Result<Frame, LinkError> {
    framed.next().await.ok_or(LinkError::Closed)?
}

pub(super) fn settle(reply: Reply) -> Result<Reply, LinkError> {
    match reply {
        Reply::Failed(failure) => Err(LinkError::Failed(failure)),
        reply => Ok(reply),
    }
}

/// A piece of an operation that nobody wants any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leftover {
    /// Its program runs, under this process id.
    Started(u32),
    /// Something that is of no use.
    More,
    /// Its end.
    Over,
}

/// Whether a connection is in step with its peer after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reusable {
    /// It may carry another operation.
    Yes,
    /// It must be dropped.
    No,
}
