// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The proxy that is an environment's only way out: HTTP (CONNECT and plain requests), SOCKS 5, and the
//! package mirror, all on one port. The first byte of a connection tells SOCKS from HTTP.
//!
//! Owns: what one environment may do at once and in total ([`Egress`]), and what all may together
//! ([`Gateway`]). Does not own: what is permitted ([`super::policy`]), how the outside is reached
//! ([`super::dial`]), where connections come from ([`Calls`]).
//!
//! Invariants: every answer to a guest is bounded in size and in time; a connection has its place before
//! it is accepted; everything that a connection holds is gone when its future is dropped.

mod answer;
mod flow;
mod http;
mod socks;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader, copy_bidirectional_with_sizes},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    audit::{Audit, Via},
    dial::{Carries, DialError, Dialer, Outbound},
    mirror::Mirror,
    policy::{Denial, DenialKind, Policy, Target},
    target::quoted,
};
use crate::lock::lock;
use flow::{Budget, Flow, Metered};

/// Most connections of one environment at once: as many as its agent carries, and far more than package
/// managers open.
const CONNECTIONS_EACH: usize = 128;

/// Connections that one environment has where many share few descriptors: enough for a package manager.
const CONNECTIONS_FLOOR: usize = 8;

/// Most connections of all environments at once, where the host has the descriptors for them.
const CONNECTIONS_MAX: usize = 4096;

/// Of the process's descriptors, the part that connections may take up: each needs two, and the rest is
/// for machines and clients.
const DESCRIPTORS_PART: u64 = 4;

/// Answers of the package mirror to one environment at once: it fetches from the registries 64 at a time for
/// all, and a slow reader may hold one for long.
const MIRROR_EACH: usize = 8;

/// Requests a second, and as many more at once, that one environment may make: `npm install` makes some
/// hundreds, a flood makes thousands a second.
const RATE: u32 = 200;
const BURST: u32 = 1000;

/// How long a connection may take to say what it wants: also how long one may be kept between two
/// requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection is kept on which nothing moves.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// How long any connection is kept: longer than a large download, shorter than for ever.
const LIFE: Duration = Duration::from_secs(12 * 60 * 60);

/// Bytes that are moved at once, each way: what a connection holds of the host's memory.
const PIECE: usize = 32 * 1024;

/// The limits that a test, or an operator, sets otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of one environment, both ways together; none: no limit.
    pub bytes: Option<u64>,
    /// How long a connection may take to say what it wants.
    pub header: Duration,
    /// How long a connection is kept on which nothing moves.
    pub idle: Duration,
    /// Most connections of all environments at once.
    pub connections: usize,
    /// Most connections of one environment at once.
    pub connections_each: usize,
}

impl Limits {
    /// Those of a process that may have so many descriptors, for so many environments. No environment
    /// can take the connections of another, but where there are too few for all.
    #[must_use]
    pub fn of(descriptors: u64, environments: u16) -> Self {
        let connections = usize::try_from(descriptors / DESCRIPTORS_PART).unwrap_or(usize::MAX);
        let connections = connections.min(CONNECTIONS_MAX);
        let share = connections / usize::from(environments.max(1));
        Self {
            connections,
            connections_each: share.clamp(CONNECTIONS_FLOOR, CONNECTIONS_EACH),
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: None,
            header: HEADER_TIMEOUT,
            idle: IDLE,
            connections: CONNECTIONS_MAX,
            connections_each: CONNECTIONS_EACH,
        }
    }
}

/// What the proxies of all environments share.
pub struct Gateway {
    policy: Policy,
    dialer: Dialer,
    mirror: Option<Arc<Mirror>>,
    limits: Limits,
    places: Arc<Semaphore>,
}

impl Gateway {
    /// A gateway for environments that may reach what `policy` permits.
    #[must_use]
    pub fn new(
        policy: Policy,
        dialer: Dialer,
        mirror: Option<Arc<Mirror>>,
        limits: Limits,
    ) -> Self {
        Self {
            policy,
            dialer,
            mirror,
            limits,
            places: Arc::new(Semaphore::new(limits.connections)),
        }
    }

    /// What the server permits.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The way out of one environment, under a policy that was narrowed from [`Gateway::policy`].
    #[must_use]
    pub fn egress(&self, environment: String, policy: Policy) -> Arc<Egress> {
        Arc::new(Egress {
            policy,
            dialer: self.dialer.share(),
            mirror: self.mirror.clone(),
            audit: Audit::new(environment),
            limits: self.limits,
            budget: Arc::new(Budget::new(self.limits.bytes)),
            rate: Mutex::new(Rate {
                left: BURST,
                at: Instant::now(),
            }),
            places: Arc::new(Semaphore::new(self.limits.connections_each)),
            all_places: Arc::clone(&self.places),
            mirror_places: Arc::new(Semaphore::new(MIRROR_EACH)),
        })
    }
}

/// Where the connections of an environment come from.
pub trait Calls: Send + Sync + 'static {
    /// A connection that was taken, but not greeted yet.
    type Call: Send + 'static;
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection; none at the end of the environment.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    fn next(&self) -> impl Future<Output = Option<Self::Call>> + Send;

    /// Greets the caller, in bounded time; none if it is none of ours. The stream holds `place` until
    /// nothing of it is left.
    fn greet(
        call: Self::Call,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = Option<Self::Stream>> + Send;
}

/// The way out of one environment.
pub struct Egress {
    policy: Policy,
    dialer: Dialer,
    mirror: Option<Arc<Mirror>>,
    audit: Audit,
    limits: Limits,
    budget: Arc<Budget>,
    rate: Mutex<Rate>,
    places: Arc<Semaphore>,
    all_places: Arc<Semaphore>,
    mirror_places: Arc<Semaphore>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// A token bucket.
#[derive(Debug)]
struct Rate {
    left: u32,
    at: Instant,
}

impl Rate {
    /// Takes a token, or says how long to wait for one.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let step = Duration::from_secs(1) / RATE;
        let passed = now.saturating_duration_since(self.at).as_nanos() / step.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(BURST);
        if passed >= BURST {
            (self.left, self.at) = (BURST, now);
        } else {
            self.left = BURST.min(self.left.saturating_add(passed));
            self.at += step * passed;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                None
            }
            None => Some(step),
        }
    }
}

/// Why an environment's connection ended before it began.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("it did not say what it wants in time")]
    Silent,
    #[error("nothing moved for too long")]
    Idle,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the request is no HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request is no SOCKS 5: {0}")]
    Socks(#[from] fast_socks5::server::SocksServerError),
}

impl Egress {
    /// What it lets through.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What it decided.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Serves `calls` until there are no more. Dropping the future ends all connections.
    pub async fn run<C: Calls>(self: Arc<Self>, calls: C) {
        let mut serving = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            let call = loop {
                tokio::select! {
                    call = calls.next() => break call,
                    // What has ended is not held until the next call.
                    Some(_) = serving.join_next() => {}
                }
            };
            let Some(call) = call else { return };
            let Ok(any_place) = Arc::clone(&self.all_places).acquire_owned().await else {
                return;
            };
            // Also what never becomes a request costs.
            self.admit().await;
            let egress = Arc::clone(&self);
            serving.spawn(async move {
                if let Some(stream) = C::greet(call, place).await {
                    egress.serve(stream).await;
                }
                drop(any_place);
            });
        }
    }

    /// Serves one connection to its end.
    pub async fn serve<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match timeout(LIFE, self.speak(stream)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection of an environment broke"),
            Err(_) => tracing::debug!("a connection of an environment took too long"),
        }
    }

    async fn speak<S>(self: Arc<Self>, stream: S) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // All that a connection moves goes through here.
        let pulse = Flow::new(Arc::default(), Arc::new(Budget::new(None)));
        let mut stream = BufReader::new(Metered::new(stream, Arc::clone(&pulse)));
        let first = timeout(self.limits.header, stream.fill_buf()).await;
        let first = first.map_err(|_| ServeError::Silent)??.first().copied();
        let work = async {
            match first {
                None => Ok(()),
                Some(socks::VERSION) => socks::serve(&self, stream).await,
                Some(_) => http::serve(&self, stream).await,
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = pulse.is_idle(self.limits.idle) => Err(ServeError::Idle),
        }
    }

    /// Waits until the environment may ask for something more.
    async fn admit(&self) {
        loop {
            let wait = {
                let mut rate = lock(&self.rate);
                rate.take(Instant::now())
            };
            match wait {
                Some(wait) => sleep(wait).await,
                None => return,
            }
        }
    }

    /// Whether `target` may be asked for, as far as can be said without resolving it.
    fn permits(&self, target: &Target) -> Result<(), Denial> {
        self.policy.permits(target)?;
        if let Some(max) = self.budget.max().filter(|_| self.budget.is_spent()) {
            return Err(Denial {
                kind: DenialKind::Limit,
                asked: target.to_string(),
                rule: format!(
                    "the environment has moved {} MiB, which is all it may",
                    max >> 20
                ),
                remedy:
                    "create another environment, or the server's owner raises WAGGLE_NETWORK_MAX_MB"
                        .to_owned(),
            });
        }
        Ok(())
    }

    /// Connects to `target` and notes what came of it.
    async fn connect(
        &self,
        via: Via,
        target: &Target,
        carries: Carries,
    ) -> Result<(Outbound, Arc<Flow>), DialError> {
        let connect = async {
            self.permits(target)?;
            self.dialer.connect(&self.policy, target, carries).await
        };
        match connect.await {
            Ok(outbound) => {
                let counters =
                    self.audit
                        .allowed(via, &target.to_string(), outbound.address, false);
                Ok((outbound, Flow::new(counters, Arc::clone(&self.budget))))
            }
            Err(error) => {
                self.note(via, target, &error);
                Err(error)
            }
        }
    }

    /// Notes something that cannot be asked for: `asked` is the guest's own text.
    fn unusable(&self, via: Via, asked: &str, why: &str) {
        self.audit.failed(via, &format!("{:?}", quoted(asked)), why);
    }

    fn note(&self, via: Via, target: &Target, error: &DialError) {
        match error {
            DialError::Denied(denial) => self.audit.refused(via, denial),
            error => self
                .audit
                .failed(via, &target.to_string(), &error.to_string()),
        }
    }

    /// Moves bytes both ways until both have ended.
    async fn carry<S>(&self, mut inside: S, outbound: Outbound, flow: Arc<Flow>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut outside = Metered::new(outbound, flow);
        let copied = copy_bidirectional_with_sizes(&mut inside, &mut outside, PIECE, PIECE).await;
        if let Err(error) = copied {
            tracing::debug!(%error, "a tunnel broke");
        }
    }
}
