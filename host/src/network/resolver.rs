// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Names to addresses, as the host resolves them, within limits.
//!
//! Invariant: no environment keeps the others from resolving, however slow the names are that it asks for.

use std::{
    fmt, io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::Arc,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::Semaphore;

/// Names that are resolved at the same time, in all: each holds a thread of tokio's 512 for as long as
/// the system's resolver takes, even if nobody waits for it any more.
const LOOKUPS_MAX: usize = 128;

/// Finds the addresses of a name.
///
/// Contract: bounded in what it holds while its future lives and after that was dropped; `share` is the
/// caller's part of it, of which one permit is held for as long as the lookup takes up resources.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `name`, in the order in which they should be tried.
    fn resolve(
        &self,
        name: &str,
        share: Arc<Semaphore>,
    ) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The host's own resolver.
#[derive(Debug)]
pub struct SystemResolver {
    all: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }
}

impl Resolve for SystemResolver {
    fn resolve(
        &self,
        name: &str,
        share: Arc<Semaphore>,
    ) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        let all = Arc::clone(&self.all);
        async move {
            let one = share.acquire_owned().await.map_err(io::Error::other)?;
            let any = all.acquire_owned().await.map_err(io::Error::other)?;
            let lookup = tokio::task::spawn_blocking(move || {
                let found = (name.as_str(), 0_u16).to_socket_addrs();
                let addresses = found.map(|all| all.map(|address| address.ip()).collect());
                // Nobody can stop the system's resolver: the permits go when it returns.
                drop((one, any));
                addresses
            });
            lookup.await.map_err(io::Error::other)?
        }
        .boxed()
    }
}
