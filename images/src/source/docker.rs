// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What `docker save` writes (Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format"):
//! `manifest.json` names configurations and layers by their files.
//!
//! It has no manifests as registries have them, so one is made: the same archive gives the same one. A layer which is
//! not compressed has its diff id for a digest, so nothing has to be read for that.

use std::collections::BTreeMap;
use std::io::Read;

use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_GZIP_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Content, Contents, Found, Source, SourceError, Stop, is_compressed};
use crate::Digest;
use crate::config::ImageConfig;
use crate::registry::media;

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// A manifest (image-spec, manifest.md), its fields in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Blob,
    layers: Vec<Blob>,
}

/// A descriptor.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    media_type: &'static str,
    digest: Digest,
    size: u64,
}

const LIST: &str = "manifest.json";

/// The images, with the manifests that are made for them, and which file has which blob.
pub(super) fn contents(source: &Source, stop: Stop<'_>) -> Result<Contents, SourceError> {
    let images: Vec<Image> = source.parse(LIST, &source.list(LIST)?)?;
    let names = |image: &Image| image.repo_tags.as_ref().map_or(0, Vec::len).max(1);
    source.allow(images.iter().map(names).sum())?;
    let mut reader = Reader {
        source,
        stop,
        configs: BTreeMap::new(),
        compressed: BTreeMap::new(),
        contents: Contents::default(),
    };
    for image in images {
        reader.image(image)?;
    }
    Ok(reader.contents)
}

/// Reads one image after the other. A file that many of them name, by whatever names, is read once.
struct Reader<'a> {
    source: &'a Source,
    stop: Stop<'a>,
    /// By place, and by the layers that the image has: one of another number is refused.
    configs: BTreeMap<((u64, u64), usize), Config>,
    /// Digests of compressed layers by place.
    compressed: BTreeMap<(u64, u64), Digest>,
    contents: Contents,
}

#[derive(Clone)]
struct Config {
    blob: Blob,
    diff_ids: Vec<Digest>,
}

impl Reader<'_> {
    fn image(&mut self, image: Image) -> Result<(), SourceError> {
        let limit = self.source.limits.layers;
        if image.layers.len() > limit {
            let (path, layers) = (self.source.path.clone(), image.layers.len());
            return Err(SourceError::TooManyLayers {
                path,
                layers,
                limit,
            });
        }
        let config = self.config(&image)?;
        let mut layers = Vec::new();
        for (name, diff_id) in image.layers.iter().zip(&config.diff_ids) {
            self.check()?;
            let layer = self.layer(name, diff_id)?;
            self.contents.blobs.insert(layer.digest, name.clone());
            layers.push(layer);
        }
        let manifest = write_manifest(config.blob, layers);
        let digest = Digest::of(&manifest);
        self.contents.made.insert(digest, manifest);
        self.contents.images.push(Found {
            names: image.repo_tags.unwrap_or_default(),
            digest,
            media_type: media::OCI_MANIFEST.to_owned(),
        });
        Ok(())
    }

    fn config(&mut self, image: &Image) -> Result<Config, SourceError> {
        self.check()?;
        let source = self.source;
        let content = source.file(&image.config)?;
        let at = (content.place(), image.layers.len());
        if let Some(known) = self.configs.get(&at) {
            return Ok(known.clone());
        }
        let bytes = source.read(content, &image.config, source.limits.config_bytes)?;
        let parsed = ImageConfig::parse(&bytes, image.layers.len());
        let parsed = parsed.map_err(|error| SourceError::Config {
            path: source.path.clone(),
            source: error,
        })?;
        let config = Config {
            blob: Blob {
                media_type: IMAGE_CONFIG_MEDIA_TYPE,
                digest: Digest::of(&bytes),
                size: bytes.len() as u64,
            },
            diff_ids: parsed.diff_ids,
        };
        let name = image.config.clone();
        self.contents.blobs.insert(config.blob.digest, name);
        self.configs.insert(at, config.clone());
        Ok(config)
    }

    fn layer(&mut self, name: &str, diff_id: &Digest) -> Result<Blob, SourceError> {
        let source = self.source;
        let content = source.file(name)?;
        let size = content.len();
        let limit = source.limits.blob_bytes;
        if size > limit {
            return Err(SourceError::TooLong {
                path: source.path.clone(),
                name: name.to_owned(),
                limit,
            });
        }
        let mut magic = [0; 4];
        let short = size < magic.len() as u64;
        if !short {
            let mut head = source.file(name)?;
            head.read_exact(&mut magic)
                .map_err(|error| self.failed(error))?;
        }
        let digest = if short || !is_compressed(magic) {
            *diff_id
        } else {
            self.digest(content)?
        };
        Ok(Blob {
            media_type: media_type(magic),
            digest,
            size,
        })
    }

    /// What a compressed layer is named by, which nothing in the archive says.
    fn digest(&mut self, mut content: Content) -> Result<Digest, SourceError> {
        let place = content.place();
        if let Some(known) = self.compressed.get(&place) {
            return Ok(*known);
        }
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; 256 << 10];
        loop {
            self.check()?;
            let count = content
                .read(&mut chunk)
                .map_err(|error| self.failed(error))?;
            let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            hasher.update(bytes);
        }
        let digest = Digest::finish(hasher);
        self.compressed.insert(place, digest);
        Ok(digest)
    }

    fn check(&self) -> Result<(), SourceError> {
        if !(self.stop)() {
            return Ok(());
        }
        Err(SourceError::Stopped {
            path: self.source.path.clone(),
        })
    }

    fn failed(&self, error: std::io::Error) -> SourceError {
        SourceError::Io {
            path: self.source.path.clone(),
            source: error,
        }
    }
}

/// What a layer that begins so is called.
fn media_type(magic: [u8; 4]) -> &'static str {
    match magic {
        [0x1f, 0x8b, ..] => IMAGE_LAYER_GZIP_MEDIA_TYPE,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        _ => IMAGE_LAYER_MEDIA_TYPE,
    }
}

fn write_manifest(config: Blob, layers: Vec<Blob>) -> Vec<u8> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST,
        config,
        layers,
    };
    // Numbers and strings only: that always is JSON.
    serde_json::to_vec(&manifest).unwrap_or_default()
}

/// An image of one layer, of which nothing is known but that: its configuration and its manifest. The same layer
/// gives the same image.
pub(crate) fn single(
    blob: Digest,
    size: u64,
    magic: [u8; 4],
    diff_id: &Digest,
) -> (Vec<u8>, Vec<u8>) {
    let config = serde_json::json!({
        "architecture": crate::config::host_architecture(),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let config = config.to_string().into_bytes();
    let config_blob = Blob {
        media_type: IMAGE_CONFIG_MEDIA_TYPE,
        digest: Digest::of(&config),
        size: config.len() as u64,
    };
    let layer = Blob {
        media_type: media_type(magic),
        digest: blob,
        size,
    };
    (config, write_manifest(config_blob, vec![layer]))
}
