// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The mirror as a client of the registries: one request, redirects, limits in time and number.
//!
//! A request never leaves for a host that is no recorded registry's (or the one it began at), and never
//! goes from https to http. Nothing of a guest's headers is sent on but what a caller puts into `headers`.

use std::{collections::HashMap, error::Error, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{self, HeaderValue},
    http::response,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{CaptureConnection, Connect, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use url::Url;

use super::{Limits, failure::Failure};
use crate::network::{dial::DialError, policy::Denial};

/// Most redirects of one request. A registry has one or two.
const REDIRECTS: usize = 5;

/// How long a registry that could not be reached is taken to be still so, where there is something older
/// to serve: each of an install's many documents would else wait for its own time-out.
const DOWN: Duration = Duration::from_secs(30);

const AGENT: &str = concat!("waggle/", env!("CARGO_PKG_VERSION"));

type Answer = Pin<
    Box<dyn Future<Output = Result<Response<Incoming>, hyper_util::client::legacy::Error>> + Send>,
>;
type Sender = Box<dyn Fn(Request<Empty<Bytes>>) -> Answer + Send + Sync>;

/// The registries' side.
pub(super) struct Upstream {
    send: Sender,
    /// Host and port of each registry.
    hosts: Vec<String>,
    limits: Limits,
    permits: Arc<Semaphore>,
    /// By host, when it could not be reached. Holds recorded hosts only.
    down: Mutex<HashMap<String, Instant>>,
}

/// An answer, its body still on its way.
pub(super) struct Fetched {
    pub(super) head: response::Parts,
    /// Where it came from, after redirects.
    pub(super) url: Url,
    body: Incoming,
    idle: Duration,
    _permit: OwnedSemaphorePermit,
}

/// `host:port`, the port always spelled.
pub(super) fn authority(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or(0);
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

impl Upstream {
    pub(super) fn new<C>(connector: C, registries: &[&Url], limits: Limits) -> Self
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        let client: Client<C, Empty<Bytes>> = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(8)
            .build(connector);
        Self {
            send: Box::new(move |request| Box::pin(client.request(request))),
            hosts: registries.iter().map(|url| authority(url)).collect(),
            limits,
            permits: Arc::new(Semaphore::new(limits.fetches)),
            down: Mutex::new(HashMap::new()),
        }
    }

    /// Whether the registry of `url` could not be reached a moment ago.
    pub(super) async fn is_down(&self, url: &Url) -> bool {
        let down = self.down.lock().await;
        down.get(&authority(url))
            .is_some_and(|since| since.elapsed() < DOWN)
    }

    /// Asks, and follows redirects. Any status is an answer. Dropping it ends the request.
    pub(super) async fn get(&self, url: &Url, headers: &HeaderMap) -> Result<Fetched, Failure> {
        self.ask(&Method::GET, url, headers).await
    }

    /// The same without the body.
    pub(super) async fn head(&self, url: &Url, headers: &HeaderMap) -> Result<Fetched, Failure> {
        self.ask(&Method::HEAD, url, headers).await
    }

    async fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Fetched, Failure> {
        let permit = timeout(
            self.limits.answer,
            Arc::clone(&self.permits).acquire_owned(),
        );
        let Ok(Ok(permit)) = permit.await else {
            return Err(Failure::Busy { url: url.clone() });
        };
        let mut connection = None;
        let asked = self.follow(method, url, headers, &mut connection);
        let asked = timeout(self.limits.answer, asked).await;
        let asked = asked.unwrap_or_else(|_| {
            Err(Failure::Slow {
                url: url.clone(),
                after: self.limits.answer,
            })
        });
        // Only what concerns all of a registry says that it is down: a guest chooses what is asked for.
        let connected =
            connection.is_some_and(|connection| connection.connection_metadata().is_some());
        match &asked {
            Ok(_) => self.remember(url, false).await,
            Err(Failure::Unreachable { url, .. }) => self.remember(url, true).await,
            Err(Failure::Slow { url, .. }) if !connected => self.remember(url, true).await,
            Err(_) => {}
        }
        let (response, url) = asked?;
        let (head, body) = response.into_parts();
        if let Some(encoding) = head.headers.get(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            let why = format!("it is encoded as {encoding:?}, which was not asked for");
            return Err(Failure::Unusable { url, why });
        }
        Ok(Fetched {
            head,
            url,
            body,
            idle: self.limits.idle,
            _permit: permit,
        })
    }

    async fn follow(
        &self,
        method: &Method,
        first: &Url,
        headers: &HeaderMap,
        connection: &mut Option<CaptureConnection>,
    ) -> Result<(Response<Incoming>, Url), Failure> {
        let mut url = first.clone();
        for _ in 0..=REDIRECTS {
            let response = self.once(method, &url, headers, connection).await?;
            let status = response.status();
            let location = response.headers().get(header::LOCATION);
            let Some(location) = location.filter(|_| status.is_redirection()) else {
                return Ok((response, url));
            };
            let next = location.to_str().ok().and_then(|to| url.join(to).ok());
            url = next
                .filter(|next| self.may_follow(first, next))
                .ok_or_else(|| Failure::Redirect {
                    url: url.clone(),
                    to: shown(location),
                })?;
        }
        let why = format!("it redirects more than {REDIRECTS} times");
        Err(Failure::Unusable {
            url: first.clone(),
            why,
        })
    }

    fn may_follow(&self, first: &Url, next: &Url) -> bool {
        let secure =
            next.scheme() == "https" || (next.scheme() == "http" && first.scheme() == "http");
        // On the same host only to the same port, or from http to https.
        let same = next.host_str() == first.host_str()
            && (next.port_or_known_default() == first.port_or_known_default()
                || next.port_or_known_default() == Some(443));
        let known = self.hosts.contains(&authority(next)) || same;
        secure && known && next.username().is_empty() && next.password().is_none()
    }

    async fn once(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        connection: &mut Option<CaptureConnection>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut plain = url.clone();
        plain.set_fragment(None);
        let uri: Uri = plain.as_str().parse().map_err(|error| Failure::Unusable {
            url: url.clone(),
            why: format!("its address cannot be asked for: {error}"),
        })?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers.clone();
        let own = request.headers_mut();
        own.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        own.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        *connection = Some(capture_connection(&mut request));
        (self.send)(request).await.map_err(|error| {
            let (url, why) = (url.clone(), chain(&error));
            if let Some(denial) = denial(&error) {
                let denial = Box::new(denial.clone());
                return Failure::Denied { url, denial };
            }
            match error.is_connect() {
                true => Failure::Unreachable { url, why },
                false => Failure::Broken { url, why },
            }
        })
    }

    async fn remember(&self, url: &Url, is_down: bool) {
        let host = authority(url);
        let mut down = self.down.lock().await;
        match is_down {
            true if self.hosts.contains(&host) => {
                down.insert(host, Instant::now());
            }
            true => {}
            false => {
                down.remove(&host);
            }
        }
    }
}

/// What the policy says, if it is why there is no connection.
fn denial<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Denial> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error's source is not what it holds, but the source of that.
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let found = error
            .downcast_ref::<DialError>()
            .or_else(|| held?.downcast_ref::<DialError>());
        if let Some(DialError::Denied(denial)) = found {
            return Some(denial);
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Fetched {
    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The length that the registry stated.
    pub(super) fn stated_len(&self) -> Option<u64> {
        let text = self.head.headers.get(header::CONTENT_LENGTH)?;
        text.to_str().ok()?.parse().ok()
    }

    /// The next bytes, or none at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout(self.idle, self.body.frame()).await;
            let frame = frame.map_err(|_| Failure::Slow {
                url: self.url.clone(),
                after: self.idle,
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    // Trailers, or nothing.
                    _ => {}
                },
                Some(Err(error)) => {
                    return Err(Failure::Broken {
                        url: self.url.clone(),
                        why: chain(&error),
                    });
                }
            }
        }
    }

    /// The whole body, if it has at most `limit` bytes.
    pub(super) async fn whole(&mut self, limit: u64) -> Result<Vec<u8>, Failure> {
        let too_large = Failure::TooLarge {
            url: self.url.clone(),
            limit,
        };
        if self.stated_len().is_some_and(|len| len > limit) {
            return Err(too_large);
        }
        // No more than was said: growing in steps would take up to twice as much.
        let stated = self.stated_len().and_then(|len| usize::try_from(len).ok());
        let mut whole = Vec::with_capacity(stated.unwrap_or(0));
        while let Some(chunk) = self.chunk().await? {
            whole.extend_from_slice(&chunk);
            if u64::try_from(whole.len()).unwrap_or(u64::MAX) > limit {
                return Err(too_large);
            }
        }
        Ok(whole)
    }
}

/// Where a redirect leads, for people. A user and password are nobody's business.
fn shown(location: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(location.as_bytes());
    if !text.contains('@') {
        return text.into_owned();
    }
    let bare = Url::parse(&text).ok().and_then(|mut url| {
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        Some(url.into())
    });
    bare.unwrap_or_else(|| "another place".to_owned())
}

/// `connector` with TLS over it for https, trusting what `config` does.
pub fn over_tls<C>(config: rustls::ClientConfig, connector: C) -> HttpsConnector<C> {
    HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector)
}
