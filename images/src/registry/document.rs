// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What manifests say: reading them, and choosing this machine's image among those of an index.
//!
//! The types of the documents are `oci_spec`'s, which Docker's schema 2 fits as well. What leaves here is narrower:
//! sha256 digests, sizes within the limits, layers that are in the registry. A document that can be read as an image and
//! as an index is neither: two tools would see two different things in it. Of an index only what is picked is held to that:
//! what it has for others may be of their time.

use std::fmt;

use bytes::Bytes;
use oci_spec::image as spec;
use serde::de::IgnoredAny;

use super::error::{RegistryError, said};
use crate::config::host_architecture;
use crate::digest::{Digest, DigestError};
use crate::limits::{Limits, SETTING_LAYER};

/// Media types of manifests (image-spec "media-types.md", and distribution's "manifest-v2-2").
pub mod media {
    /// An OCI index of images.
    pub const OCI_INDEX: &str = oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE;
    /// An OCI image.
    pub const OCI_MANIFEST: &str = oci_client::manifest::OCI_IMAGE_MEDIA_TYPE;
    /// Docker's index.
    pub const DOCKER_LIST: &str = oci_client::manifest::IMAGE_MANIFEST_LIST_MEDIA_TYPE;
    /// Docker's image.
    pub const DOCKER_MANIFEST: &str = oci_client::manifest::IMAGE_MANIFEST_MEDIA_TYPE;
    /// What its first form begins with.
    pub(super) const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
}

/// An operating system and a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// In Go's words, such as `amd64`.
    pub architecture: String,
    /// Which of the architecture's generations. Empty: its first.
    pub variant: String,
}

impl Platform {
    /// What machines on this host run.
    #[must_use]
    pub fn host() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: host_architecture().to_owned(),
            variant: String::new(),
        }
    }

    /// The first generation has a name, which is mostly left out.
    fn generation(&self) -> &str {
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("amd64", "v1") | ("arm64", "v8" | "8") => "",
            (_, variant) => variant,
        }
    }

    /// A later generation may not run here, so only the same one will do.
    fn runs(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && self.generation() == other.generation()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// What a manifest says of a blob or of another manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, the lowest first. All of them are in the registry.
    pub layers: Vec<Descriptor>,
}

/// The images of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// Those that can be used, in its order.
    pub images: Vec<IndexEntry>,
    /// What the others are for, and what is wrong with each one's digest.
    others: Vec<(Option<Platform>, DigestError)>,
}

/// One image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// What it is for, if the index says so.
    pub platform: Option<Platform>,
}

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// Of one image.
    Image(ImageManifest),
    /// Of several, for different platforms.
    Index(Index),
}

/// The image for a platform: the first that matches it. One that says nothing of its platform is taken if it is the only
/// one. Layouts that tools write have such.
///
/// # Errors
/// [`RegistryError::NoPlatform`] with those that there are, [`RegistryError::Digest`] if the only one has a digest that is
/// not supported.
pub fn pick<'a>(
    what: &str,
    index: &'a Index,
    platform: &Platform,
) -> Result<&'a IndexEntry, RegistryError> {
    let alone = index.images.len() + index.others.len() == 1;
    let fits = |stated: &Option<Platform>| match stated {
        Some(stated) => platform.runs(stated),
        None => alone,
    };
    if let Some(entry) = index.images.iter().find(|entry| fits(&entry.platform)) {
        return Ok(entry);
    }
    match index.others.iter().find(|(stated, _)| fits(stated)) {
        Some((_, source)) => Err(RegistryError::Digest {
            what: what.to_owned(),
            source: source.clone(),
        }),
        None => Err(RegistryError::NoPlatform {
            what: what.to_owned(),
            wanted: platform.to_string(),
            available: offered(&index.images),
        }),
    }
}

/// What an index offers, for people. Attestations are entries of platform `unknown/unknown`.
fn offered(entries: &[IndexEntry]) -> Vec<String> {
    const MOST: usize = 20;
    let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
    let known = platforms.filter(|platform| platform.os != "unknown");
    let mut names: Vec<_> = known.map(|platform| said(&platform.to_string())).collect();
    names.dedup();
    names.truncate(MOST);
    names
}

impl Manifest {
    /// Reads a manifest or index. `stated` is the media type that came with it; empty if none did.
    ///
    /// # Errors
    /// If it is none, not one that can be used here, or above the limits.
    pub fn read(
        what: &str,
        bytes: &Bytes,
        stated: &str,
        limits: &Limits,
    ) -> Result<Self, RegistryError> {
        let malformed = |source| RegistryError::Malformed {
            what: what.to_owned(),
            source,
        };
        let shape: Shape = match serde_json::from_slice(bytes) {
            Ok(shape) => shape,
            Err(_) if stated.starts_with(media::DOCKER_SCHEMA1) => return Err(schema1(what)),
            Err(error) => return Err(malformed(error)),
        };
        match shape.kind(what, stated)? {
            Kind::Image => {
                let manifest = serde_json::from_slice(bytes).map_err(malformed)?;
                read_image(what, &manifest, limits).map(Self::Image)
            }
            Kind::Index => {
                let index = serde_json::from_slice(bytes).map_err(malformed)?;
                Ok(Self::Index(read_index(&index)))
            }
        }
    }
}

enum Kind {
    Image,
    Index,
}

/// What tells the kinds of manifests apart.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Shape {
    /// By the document's own word, else by the registry's, else by what it has in it; and none may say otherwise.
    fn kind(&self, what: &str, stated: &str) -> Result<Kind, RegistryError> {
        let wrong = |detail: String| RegistryError::MediaType {
            what: what.to_owned(),
            detail,
        };
        if self.schema_version == Some(1)
            || self.fs_layers.is_some()
            || stated.starts_with(media::DOCKER_SCHEMA1)
        {
            return Err(schema1(what));
        }
        let image = self.config.is_some() || self.layers.is_some();
        let index = self.manifests.is_some();
        if image && index {
            return Err(wrong(
                "its manifest has layers and manifests at once".to_owned(),
            ));
        }
        let own = self.media_type.as_deref().unwrap_or_default();
        if !own.is_empty() && is_manifest(stated) && own != stated {
            let (own, stated) = (said(own), said(stated));
            return Err(wrong(format!(
                "its manifest says that it is {own}, the registry says {stated}"
            )));
        }
        let name = if own.is_empty() { stated } else { own };
        match name {
            media::OCI_MANIFEST | media::DOCKER_MANIFEST if image => Ok(Kind::Image),
            media::OCI_INDEX | media::DOCKER_LIST if index => Ok(Kind::Index),
            // Some servers of plain files know no better name.
            "" | "application/json" | "application/octet-stream" | "text/plain" if image => {
                Ok(Kind::Image)
            }
            "" | "application/json" | "application/octet-stream" | "text/plain" if index => {
                Ok(Kind::Index)
            }
            name => Err(wrong(format!("its manifest is {:?}", said(name)))),
        }
    }
}

fn is_manifest(media_type: &str) -> bool {
    [
        media::OCI_INDEX,
        media::OCI_MANIFEST,
        media::DOCKER_LIST,
        media::DOCKER_MANIFEST,
    ]
    .contains(&media_type)
}

fn schema1(what: &str) -> RegistryError {
    RegistryError::Schema1 {
        what: what.to_owned(),
    }
}

fn read_image(
    what: &str,
    manifest: &spec::ImageManifest,
    limits: &Limits,
) -> Result<ImageManifest, RegistryError> {
    let layers = manifest.layers();
    if layers.len() > limits.layers {
        return Err(RegistryError::TooManyLayers {
            what: what.to_owned(),
            layers: layers.len(),
            limit: limits.layers,
        });
    }
    let bounded = |descriptor, limit, name: &str, setting| {
        let descriptor = read_descriptor(descriptor).map_err(|source| RegistryError::Digest {
            what: what.to_owned(),
            source,
        })?;
        if descriptor.size > limit {
            return Err(RegistryError::TooLarge {
                host: what.to_owned(),
                what: format!("{name} {}", descriptor.digest),
                limit,
                setting,
            });
        }
        Ok(descriptor)
    };
    let config = manifest.config();
    let config = bounded(config, limits.config_bytes, "the configuration", None)?;
    let mut read = Vec::with_capacity(layers.len());
    for layer in layers {
        let setting = Some(SETTING_LAYER);
        let descriptor = bounded(layer, limits.blob_bytes, "the layer", setting)?;
        let vendors = layer.urls().as_ref().is_some_and(|urls| !urls.is_empty());
        let media_type = &descriptor.media_type;
        if vendors || media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
        {
            return Err(RegistryError::Foreign {
                what: what.to_owned(),
                digest: descriptor.digest,
            });
        }
        read.push(descriptor);
    }
    Ok(ImageManifest {
        config,
        layers: read,
    })
}

fn read_index(index: &spec::ImageIndex) -> Index {
    let mut read = Index::default();
    for entry in index.manifests() {
        let platform = entry.platform().as_ref().map(|platform| Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().unwrap_or_default(),
        });
        match read_descriptor(entry) {
            Ok(descriptor) => read.images.push(IndexEntry {
                descriptor,
                platform,
            }),
            Err(wrong) => read.others.push((platform, wrong)),
        }
    }
    read
}

fn read_descriptor(descriptor: &spec::Descriptor) -> Result<Descriptor, DigestError> {
    Ok(Descriptor {
        media_type: descriptor.media_type().to_string(),
        digest: descriptor.digest().to_string().parse()?,
        size: descriptor.size(),
    })
}

#[cfg(test)]
mod tests;
