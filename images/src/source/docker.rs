// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What `docker save` writes (Docker image specification 1.2, "Combined Image JSON + Filesystem Changeset Format"):
//! `manifest.json` names configurations and layers by their files.
//!
//! It has no manifests as registries have them, so one is made: the same archive gives the same one. A layer which is
//! not compressed has its diff id for a digest, so nothing has to be read for that.

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Found, Source, SourceError, is_compressed};
use crate::Digest;
use crate::config::ImageConfig;

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
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    media_type: &'static str,
    digest: Digest,
    size: u64,
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The images, and which file has which blob.
pub(super) fn images(
    source: &Source,
) -> Result<(Vec<Found>, BTreeMap<Digest, String>), SourceError> {
    let images: Vec<Image> = source.json("manifest.json")?;
    let mut blobs = BTreeMap::new();
    let mut found = Vec::new();
    for image in images {
        let document = manifest(source, &image, &mut blobs)?;
        let names = image.repo_tags.unwrap_or_default();
        found.push(Found {
            names,
            document,
            media_type: MANIFEST.to_owned(),
        });
    }
    Ok((found, blobs))
}

fn manifest(
    source: &Source,
    image: &Image,
    blobs: &mut BTreeMap<Digest, String>,
) -> Result<Vec<u8>, SourceError> {
    let limit = source.limits.layers;
    if image.layers.len() > limit {
        let (path, layers) = (source.path.clone(), image.layers.len());
        return Err(SourceError::TooManyLayers {
            path,
            layers,
            limit,
        });
    }
    let bytes = source.read(
        source.file(&image.config)?,
        &image.config,
        source.limits.config_bytes,
    )?;
    let config =
        ImageConfig::parse(&bytes, image.layers.len()).map_err(|error| SourceError::Config {
            path: source.path.clone(),
            source: error,
        })?;
    let config_blob = Blob {
        media_type: CONFIG,
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
    };
    blobs.insert(config_blob.digest, image.config.clone());
    let mut layers = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(&config.diff_ids) {
        let layer = layer(source, name, diff_id)?;
        blobs.insert(layer.digest, name.clone());
        layers.push(layer);
    }
    Ok(write_manifest(config_blob, layers))
}

fn layer(source: &Source, name: &str, diff_id: &Digest) -> Result<Blob, SourceError> {
    let failed = |error| SourceError::Io {
        path: source.path.clone(),
        source: error,
    };
    let content = source.file(name)?;
    let size = content.len();
    let mut magic = [0; 4];
    let short = size < magic.len() as u64;
    if !short {
        source.file(name)?.read_exact(&mut magic).map_err(failed)?;
    }
    if short || !is_compressed(magic) {
        return Ok(Blob {
            media_type: media_type(magic),
            digest: *diff_id,
            size,
        });
    }
    let mut hasher = Sha256::new();
    let mut content = content;
    let mut chunk = vec![0; 256 << 10];
    loop {
        let count = content.read(&mut chunk).map_err(failed)?;
        let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hasher.update(bytes);
    }
    Ok(Blob {
        media_type: media_type(magic),
        digest: Digest::finish(hasher),
        size,
    })
}

/// What a layer that begins so is called.
fn media_type(magic: [u8; 4]) -> &'static str {
    match magic {
        [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        _ => "application/vnd.oci.image.layer.v1.tar",
    }
}

fn write_manifest(config: Blob, layers: Vec<Blob>) -> Vec<u8> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST,
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
        media_type: CONFIG,
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
