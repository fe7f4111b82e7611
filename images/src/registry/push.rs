// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images to a registry: blobs first, then the configuration, last the manifest that names them, so that a push that
//! is broken off leaves nothing that looks like an image.
//!
//! Each blob is one request with its length, from a file that is read as it is sent (distribution-spec, "POST then PUT").
//! Mirrors are never pushed to, and redirects are not followed. What a registry names as the place for a blob is held against
//! the rules of [`super::redirect`].

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header::HeaderValue;
use reqwest::{Body, Method};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::endpoint::Ask;
use super::error::RegistryError;
use super::{Place, Registry};
use crate::digest::Digest;
use crate::reference::Reference;

/// Blobs under way at once.
const PARALLEL: usize = 4;
/// Bytes in a second that an upload is given up below.
const SLOWEST: u64 = 16 << 10;
/// What is read of a file at once.
const PIECE: usize = 128 << 10;

/// A blob in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its digest, which the registry verifies.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The file.
    pub path: PathBuf,
}

/// An image to push.
#[derive(Debug, Clone)]
pub struct Push {
    /// Its layers, in any order.
    pub layers: Vec<Content>,
    /// Its configuration.
    pub config: Content,
    /// Its manifest's bytes, which stay as they are.
    pub manifest: Bytes,
    /// Its manifest's media type.
    pub media_type: String,
}

impl Registry {
    /// Pushes a whole image, under its tag or under its digest, and returns its manifest's digest. `done` hears of each
    /// blob when it is there: of whether it was there before. What is there already is not sent. Dropping the future
    /// leaves no image behind.
    ///
    /// # Errors
    /// The first that occurs. [`RegistryError::PushTarget`] if the reference has another digest, or a tag and a digest.
    pub async fn push(
        &self,
        to: &Reference,
        image: &Push,
        done: &(dyn Fn(&Content, bool) + Send + Sync),
    ) -> Result<Digest, RegistryError> {
        let digest = check(to, image)?;
        let place = self.home(to).await?;
        let mut seen = HashSet::new();
        let layers = image.layers.iter();
        let layers: Vec<_> = layers.filter(|layer| seen.insert(layer.digest)).collect();
        stream::iter(layers)
            .map(|layer| place.push_missing(to, layer, done))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        place.push_missing(to, &image.config, done).await?;
        place.push_manifest(to, image).await?;
        Ok(digest)
    }
}

impl Place {
    async fn push_missing(
        &self,
        to: &Reference,
        content: &Content,
        done: &(dyn Fn(&Content, bool) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let what = format!("{} of {}", content.digest, to.name());
        let there = self.has_blob(&content.digest, &what).await?;
        if !there {
            self.push_blob(content, &what).await?;
        }
        done(content, there);
        Ok(())
    }

    async fn has_blob(&self, digest: &Digest, what: &str) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        let ask = Ask::new(Method::HEAD, &self.repository, &path, what);
        match self.retries.run(|| self.endpoint.send(&ask)).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob from its file. An attempt that fails begins anew.
    async fn push_blob(&self, content: &Content, what: &str) -> Result<(), RegistryError> {
        let begin = Ask::new(Method::POST, &self.repository, "blobs/uploads/", what);
        let attempt = || async {
            match self.upload(content, &begin).await {
                // Once more with a new token: that which there was may have ended meanwhile.
                Err(RegistryError::Unauthorized { .. }) => self.upload(content, &begin).await,
                outcome => outcome,
            }
        };
        self.retries.run(attempt).await
    }

    async fn upload(&self, content: &Content, begin: &Ask<'_>) -> Result<(), RegistryError> {
        let endpoint = &self.endpoint;
        let begun = endpoint.send(begin).await?;
        let file = open(content).await?;
        let pieces = ReaderStream::with_capacity(file.take(content.size), PIECE);
        let body = (Body::wrap_stream(pieces), content.size);
        // Without a lower bound to its speed an upload could take for ever.
        let longest = endpoint.timeouts.answer + Duration::from_secs(content.size / SLOWEST);
        let digest = content.digest.to_string();
        endpoint
            .upload(&self.repository, begin.what, &begun, &digest, body, longest)
            .await
    }

    async fn push_manifest(&self, to: &Reference, image: &Push) -> Result<(), RegistryError> {
        let what = to.to_string();
        let path = format!("manifests/{}", to.target());
        let ask = Ask {
            body: Some((&image.media_type, image.manifest.clone())),
            ..Ask::new(Method::PUT, &self.repository, &path, &what)
        };
        self.retries.run(|| self.endpoint.send(&ask)).await?;
        Ok(())
    }
}

/// Whether the image may go by this name. Returns the digest of its manifest.
fn check(to: &Reference, image: &Push) -> Result<Digest, RegistryError> {
    let refused = |detail| RegistryError::PushTarget {
        reference: to.to_string(),
        detail,
    };
    let digest = Digest::of(&image.manifest);
    match (to.digest(), to.tag()) {
        (Some(_), Some(_)) => return Err(refused("give a tag or a digest, not both")),
        (Some(named), None) if named != digest => {
            return Err(refused("the image has another digest: give a tag"));
        }
        _ => {}
    }
    if HeaderValue::from_str(&image.media_type).is_err() {
        return Err(refused("its media type is none"));
    }
    Ok(digest)
}

async fn open(content: &Content) -> Result<tokio::fs::File, RegistryError> {
    let unreadable = |source| RegistryError::File {
        path: content.path.clone(),
        source,
    };
    let file = tokio::fs::File::open(&content.path).await;
    let file = file.map_err(unreadable)?;
    let length = file.metadata().await.map_err(unreadable)?.len();
    if length == content.size {
        return Ok(file);
    }
    let text = format!("it has {length} bytes instead of {}", content.size);
    Err(unreadable(io::Error::other(text)))
}
