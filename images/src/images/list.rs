// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What is there, for people.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use super::install::read_config;
use super::{Error, Images};
use crate::Digest;
use crate::config::ImageConfig;
use crate::reference::Reference;
use crate::store::{Provenance, Record, StoreError, Visit};

/// The label that says which versions of the guest protocol an image's agent speaks.
pub const PROTOCOL_LABEL: &str = "dev.waggle.protocol";

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What it is called.
    pub reference: Reference,
    /// Its manifest.
    pub manifest: Digest,
    /// Its root. None: it is not whole, and is made again at its next use.
    pub root: Option<PathBuf>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// Bytes on the disk that go if it does.
    pub own_bytes: u64,
    /// Bytes on the disk that it shares with other images.
    pub shared_bytes: u64,
    /// When it was made, as it says itself.
    pub created: Option<String>,
    /// When it was pulled or imported, or found to be the newest.
    pub resolved: SystemTime,
    /// When it was last used.
    pub used: SystemTime,
    /// The manifest of another image, if its name meant that until it was imported just now.
    pub replaced: Option<Digest>,
}

/// Everything about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// In short.
    pub summary: Summary,
    /// What its reference named: the manifest, or an index of manifests.
    pub named: Digest,
    /// The configuration's digest.
    pub config_digest: Digest,
    /// The configuration.
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerSummary>,
    /// The versions of the guest protocol that its agent speaks, as its label says.
    pub protocol: Option<String>,
    /// Whether an environment uses it.
    pub in_use: bool,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSummary {
    /// As transferred.
    pub digest: Digest,
    /// As transferred, in bytes.
    pub size: u64,
    /// What the manifest calls it.
    pub media_type: String,
    /// As unpacked.
    pub diff_id: Digest,
    /// Bytes that it takes converted. None: it is not there.
    pub bytes: Option<u64>,
    /// Its entries. None: it is not there.
    pub entries: Option<u64>,
    /// Whether it is there as transferred, too.
    pub kept: bool,
}

/// Something on the disk that images have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Blob(Digest),
    Layer(Digest),
    Root(Digest),
}

impl Images {
    /// All images, by name. Blocks.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<Summary>, Error> {
        let visit = self.store.visit_blocking()?;
        let records = self.store.records()?;
        let mut bytes = BTreeMap::new();
        let mut owners: BTreeMap<Part, u32> = BTreeMap::new();
        let mut parts = Vec::new();
        for (record, _) in &records {
            let each = parts_of(&visit, record)?;
            for (part, size) in &each {
                bytes.insert(*part, *size);
                *owners.entry(*part).or_default() += 1;
            }
            parts.push(each);
        }
        let mut summaries = Vec::new();
        for ((record, used), parts) in records.iter().zip(&parts) {
            let mut summary = summarize(&visit, record, *used)?;
            for (part, size) in parts {
                let owned = owners.get(part).copied().unwrap_or_default() <= 1;
                let sum = if owned {
                    &mut summary.own_bytes
                } else {
                    &mut summary.shared_bytes
                };
                *sum = sum.saturating_add(*size);
            }
            summaries.push(summary);
        }
        Ok(summaries)
    }

    /// Everything about one image. Blocks.
    ///
    /// # Errors
    ///
    /// It is not there, or its configuration is damaged.
    pub fn inspect(&self, reference: &Reference) -> Result<Inspection, Error> {
        let not_there = || Error::NotThere {
            reference: reference.clone(),
        };
        let summary = self
            .list()?
            .into_iter()
            .find(|summary| summary.reference == *reference);
        let summary = summary.ok_or_else(not_there)?;
        let visit = self.store.visit_blocking()?;
        let record = visit
            .record(&reference.to_string())?
            .ok_or_else(not_there)?;
        let named = (record.config, record.layers.len());
        let limit = self.options.limits.config_bytes;
        let config = read_config(&visit, named, limit, reference.to_string())?;
        let config = config.ok_or_else(|| StoreError::Missing {
            what: "the configuration",
            digest: record.config,
            dir: self.store.dir().to_owned(),
        })?;
        let mut layers = Vec::new();
        for layer in &record.layers {
            let there = visit.layer(&layer.diff_id)?;
            layers.push(LayerSummary {
                digest: layer.digest,
                size: layer.size,
                media_type: layer.media_type.clone(),
                diff_id: layer.diff_id,
                bytes: there.as_ref().map(|there| there.bytes),
                entries: there.as_ref().map(|there| there.entries),
                kept: visit.has_blob(&layer.digest, Some(layer.size))?,
            });
        }
        Ok(Inspection {
            summary,
            named: record.named,
            config_digest: record.config,
            layers,
            protocol: config.labels.get(PROTOCOL_LABEL).cloned(),
            in_use: visit.is_held(&record.root)?,
            config,
        })
    }
}

/// What an image has on the disk, each part once.
fn parts_of(visit: &Visit, record: &Record) -> Result<BTreeMap<Part, u64>, Error> {
    let mut parts = BTreeMap::new();
    for digest in record.blobs() {
        if let Some(size) = visit.blob_size(&digest)? {
            parts.insert(Part::Blob(digest), size);
        }
    }
    for layer in &record.layers {
        if let Some(there) = visit.layer(&layer.diff_id)? {
            parts.insert(Part::Layer(layer.diff_id), there.bytes);
        }
    }
    if let Some(root) = visit.root(&record.root)? {
        parts.insert(Part::Root(root.key), root.bytes);
    }
    Ok(parts)
}

/// Without its sizes.
fn summarize(visit: &Visit, record: &Record, used: SystemTime) -> Result<Summary, Error> {
    let resolved = std::time::Duration::from_secs(record.resolved_at);
    Ok(Summary {
        reference: record.reference.parse()?,
        manifest: record.manifest,
        root: visit.root(&record.root)?.map(|root| root.disk),
        provenance: record.provenance,
        own_bytes: 0,
        shared_bytes: 0,
        created: record.created.clone(),
        resolved: SystemTime::UNIX_EPOCH
            .checked_add(resolved)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        used,
        replaced: None,
    })
}
