// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Fetching manifests: whole, bounded and verified, from the first place that has them.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::answer::read_whole;
use super::document::{Descriptor, ImageManifest, Manifest, Platform, pick};
use super::endpoint::Ask;
use super::error::RegistryError;
use super::{Fetched, Place, Registry};
use crate::digest::Digest;
use crate::reference::Reference;

/// What a registry is asked for, so that it does not fall back to Docker's first form.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A reference, resolved to one image.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the reference leads to: an index, or the image's manifest itself.
    pub top: Fetched,
    /// The image's manifest, if `top` is an index.
    pub chosen: Option<Fetched>,
    /// The image.
    pub image: ImageManifest,
}

impl Resolved {
    /// The image's own manifest.
    #[must_use]
    pub fn manifest(&self) -> &Fetched {
        self.chosen.as_ref().unwrap_or(&self.top)
    }
}

impl Registry {
    /// Fetches what a reference leads to, from the first place that has it. Verified: by its digest if the reference has
    /// one, and by what the registry states. Cancel-safe.
    ///
    /// # Errors
    /// The registry's own answer, if no mirror has it.
    pub async fn manifest(&self, reference: &Reference) -> Result<Fetched, RegistryError> {
        let places = self.places(reference).await?;
        let last = places.len().saturating_sub(1);
        let mut outcome = Err(RegistryError::NotFound {
            host: reference.registry().to_owned(),
            what: reference.to_string(),
        });
        for (n, place) in places.iter().enumerate() {
            outcome = place
                .retries
                .run(|| self.manifest_at(place, reference))
                .await;
            match &outcome {
                Ok(fetched) => {
                    if n < last {
                        let mirror = &place.endpoint.name;
                        tracing::info!(%reference, mirror, digest = %fetched.digest, "a mirror answered");
                    }
                    break;
                }
                Err(error) if n < last => {
                    tracing::warn!(%reference, mirror = place.endpoint.name, %error, "a mirror did not answer");
                }
                Err(_) => {}
            }
        }
        outcome
    }

    async fn manifest_at(
        &self,
        place: &Place,
        reference: &Reference,
    ) -> Result<Fetched, RegistryError> {
        let what = reference.to_string();
        let endpoint = &place.endpoint;
        let path = format!("manifests/{}", reference.target());
        let ask = Ask {
            accept: Some(ACCEPT),
            ..Ask::new(Method::GET, &place.repository, &path, &what)
        };
        let response = endpoint.send(&ask).await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let media_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let stated = header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let limit = self.inner.options.limits.manifest_bytes;
        let timeout = endpoint.timeouts.answer;
        let bytes = read_whole(
            &endpoint.name,
            &format!("the manifest of {what}"),
            response,
            limit,
            timeout,
        )
        .await?;
        let digest = Digest::of(&bytes);
        for expected in [reference.digest(), stated].into_iter().flatten() {
            if expected != digest {
                return Err(RegistryError::DigestMismatch {
                    host: endpoint.name.clone(),
                    what: format!("the manifest of {what}"),
                    expected,
                    actual: digest,
                });
            }
        }
        Ok(Fetched {
            bytes,
            digest,
            media_type: essence(&media_type),
            host: endpoint.name.clone(),
        })
    }

    /// Fetches the manifest that an index names. Cancel-safe.
    ///
    /// # Errors
    /// Also if it has not the size that the index states.
    pub async fn manifest_of(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Fetched, RegistryError> {
        let fetched = self
            .manifest(&reference.with_digest(descriptor.digest))
            .await?;
        let actual = fetched.bytes.len() as u64;
        if actual == descriptor.size {
            return Ok(fetched);
        }
        Err(RegistryError::SizeMismatch {
            host: fetched.host,
            what: format!("the manifest of {reference}"),
            expected: descriptor.size,
            actual,
        })
    }

    /// Fetches what a reference leads to and, if that is an index, the image for `platform`. Cancel-safe.
    ///
    /// # Errors
    /// Also if there is none for it. An index in an index is not followed.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let limits = &self.inner.options.limits;
        let what = reference.to_string();
        let top = self.manifest(reference).await?;
        let index = match Manifest::read(&what, &top.bytes, &top.media_type, limits)? {
            Manifest::Image(image) => {
                return Ok(Resolved {
                    top,
                    chosen: None,
                    image,
                });
            }
            Manifest::Index(index) => index,
        };
        let entry = pick(&what, &index, platform)?;
        let chosen = self.manifest_of(reference, &entry.descriptor).await?;
        match Manifest::read(&what, &chosen.bytes, &chosen.media_type, limits)? {
            Manifest::Image(image) => Ok(Resolved {
                top,
                chosen: Some(chosen),
                image,
            }),
            Manifest::Index(_) => Err(RegistryError::NestedIndex { what }),
        }
    }
}

/// A media type without its parameters.
fn essence(media_type: &str) -> String {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}
