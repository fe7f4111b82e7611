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

use super::{Live, Service, ServiceError, validate};
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
        let port = validate::port("port", request.port)?;
        let host_port = request
            .host_port
            .map(|given| validate::port("host_port", given))
            .transpose()?;
        let lease = self.lease(&request.environment_id)?;
        if request.close {
            lease.live.ports.close(port).await?;
            return Ok(Forwarded::Closed);
        }
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
