// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! TCP connections on the guest's loopback, carried to the host and from it.
//!
//! Owns: the [stream](waggle_protocol#streams) at the guest's end, and [`Request::Connect`], which
//! opens one to a program of the guest. Does not own: the other way round ([`crate::proxy`]).
//!
//! Invariants: of each direction at most one frame is held here; what the receiver does not take stays
//! with the sender, by vsock's and TCP's own flow control. Whoever resets, or gives up, ends both
//! directions at once.
//!
//! [`Request::Connect`]: waggle_protocol::message::Request::Connect

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use waggle_protocol::frame::Kind;
use waggle_protocol::message::{Connect, Failure, FailureCode, Reply};

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError, FrameReader, OutFrame};
use crate::failure::{errno, failure, reason};
use crate::files::Turn;
use crate::serve::OperationError;

/// Most connections that the host has to the guest's programs at once: half of all of the host's, so
/// that those which hang do not keep it from its other operations.
pub const INBOUND_MAX: usize = 64;

/// How long a program may take to let a connection in. Its kernel alone answers, unless the program
/// has fallen behind with accepting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    Ok(unless_reset(&socket, carry(connection, &socket)).await?)
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

/// Does `work`, unless `socket`'s other end resets the connection first.
///
/// # Errors
///
/// That, or of `work`.
pub async fn unless_reset(
    socket: &TcpStream,
    work: impl Future<Output = Result<(), ConnectionError>>,
) -> Result<(), ConnectionError> {
    tokio::select! {
        biased;
        ready = socket.ready(Interest::ERROR) => {
            ready?;
            Err(io::Error::from(io::ErrorKind::ConnectionReset).into())
        }
        outcome = work => outcome,
    }
}

/// Carries `socket` over `connection`, until the host closes that.
///
/// # Errors
///
/// [`ConnectionError`] if it ended before both directions had.
pub async fn carry<T>(
    connection: &mut Connection<T>,
    socket: &TcpStream,
) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let frame = connection.out_frame();
    let (reader, writer) = (&mut connection.reader, &mut connection.writer);
    let mut is_sent = false;
    let outcome = tokio::select! {
        outcome = receive(reader, socket) => outcome,
        Err(error) = send(socket, writer, frame, &mut is_sent) => Err(error),
    };
    match outcome {
        Ok(()) if !is_sent => Err(ConnectionError::Cancelled),
        outcome => outcome,
    }
}

/// What comes from `socket`, as frames. Does not return once the end is sent: the host closes.
async fn send<T: AsyncWrite>(
    socket: &TcpStream,
    writer: &mut WriteHalf<T>,
    mut frame: OutFrame,
    is_sent: &mut bool,
) -> Result<(), ConnectionError> {
    let mut turn = Turn::default();
    loop {
        socket.readable().await?;
        let count = match socket.try_read(frame.room()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            outcome => outcome?,
        };
        frame.finish(Kind::File, count);
        writer.write_all(frame.unsent()).await?;
        if count == 0 {
            *is_sent = true;
            return std::future::pending().await;
        }
        turn.moved(count).await;
    }
}

/// What comes from the host, into `socket`, until the host closes the connection.
async fn receive<T: AsyncRead + AsyncWrite>(
    reader: &mut FrameReader<T>,
    socket: &TcpStream,
) -> Result<(), ConnectionError> {
    let mut turn = Turn::default();
    let mut ended = false;
    while let Some(frame) = reader.next().await.transpose()? {
        match frame.kind {
            Kind::File if !ended => {}
            Kind::Control if frame.payload.is_empty() => return Err(ConnectionError::Cancelled),
            other => return Err(ConnectionError::Unexpected(other)),
        }
        if frame.payload.is_empty() {
            ended = true;
            shutdown(socket.as_raw_fd(), Shutdown::Write).map_err(io::Error::from)?;
        } else {
            write_all(socket, &frame.payload).await?;
            turn.moved(frame.payload.len()).await;
        }
    }
    if ended {
        Ok(())
    } else {
        Err(ConnectionError::Cancelled)
    }
}

async fn write_all(socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
