// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The way out: a port on the guest's loopback, each of whose connections is carried to the host.
//!
//! Owns: the listener and how many are carried at once. Does not own: what is said on them, which is
//! between the guest's programs and the host, nor their bytes ([`stream`]).
//!
//! Invariants: a connection has its place before it is accepted, so that a flood of them waits in the
//! kernel's queue and takes nothing from the agent's operations. A host that does not take one, or
//! closes it, closes the client's. How long one may be idle is the host's business.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_vsock::{VsockAddr, VsockStream};
use waggle_protocol::boot::{PROXY_LOOPBACK_PORT, PROXY_PORT};

use crate::agent::{ACCEPT_PAUSE, HOST_CID};
use crate::connection::{Connection, ConnectionError};
use crate::stream;

/// Most connections carried at once: package managers open some tens, and each takes up to half a
/// MiB of the agent's memory while its bytes are on their way.
pub const OUTBOUND_MAX: usize = 128;

/// Descriptors of one: the client's socket, and the host's twice.
pub const OUTBOUND_DESCRIPTORS: usize = 3;

/// How long the host may take to let a connection in: its kernel and the vsock device alone answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes the port.
///
/// # Errors
///
/// If it is taken, or there is no loopback.
pub async fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, PROXY_LOOPBACK_PORT)).await
}

/// Accepts for ever, and carries to the host.
pub async fn run(listener: TcpListener) {
    serve(listener, || {
        VsockStream::connect(VsockAddr::new(HOST_CID, PROXY_PORT))
    })
    .await;
}

/// Accepts for ever; each connection is carried over one that `dial` makes.
async fn serve<T, D>(listener: TcpListener, dial: impl Fn() -> D)
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static,
    D: Future<Output = io::Result<T>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(OUTBOUND_MAX));
    // It is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                eprintln!("waggle-guest: accept on port {PROXY_LOOPBACK_PORT}: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let host = dial();
        tokio::spawn(async move {
            // What goes wrong shows to both sides as the end of their connection. There is no one else
            // to tell: a program may cause any of it as often as it likes.
            let _ = stream::settle(&socket, carry(&socket, host).await);
            drop(place);
        });
    }
}

async fn carry<T>(
    socket: &TcpStream,
    host: impl Future<Output = io::Result<T>>,
) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    socket.set_nodelay(true)?;
    let greet = async {
        let host = timeout(DIAL_TIMEOUT, host)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let mut connection = Connection::new(host)?;
        connection.open_handshake().await?;
        Ok(connection)
    };
    let mut connection = stream::until_reset(socket, greet).await?;
    stream::carry(&mut connection, socket).await
}

#[cfg(test)]
mod tests;
