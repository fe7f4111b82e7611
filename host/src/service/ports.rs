// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Ports of this host that lead into an environment.
//!
//! Owns: what a caller may ask for, and that bytes which move count as use: a forward alone does not
//! keep its environment from being idle, nor does a connection that is silent.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
};

use waggle_runtime::MachineStream;

use super::{
    Live, Service, ServiceError,
    validate::{self, ArgumentError},
};
use crate::{
    environment::{EnvironmentId, store::Store},
    network::ports::Guest,
    session::{FramedStream, LinkError},
};

/// A port to forward, or to forward no longer.
#[derive(Debug)]
pub struct ForwardRequest {
    /// Of which environment.
    pub environment_id: String,
    /// The port in it.
    pub port: u32,
    /// The port of this host; any that is free if absent.
    pub host_port: Option<u32>,
    /// End the forward instead.
    pub close: bool,
}

/// What is to become of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// It leads from this port of the host, or from any.
    Open(Option<u16>),
    Closed,
}

impl ForwardRequest {
    /// The guest's port, and what is wanted of it.
    fn parse(&self) -> Result<(u16, Wanted), ArgumentError> {
        let port = validate::port("port", self.port)?;
        let host_port = self
            .host_port
            .map(|given| validate::port("host_port", given))
            .transpose()?;
        match (self.close, host_port) {
            (false, host_port) => Ok((port, Wanted::Open(host_port))),
            (true, None) => Ok((port, Wanted::Closed)),
            // Whoever gives both may think that only the forward from there is closed.
            (true, Some(_)) => Err(ArgumentError::Both("host_port", "close")),
        }
    }
}

/// What became of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// It leads from here.
    Open(SocketAddr),
    /// It is closed, with its connections.
    Closed,
}

/// The environment at the end of a forward. It does not keep it alive.
struct Inside {
    id: EnvironmentId,
    live: Weak<Live>,
    store: Arc<Store<Live>>,
}

impl Guest for Inside {
    type Stream = FramedStream<MachineStream>;

    async fn connect(&self, port: u16) -> Result<Self::Stream, LinkError> {
        let live = self.live.upgrade().ok_or(LinkError::Closed)?;
        live.session.connect_port(port).await
    }

    fn touch(&self) {
        // A lease counts as use at both of its ends. Without one the forward is about to end, too.
        drop(self.store.lease(&self.id));
    }
}

impl Service {
    /// Forwards a port of this host's loopback to one of an environment, or closes such a forward.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn forward_port(&self, request: ForwardRequest) -> Result<Forwarded, ServiceError> {
        let (port, wanted) = request.parse()?;
        let lease = self.lease(&request.environment_id)?;
        let host_port = match wanted {
            Wanted::Closed => {
                lease.live.ports.close(port).await?;
                return Ok(Forwarded::Closed);
            }
            Wanted::Open(host_port) => host_port,
        };
        if let Err(error) = lease.live.session.require_streams().await {
            return Err(self.explain(&lease, error).await.of_a_read());
        }
        let inside = Inside {
            id: lease.environment.id.clone(),
            live: Arc::downgrade(&lease.live),
            store: Arc::clone(&self.store),
        };
        let address = lease.live.ports.open(Arc::new(inside), port, host_port)?;
        Ok(Forwarded::Open(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_opened_somewhere_or_closed() {
        let parse = |port, host_port, close| {
            let request = ForwardRequest {
                environment_id: String::new(),
                port,
                host_port,
                close,
            };
            request.parse().map_err(|error| error.to_string())
        };
        assert_eq!(parse(80, None, false), Ok((80, Wanted::Open(None))));
        assert_eq!(parse(80, Some(81), false), Ok((80, Wanted::Open(Some(81)))));
        assert_eq!(parse(80, None, true), Ok((80, Wanted::Closed)));
        let both = parse(80, Some(81), true).expect_err("both");
        assert_eq!(
            both,
            "host_port and close exclude each other; give one of them"
        );
        for (port, host_port) in [(0, None), (70_000, None), (80, Some(0))] {
            parse(port, host_port, false).expect_err("no port");
        }
    }
}
