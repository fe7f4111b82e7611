// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The use cases: create, destroy, list ([`Service`]), and work inside an environment (in `execute`,
//! `install`, `process`, `ports` and `files`).
//!
//! Owns the life of environments: whoever creates one here can rely on it being destroyed by
//! somebody (the caller, the reaper, [`Service::shut_down`]) and on nothing of it being left. Does
//! not know MCP.

mod call;
mod create;
mod error;
mod execute;
mod files;
mod image;
mod install;
mod keyed;
mod network;
mod packages;
mod ports;
mod process;
mod reaper;
mod run;
mod spool;
mod tool;
pub mod validate;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use waggle_images::{Image, Images};
use waggle_protocol::message::{self, EnvVar};
use waggle_runtime::{Death, Vmm};

pub use call::Call;
pub use create::{CreateRequest, find_image};
pub(crate) use error::chain;
pub use error::{ImageError, ServiceError};
pub use execute::{ExecuteRequest, Execution};
pub use files::{
    ArchiveRequest, Content, EditRequest, Encoding, FileEdited, FileRead, FileWritten,
    FolderListing, Found, FoundLine, LinesRead, ListRequest, Packed, ReadRequest, SearchRequest,
    WriteRequest, file_name,
};
pub(crate) use image::foreign_agent;
pub use install::{Installation, Package};
pub use keyed::KeyError;
pub use network::NetworkReport;
pub use ports::{ForwardRequest, Forwarded};
pub use process::{
    MalformedProcessId, ProcessId, ProcessSummary, Progressed, ReadFrom, SignalName, Until,
};
pub use run::{End, Ended, Executed, GuestLog, OUTPUT_DEFAULT, OUTPUT_MAX};

use crate::{
    environment::{
        Environment, EnvironmentId,
        store::{Lease, Store},
    },
    network::{gate::Network, guest::Prepared, ports::Ports, proxy::Egress},
    resolve::Overrides,
    session::{LinkError, Session},
    settings::Settings,
};
use image::Surroundings;
use install::Installs;
use keyed::KeyedRuns;
use process::Processes;
use validate::ArgumentError;

/// What an environment holds while it runs.
#[derive(Debug)]
pub(crate) struct Live {
    session: Session,
    /// Packages were installed into a virtual environment, which Python code then runs in.
    venv: AtomicBool,
    network: Prepared,
    surroundings: Surroundings,
    #[expect(dead_code, reason = "held: what a machine reads is not evicted")]
    image: Image,
    egress: Arc<Egress>,
    /// Cancelled when the environment ends: then nothing of it reaches the outside any more.
    way_out: CancellationToken,
    installing: tokio::sync::Mutex<Installs>,
    keyed: KeyedRuns,
    processes: Processes,
    ports: Ports,
}

/// Whom a program runs as.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// The unprivileged user `sandbox`.
    #[default]
    Sandbox,
    /// The environment's root.
    Root,
}

impl From<User> for message::User {
    fn from(user: User) -> Self {
        match user {
            User::Sandbox => Self::Sandbox,
            User::Root => Self::Root,
        }
    }
}

impl Live {
    fn uses_venv(&self) -> bool {
        self.venv.load(Ordering::Acquire)
    }

    fn use_venv(&self) {
        self.venv.store(true, Ordering::Release);
    }

    /// The variables of a program: its own, those of the network that it does not set itself, and those of
    /// the image that neither sets.
    fn variables(&self, own: &[EnvVar]) -> Vec<EnvVar> {
        image::layered([
            self.surroundings.variables(),
            &self.network.variables(),
            own,
        ])
    }
}

/// All use cases of one server.
#[derive(Debug)]
pub struct Service {
    settings: Settings,
    overrides: Overrides,
    vmm: Vmm,
    images: Images,
    boot_disk: PathBuf,
    network: Network,
    store: Arc<Store<Live>>,
    /// Cancelled when the server goes down.
    closing: CancellationToken,
    /// Everything that must end before the server may exit.
    tasks: TaskTracker,
}

impl Service {
    /// A service without environments, whose reaper runs. Needs a tokio runtime.
    #[must_use]
    pub fn start(
        settings: Settings,
        vmm: Vmm,
        images: Images,
        boot_disk: PathBuf,
        network: Network,
    ) -> Arc<Self> {
        let service = Arc::new(Self {
            overrides: settings.overrides(),
            store: Arc::new(Store::new(usize::from(settings.max_environments))),
            settings,
            vmm,
            images,
            boot_disk,
            network,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        service.tasks.spawn(reaper::run(Arc::clone(&service)));
        service
            .tasks
            .spawn(reaper::evict_images(Arc::clone(&service)));
        service
    }

    /// The operator's settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Ends an environment; returns when nothing of it is left. Once begun it goes on to its end,
    /// even if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Unknown`], or [`ServiceError::NotRunning`] while it is being created or
    /// destroyed by somebody else.
    pub async fn destroy(&self, id: &EnvironmentId) -> Result<(), ServiceError> {
        let live = self.store.begin_destroy(id)?;
        self.end(id.clone(), live).await;
        Ok(())
    }

    /// Ends what the store has marked as being destroyed. Goes on even if the future is dropped.
    async fn end(&self, id: EnvironmentId, live: Option<Arc<Live>>) {
        let store = Arc::clone(&self.store);
        let end = self.tasks.spawn(async move {
            if let Some(live) = live {
                live.way_out.cancel();
                live.ports.end().await;
                live.session.close().await;
            }
            store.remove(&id);
            tracing::info!(%id, "environment destroyed");
        });
        if let Err(error) = end.await {
            tracing::error!(%error, "destroying an environment failed");
        }
    }

    /// Copies of all environments, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Environment> {
        self.store.list()
    }

    /// The right to work in an environment.
    fn lease(&self, id: &str) -> Result<Lease<Live>, ServiceError> {
        let id: EnvironmentId = id.parse().map_err(ArgumentError::Id)?;
        Ok(self.store.lease(&id)?)
    }

    /// What a failed operation means for the caller.
    async fn explain(&self, lease: &Lease<Live>, error: LinkError) -> ServiceError {
        self.explain_in(&lease.environment.id, &lease.live, error)
            .await
    }

    /// Parses an id as callers give it.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Argument`].
    pub fn parse_id(text: &str) -> Result<EnvironmentId, ServiceError> {
        Ok(text.parse().map_err(ArgumentError::Id)?)
    }

    /// Refuses new environments, destroys all that exist, and waits until nothing is left.
    ///
    /// May be called again, also at the same time.
    pub async fn shut_down(&self) {
        self.store.close();
        self.closing.cancel();
        let destroy = self.list().into_iter().map(|environment| async move {
            // An error means that it is on its way out already, or was never running.
            let _ = self.destroy(&environment.id).await;
        });
        futures_util::future::join_all(destroy).await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Notes the death of a machine that nobody stopped.
async fn watch(store: Arc<Store<Live>>, id: EnvironmentId, died: impl Future<Output = Death>) {
    let death = died.await;
    // None: it was stopped by `destroy`.
    let Some(live) = store.failed(&id, death.status.clone()) else {
        return;
    };
    tracing::warn!(%id, why = death.status, console = death.console_tail, "the machine of an environment ended");
    live.way_out.cancel();
    live.ports.end().await;
    live.session.close().await;
}

/// The time of creation, to the second: what a list shows.
fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}
