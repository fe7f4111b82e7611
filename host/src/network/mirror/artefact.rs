// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Artefacts: files that never change, named and checked by the digest that the registry's index states.
//!
//! One download an artefact and address, however many ask. It is a task of its own that writes to a file, at the
//! registry's pace; whoever asked reads behind it, at their own. Nobody gets the last bytes before the digest
//! is right. A download whose clients have all gone away is ended after a moment, in which one of them may
//! try again.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{HeaderMap, StatusCode, body::Frame, header, http::response};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    Limits, Served,
    answer::Source,
    digest::{Digest, Hasher},
    failure::Failure,
    store::{Store, Temp},
    upstream::{Fetched, Upstream},
};
use crate::{lock::lock, network::Body};

/// How far a download has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    head: Option<Head>,
    /// Bytes in the file.
    pub(super) written: u64,
    /// How it ended. Well only if the digest is right.
    pub(super) end: Option<Result<(), Failure>>,
    /// It is not kept after all: everybody fetches it for themselves.
    unkept: bool,
}

#[derive(Debug, Clone)]
struct Head {
    file: Arc<File>,
    len: Option<u64>,
    modified: Option<SystemTime>,
}

/// By digest and address: what is wrong at one address is no matter of those who ask at another.
type UnderWay = Arc<Mutex<HashMap<(Digest, Url), Arc<watch::Sender<Progress>>>>>;

/// The newest that were found to be wrong.
type Wrong = Arc<Mutex<VecDeque<(Digest, Url)>>>;

/// How many of them are remembered.
const WRONG: usize = 256;

/// All downloads of the mirror.
pub(super) struct Downloads {
    store: Arc<Store>,
    upstream: Arc<Upstream>,
    limits: Limits,
    under_way: UnderWay,
    wrong: Wrong,
    stop: CancellationToken,
}

/// What an artefact is answered from.
pub(super) enum Artefact {
    /// The store, now or soon.
    Kept(Source, Option<SystemTime>, Served),
    /// The registry, past the store.
    Passed(Box<response::Parts>, Body),
}

impl Downloads {
    pub(super) fn new(
        store: Arc<Store>,
        upstream: Arc<Upstream>,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            upstream,
            limits,
            under_way: UnderWay::default(),
            wrong: Wrong::default(),
            stop,
        }
    }

    /// The artefact `digest`, which is at `url` if it is not kept.
    pub(super) async fn get(&self, digest: &Digest, url: &Url) -> Result<Artefact, Failure> {
        if let Some(kept) = self.kept(digest).await {
            return Ok(kept);
        }
        let store = Arc::clone(&self.store);
        let room = spawn_blocking(move || store.has_room()).await;
        if !room.unwrap_or(false) {
            return self.pass(url, &HeaderMap::new(), Some(digest)).await;
        }
        let mut progress = self.join(digest, url);
        let begun = |progress: &Progress| {
            progress.head.is_some() || progress.end.is_some() || progress.unkept
        };
        let now = match progress.wait_for(begun).await {
            Ok(now) => now.clone(),
            Err(_) => return Err(Failure::Ended { url: url.clone() }),
        };
        match now {
            Progress {
                end: Some(Err(failure)),
                ..
            } => Err(failure),
            Progress {
                head: Some(head), ..
            } => {
                let source = Source::Growing(head.file, head.len, progress);
                Ok(Artefact::Kept(source, head.modified, Served::Upstream))
            }
            _ => self.pass(url, &HeaderMap::new(), Some(digest)).await,
        }
    }

    /// The artefact `digest`, if it is kept.
    pub(super) async fn kept(&self, digest: &Digest) -> Option<Artefact> {
        let (store, digest) = (Arc::clone(&self.store), digest.clone());
        let look = move || store.blob(&digest);
        let blob = spawn_blocking(look).await.ok().flatten()?;
        let source = Source::File(Arc::new(blob.file), blob.len);
        Some(Artefact::Kept(source, Some(blob.modified), Served::Cache))
    }

    /// Whether what is at `url` was found to have another digest. It is told once: whoever asks acts upon it.
    pub(super) fn was_wrong(&self, digest: &Digest, url: &Url) -> bool {
        let mut wrong = lock(&self.wrong);
        let before = wrong.len();
        wrong.retain(|(of, at)| of != digest || at != url);
        wrong.len() < before
    }

    /// Takes part in the download of `digest` from `url`, which is begun if it is not under way.
    fn join(&self, digest: &Digest, url: &Url) -> watch::Receiver<Progress> {
        let mut under_way = lock(&self.under_way);
        let key = (digest.clone(), url.clone());
        if let Some(sender) = under_way.get(&key) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Progress::default());
        let sender = Arc::new(sender);
        under_way.insert(key, Arc::clone(&sender));
        let download = Download {
            digest: digest.clone(),
            url: url.clone(),
            store: Arc::clone(&self.store),
            upstream: Arc::clone(&self.upstream),
            grace: self.limits.grace,
            sender,
            under_way: Arc::clone(&self.under_way),
            wrong: Arc::clone(&self.wrong),
        };
        tokio::spawn(download.run(self.stop.clone()));
        receiver
    }

    /// Hands the registry's answer on as it comes, past the store, but not its end if it is not `expected`.
    pub(super) async fn pass(
        &self,
        url: &Url,
        headers: &HeaderMap,
        expected: Option<&Digest>,
    ) -> Result<Artefact, Failure> {
        let mut fetched = self.upstream.get(url, headers).await?;
        let good = is_good(fetched.status());
        if !good && fetched.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(status(&fetched));
        }
        let head = fetched.head.clone();
        let (sender, receiver) = mpsc::channel(2);
        let pump = Pump {
            expected: expected.cloned(),
            idle: self.limits.idle,
            sender,
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let ended = Failure::Ended {
                url: fetched.url.clone(),
            };
            let result = tokio::select! {
                result = pump.run(&mut fetched) => result,
                () = stop.cancelled() => Err(ended),
                () = pump.sender.closed() => return,
            };
            if let Err(failure) = result {
                tracing::warn!(%failure, "a package that is passed through broke off");
                let last = pump.sender.send(Err(io::Error::other(failure)));
                let _ = timeout(pump.idle, last).await;
            }
        });
        Ok(Artefact::Passed(Box::new(head), passed(receiver)))
    }
}

/// Whether a registry's answer can be handed on as it is.
pub(super) fn is_good(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::NOT_MODIFIED
}

/// The registry's refusal.
pub(super) fn status(fetched: &Fetched) -> Failure {
    Failure::Status {
        url: fetched.url.clone(),
        status: fetched.status(),
    }
}

/// Moves a body from a registry to a client that may be slow.
struct Pump {
    expected: Option<Digest>,
    /// How long a client may take no bytes.
    idle: Duration,
    /// None is the right end.
    sender: mpsc::Sender<io::Result<Option<Bytes>>>,
}

impl Pump {
    async fn run(&self, fetched: &mut Fetched) -> Result<(), Failure> {
        let mut hasher = self
            .expected
            .as_ref()
            .map(|digest| Hasher::new(digest.algorithm()));
        let mut held: Option<Bytes> = None;
        while let Some(chunk) = fetched.chunk().await? {
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            if let Some(before) = held.replace(chunk) {
                self.send(Some(before), &fetched.url).await?;
            }
        }
        if let (Some(hasher), Some(expected)) = (hasher, &self.expected) {
            check(&fetched.url, expected, hasher)?;
        }
        if held.is_some() {
            self.send(held, &fetched.url).await?;
        }
        self.send(None, &fetched.url).await
    }

    async fn send(&self, chunk: Option<Bytes>, url: &Url) -> Result<(), Failure> {
        match timeout(self.idle, self.sender.send(Ok(chunk))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Failure::Broken {
                url: url.clone(),
                why: "the package manager takes nothing".to_owned(),
            }),
        }
    }
}

fn check(url: &Url, expected: &Digest, hasher: Hasher) -> Result<(), Failure> {
    let found = hasher.finish();
    if found == *expected {
        return Ok(());
    }
    Err(Failure::Mismatch {
        url: url.clone(),
        expected: Box::new(expected.clone()),
        found: Box::new(found),
    })
}

/// The client's side of a [`Pump`]. One that vanished is no right end.
fn passed(receiver: mpsc::Receiver<io::Result<Option<Bytes>>>) -> Body {
    let chunks = stream::try_unfold(receiver, async |mut receiver| match receiver.recv().await {
        Some(Ok(chunk)) => Ok(chunk.map(|chunk| (Frame::data(chunk), receiver))),
        Some(Err(error)) => Err(error),
        None => Err(io::ErrorKind::ConnectionAborted.into()),
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// One download, as a task.
struct Download {
    digest: Digest,
    url: Url,
    store: Arc<Store>,
    upstream: Arc<Upstream>,
    grace: Duration,
    sender: Arc<watch::Sender<Progress>>,
    under_way: UnderWay,
    wrong: Wrong,
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        under_way.remove(&(self.digest.clone(), self.url.clone()));
        drop(under_way);
        // Nobody waits forever for a download that was dropped or broke.
        self.sender.send_if_modified(|progress| {
            let open = progress.end.is_none() && !progress.unkept;
            if open {
                progress.end = Some(Err(Failure::Ended {
                    url: self.url.clone(),
                }));
            }
            open
        });
    }
}

impl Download {
    async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.work() => {}
            () = self.abandoned() => tracing::debug!(url = %self.url, "ended a download without clients"),
            () = stop.cancelled() => {}
        }
    }

    /// Until there was no client for a while.
    async fn abandoned(&self) {
        loop {
            self.sender.closed().await;
            sleep(self.grace).await;
            if self.sender.is_closed() {
                return;
            }
        }
    }

    async fn work(&self) {
        match self.download().await {
            Ok(Some((temp, modified))) => {
                self.sender
                    .send_modify(|progress| progress.end = Some(Ok(())));
                self.keep(temp, modified).await;
            }
            Ok(None) => self.sender.send_modify(|progress| progress.unkept = true),
            Err(failure) => {
                tracing::warn!(%failure, "a package was not fetched");
                if matches!(failure, Failure::Mismatch { .. }) {
                    let mut wrong = lock(&self.wrong);
                    wrong.truncate(WRONG - 1);
                    wrong.push_front((self.digest.clone(), self.url.clone()));
                }
                let end = Some(Err(failure));
                self.sender.send_modify(|progress| progress.end = end);
            }
        }
    }

    /// The verified file, or none if it is not to be kept.
    async fn download(&self) -> Result<Option<(Temp, Option<SystemTime>)>, Failure> {
        let mut fetched = self.upstream.get(&self.url, &HeaderMap::new()).await?;
        if fetched.status() != StatusCode::OK {
            return Err(status(&fetched));
        }
        let len = fetched.stated_len();
        let store = Arc::clone(&self.store);
        let begin = move || {
            let temp = store.begin(len)?;
            Some((temp.reader().ok()?, temp))
        };
        let Ok(Some((file, mut temp))) = spawn_blocking(begin).await else {
            return Ok(None);
        };
        let modified = modified(&fetched.head.headers);
        let head = Head {
            file: Arc::new(file),
            len,
            modified,
        };
        self.sender
            .send_modify(|progress| progress.head = Some(head));
        let mut hasher = Hasher::new(self.digest.algorithm());
        let mut written: u64 = 0;
        while let Some(chunk) = fetched.chunk().await? {
            written = written.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if written > self.store.largest() {
                return Err(Failure::TooLarge {
                    url: self.url.clone(),
                    limit: self.store.largest(),
                });
            }
            (temp, hasher) = self.write(temp, chunk, hasher).await?;
            self.sender
                .send_modify(|progress| progress.written = written);
        }
        check(&fetched.url, &self.digest, hasher)?;
        Ok(Some((temp, modified)))
    }

    async fn write(
        &self,
        mut temp: Temp,
        chunk: Bytes,
        mut hasher: Hasher,
    ) -> Result<(Temp, Hasher), Failure> {
        let store = Arc::clone(&self.store);
        let writing = move || {
            hasher.update(&chunk);
            store.write(&mut temp, &chunk)?;
            Ok((temp, hasher))
        };
        let written = spawn_blocking(writing).await;
        let written = written.map_err(io::Error::from).flatten();
        written.map_err(|error| Failure::Store {
            url: self.url.clone(),
            folder: self.store.dir().into(),
            why: error.to_string().into(),
        })
    }

    /// The clients have the bytes; that they cannot be kept is no failure of theirs.
    async fn keep(&self, temp: Temp, modified: Option<SystemTime>) {
        let (store, digest) = (Arc::clone(&self.store), self.digest.clone());
        let _ = spawn_blocking(move || store.keep_blob(temp, &digest, modified)).await;
    }
}

/// When a registry says that something was changed.
pub(super) fn modified(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get(header::LAST_MODIFIED)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok()
}
