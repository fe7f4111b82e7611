// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Documents: the registries' indexes, which change, kept by the rules of HTTP caching (RFC 9111).
//!
//! A document is kept as it is served, its links rewritten. Its body lies in the store by its own digest;
//! a note beside it holds the caching policy. It is served from there; only one that cannot be kept is served
//! from memory ([`super::memory`]). A registry that does not answer is no reason to fail as long
//! as an older copy is there: an install must work with the network cut.
//!
//! What a client says about caching is not heeded (pip asks for fresh pages always), except `no-cache`.

use std::{
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_cache_semantics::{AfterResponse, BeforeRequest, CacheOptions, CachePolicy};
use hyper::{
    HeaderMap, Request, Response, StatusCode, Uri,
    header::{self, HeaderName, HeaderValue},
};
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    Limits, Served,
    answer::{Content, Source},
    artefact::{modified, status},
    digest::{Algorithm, Digest},
    failure::Failure,
    flights::Flights,
    links::{Form, Links},
    memory::Memory,
    store::{Blob, Store},
    upstream::{Fetched, Upstream},
};

/// How long a document may take altogether.
const WHOLE: Duration = Duration::from_secs(120);

/// The headers that the caching policy is about.
const POLICY: [HeaderName; 8] = [
    header::CACHE_CONTROL,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::PRAGMA,
    header::SET_COOKIE,
    header::VARY,
];

/// What a document is if its registry does not say.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What clients are told about keeping documents: asking here costs nothing.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// What a document is asked for by.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) url: Url,
    /// What the registry is told to be acceptable. Part of the document's identity.
    pub(super) accept: &'static str,
    /// What is rewritten in it.
    pub(super) form: Form,
    /// How long it is fresh if the registry does not say.
    pub(super) fresh_for: Duration,
}

/// What is noted about a kept document.
#[derive(Serialize, Deserialize)]
struct Note {
    policy: CachePolicy,
    /// SHA-256 of the body that is served.
    body: String,
    content_type: String,
    #[serde(with = "serde_date")]
    modified: Option<SystemTime>,
}

/// Times as seconds.
mod serde_date {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map(|since| since.as_secs())
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let seconds = Option::<u64>::deserialize(deserializer)?;
        Ok(seconds
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))))
    }
}

/// A kept document.
struct Kept {
    note: Note,
    blob: Blob,
}

/// A document that can be served.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) content: Content,
    /// Of the body that is served.
    pub(super) digest: Digest,
    pub(super) served: Served,
}

/// All documents of the mirror.
pub(super) struct Documents {
    store: Arc<Store>,
    upstream: Arc<Upstream>,
    links: Arc<Links>,
    limits: Limits,
    flights: Flights<Digest, Result<Document, Failure>>,
    pub(super) memory: Memory,
    stop: CancellationToken,
}

impl Wanted {
    /// The request that the registry gets, which the caching policy is about.
    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        let uri: Option<Uri> = self.url.as_str().parse().ok();
        *request.uri_mut() = uri.unwrap_or_default();
        let accept = HeaderValue::from_static(self.accept);
        request.headers_mut().insert(header::ACCEPT, accept);
        request
    }

    /// What is known by the head of the registry's answer alone. What is rewritten has another length and
    /// another digest than the registry's.
    fn unseen(&self, fetched: &Fetched) -> Document {
        let headers = &fetched.head.headers;
        let len = match self.form {
            Form::Verbatim => fetched.stated_len(),
            _ => None,
        };
        let content_type = headers.get(header::CONTENT_TYPE).cloned();
        Document {
            content: Content {
                source: Source::Unseen(len),
                content_type: content_type.unwrap_or(OCTETS),
                etag: None,
                modified: modified(headers),
                cache_control: NO_CACHE,
            },
            digest: Digest::of(&[]),
            served: Served::Upstream,
        }
    }
}

impl Documents {
    pub(super) fn new(
        store: Arc<Store>,
        upstream: Arc<Upstream>,
        links: Arc<Links>,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            upstream,
            links,
            limits,
            stop,
            flights: Flights::default(),
            memory: Memory::new(&limits),
        }
    }

    /// The document, fresh by its policy, or anew if the client insists.
    pub(super) async fn get(
        self: &Arc<Self>,
        wanted: &Wanted,
        anew: bool,
    ) -> Result<Document, Failure> {
        let key = self.key(wanted);
        let kept = match self.load(&key).await {
            Some(kept) if self.may_serve(&kept, wanted, anew).await => {
                return Ok(kept.document(Served::Cache));
            }
            kept => kept,
        };
        let work = || {
            let (documents, wanted, key) = (Arc::clone(self), wanted.clone(), key.clone());
            async move {
                let renewing = documents.renew(&wanted, &key, kept);
                let renewed = documents.stop.run_until_cancelled(renewing).await;
                renewed.unwrap_or_else(|| Err(Failure::Ended { url: wanted.url }))
            }
        };
        let renewed = self.flights.join(&key, work).await;
        renewed.unwrap_or_else(|| {
            Err(Failure::Ended {
                url: wanted.url.clone(),
            })
        })
    }

    /// What is to be said of the document without its body, which nobody fetches for that.
    pub(super) async fn head(&self, wanted: &Wanted, anew: bool) -> Result<Document, Failure> {
        let kept = match self.load(&self.key(wanted)).await {
            Some(kept) if self.may_serve(&kept, wanted, anew).await => {
                return Ok(kept.document(Served::Cache));
            }
            kept => kept,
        };
        let request = wanted.request();
        let conditions = kept
            .as_ref()
            .map(|kept| conditions(&kept.note.policy, &request));
        let headers = conditions.as_ref().unwrap_or(request.headers());
        let asked = self.upstream.head(&wanted.url, headers).await;
        let asked = asked.and_then(|fetched| match fetched.status() {
            StatusCode::OK | StatusCode::NOT_MODIFIED => Ok(fetched),
            _ => Err(status(&fetched)),
        });
        match (asked, kept) {
            (Ok(fetched), Some(kept)) if fetched.status() == StatusCode::NOT_MODIFIED => {
                Ok(kept.document(Served::Upstream))
            }
            (Ok(fetched), _) => Ok(wanted.unseen(&fetched)),
            (Err(failure), Some(kept)) if failure.is_outage() => Ok(kept.document(Served::Cache)),
            (Err(failure), _) => Err(failure),
        }
    }

    /// The document, if it is kept, however old it is.
    pub(super) async fn kept(&self, wanted: &Wanted) -> Option<Document> {
        let kept = self.load(&self.key(wanted)).await?;
        Some(kept.document(Served::Cache))
    }

    /// The whole of a document that was served, with its room in memory.
    pub(super) async fn bytes(&self, source: Source) -> Option<Bytes> {
        let (file, len) = match source {
            Source::Bytes(bytes) => return Some(bytes),
            Source::File(file, len) => (file, len),
            Source::Growing(..) | Source::Unseen(_) => return None,
        };
        let room = self.memory.room(len).await.ok()?;
        let reading = move || {
            let mut bytes = vec![0; usize::try_from(len).ok()?];
            file.read_exact_at(&mut bytes, 0).ok()?;
            room.hold(bytes).ok()
        };
        spawn_blocking(reading).await.ok().flatten()
    }

    fn key(&self, wanted: &Wanted) -> Digest {
        let identity = format!("{}\n{}\n{}", wanted.url, wanted.accept, self.links.base());
        Digest::of(identity.as_bytes())
    }

    /// Whether what is kept will do.
    async fn may_serve(&self, kept: &Kept, wanted: &Wanted, anew: bool) -> bool {
        let policy = &kept.note.policy;
        let before = policy.before_request(&wanted.request(), SystemTime::now());
        if !anew && matches!(before, BeforeRequest::Fresh(_)) {
            return true;
        }
        let is_down = self.upstream.is_down(&wanted.url).await;
        if is_down {
            tracing::warn!(url = %wanted.url, "served an old copy of a registry's document: the registry was not reachable a moment ago");
        }
        is_down
    }

    async fn load(&self, key: &Digest) -> Option<Kept> {
        let (store, key) = (Arc::clone(&self.store), key.clone());
        let loading = move || {
            let note: Note = serde_json::from_slice(&store.document(&key)?).ok()?;
            let body = Digest::from_hex(Algorithm::Sha256, &note.body)?;
            let blob = store.blob(&body)?;
            Some(Kept { note, blob })
        };
        spawn_blocking(loading).await.ok().flatten()
    }

    /// Asks the registry, with what is kept as the fallback.
    async fn renew(
        &self,
        wanted: &Wanted,
        key: &Digest,
        kept: Option<Kept>,
    ) -> Result<Document, Failure> {
        let asked = timeout(WHOLE, self.ask(wanted, key, kept.as_ref())).await;
        let asked = asked.unwrap_or_else(|_| {
            Err(Failure::Slow {
                url: wanted.url.clone(),
                after: WHOLE,
            })
        });
        match asked {
            Ok(Some(document)) => Ok(document),
            // Nothing has changed.
            Ok(None) => kept
                .map(|kept| kept.document(Served::Upstream))
                .ok_or_else(|| Failure::Unusable {
                    url: wanted.url.clone(),
                    why: "it says that what it was never asked about is unchanged".to_owned(),
                }),
            Err(failure) => match kept {
                Some(kept) if failure.is_outage() => {
                    tracing::warn!(%failure, "served an old copy of a registry's document");
                    Ok(kept.document(Served::Cache))
                }
                _ => Err(failure),
            },
        }
    }

    /// The registry's answer; none if what is kept is still right.
    async fn ask(
        &self,
        wanted: &Wanted,
        key: &Digest,
        kept: Option<&Kept>,
    ) -> Result<Option<Document>, Failure> {
        let request = wanted.request();
        let conditions = kept.map(|kept| conditions(&kept.note.policy, &request));
        let headers = conditions.as_ref().unwrap_or(request.headers());
        let fetched = self.upstream.get(&wanted.url, headers).await?;
        let fetched = match kept {
            Some(kept) if fetched.status() == StatusCode::NOT_MODIFIED => {
                let response = explicit(&fetched, None);
                let now = SystemTime::now();
                let after = kept.note.policy.after_response(&request, &response, now);
                if let AfterResponse::NotModified(policy, _) = after {
                    let note = kept.note.with(policy);
                    self.keep(key, None, &note, &wanted.url).await;
                    return Ok(None);
                }
                // It speaks of something else than what is kept.
                drop(fetched);
                self.upstream.get(&wanted.url, request.headers()).await?
            }
            _ => fetched,
        };
        self.take(wanted, key, &request, fetched).await.map(Some)
    }

    /// A whole new document.
    async fn take(
        &self,
        wanted: &Wanted,
        key: &Digest,
        request: &Request<()>,
        mut fetched: Fetched,
    ) -> Result<Document, Failure> {
        if fetched.status() != StatusCode::OK {
            return Err(status(&fetched));
        }
        let busy = |_| Failure::Busy {
            url: wanted.url.clone(),
        };
        let most = self.limits.document_bytes;
        let len = fetched.stated_len().unwrap_or(most).min(most);
        let room = self.memory.room(len).await.map_err(busy)?;
        let body = fetched.whole(most).await?;
        let content_type = fetched.head.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let content_type = content_type
            .unwrap_or("application/octet-stream")
            .to_owned();
        let (links, form, url) = (Arc::clone(&self.links), wanted.form, fetched.url.clone());
        let said = content_type.clone();
        let rewriting = move || {
            let mut body = links.rewrite(form, &url, &said, body)?;
            body.shrink_to_fit();
            Ok::<_, String>((Digest::of(&body), body))
        };
        let broke = |why: String| Failure::Unusable {
            url: fetched.url.clone(),
            why,
        };
        let rewritten = spawn_blocking(rewriting).await;
        let (digest, body) = rewritten
            .map_err(|error| broke(error.to_string()))?
            .map_err(broke)?;
        let body = room.hold(body).map_err(busy)?;

        let response = explicit(&fetched, Some(wanted.fresh_for));
        let policy = CachePolicy::new_options(request, &response, SystemTime::now(), options());
        let storable = policy.is_storable();
        let note = Note {
            policy,
            body: digest.hex().to_owned(),
            content_type,
            modified: modified(&fetched.head.headers),
        };
        let stored = if storable {
            let body = Some((digest.clone(), body.clone()));
            self.keep(key, body, &note, &wanted.url).await
        } else {
            None
        };
        // A client may read it slowly, and the bytes' room is everybody's.
        let source = match stored {
            Some(blob) => Source::File(Arc::new(blob.file), blob.len),
            None => Source::Bytes(body),
        };
        Ok(note.document(source, digest, Served::Upstream))
    }

    /// Keeps a document if it can be kept, and gives its body as it is kept; that it cannot is only logged.
    async fn keep(
        &self,
        key: &Digest,
        body: Option<(Digest, Bytes)>,
        note: &Note,
        url: &Url,
    ) -> Option<Blob> {
        let (store, key, modified) = (Arc::clone(&self.store), key.clone(), note.modified);
        let note = serde_json::to_vec(note).ok()?;
        let keeping = move || {
            let Some((digest, body)) = body else {
                return (store.keep_document(&key, &note), None);
            };
            let Some(mut temp) = store.begin(u64::try_from(body.len()).ok()) else {
                return (false, None);
            };
            let is_kept = store.write(&mut temp, &body).is_ok()
                && store.keep_blob(temp, &digest, modified)
                && store.keep_document(&key, &note);
            (is_kept, store.blob(&digest))
        };
        let (is_kept, blob) = spawn_blocking(keeping).await.unwrap_or((false, None));
        if !is_kept {
            tracing::debug!(%url, "a registry's document was not kept");
        }
        blob
    }
}

impl Note {
    fn with(&self, policy: CachePolicy) -> Self {
        Self {
            policy,
            body: self.body.clone(),
            content_type: self.content_type.clone(),
            modified: self.modified,
        }
    }

    fn document(&self, source: Source, digest: Digest, served: Served) -> Document {
        let content = Content {
            source,
            content_type: HeaderValue::from_str(&self.content_type).unwrap_or(OCTETS),
            etag: Some(digest.hex().to_owned()),
            modified: self.modified,
            cache_control: NO_CACHE,
        };
        Document {
            content,
            digest,
            served,
        }
    }
}

impl Kept {
    fn document(self, served: Served) -> Document {
        let source = Source::File(Arc::new(self.blob.file), self.blob.len);
        // It was checked when the note was read.
        let digest = Digest::from_hex(Algorithm::Sha256, &self.note.body);
        let digest = digest.unwrap_or_else(|| Digest::of(&[]));
        self.note.document(source, digest, served)
    }
}

fn options() -> CacheOptions {
    CacheOptions {
        shared: true,
        // A package index that was not changed for a year may change today.
        cache_heuristic: 0.0,
        ..CacheOptions::default()
    }
}

/// The request's headers with the conditions under which what is kept may be used.
fn conditions(policy: &CachePolicy, request: &Request<()>) -> HeaderMap {
    // Fresh here means that a client insisted.
    let mut insisting = request.clone();
    let no_cache = HeaderValue::from_static("no-cache");
    insisting
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_cache);
    match policy.before_request(&insisting, SystemTime::now()) {
        BeforeRequest::Stale { request, .. } => request.headers,
        BeforeRequest::Fresh(_) => request.headers().clone(),
    }
}

/// What the caching policy is to know of the registry's answer, with a freshness for one that states none
/// (RFC 9111, section 4.2.2).
fn explicit(fetched: &Fetched, fresh_for: Option<Duration>) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = fetched.status();
    let headers = response.headers_mut();
    let said = &fetched.head.headers;
    for name in POLICY {
        for value in said.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    // The policy adds to it, and a sum that overflows would be a panic.
    if let Some(age) = said.get(header::AGE)
        && let Some(seconds) = age.to_str().ok().and_then(|text| text.parse::<u32>().ok())
    {
        headers.insert(header::AGE, seconds.into());
    }
    let stated = [header::CACHE_CONTROL, header::EXPIRES, header::PRAGMA];
    if let Some(fresh_for) = fresh_for
        && !stated.iter().any(|name| headers.contains_key(name))
    {
        let text = format!("max-age={}", fresh_for.as_secs());
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(header::CACHE_CONTROL, value);
        }
    }
    response
}
