// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Ports of this host that lead to ports of an environment.
//!
//! Owns: the listeners on 127.0.0.1, their connections, and the end of both. Does not own: how a port
//! in the guest is reached, nor what makes an environment busy ([`Guest`]).
//!
//! Invariants: a connection has its place before it is accepted; what it carries goes both ways until both
//! ends ([`exchange`]); a forward that is closed has let go of its port and of all its connections when the call
//! returns. Only programs on this host can reach a forward, and they are not asked who they are.

mod exchange;

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    lock::lock,
    session::{LinkError, duplex::STREAMS_MAX},
};
use exchange::exchange;

/// Most ports of one environment that are forwarded at once: more than anyone's programs serve, and
/// few enough that a hundred environments do not take up the host's ports.
pub const FORWARDS_MAX: usize = 16;

/// Most connections of one environment at once, through all of its forwards.
const CONNECTIONS_MAX: usize = STREAMS_MAX;

/// How often a connection whose bytes move counts as a use of its environment: more often than the
/// shortest idle timeout.
const TOUCH: Duration = Duration::from_secs(10);

/// How long a connection of which one side has ended may rest. A client that has gone away looks the
/// same as one that only has no more to say, until a byte is sent to it. Programs that wait for something
/// to tell may not look at its end: without a limit such connections would hold all places.
const HALF_MAX: Duration = Duration::from_secs(60);

/// How long to wait after `accept` failed: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The environment that ports lead to.
pub trait Guest: Send + Sync + 'static {
    /// A connection to one of its ports.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// Connects to `port`.
    fn connect(&self, port: u16) -> impl Future<Output = Result<Self::Stream, LinkError>> + Send;

    /// It is in use: bytes move.
    fn touch(&self);
}

/// Why a port is not forwarded, or not closed.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The host's port cannot be had.
    #[error(
        "port {host_port} of this host cannot be used ({source}); leave host_port out to get a free one"
    )]
    Bind {
        /// Which one; 0 for any.
        host_port: u16,
        /// Why not.
        source: io::Error,
    },
    /// The guest's port leads elsewhere already.
    #[error(
        "port {port} is forwarded to {address} already; close it first (close: true), or use that address"
    )]
    Elsewhere {
        /// The guest's port.
        port: u16,
        /// Where it is.
        address: SocketAddr,
    },
    /// As many are forwarded as may.
    #[error("{FORWARDS_MAX} ports of this environment are forwarded already ({}); close one first (close: true)", list(.0))]
    TooMany(Vec<u16>),
    /// There is nothing to close.
    #[error("port {port} is not forwarded; {}", match forwarded.as_slice() {
        [] => "no port of this environment is".to_owned(),
        ports => format!("these are: {}", list(ports)),
    })]
    NotForwarded {
        /// The guest's port.
        port: u16,
        /// Those that are.
        forwarded: Vec<u16>,
    },
    /// The environment ends.
    #[error("the environment is being destroyed; call create_environment for a new one")]
    Ending,
}

fn list(ports: &[u16]) -> String {
    let words: Vec<_> = ports.iter().map(ToString::to_string).collect();
    words.join(", ")
}

/// The forwards of one environment.
#[derive(Debug)]
pub struct Ports {
    /// By the guest's port; `None` once the environment ends.
    forwards: Mutex<Option<HashMap<u16, Forward>>>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Forward {
    address: SocketAddr,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl Forward {
    /// Returns when its port is free and its connections are closed.
    async fn close(self) {
        self.ending.cancel();
        // A panic in it has closed all, too.
        let _ = self.task.await;
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            forwards: Mutex::new(Some(HashMap::new())),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }
}

impl Ports {
    /// Forwards a port of this host's loopback to `port` of `guest`: `host_port`, or any that is free.
    /// A port that is forwarded already stays as it is.
    ///
    /// # Errors
    ///
    /// [`PortError`].
    pub fn open<G: Guest>(
        &self,
        guest: Arc<G>,
        port: u16,
        host_port: Option<u16>,
    ) -> Result<SocketAddr, PortError> {
        let mut forwards = self.forwards();
        let forwards = forwards.as_mut().ok_or(PortError::Ending)?;
        if let Some(forward) = forwards.get(&port) {
            let address = forward.address;
            return if host_port.is_none_or(|wanted| wanted == address.port()) {
                Ok(address)
            } else {
                Err(PortError::Elsewhere { port, address })
            };
        }
        if forwards.len() >= FORWARDS_MAX {
            return Err(PortError::TooMany(sorted(forwards)));
        }
        let host_port = host_port.unwrap_or(0);
        let (listener, address) =
            bind(host_port).map_err(|source| PortError::Bind { host_port, source })?;
        let ending = CancellationToken::new();
        let places = Arc::clone(&self.places);
        let work = serve(listener, guest, port, places, ending.clone());
        let forward = Forward {
            address,
            ending,
            task: tokio::spawn(work),
        };
        forwards.insert(port, forward);
        tracing::info!(port, %address, "a port is forwarded");
        Ok(address)
    }

    /// Closes the forward of `port`, with its connections.
    ///
    /// # Errors
    ///
    /// [`PortError::NotForwarded`].
    pub async fn close(&self, port: u16) -> Result<(), PortError> {
        let forward = {
            let mut forwards = self.forwards();
            let forwards = forwards.as_mut().ok_or(PortError::Ending)?;
            forwards
                .remove(&port)
                .ok_or_else(|| PortError::NotForwarded {
                    port,
                    forwarded: sorted(forwards),
                })?
        };
        forward.close().await;
        Ok(())
    }

    /// Closes all forwards; there are none after that. Idempotent.
    pub async fn end(&self) {
        let forwards = self.forwards().take();
        for (_, forward) in forwards.into_iter().flatten() {
            forward.close().await;
        }
    }

    fn forwards(&self) -> MutexGuard<'_, Option<HashMap<u16, Forward>>> {
        lock(&self.forwards)
    }
}

fn sorted(forwards: &HashMap<u16, Forward>) -> Vec<u16> {
    let mut ports: Vec<_> = forwards.keys().copied().collect();
    ports.sort_unstable();
    ports
}

fn bind(host_port: u16) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, host_port))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, address))
}

/// Accepts until `ending`, and then lets go of all.
async fn serve<G: Guest>(
    listener: TcpListener,
    guest: Arc<G>,
    port: u16,
    places: Arc<Semaphore>,
    ending: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = ending.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &places) => match accepted {
                Ok((socket, place)) => {
                    connections.spawn(carry(socket, Arc::clone(&guest), port, place));
                }
                Err(error) => {
                    tracing::warn!(%error, port, "a forwarded port accepts no connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await;
    let (socket, _) = listener.accept().await?;
    Ok((socket, place.map_err(io::Error::other)?))
}

async fn carry<G: Guest>(
    mut socket: TcpStream,
    guest: Arc<G>,
    port: u16,
    _place: OwnedSemaphorePermit,
) {
    guest.touch();
    let stream = match guest.connect(port).await {
        Ok(stream) => stream,
        Err(error) => {
            let why = crate::service::chain(&error);
            tracing::info!(port, why, "a connection to a forwarded port was closed");
            return;
        }
    };
    // Small answers are not held back for large ones. It may fail: then they are.
    let _ = socket.set_nodelay(true);
    if let Err(error) = exchange(&mut socket, stream, || guest.touch()).await {
        tracing::debug!(port, %error, "a connection to a forwarded port broke");
        // Without it the client gets an end, as if all had come.
        let _ = socket.set_zero_linger();
    }
    guest.touch();
}

#[cfg(test)]
mod tests;
