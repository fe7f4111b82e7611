// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From a permitted name to a connection: resolve, check each address, connect to a checked one.
//!
//! Owns how the host reaches the outside, also by its own upstream proxy ([`upstream`]). Invariants: a name that the
//! policy refuses is never resolved; a direct connection is only made to an address that was checked. An
//! upstream proxy is given the name and resolves it again: what this host finds is checked before, but
//! which address the proxy then takes is that proxy's to check. A
//! credential of the upstream proxy is in no log and no error. Every future here ends in bounded time
//! and may be dropped.

mod upstream;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use hyper::{StatusCode, Uri, header::HeaderValue};
use hyper_util::{
    client::{
        legacy::connect::{Connected, Connection},
        proxy::matcher::Matcher,
    },
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::either::Either;
use url::Host;

use super::{
    policy::{Denial, Policy, Target},
    resolver::{Resolve, SystemResolver},
};

/// How long a name may take to resolve: glibc asks each of three servers twice, 5 seconds each; what
/// takes longer than this is down for a caller.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(15);

/// The same where an upstream proxy resolves the name anyway: a host behind one often has no DNS for the
/// outside, and callers should not wait for that.
const RESOLVE_TIMEOUT_UPSTREAM: Duration = Duration::from_secs(2);

/// How long a connection may take to be made, over all addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long one address is tried before the next is tried as well (RFC 8305, 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses that are tried at the same time: each takes a descriptor.
const ATTEMPTS_MAX: usize = 2;

/// How long one address is tried while others wait for their turn: a lost packet is sent again after a
/// second.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Names that one environment resolves at the same time, so that one that asks for many slow names
/// keeps only itself waiting.
const LOOKUPS_EACH: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The policy refuses it.
    #[error("{0}")]
    Denied(Box<Denial>),
    /// The name has no address.
    #[error("the host cannot resolve {name}: {source}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The resolver does not answer.
    #[error("the host's resolver did not find {name} within {} seconds", RESOLVE_TIMEOUT.as_secs())]
    ResolveTimeout {
        /// The name.
        name: String,
    },
    /// Nobody takes the connection.
    #[error("{target} cannot be reached: {source}")]
    Connect {
        /// Where to.
        target: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("{target} did not take a connection within {} seconds", CONNECT_TIMEOUT.as_secs())]
    ConnectTimeout {
        /// Where to.
        target: String,
    },
    /// The host's own proxy refuses.
    #[error("the host's upstream proxy {proxy} answered {status} for {target}")]
    Upstream {
        /// The proxy, without credentials.
        proxy: String,
        /// Its answer.
        status: StatusCode,
        /// Where to.
        target: String,
    },
    /// The host's own proxy does not speak HTTP.
    #[error("the host's upstream proxy {proxy} failed for {target}: {source}")]
    UpstreamBroken {
        /// The proxy, without credentials.
        proxy: String,
        /// Where to.
        target: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The connection was made, and broke before there was an answer.
    #[error("{target} broke off before it answered: {source}")]
    Broken {
        /// Where to.
        target: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// A kind of proxy that Waggle does not speak to.
    #[error(
        "the host's upstream proxy {proxy} is not an http:// one; set HTTPS_PROXY and HTTP_PROXY to one that is, or list {target} in NO_PROXY"
    )]
    UpstreamScheme {
        /// The proxy, without credentials.
        proxy: String,
        /// Where to.
        target: String,
    },
    /// The URI has no host.
    #[error("{0} has no host and port")]
    NoTarget(String),
}

impl From<Denial> for DialError {
    fn from(denial: Denial) -> Self {
        Self::Denied(Box::new(denial))
    }
}

/// What the connection will carry: an upstream proxy is chosen by it, and used differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// Anything. An upstream proxy gets a CONNECT.
    Tunnel,
    /// Plain HTTP requests. An upstream proxy gets them in absolute form.
    Http,
}

/// A connection to a target, or to the upstream proxy that forwards requests to it.
#[derive(Debug)]
pub struct Outbound {
    stream: Either<TcpStream, TokioIo<hyper::upgrade::Upgraded>>,
    /// The checked address that it goes to; none if an upstream proxy chose it.
    pub address: Option<SocketAddr>,
    /// Requests must be in absolute form: the peer is a proxy, which may want this header.
    pub forward: Option<Forward>,
}

/// What a proxy wants beside a request in absolute form.
#[derive(Debug, Clone)]
pub struct Forward {
    /// The value of `Proxy-Authorization`, marked as sensitive.
    pub authorization: Option<HeaderValue>,
}

impl AsyncRead for Outbound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Outbound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connection for Outbound {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.forward.is_some())
    }
}

/// Makes connections. Cheap to clone; a clone shares all limits.
#[derive(Debug, Clone)]
pub struct Dialer {
    resolver: Arc<dyn Resolve>,
    upstream: Arc<Matcher>,
    lookups: Arc<Semaphore>,
}

impl Dialer {
    /// A dialer that resolves with `resolver` and uses the proxies of `upstream`.
    #[must_use]
    pub fn new(resolver: Arc<dyn Resolve>, upstream: Matcher) -> Self {
        Self {
            resolver,
            upstream: Arc::new(upstream),
            lookups: Arc::new(Semaphore::new(LOOKUPS_EACH)),
        }
    }

    /// A dialer that resolves as this host does, and uses the proxies of `HTTPS_PROXY`, `HTTP_PROXY`,
    /// `ALL_PROXY` and `NO_PROXY`.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Arc::new(SystemResolver::default()), Matcher::from_env())
    }

    /// The same for somebody else, with limits of its own below the common ones.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            lookups: Arc::new(Semaphore::new(LOOKUPS_EACH)),
            ..self.clone()
        }
    }

    /// Connects to `target`, if `policy` permits it.
    ///
    /// # Errors
    ///
    /// [`DialError`].
    pub async fn connect(
        &self,
        policy: &Policy,
        target: &Target,
        carries: Carries,
    ) -> Result<Outbound, DialError> {
        policy.permits(target)?;
        let upstream = self.upstream(target, carries);
        let patience = match upstream {
            Some(_) => RESOLVE_TIMEOUT_UPSTREAM,
            None => RESOLVE_TIMEOUT,
        };
        let all = upstream.is_some();
        let addresses = match self.addresses(policy, target, all, patience).await {
            Ok(addresses) => addresses,
            // The upstream proxy may know names that this host does not.
            Err(DialError::Resolve { .. } | DialError::ResolveTimeout { .. })
                if upstream.is_some() =>
            {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        match upstream {
            Some(proxy) => self.by_upstream(target, carries, &proxy).await,
            None => {
                let (stream, address) = race(addresses, &target.to_string()).await?;
                Ok(Outbound {
                    stream: Either::Left(stream),
                    address: Some(address),
                    forward: None,
                })
            }
        }
    }

    /// The addresses of `target` that `policy` permits, at least one. `all` demands that it permits each:
    /// who resolves the name again may come to any of them.
    async fn addresses(
        &self,
        policy: &Policy,
        target: &Target,
        all: bool,
        patience: Duration,
    ) -> Result<Vec<SocketAddr>, DialError> {
        let found = match (&target.host, target.literal()) {
            (_, Some(address)) => vec![address],
            (Host::Domain(name), None) => self.resolve(name, patience).await?,
            (host, None) => return Err(DialError::NoTarget(host.to_string())),
        };
        let mut permitted = Vec::new();
        let mut refused = None;
        for address in found {
            match policy.permits_address(target, address) {
                Ok(()) if permitted.len() >= ADDRESSES_MAX => {}
                Ok(()) => permitted.push(SocketAddr::new(address, target.port)),
                Err(denial) => refused = refused.or(Some(denial)),
            }
        }
        match refused {
            // One bad address among good ones is left out: nobody connects to it.
            Some(denial) if all || permitted.is_empty() => Err(denial.into()),
            _ => Ok(permitted),
        }
    }

    async fn resolve(&self, name: &str, patience: Duration) -> Result<Vec<IpAddr>, DialError> {
        let lookup = self.resolver.resolve(name, Arc::clone(&self.lookups));
        let failed = |source| DialError::Resolve {
            name: name.to_owned(),
            source,
        };
        match timeout(patience, lookup).await {
            Ok(Ok(found)) if found.is_empty() => Err(failed(io::Error::new(
                io::ErrorKind::NotFound,
                "it has no address",
            ))),
            Ok(Ok(found)) => Ok(found),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(DialError::ResolveTimeout {
                name: name.to_owned(),
            }),
        }
    }
}

/// Connects to one of `addresses`, in bounded time.
async fn race(
    addresses: Vec<SocketAddr>,
    target: &str,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let connect = |address| async move {
        let stream = TcpStream::connect(address).await?;
        // Interactive protocols would wait for one another's acknowledgements.
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    in_time(target, first(addresses, connect)).await
}

/// What `connecting` to `target` comes to, if it does while a caller waits.
async fn in_time<T>(
    target: &str,
    connecting: impl Future<Output = io::Result<T>>,
) -> Result<T, DialError> {
    timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| DialError::ConnectTimeout {
            target: target.to_owned(),
        })?
        .map_err(|source| DialError::Connect {
            target: target.to_owned(),
            source,
        })
}

/// Connects to the first of `addresses` that answers, trying the next one while a slow one is tried. It ends when
/// one answers or all are refused: the last ones are tried for as long as the caller waits.
async fn first<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<(T, SocketAddr)>
where
    F: Future<Output = io::Result<T>>,
{
    // Only those for whose place others wait are hurried.
    let hurried = addresses.len().saturating_sub(ATTEMPTS_MAX);
    let attempt = |(place, address): (usize, SocketAddr)| {
        let connecting = connect(address);
        async move {
            if place >= hurried {
                return (connecting.await, address);
            }
            let outcome = timeout(ATTEMPT_TIMEOUT, connecting).await;
            let outcome = outcome.map_err(|_| io::ErrorKind::TimedOut.into());
            (outcome.flatten(), address)
        }
    };
    let mut rest = addresses.into_iter().enumerate().peekable();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    attempts.extend(rest.next().map(attempt));
    loop {
        let one_more = attempts.len() < ATTEMPTS_MAX && rest.peek().is_some();
        tokio::select! {
            next = attempts.next() => match next {
                Some((Ok(stream), address)) => return Ok((stream, address)),
                Some((Err(error), _)) => {
                    last = error;
                    attempts.extend(rest.next().map(attempt));
                }
                None => return Err(last),
            },
            () = sleep(ATTEMPT_DELAY), if one_more => attempts.extend(rest.next().map(attempt)),
        }
    }
}

/// Connections under one policy, for hyper-util's clients.
#[derive(Debug, Clone)]
pub struct Connector {
    dialer: Dialer,
    policy: Policy,
}

impl Connector {
    /// A connector to what `policy` permits.
    #[must_use]
    pub fn new(dialer: Dialer, policy: Policy) -> Self {
        Self { dialer, policy }
    }
}

/// Where a request for `uri` goes.
pub(crate) fn target_of(uri: &Uri) -> Result<Target, DialError> {
    let none = || DialError::NoTarget(uri.to_string());
    let default = match uri.scheme_str() {
        Some("https") => 443,
        Some("http") => 80,
        _ => return Err(none()),
    };
    let host = uri.host().ok_or_else(none)?;
    Target::new(host, uri.port_u16().unwrap_or(default)).map_err(|_| none())
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Outbound>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Self::Response, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { dialer, policy } = self.clone();
        async move {
            let target = target_of(&uri)?;
            let carries = match uri.scheme_str() {
                // hyper-util's clients send no password to a proxy: a tunnel does.
                Some("http") if !dialer.wants_password(&target) => Carries::Http,
                _ => Carries::Tunnel,
            };
            dialer
                .connect(&policy, &target, carries)
                .await
                .map(TokioIo::new)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts down when an attempt ends, however it does.
    struct Open<'a>(&'a AtomicUsize);

    impl Drop for Open<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_addresses_are_tried_at_once_and_all_get_their_turn() {
        let open = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        let connect = |address: SocketAddr| {
            let (open, most) = (&open, &most);
            async move {
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _open = Open(open);
                match address.port() {
                    8 => Ok(()),
                    // Refused at once.
                    2 => Err(io::ErrorKind::ConnectionRefused.into()),
                    // Nothing comes back.
                    _ => std::future::pending().await,
                }
            }
        };
        let addresses: Vec<_> = (1..=8)
            .map(|port| SocketAddr::from(([192, 0, 2, 1], port)))
            .collect();
        let (found, at) = in_time("slow.example:80", first(addresses, connect))
            .await
            .expect("the last one answers");
        assert_eq!((found, at.port()), ((), 8));
        assert_eq!(most.load(Ordering::SeqCst), ATTEMPTS_MAX);
        assert_eq!(open.load(Ordering::SeqCst), 0, "nothing stays open");
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_nobody_is_given_up_at_the_time_that_the_error_states() {
        for count in 1..=ADDRESSES_MAX {
            let addresses = vec![SocketAddr::from(([192, 0, 2, 1], 80)); count];
            let silent = |_| std::future::pending::<io::Result<()>>();
            let start = tokio::time::Instant::now();
            let error = in_time("silent.example:80", first(addresses, silent)).await;
            let error = error.expect_err("nobody answers");
            assert!(
                matches!(error, DialError::ConnectTimeout { .. }),
                "{count}: {error}"
            );
            assert_eq!(start.elapsed(), CONNECT_TIMEOUT, "{count}");
            let text = error.to_string();
            assert!(
                text.contains("silent.example:80") && text.contains("20 seconds"),
                "{text}"
            );
        }
    }
}
