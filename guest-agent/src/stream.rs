// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! TCP connections on the guest's loopback, carried to the host and from it.
//!
//! Owns: the [stream](waggle_protocol#streams) at the guest's end, and [`Request::Connect`], which
//! opens one to a program of the guest. Does not own: the other way round ([`crate::proxy`]).
//!
//! Invariants: to the host at most one frame is held here, from the host at most
//! [`STREAM_WINDOW`] bytes; beyond that TCP's flow control holds the program back, and the stream's own
//! the host. The host is always listened to. Who gives up ends both directions at once; who resets too,
//! but what came before the reset still goes to the host, as far as it takes that.
//!
//! [`Request::Connect`]: waggle_protocol::message::Request::Connect

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use waggle_protocol::codec;
use waggle_protocol::frame::{Frame, Kind};
use waggle_protocol::limits::{STREAM_GRANT, STREAM_WINDOW};
use waggle_protocol::message::{Connect, Failure, FailureCode, Reply, StreamMessage};

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError, OutFrame};
use crate::failure::{errno, failure, reason};
use crate::files::Turn;
use crate::serve::OperationError;

/// Most connections that the host has to the guest's programs at once: half of all of the host's, so
/// that those which hang do not keep it from its other operations.
pub const INBOUND_MAX: usize = 64;

/// How long a program may take to let a connection in. Its kernel alone answers, unless the program
/// has fallen behind with accepting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what the host has sent may wait for its program, once the host is gone.
const DELIVER_MAX: Duration = Duration::from_secs(60);

/// How long the host may take over what a program sent before it reset its connection. Most often that
/// is an answer to a request which it did not care to read to its end, and the host takes it at once.
const RESET_MAX: Duration = Duration::from_secs(3);

/// Connects to a program of the guest and carries the connection until both sides have ended it.
///
/// # Errors
///
/// [`Failure`] if nobody listens, [`ConnectionError`] if the stream was given up.
pub async fn connect<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: Connect,
) -> Result<(), OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let Ok(_place) = agent.inbound.try_acquire() else {
        let text = format!("{INBOUND_MAX} connections into this guest are open already");
        return Err(failure(FailureCode::Refused, &text).into());
    };
    let socket = reach(request.port).await?;
    connection.send_reply(&Reply::Connected).await?;
    let carried = carry(connection, &socket).await;
    Ok(settle(&socket, carried)?)
}

/// A connection to whoever listens on `port`.
async fn reach(port: u16) -> Result<TcpStream, Failure> {
    let mut outcome = open(Ipv4Addr::LOCALHOST.into(), port).await;
    if outcome.is_err()
        && let Ok(socket) = open(Ipv6Addr::LOCALHOST.into(), port).await
    {
        outcome = Ok(socket);
    }
    outcome.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            let text = format!("nobody listens on port {port} of the guest's loopback");
            failure(FailureCode::Refused, &text)
        }
        io::ErrorKind::TimedOut => {
            let text = format!(
                "the program on port {port} of the guest's loopback accepts no connection within {} seconds",
                CONNECT_TIMEOUT.as_secs()
            );
            failure(FailureCode::Refused, &text)
        }
        _ => {
            let text = format!("port {port} of the guest's loopback: {}", reason(errno(&error)));
            failure(FailureCode::Io, &text)
        }
    })
}

async fn open(address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let socket = timeout(CONNECT_TIMEOUT, TcpStream::connect((address, port)))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    // The kernel may have chosen this very port for our end: TCP then connects to itself.
    if socket.local_addr()? == socket.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Does `work`, unless `socket`'s other end resets it first.
///
/// # Errors
///
/// Of `work`, or that reset.
pub async fn until_reset<T>(
    socket: &TcpStream,
    work: impl Future<Output = Result<T, ConnectionError>>,
) -> Result<T, ConnectionError> {
    tokio::select! {
        biased;
        ready = socket.ready(Interest::ERROR) => {
            ready?;
            Err(reset())
        }
        outcome = work => outcome,
    }
}

/// Passes on what became of `socket`'s connection. What went wrong resets it: an end would look as if
/// all had come.
///
/// # Errors
///
/// Those of `outcome`.
pub fn settle(
    socket: &TcpStream,
    outcome: Result<(), ConnectionError>,
) -> Result<(), ConnectionError> {
    if outcome.is_err() {
        // Without it the program gets an end after all.
        let _ = socket.set_zero_linger();
    }
    outcome
}

fn reset() -> ConnectionError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

/// Carries `socket` over `connection`, until the host closes that or wants no more.
///
/// # Errors
///
/// [`ConnectionError`] if it ended before the host's direction had.
pub async fn carry<T>(
    connection: &mut Connection<T>,
    socket: &TcpStream,
) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let mut stream = Stream {
        socket,
        frame: connection.out_frame(),
        window: STREAM_WINDOW,
        is_sent: false,
        queue: BytesMut::new(),
        taken: 0,
        is_received: false,
        reset: None,
    };
    let mut turn = Turn::default();
    loop {
        let event = stream.next_event(connection).await?;
        match event {
            Event::Host(Some(frame)) => match stream.take(&frame)? {
                Next::More => {}
                Next::Deliver => return Ok(stream.deliver().await?),
            },
            Event::Host(None) if stream.is_received => return Ok(stream.deliver().await?),
            Event::Host(None) => return Err(ConnectionError::Cancelled),
            Event::Moved(count) => drop(turn.moved(count).await),
        }
    }
}

/// Both directions of a connection.
struct Stream<'a> {
    socket: &'a TcpStream,
    /// What is on its way to the host. Nothing is read from the program before it is sent.
    frame: OutFrame,
    /// Bytes that the host has room for.
    window: usize,
    /// The program has ended its direction, and that is in the frame or sent.
    is_sent: bool,
    /// What the program has not taken yet.
    queue: BytesMut,
    /// Bytes that it has taken, and of which the host does not know.
    taken: usize,
    /// The host has ended its direction.
    is_received: bool,
    /// The program has reset the connection; until then what it sent before goes to the host.
    reset: Option<Instant>,
}

/// What happened next.
enum Event {
    /// The host sent a frame, or closed.
    Host(Option<Frame>),
    /// So many bytes were moved.
    Moved(usize),
}

/// What a frame of the host's means.
enum Next {
    /// The stream goes on.
    More,
    /// The host wants no more; what it has sent is still to be delivered.
    Deliver,
}

impl Stream<'_> {
    /// Waits for the next event. Cancel-safe.
    async fn next_event<T>(
        &mut self,
        connection: &mut Connection<T>,
    ) -> Result<Event, ConnectionError>
    where
        T: AsyncRead + AsyncWrite + AsFd + Unpin,
    {
        self.announce();
        if self.reset.is_some() && self.is_sent && self.frame.is_sent() {
            return Err(reset());
        }
        let is_outward = !self.frame.is_sent() || (!self.is_sent && self.window > 0);
        let has_queue = !self.queue.is_empty() && self.reset.is_none();
        let last = self.reset.unwrap_or_else(Instant::now);
        let (socket, frame, window) = (self.socket, &mut self.frame, self.window);
        let (reader, writer) = (&mut connection.reader, &mut connection.writer);
        let outward = async {
            if frame.is_sent() {
                Ok(Outward::Read(read(socket, frame.room(), window).await?))
            } else {
                Ok(match writer.write(frame.unsent()).await {
                    Ok(count) => Outward::Sent(count),
                    Err(_) => Outward::Lost,
                })
            }
        };
        tokio::select! {
            frame = reader.next() => Ok(Event::Host(frame.transpose()?)),
            written = write(socket, &self.queue), if has_queue => {
                // It has reset the connection. Its kernel tells that once, here or at a read.
                let Ok(count) = written else {
                    self.note_reset();
                    return Ok(Event::Moved(0));
                };
                self.queue.advance(count);
                self.taken += count;
                self.end_if_delivered()?;
                Ok(Event::Moved(count))
            }
            moved = outward, if is_outward => match moved {
                // No end of the program's: a reset is over once it is told.
                Ok(Outward::Read(0)) if self.reset.is_some() => Err(reset()),
                Ok(Outward::Read(count)) => {
                    self.frame.finish(Kind::File, count);
                    self.window -= count;
                    self.is_sent = count == 0;
                    Ok(Event::Moved(count))
                }
                Ok(Outward::Sent(0)) => Err(ConnectionError::Cancelled),
                Ok(Outward::Sent(count)) => {
                    self.frame.advance(count);
                    Ok(Event::Moved(count))
                }
                // Nothing goes to the host any more. What it sent before it closed may still be on the way here.
                Ok(Outward::Lost) => {
                    self.frame.advance(self.frame.unsent().len());
                    self.is_sent = true;
                    Ok(Event::Moved(0))
                }
                Err(error) => Err(ConnectionError::Io(error)),
            },
            ready = socket.ready(Interest::ERROR), if self.reset.is_none() => {
                ready?;
                self.note_reset();
                Ok(Event::Moved(0))
            }
            () = sleep_until(last), if self.reset.is_some() => Err(reset()),
        }
    }

    /// From now on there is only what the program sent before.
    fn note_reset(&mut self) {
        self.reset = Some(Instant::now() + RESET_MAX);
    }

    /// Tells the host what was taken, before anything else is sent.
    fn announce(&mut self) {
        if self.taken >= STREAM_GRANT && self.frame.is_sent() && !self.is_received {
            let bytes = u32::try_from(self.taken).unwrap_or(u32::MAX);
            self.taken = 0;
            let message = StreamMessage::Taken { bytes };
            self.frame.put_control(&codec::to_payload(&message));
        }
    }

    /// Takes a frame of the host's.
    fn take(&mut self, frame: &Frame) -> Result<Next, ConnectionError> {
        match frame.kind {
            Kind::Control => match codec::message(frame)? {
                StreamMessage::Taken { bytes } => {
                    self.window = self.window.saturating_add(bytes as usize);
                    if self.window > STREAM_WINDOW {
                        return Err(ConnectionError::Unexpected(frame.kind));
                    }
                }
                StreamMessage::GivenUp if self.is_received => return Ok(Next::Deliver),
                StreamMessage::GivenUp => return Err(ConnectionError::Cancelled),
            },
            Kind::File if !self.is_received && frame.payload.is_empty() => {
                self.is_received = true;
                self.end_if_delivered()?;
            }
            Kind::File
                if !self.is_received
                    && self.queue.len() + self.taken + frame.payload.len() <= STREAM_WINDOW =>
            {
                self.queue.extend_from_slice(&frame.payload);
            }
            other => return Err(ConnectionError::Unexpected(other)),
        }
        Ok(Next::More)
    }

    /// Delivers what the program has not taken yet. The host is gone, or wants no more.
    async fn deliver(mut self) -> io::Result<()> {
        let deliver = async {
            while !self.queue.is_empty() {
                let count = write(self.socket, &self.queue).await?;
                self.queue.advance(count);
                self.end_if_delivered()?;
            }
            Ok(())
        };
        timeout(DELIVER_MAX, deliver)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends the direction to the program once all has been delivered.
    fn end_if_delivered(&self) -> io::Result<()> {
        if self.is_received && self.queue.is_empty() {
            shutdown(self.socket.as_raw_fd(), Shutdown::Write)?;
        }
        Ok(())
    }
}

/// What happened in the direction to the host.
enum Outward {
    /// So many bytes were read; 0 at the end.
    Read(usize),
    /// So many bytes of the frame were sent.
    Sent(usize),
    /// The host takes no more.
    Lost,
}

/// Reads at most `most` bytes into `room`, once there are any; 0 at the end. Cancel-safe.
async fn read(socket: &TcpStream, room: &mut [u8], most: usize) -> io::Result<usize> {
    let most = room.len().min(most);
    let room = room.get_mut(..most).unwrap_or_default();
    loop {
        socket.readable().await?;
        match socket.try_read(room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

/// Writes some of `bytes`. Cancel-safe.
async fn write(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests;
