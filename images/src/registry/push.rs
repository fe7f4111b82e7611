// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images to a registry: blobs first, then the configuration, last the manifest that names them, so that a push that
//! is broken off leaves nothing that looks like an image.
//!
//! Uploads are `oci_client`'s. Each blob is one request with its length, from a file that is read as it is sent. Mirrors
//! are never pushed to.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::Reference as Target;
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use reqwest::{Method, StatusCode};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::auth::{Access, Authorization};
use super::endpoint::{Ask, of_status};
use super::error::{RegistryError, chain, of_request, said};
use super::{Place, Registry, api_host};
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
    /// Pushes a whole image and returns its manifest's digest. `done` hears of each blob when it is there: of whether
    /// it was there before. What is there already is not sent. Dropping the future leaves no image behind.
    ///
    /// # Errors
    /// The first that occurs.
    pub async fn push(
        &self,
        to: &Reference,
        image: &Push,
        done: &(dyn Fn(&Content, bool) + Send + Sync),
    ) -> Result<Digest, RegistryError> {
        let mut seen = HashSet::new();
        let layers = image.layers.iter();
        let layers: Vec<_> = layers.filter(|layer| seen.insert(layer.digest)).collect();
        stream::iter(layers)
            .map(|layer| self.push_missing(to, layer, done))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        self.push_missing(to, &image.config, done).await?;
        self.push_manifest(to, &image.manifest, &image.media_type)
            .await
    }

    async fn push_missing(
        &self,
        to: &Reference,
        content: &Content,
        done: &(dyn Fn(&Content, bool) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let there = self.has_blob(to, &content.digest).await?;
        if !there {
            self.push_blob(to, content).await?;
        }
        done(content, there);
        Ok(())
    }

    /// Whether the repository has this blob. Cancel-safe.
    ///
    /// # Errors
    /// If the registry does not say.
    pub async fn has_blob(&self, to: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        let place = self.home(to)?;
        let what = format!("{digest} of {}", to.name());
        let ask = Ask {
            method: Method::HEAD,
            repository: &place.repository,
            path: &format!("blobs/{digest}"),
            accept: None,
            from: None,
            access: Access::Push,
            what: &what,
        };
        let retries = &place.retries;
        match retries.run(|| place.endpoint.send(&ask)).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob from its file. An attempt that fails begins anew.
    ///
    /// # Errors
    /// Also if the file has not the stated size or digest: the registry refuses it.
    pub async fn push_blob(&self, to: &Reference, content: &Content) -> Result<(), RegistryError> {
        let place = self.home(to)?;
        let what = format!("{} of {}", content.digest, to.name());
        // Without a lower bound to its speed an upload could take for ever.
        let longest = place.endpoint.timeouts.answer + Duration::from_secs(content.size / SLOWEST);
        let attempt = || async {
            let (client, target) = self.pusher(&place, to.target()).await?;
            let file = open(content).await?;
            let pieces = ReaderStream::with_capacity(file.take(content.size), PIECE);
            let pieces = pieces.map_err(OciDistributionError::IoError);
            let digest = content.digest.to_string();
            let sent = client.push_blob_stream(&target, pieces, &digest, Some(content.size));
            bounded(&place, &what, longest, sent).await
        };
        let push = async || renewed(&place, attempt).await;
        place.retries.run(push).await.map(|_| ())
    }

    /// Lets the registry take a blob from another of its repositories. False if it does not: then send it.
    ///
    /// # Errors
    /// If the registry cannot be asked.
    pub async fn mount_blob(
        &self,
        to: &Reference,
        from_repository: &str,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let place = self.home(to)?;
        let what = format!("{digest} of {from_repository}");
        let (client, target) = self.pusher(&place, to.target()).await?;
        let host = api_host(&place.endpoint.name).to_owned();
        let source = Target::with_tag(host, from_repository.to_owned(), "latest".to_owned());
        let digest = digest.to_string();
        let mounted = async {
            match client.mount_blob(&target, &source, &digest).await {
                Ok(()) => Ok(true),
                // An upload was begun instead, as the specification has it.
                Err(OciDistributionError::SpecViolationError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let answer = place.endpoint.timeouts.answer;
        match bounded(&place, &what, answer, mounted).await {
            // A token for one repository does not open the other.
            Err(RegistryError::Unauthorized { .. } | RegistryError::Denied { .. }) => Ok(false),
            outcome => outcome,
        }
    }

    /// Sends a manifest or index under its tag, or under its digest. Returns the digest.
    ///
    /// # Errors
    /// [`RegistryError::PushTarget`] if the reference has another digest, or a tag and a digest.
    pub async fn push_manifest(
        &self,
        to: &Reference,
        manifest: &Bytes,
        media_type: &str,
    ) -> Result<Digest, RegistryError> {
        let refused = |detail| RegistryError::PushTarget {
            reference: to.to_string(),
            detail,
        };
        let digest = Digest::of(manifest);
        match (to.digest(), to.tag()) {
            (Some(_), Some(_)) => return Err(refused("give a tag or a digest, not both")),
            (Some(named), None) if named != digest => {
                return Err(refused("the image has another digest: give a tag"));
            }
            _ => {}
        }
        let place = self.home(to)?;
        let content_type = media_type.parse();
        let content_type = content_type.map_err(|_| refused("its media type is none"))?;
        let what = to.to_string();
        let attempt = || async {
            let (client, target) = self.pusher(&place, to.target()).await?;
            let bytes = manifest.clone();
            let content_type = reqwest::header::HeaderValue::clone(&content_type);
            let sent = client.push_manifest_raw(&target, bytes, content_type);
            bounded(&place, &what, place.endpoint.timeouts.answer, sent).await
        };
        let push = async || renewed(&place, attempt).await;
        place.retries.run(push).await?;
        Ok(digest)
    }

    /// A client that is logged in, and its words for the target.
    async fn pusher(
        &self,
        place: &Place,
        target: String,
    ) -> Result<(oci_client::Client, Target), RegistryError> {
        let (client, authorization) = place.endpoint.pusher(&place.repository).await?;
        let host = api_host(&place.endpoint.name).to_owned();
        let auth = authorization.map(|authorization| match authorization {
            Authorization::Basic(name, password) => RegistryAuth::Basic(name, password),
            Authorization::Bearer(token) => RegistryAuth::Bearer(token),
        });
        if let Some(auth) = auth {
            client.store_auth_if_needed(&host, &auth).await;
        }
        // A digest goes as a tag as well: the client ends the process where a registry does not repeat the place of
        // what was pushed by digest.
        let target = Target::with_tag(host, place.repository.clone(), target);
        Ok((client, target))
    }
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

/// Once more with a new token, if that which was there does not suffice: it may have ended meanwhile.
async fn renewed<T>(
    place: &Place,
    request: impl AsyncFn() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    match request().await {
        Err(RegistryError::Unauthorized { .. }) => {
            place.endpoint.forget(&place.repository, Access::Push).await;
            request().await
        }
        outcome => outcome,
    }
}

async fn bounded<T>(
    place: &Place,
    what: &str,
    longest: Duration,
    request: impl Future<Output = Result<T, OciDistributionError>>,
) -> Result<T, RegistryError> {
    let endpoint = &place.endpoint;
    match tokio::time::timeout(longest, request).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => match of_push(&endpoint.name, what, error) {
            Some(error) => Err(error),
            None => Err(endpoint.unauthorized(&place.repository, Access::Push).await),
        },
        Err(_) => Err(RegistryError::Stalled {
            host: endpoint.name.clone(),
            what: what.to_owned(),
            waited: longest,
        }),
    }
}

/// What the pushing client's error means. None: the login does not suffice.
fn of_push(host: &str, what: &str, error: OciDistributionError) -> Option<RegistryError> {
    let unexpected = |detail: String| RegistryError::Unexpected {
        host: host.to_owned(),
        what: what.to_owned(),
        detail,
    };
    let error = match error {
        OciDistributionError::RequestError(error) => of_request(host, what, error),
        OciDistributionError::ServerError { code: 401, .. }
        | OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. } => return None,
        OciDistributionError::ServerError { code, message, .. } => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST);
            match of_status(host, what, status, None) {
                // What it objects to is in its answer.
                RegistryError::Unexpected { detail, .. } => {
                    unexpected(format!("{detail}, {:?},", said(&message)))
                }
                error => error,
            }
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            unexpected(format!("{:?}", said(&envelope.to_string())))
        }
        error => unexpected(chain(&error)),
    };
    Some(error)
}
