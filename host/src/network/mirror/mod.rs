// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A mirror of the package registries on the host: what one environment fetched, the next one has.
//!
//! pip and npm are pointed at it as their index, on the guest's own loopback; apt uses it as its proxy. It
//! asks the registries itself, so that no TLS is intercepted. [`route`] says what a request is for,
//! [`document`] keeps what changes (indexes, by HTTP's caching rules), [`artefact`] what does not (packages,
//! by the digest their index states), both in the one [`store`]. [`links`] makes indexes lead here, [`head`]
//! answers without a body. What documents take up of memory is bounded by [`memory`], what all takes up of the
//! disk by [`space`].
//!
//! Invariants: nothing is kept, or given out to its last byte, under a digest it does not have. Only
//! recorded registries are asked. What a guest sends chooses among addresses of registries, never a file
//! name. It does not decide who may fetch what: the proxy asks [`Mirror::upstream`] first.

mod answer;
mod apt;
mod artefact;
mod digest;
mod document;
mod failure;
mod flights;
mod head;
mod links;
mod memory;
mod npm;
mod pypi;
mod route;
mod space;
mod store;
#[cfg(test)]
mod tests;
mod upstream;

use std::{future::ready, path::PathBuf, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{self, HeaderValue},
    http::{request::Parts, response},
};
use hyper_util::client::legacy::connect::Connect;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

pub use upstream::over_tls;

use super::{Body, registries::Registry};
use answer::Content;
use apt::Tables;
use artefact::{Artefact, Downloads};
use digest::Digest;
use document::{Document, Documents, Wanted};
use failure::Failure;
use links::Links;
use route::{Apt, AptKind, Route};
use store::Store;
use upstream::Upstream;

/// How a mirror is made.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    /// Where packages are kept. May be shared with other servers.
    pub dir: PathBuf,
    /// Most bytes in it.
    pub max_bytes: u64,
    /// The registries that are mirrored.
    pub registries: Vec<Registry>,
    /// The mirror's address in the guest, ending in a slash, for links.
    pub base: Url,
    /// What is too much, or too slow.
    pub limits: Limits,
}

/// What is too much, or too slow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of a document, which is taken in whole: at most four times as many are held in memory.
    pub document_bytes: u64,
    /// How long a registry may take to answer, connecting and redirects included. pip gives up after 15
    /// seconds, and then nobody would read why.
    pub answer: Duration,
    /// How long nothing may come within an answer.
    pub idle: Duration,
    /// How long a download goes on without a client. pip and npm try again within seconds.
    pub grace: Duration,
    /// Most requests to registries at once.
    pub fetches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes: 64 * 1024 * 1024,
            answer: Duration::from_secs(12),
            idle: Duration::from_secs(30),
            grace: Duration::from_secs(20),
            fetches: 64,
        }
    }
}

/// Where an answer came from: an extension of each [`Response`] that concerns a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The store: no registry was asked, or none answered.
    Cache,
    /// A registry was asked.
    Upstream,
}

/// What went wrong with a registry: an extension of a [`Response`] that tells of it, for the audit. If the policy
/// refused the registry's address, its [`Denial`](super::policy::Denial) is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed(pub String);

/// The mirror. Dropping it ends its downloads.
pub struct Mirror {
    links: Arc<Links>,
    upstream: Arc<Upstream>,
    documents: Arc<Documents>,
    downloads: Downloads,
    tables: Tables,
    _stop: DropGuard,
}

impl Mirror {
    /// Opens the mirror, which reaches the registries by `connector`.
    ///
    /// A folder that cannot be used is no error: then packages are passed through, and a warning says so.
    pub fn open<C>(options: MirrorOptions, connector: C) -> Self
    where
        C: Connect + Clone + Send + Sync + 'static,
    {
        let MirrorOptions {
            dir,
            max_bytes,
            registries,
            base,
            limits,
        } = options;
        let stop = CancellationToken::new();
        let store = Arc::new(Store::open(dir, max_bytes));
        let urls: Vec<&Url> = registries.iter().map(|registry| &registry.url).collect();
        let upstream = Arc::new(Upstream::new(connector, &urls, limits));
        let links = Arc::new(Links::new(base, registries));
        let documents = Documents::new(
            Arc::clone(&store),
            Arc::clone(&upstream),
            Arc::clone(&links),
            limits,
            stop.clone(),
        );
        let (kept, asked) = (Arc::clone(&store), Arc::clone(&upstream));
        let downloads = Downloads::new(kept, asked, limits, stop.clone());
        Self {
            links,
            upstream,
            documents: Arc::new(documents),
            downloads,
            tables: Tables::new(store, stop.clone()),
            _stop: stop.drop_guard(),
        }
    }

    /// What a request would concern at a registry: whether the environment may reach that is to be asked
    /// before [`Mirror::serve`]. None if it is not for the mirror.
    #[must_use]
    pub fn upstream(&self, parts: &Parts) -> Option<Url> {
        let route = Route::of(&self.links, parts)?;
        Some(route.url().clone())
    }

    /// Answers a request. Its body is not read.
    ///
    /// Cancel-safe: a download goes on for a moment, for whoever else waits for it.
    pub async fn serve<B>(&self, request: Request<B>) -> Response<Body> {
        let (mut parts, _) = request.into_parts();
        let Some(route) = Route::of(&self.links, &parts) else {
            return without_body(&parts, unknown(&parts));
        };
        let answered = if parts.method == Method::HEAD {
            // Only a GET has ranges (RFC 9110, 14.2).
            parts.headers.remove(header::RANGE);
            self.head(&route, &parts.headers).await
        } else {
            self.answer(&route, &parts.headers).await
        };
        let failed = |failure| answer::failed(&failure, is_npm(&parts));
        without_body(&parts, answered.unwrap_or_else(failed))
    }

    async fn answer(&self, route: &Route, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        match route {
            Route::Document(wanted) => self.document(wanted, headers).await,
            Route::File(digest, url) => self.file(digest, url, headers).await,
            Route::Unknown(url) => self.pass(url, headers).await,
            Route::Tarball(wanted, url) => match self.stated(wanted, url).await {
                Some(digest) => self.file(&digest, url, headers).await,
                None => self.pass(url, headers).await,
            },
            Route::Apt(apt) => self.apt(apt, headers).await,
        }
    }

    async fn document(
        &self,
        wanted: &Wanted,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        let document = self.documents.get(wanted, insists(headers)).await?;
        Ok(answer::respond(headers, document.content, document.served))
    }

    async fn file(
        &self,
        digest: &Digest,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        let artefact = self.downloads.get(digest, url).await?;
        Ok(artefact_response(artefact, Some(digest), headers))
    }

    /// Past the store, with the client's own conditions.
    async fn pass(&self, url: &Url, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        let passed = conditions(headers);
        let artefact = self.downloads.pass(url, &passed, None).await?;
        Ok(artefact_response(artefact, None, headers))
    }

    /// The digest that a package's document states for the tarball at `url`.
    async fn stated(&self, wanted: &Wanted, url: &Url) -> Option<Digest> {
        let document = self.documents.get(wanted, false).await.ok()?;
        self.digest_in(document, url).await
    }

    /// The digest that `document` states for the tarball at `url`.
    async fn digest_in(&self, document: Document, url: &Url) -> Option<Digest> {
        let body = self.documents.bytes(document.content.source).await?;
        let (links, url) = (Arc::clone(&self.links), url.clone());
        let search = move || npm::digest_of(&links, &body, &url);
        tokio::task::spawn_blocking(search).await.ok().flatten()
    }

    async fn apt(&self, apt: &Apt, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        match &apt.kind {
            AptKind::Hashed(digest, is_list) => {
                let artefact = self.downloads.get(digest, &apt.url).await?;
                if let (true, Artefact::Kept(source, _, served)) = (is_list, &artefact) {
                    let (list, is_new) = (source.clone(), *served == Served::Upstream);
                    let len = list.len();
                    let (upstream, url) = (Arc::clone(&self.upstream), apt.url.clone());
                    // What is kept may be anything of that digest, from anywhere: a list of this repository is
                    // what comes from there now, or what it still has under that digest.
                    let is_theirs = async move { is_new || has(&upstream, &url, len).await };
                    self.tables.learn(&apt.repository, digest, list, is_theirs);
                }
                Ok(artefact_response(artefact, Some(digest), headers))
            }
            AptKind::Package(path) => match self.tables.digest(&apt.repository, path).await {
                Some(digest) if self.downloads.was_wrong(&digest, &apt.url) => {
                    self.tables.forget(&apt.repository, path).await;
                    self.pass(&apt.url, headers).await
                }
                Some(digest) => self.file(&digest, &apt.url, headers).await,
                None => self.pass(&apt.url, headers).await,
            },
            AptKind::Document(is_list) => {
                let document = self.documents.get(&apt.wanted(), insists(headers)).await;
                let document = match document {
                    Err(Failure::TooLarge { .. }) => return self.pass(&apt.url, headers).await,
                    other => other?,
                };
                if *is_list {
                    let source = document.content.source.clone();
                    let (repository, digest) = (&apt.repository, &document.digest);
                    self.tables.learn(repository, digest, source, ready(true));
                }
                Ok(answer::respond(headers, document.content, document.served))
            }
        }
    }
}

/// Whether a registry has something of that length at `url` now. One that has a page for everything does not
/// have it in that length.
async fn has(upstream: &Upstream, url: &Url, len: Option<u64>) -> bool {
    let head = upstream.head(url, &HeaderMap::new()).await;
    head.is_ok_and(|head| {
        head.status() == StatusCode::OK && len.is_some() && head.stated_len() == len
    })
}

/// The conditions, and the range, under which a client wants something.
fn conditions(headers: &HeaderMap) -> HeaderMap {
    let mut conditions = HeaderMap::new();
    for name in [
        header::RANGE,
        header::IF_RANGE,
        header::IF_MODIFIED_SINCE,
        header::IF_NONE_MATCH,
    ] {
        if let Some(value) = headers.get(&name) {
            conditions.insert(name, value.clone());
        }
    }
    conditions
}

/// `response` as the request's method has it.
fn without_body(parts: &Parts, mut response: Response<Body>) -> Response<Body> {
    if parts.method == Method::HEAD {
        *response.body_mut() = answer::empty();
    }
    response
}

/// Whether a client will not have anything that is kept. pip's `max-age=0` is its habit, not a wish.
fn insists(headers: &HeaderMap) -> bool {
    let mut texts = headers.get_all(header::CACHE_CONTROL).iter();
    texts.any(|text| text.to_str().is_ok_and(|text| text.contains("no-cache")))
}

fn artefact_response(
    artefact: Artefact,
    digest: Option<&Digest>,
    headers: &HeaderMap,
) -> Response<Body> {
    match artefact {
        Artefact::Kept(source, modified, served) => {
            let content = Content {
                source,
                content_type: HeaderValue::from_static("application/octet-stream"),
                etag: digest.map(ToString::to_string),
                modified,
                cache_control: HeaderValue::from_static("public, max-age=31536000, immutable"),
            };
            answer::respond(headers, content, served)
        }
        Artefact::Passed(head, body) => passed(&head, body),
    }
}

/// A registry's own answer.
fn passed(head: &response::Parts, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    response.extensions_mut().insert(Served::Upstream);
    for name in [
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::ACCEPT_RANGES,
        header::LAST_MODIFIED,
        header::ETAG,
        header::CACHE_CONTROL,
        header::EXPIRES,
        header::DATE,
        header::AGE,
    ] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Whether npm asks, which reads errors in JSON.
fn is_npm(parts: &Parts) -> bool {
    parts.uri.scheme().is_none() && parts.uri.path().starts_with("/npm/")
}

/// A request that is for nothing here. Package managers go on without searches and audits.
fn unknown(parts: &Parts) -> Response<Body> {
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    if is_read || parts.uri.path().starts_with("/npm/-/") {
        let words = "this is not mirrored; the package mirror has /pypi/simple/, /npm/ and the recorded apt repositories";
        return answer::plain(StatusCode::NOT_FOUND, words, is_npm(parts));
    }
    let words = "the package mirror can only be read from; publish to the registry itself";
    let mut response = answer::plain(StatusCode::METHOD_NOT_ALLOWED, words, is_npm(parts));
    let allow = HeaderValue::from_static("GET, HEAD");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}
