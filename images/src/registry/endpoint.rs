// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One registry's or mirror's host: its scheme, its certificates, its tokens, and one request at a time.
//!
//! The HTTP client follows no redirect: each hop is a request of ours, so that the rules of [`super::redirect`] hold for
//! all of them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use oci_client::RegistryOperation;
use oci_client::secrets::RegistryAuth;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, RANGE};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};
use tokio::sync::{Mutex, OnceCell};

use super::answer::{objection, send, status_error};
use super::auth::{Asking, Challenge, authorized};
use super::error::{RegistryError, chain, tls_cause};
use super::grants::Grants;
use super::redirect::{Astray, Walk, is_redirect, upload};
use super::{CredentialSources, RegistryOptions, Timeouts, api_host, tls};

/// How long a registry on loopback may take to show whether it speaks TLS.
const PROBE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Endpoint {
    /// As references name it, for messages and logins.
    pub(super) name: String,
    client: Client,
    credentials: CredentialSources,
    pub(super) timeouts: Timeouts,
    /// `SCHEME://HOST/`, once it is known.
    base: OnceCell<Url>,
    granted: Mutex<Grants>,
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
    /// What is sent, and its media type.
    pub(super) body: Option<(&'a str, Bytes)>,
    pub(super) access: RegistryOperation,
    /// For messages.
    pub(super) what: &'a str,
}

impl<'a> Ask<'a> {
    /// Of this method, with nothing further.
    pub(super) fn new(method: Method, repository: &'a str, path: &'a str, what: &'a str) -> Self {
        let access = match method {
            Method::GET => RegistryOperation::Pull,
            // Whoever looks whether a blob is there is about to push it.
            _ => RegistryOperation::Push,
        };
        Self {
            method,
            repository,
            path,
            accept: None,
            from: None,
            body: None,
            access,
            what,
        }
    }

    /// What changes something goes to the registry itself or not at all.
    fn follows(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// The last answer on a request's way.
struct Answer {
    response: Response,
    /// Whether it is the registry's own. Another place's challenge is not met.
    home: bool,
}

impl Answer {
    fn wants_login(&self) -> bool {
        self.home && self.response.status() == StatusCode::UNAUTHORIZED
    }
}

impl Endpoint {
    /// Reads certificate files, so not for threads that must not block.
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
            .redirect(redirect::Policy::none())
            .tls_certs_merge(tls::for_requests(&roots).map_err(client_error)?);
        // Plain HTTP is for this host alone, and no proxy sees it.
        builder = if tls::is_loopback(name) {
            builder.no_proxy()
        } else {
            builder.https_only(true)
        };
        Ok(Self {
            name: name.to_owned(),
            client: builder.build().map_err(client_error)?,
            credentials: options.credentials.clone(),
            timeouts: options.timeouts.clone(),
            base: OnceCell::new(),
            granted: Mutex::default(),
        })
    }

    /// One request. What it returns is a success; the body is for the caller to bound.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let path = format!("v2/{}/{}", ask.repository, ask.path);
        let url = self.base().await?.join(&path);
        let url = url.map_err(|_| self.unexpected(ask.what, "to no URL".to_owned()))?;
        let known = self.known(ask.repository, ask.access).await;
        let mut answer = self.walk(&url, ask, known.as_ref()).await?;
        if answer.wants_login() {
            let granted = self
                .authorize(ask, known, answer.response.headers())
                .await?;
            answer = self.walk(&url, ask, Some(&granted)).await?;
        }
        if answer.wants_login() {
            return Err(self.unauthorized(ask.repository, ask.access).await);
        }
        let response = answer.response;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED => {
                let detail = "with a redirect to a place that wants a login";
                Err(self.unexpected(ask.what, detail.to_owned()))
            }
            _ if ask.follows() => Err(status_error(&self.name, ask.what, &response)),
            _ => Err(objection(&self.name, ask.what, response).await),
        }
    }

    /// Asks, and goes where the answers lead.
    async fn walk(
        &self,
        start: &Url,
        ask: &Ask<'_>,
        authorization: Option<&RegistryAuth>,
    ) -> Result<Answer, RegistryError> {
        let mut way = Walk::new(start.clone());
        loop {
            let login = authorization.filter(|_| way.is_home());
            let request = self.request(way.at(), ask, login);
            let response = send(&self.name, ask.what, request, self.timeouts.answer).await?;
            if !is_redirect(response.status()) {
                let home = way.is_home();
                return Ok(Answer { response, home });
            }
            if !ask.follows() {
                return Err(self.astray(ask.what, &Astray::Unexpected));
            }
            let next = way.follow(response.headers());
            next.map_err(|astray| self.astray(ask.what, &astray))?;
        }
    }

    fn request(&self, url: &Url, ask: &Ask<'_>, login: Option<&RegistryAuth>) -> RequestBuilder {
        let mut request = self.client.request(ask.method.clone(), url.clone());
        if let Some(accept) = ask.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(from) = ask.from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        match &ask.body {
            Some((media_type, body)) => {
                request = request.header(CONTENT_TYPE, *media_type).body(body.clone());
            }
            // Some registries do not take it as said otherwise (411).
            None if ask.method == Method::POST => request = request.header(CONTENT_LENGTH, 0),
            None => {}
        }
        match login {
            Some(login) => authorized(request, login),
            None => request,
        }
    }

    /// Sends a blob of `size` bytes, within `longest`, to where the answer leads that began its upload.
    pub(super) async fn upload(
        &self,
        repository: &str,
        what: &str,
        begun: &Response,
        digest: &str,
        (body, size): (Body, u64),
        longest: Duration,
    ) -> Result<(), RegistryError> {
        let place = upload(begun.url(), begun.headers());
        let mut place = place.map_err(|astray| self.astray(what, &astray))?;
        // What is in its query already says which upload it is.
        place.query_pairs_mut().append_pair("digest", digest);
        let home = place.origin() == self.base().await?.origin();
        let mut request = self.client.put(place);
        request = request
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(body);
        let access = RegistryOperation::Push;
        if home && let Some(login) = self.known(repository, access).await {
            request = authorized(request, &login);
        }
        let response = send(&self.name, what, request, longest).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status if is_redirect(status) => Err(self.astray(what, &Astray::Unexpected)),
            StatusCode::UNAUTHORIZED if home => {
                // It may have ended since the upload was begun.
                self.granted.lock().await.remove(repository, access);
                Err(self.unauthorized(repository, access).await)
            }
            _ => Err(objection(&self.name, what, response).await),
        }
    }

    /// That the login which there is, if there is one, does not suffice.
    async fn unauthorized(&self, repository: &str, access: RegistryOperation) -> RegistryError {
        let found = self.credentials.find(&self.name, repository).await;
        self.asking(repository, access).unauthorized(&found)
    }

    fn astray(&self, what: &str, astray: &Astray) -> RegistryError {
        self.unexpected(what, format!("with {astray}"))
    }

    fn unexpected(&self, what: &str, detail: String) -> RegistryError {
        RegistryError::Unexpected {
            host: self.name.clone(),
            what: what.to_owned(),
            detail,
        }
    }

    async fn known(&self, repository: &str, access: RegistryOperation) -> Option<RegistryAuth> {
        let granted = self.granted.lock().await;
        granted.get(repository, access, Instant::now()).cloned()
    }

    /// Meets the challenge of an answer. `used` is what did not suffice: a newer one is taken as it is, so that
    /// several requests that are refused at once ask for one token together.
    async fn authorize(
        &self,
        ask: &Ask<'_>,
        used: Option<RegistryAuth>,
        headers: &HeaderMap,
    ) -> Result<RegistryAuth, RegistryError> {
        let mut granted = self.granted.lock().await;
        let newer = granted.get(ask.repository, ask.access, Instant::now());
        if let Some(newer) = newer.filter(|newer| Some(*newer) != used.as_ref()) {
            return Ok(newer.clone());
        }
        let found = self.credentials.find(&self.name, ask.repository).await;
        let asking = self.asking(ask.repository, ask.access);
        let challenge = Challenge::of(headers);
        let challenge = challenge.ok_or_else(|| asking.unauthorized(&found))?;
        let fresh = asking.meet(&challenge, &found).await?;
        let authorization = fresh.authorization.clone();
        granted.insert(ask.repository, ask.access, fresh, Instant::now());
        Ok(authorization)
    }

    fn asking<'a>(&'a self, repository: &'a str, access: RegistryOperation) -> Asking<'a> {
        Asking {
            client: &self.client,
            host: &self.name,
            repository,
            access,
            timeout: self.timeouts.answer,
        }
    }

    async fn base(&self) -> Result<&Url, RegistryError> {
        let find = || async {
            let scheme = self.scheme().await?;
            let text = format!("{scheme}://{}/", api_host(&self.name));
            text.parse().map_err(|_| RegistryError::Client {
                host: self.name.clone(),
                detail: "it is no host".to_owned(),
            })
        };
        self.base.get_or_try_init(find).await
    }

    /// TLS for everybody but registries on loopback that do not speak it. One that does, with a certificate that is
    /// not trusted, is not asked in plain text instead.
    async fn scheme(&self) -> Result<&'static str, RegistryError> {
        if !tls::is_loopback(&self.name) {
            return Ok("https");
        }
        let look = |scheme| {
            let url = format!("{scheme}://{}/v2/", self.name);
            self.client.head(url).timeout(PROBE).send()
        };
        let Err(by_tls) = look("https").await else {
            return Ok("https");
        };
        // What is no TLS message at all is another protocol. Every other objection is that of somebody who speaks TLS.
        if tls_cause(&by_tls)
            .is_some_and(|cause| !matches!(cause, rustls::Error::InvalidMessage(_)))
        {
            return Ok("https");
        }
        match look("http").await {
            Ok(_) => Ok("http"),
            Err(error) => Err(RegistryError::Unreachable {
                host: self.name.clone(),
                detail: chain(&error.without_url()),
            }),
        }
    }
}
