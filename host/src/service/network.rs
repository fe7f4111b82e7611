// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An environment's way out: from its guest's connections to the proxy, for as long as it lives.

use std::{sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time::sleep};
use waggle_runtime::{AcceptError, MachineStream};

use super::{Live, Service, ServiceError};
use crate::{
    network::{audit::Record, policy::Denial, proxy::Calls},
    session::FramedStream,
};

/// Most refusals that a result tells.
const REFUSED_MAX: usize = 8;

/// How long to wait after a connection could not be taken: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// What an environment asked of the network.
#[derive(Debug, serde::Serialize)]
pub struct NetworkReport {
    /// What it may reach, in words.
    pub policy: String,
    /// Its newest requests, the oldest first.
    pub records: Vec<Record>,
}

/// The connections of a guest. Keeps its session for as long as it is served.
struct FromGuest(Arc<Live>);

impl Calls for FromGuest {
    type Call = MachineStream;
    type Stream = FramedStream<MachineStream>;

    async fn next(&self) -> Option<MachineStream> {
        loop {
            match self.0.session.next_proxy_call().await {
                Ok(call) => return Some(call),
                Err(AcceptError::Io { source, .. }) => {
                    tracing::warn!(%source, "a connection of an environment could not be taken");
                    sleep(PAUSE).await;
                }
                Err(AcceptError::Dead { .. } | AcceptError::NotListening { .. }) => return None,
            }
        }
    }

    async fn greet(call: MachineStream, place: OwnedSemaphorePermit) -> Option<Self::Stream> {
        match FramedStream::accept(call).await {
            Ok(stream) => Some(stream.holding(place)),
            Err(error) => {
                tracing::debug!(%error, "a guest did not greet");
                None
            }
        }
    }
}

impl Live {
    /// A mark for [`Live::refused_since`] and [`Live::failed_since`].
    pub(super) fn network_mark(&self) -> u64 {
        self.egress.audit().mark()
    }

    /// What the network refused the environment since `mark`.
    pub(super) fn refused_since(&self, mark: u64) -> Vec<Denial> {
        self.egress.audit().refused_since(mark, REFUSED_MAX)
    }

    /// What the environment could not reach since `mark`, and why.
    pub(super) fn failed_since(&self, mark: u64) -> Option<(String, String)> {
        self.egress.audit().failed_since(mark)
    }
}

impl Service {
    /// Serves an environment's connections until it ends.
    pub(super) fn open_way_out(&self, live: &Arc<Live>) {
        let (egress, closing) = (Arc::clone(&live.egress), live.way_out.clone());
        let calls = FromGuest(Arc::clone(live));
        self.tasks.spawn(async move {
            closing.run_until_cancelled(egress.run(calls)).await;
        });
    }

    /// What an environment asked of the network, and what became of it.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] if there is no such environment, or it does not run.
    pub fn network(&self, environment_id: &str) -> Result<NetworkReport, ServiceError> {
        let id = Self::parse_id(environment_id)?;
        let lease = self.store.lease(&id)?;
        Ok(NetworkReport {
            policy: lease.live.egress.policy().to_string(),
            records: lease.live.egress.audit().records(),
        })
    }
}
