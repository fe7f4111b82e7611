// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One registry's or mirror's host: its scheme, its certificates, its tokens, and one request at a time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use oci_client::client::{Certificate, ClientConfig, ClientProtocol};
use reqwest::header::{ACCEPT, RANGE};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use tokio::sync::{Mutex, OnceCell};

use super::auth::{Access, Asking, Authorization, Challenge, Granted};
use super::error::{RegistryError, chain, of_request, tls_cause};
use super::{CredentialSources, RegistryOptions, Timeouts, api_host, retry, tls};

/// Registries redirect once, to where the blobs are.
const MOST_REDIRECTS: usize = 5;
/// How long a registry on loopback may take to show whether it speaks TLS.
const PROBE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Endpoint {
    /// As references name it, for messages and logins.
    pub(super) name: String,
    client: Client,
    /// For the pushing client, which makes its own connections.
    roots: Vec<Certificate>,
    credentials: CredentialSources,
    pub(super) timeouts: Timeouts,
    user_agent: &'static str,
    scheme: OnceCell<Scheme>,
    granted: Mutex<HashMap<(String, Access), Granted>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// A request of the registry API.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) repository: &'a str,
    /// Below the repository, such as `manifests/latest`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// From which byte on. None: the whole.
    pub(super) from: Option<u64>,
    pub(super) access: Access,
    /// For messages.
    pub(super) what: &'a str,
}

impl Endpoint {
    pub(super) fn new(name: &str, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let folders = &options.certificate_folders;
        let roots = tls::extra_roots(options.ca_bundle.as_deref(), folders, name)?;
        let client_error = |error: reqwest::Error| RegistryError::Client {
            host: name.to_owned(),
            detail: chain(&error),
        };
        let mut builder = Client::builder()
            .user_agent(options.user_agent)
            .connect_timeout(options.timeouts.connect)
            // From a request to its answer, and between two reads of a body.
            .read_timeout(options.timeouts.answer)
            .redirect(redirect::Policy::custom(redirect))
            .tls_certs_merge(tls::for_requests(&roots).map_err(client_error)?);
        if tls::is_loopback(name) {
            builder = builder.no_proxy();
        }
        Ok(Self {
            name: name.to_owned(),
            client: builder.build().map_err(client_error)?,
            roots: tls::for_push(&roots),
            credentials: options.credentials.clone(),
            timeouts: options.timeouts.clone(),
            user_agent: options.user_agent,
            scheme: OnceCell::new(),
            granted: Mutex::default(),
        })
    }

    /// One request. What it returns is a success; the body is for the caller to bound.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let base = self.base().await?;
        let url = format!("{base}/v2/{}/{}", ask.repository, ask.path);
        let known = self.known(ask).await;
        let response = self.attempt(&url, ask, known.as_ref()).await?;
        let response = if response.status() == StatusCode::UNAUTHORIZED {
            let granted = self.authorize(ask, known, &response).await?;
            self.attempt(&url, ask, Some(&granted)).await?
        } else {
            response
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.unauthorized(ask.repository, ask.access).await);
        }
        if response.status().is_success() {
            return Ok(response);
        }
        Err(status_error(&self.name, ask.what, &response))
    }

    async fn attempt(
        &self,
        url: &str,
        ask: &Ask<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RegistryError> {
        let mut request = self.client.request(ask.method.clone(), url);
        if let Some(accept) = ask.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(from) = ask.from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(authorization) = authorization {
            request = authorization.apply(request);
        }
        let response = request.send().await;
        response.map_err(|error| of_request(&self.name, ask.what, error))
    }

    /// That the login which there is, if there is one, does not suffice.
    pub(super) async fn unauthorized(&self, repository: &str, access: Access) -> RegistryError {
        let found = self.credentials.find(&self.name, repository).await;
        self.asking(repository, access).unauthorized(&found)
    }

    /// Drops an authorization that did not suffice.
    pub(super) async fn forget(&self, repository: &str, access: Access) {
        let mut granted = self.granted.lock().await;
        granted.remove(&(repository.to_owned(), access));
    }

    async fn known(&self, ask: &Ask<'_>) -> Option<Authorization> {
        let granted = self.granted.lock().await;
        let granted = granted.get(&(ask.repository.to_owned(), ask.access))?;
        (granted.until > Instant::now()).then(|| granted.authorization.clone())
    }

    /// Meets the challenge of an answer. `used` is what did not suffice: a newer one is taken as it is, so that
    /// several requests that are refused at once ask for one token together.
    async fn authorize(
        &self,
        ask: &Ask<'_>,
        used: Option<Authorization>,
        response: &Response,
    ) -> Result<Authorization, RegistryError> {
        let key = (ask.repository.to_owned(), ask.access);
        let mut granted = self.granted.lock().await;
        if let Some(newer) = granted.get(&key)
            && Some(&newer.authorization) != used.as_ref()
            && newer.until > Instant::now()
        {
            return Ok(newer.authorization.clone());
        }
        let found = self.credentials.find(&self.name, ask.repository).await;
        let asking = self.asking(ask.repository, ask.access);
        let challenge = Challenge::of(response.headers());
        let challenge = challenge.ok_or_else(|| asking.unauthorized(&found))?;
        let fresh = asking.meet(&challenge, &found).await?;
        let authorization = fresh.authorization.clone();
        granted.insert(key, fresh);
        Ok(authorization)
    }

    fn asking<'a>(&'a self, repository: &'a str, access: Access) -> Asking<'a> {
        Asking {
            client: &self.client,
            host: &self.name,
            repository,
            access,
            timeout: self.timeouts.answer,
        }
    }

    /// A client that pushes, and what it is authorized with for this repository.
    pub(super) async fn pusher(
        &self,
        repository: &str,
    ) -> Result<(oci_client::Client, Option<Authorization>), RegistryError> {
        // Any request shows what the registry wants; this one changes nothing.
        let base = self.base().await?;
        let ask = Ask {
            method: Method::GET,
            repository,
            path: "",
            accept: None,
            from: None,
            access: Access::Push,
            what: repository,
        };
        let response = self.attempt(&format!("{base}/v2/"), &ask, None).await?;
        let authorization = match response.status() {
            StatusCode::UNAUTHORIZED => {
                let known = self.known(&ask).await;
                match known {
                    Some(known) => Some(known),
                    None => Some(self.authorize(&ask, None, &response).await?),
                }
            }
            status if status.is_success() => None,
            _ => return Err(status_error(&self.name, repository, &response)),
        };
        let client = oci_client::Client::try_from(self.push_config(&base));
        let client = client.map_err(|error| RegistryError::Client {
            host: self.name.clone(),
            detail: chain(&error),
        })?;
        Ok((client, authorization))
    }

    fn push_config(&self, base: &str) -> ClientConfig {
        // The client has no switch for the environment's proxies. Naming one of its own turns those off, and the list keeps
        // loopback from that one.
        let direct = tls::is_loopback(&self.name);
        ClientConfig {
            protocol: if base.starts_with("http:") {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            // One request a blob: what every registry takes.
            use_monolithic_push: true,
            extra_root_certificates: self.roots.clone(),
            connect_timeout: Some(self.timeouts.connect),
            user_agent: self.user_agent,
            http_proxy: direct.then(|| "http://127.0.0.1:9".to_owned()),
            no_proxy: direct.then(|| "127.0.0.0/8,::1,localhost".to_owned()),
            ..ClientConfig::default()
        }
    }

    /// `SCHEME://HOST`.
    async fn base(&self) -> Result<String, RegistryError> {
        let scheme = self.scheme.get_or_try_init(|| self.probe()).await?;
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        Ok(format!("{scheme}://{}", api_host(&self.name)))
    }

    /// TLS for everybody but registries on loopback that do not speak it. One that does, with a certificate that is
    /// not trusted, is not asked in plain text instead.
    async fn probe(&self) -> Result<Scheme, RegistryError> {
        if !tls::is_loopback(&self.name) {
            return Ok(Scheme::Https);
        }
        let look = |scheme| {
            let url = format!("{scheme}://{}/v2/", self.name);
            self.client.head(url).timeout(PROBE).send()
        };
        let Err(by_tls) = look("https").await else {
            return Ok(Scheme::Https);
        };
        // What is no TLS message at all is another protocol. Every other objection is that of somebody who speaks TLS,
        // and so is an answer that cannot be followed.
        let speaks = match tls_cause(&by_tls) {
            Some(cause) => !matches!(cause, rustls::Error::InvalidMessage(_)),
            None => by_tls.is_redirect(),
        };
        if speaks {
            return Ok(Scheme::Https);
        }
        match look("http").await {
            Ok(_) => Ok(Scheme::Http),
            Err(error) if error.is_redirect() => Ok(Scheme::Http),
            Err(error) => Err(RegistryError::Unreachable {
                host: self.name.clone(),
                detail: chain(&error.without_url()),
            }),
        }
    }
}

/// A few hops, and none from TLS to plain text. (The HTTP client leaves the login behind when the host changes.)
fn redirect(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let secure = |url: &reqwest::Url| url.scheme() == "https";
    if attempt.previous().len() > MOST_REDIRECTS {
        return attempt.error("too many");
    }
    if attempt.previous().last().is_some_and(secure) && !secure(attempt.url()) {
        return attempt.error("from https to plain http");
    }
    attempt.follow()
}

/// What a refusal means. Its body is not read: it may have no end, and says little more.
pub(super) fn status_error(host: &str, what: &str, response: &Response) -> RegistryError {
    let after = retry::stated(response.headers());
    of_status(host, what, response.status(), after)
}

pub(super) fn of_status(
    host: &str,
    what: &str,
    status: StatusCode,
    after: Option<Duration>,
) -> RegistryError {
    let (host, what) = (host.to_owned(), what.to_owned());
    match status {
        StatusCode::FORBIDDEN => RegistryError::Denied { host, what },
        StatusCode::NOT_FOUND => RegistryError::NotFound { host, what },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::RateLimited { host, after },
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            RegistryError::Failed {
                host,
                what,
                status: status.as_u16(),
                after,
            }
        }
        status => RegistryError::Unexpected {
            host,
            what,
            detail: format!("with HTTP status {}", status.as_u16()),
        },
    }
}

/// A body of at most `limit` bytes, within `timeout`.
pub(super) async fn read_whole(
    host: &str,
    what: &str,
    mut response: Response,
    limit: u64,
    timeout: Duration,
) -> Result<Bytes, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        host: host.to_owned(),
        what: what.to_owned(),
        limit,
    };
    if response
        .content_length()
        .is_some_and(|stated| stated > limit)
    {
        return Err(too_large());
    }
    let read = async {
        let mut whole = BytesMut::new();
        loop {
            let chunk = response.chunk().await;
            match chunk.map_err(|error| of_request(host, what, error))? {
                None => return Ok(whole.freeze()),
                Some(chunk) if (whole.len() + chunk.len()) as u64 > limit => {
                    return Err(too_large());
                }
                Some(chunk) => whole.extend_from_slice(&chunk),
            }
        }
    };
    let read = tokio::time::timeout(timeout, read).await;
    read.unwrap_or_else(|_| {
        Err(RegistryError::Stalled {
            host: host.to_owned(),
            what: what.to_owned(),
            waited: timeout,
        })
    })
}
