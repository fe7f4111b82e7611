// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! References: what each names, when that was found out, and what it needs of the store.
//!
//! A record's time of change is when it was last used.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::roots::read_bounded;
use super::{Store, StoreError, Visit, sync_dir, write_whole};
use crate::Digest;

/// What is known of a reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The reference in full.
    pub reference: String,
    /// What it named when it was resolved: a manifest, or an index of them.
    pub named: Digest,
    /// The manifest for this host.
    pub manifest: Digest,
    /// The image's configuration.
    pub config: Digest,
    /// Its layers, the lowest first.
    pub layers: Vec<RecordLayer>,
    /// Its root.
    pub root: Digest,
    /// Where it comes from.
    pub provenance: Provenance,
    /// When it was resolved, in seconds since 1970.
    pub resolved_at: u64,
    /// When the image was made, as its configuration says.
    pub created: Option<String>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordLayer {
    /// As transferred.
    pub digest: Digest,
    /// As transferred, in bytes.
    pub size: u64,
    /// What the manifest calls it.
    pub media_type: String,
    /// As unpacked.
    pub diff_id: Digest,
}

/// Where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// A registry, which has it still: it can be pulled again.
    Pulled,
    /// A file or folder, or a build: only the store has it for certain.
    Imported,
}

/// A record as it is in its file.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

/// Only the version: a newer record may have another shape.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

const VERSION: u32 = 1;

/// More than the record of as many layers as an image may have.
const MAX_RECORD_BYTES: u64 = 1 << 20;

impl Record {
    /// Blobs that it needs: what it names, the manifest, the configuration, the layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Digest> {
        [self.named, self.manifest, self.config]
            .into_iter()
            .chain(self.layers.iter().map(|layer| layer.digest))
    }

    /// Whether a reference with this digest may name it: by the digest of what it named, or of the manifest therein.
    #[must_use]
    pub fn has_digest(&self, digest: &Digest) -> bool {
        *digest == self.named || *digest == self.manifest
    }
}

impl Visit {
    /// What is known of a reference.
    ///
    /// # Errors
    ///
    /// The record cannot be read, or a newer release has written it.
    pub fn record(&self, reference: &str) -> Result<Option<Record>, StoreError> {
        let path = self.store().record_path(reference);
        Ok(self
            .store()
            .read_record(&path)?
            .filter(|record| record.reference == reference))
    }

    /// Remembers what a reference names, instead of what it named before. What it needs is there.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn remember(&self, record: &Record) -> Result<(), StoreError> {
        let store = self.store();
        let path = store.record_path(&record.reference);
        // What it needs lasts before it does: the files are synced, their names are now.
        for dir in [store.blobs(), store.layers(), store.roots()] {
            sync_dir(&dir).map_err(StoreError::io("sync", &dir))?;
        }
        let versioned = Versioned {
            version: VERSION,
            record,
        };
        let json = serde_json::to_vec_pretty(&versioned)
            .map_err(std::io::Error::from)
            .map_err(StoreError::io("write", &path))?;
        write_whole(store, &path, &json, 0o600)?;
        sync_dir(&store.refs()).map_err(StoreError::io("sync", &path))
    }

    /// Notes that a reference is being used. Whoever has its image does not need the record, so one that somebody else
    /// has forgotten by now is no error.
    ///
    /// # Errors
    ///
    /// Its record is not ours.
    pub fn touch(&self, reference: &str) -> Result<(), StoreError> {
        self.store().touch(reference)
    }

    /// Forgets a reference. Says whether there was one. What it needed stays until a sweep.
    ///
    /// # Errors
    ///
    /// The record cannot be removed.
    pub fn forget(&self, reference: &str) -> Result<bool, StoreError> {
        self.store().forget(reference)
    }
}

impl Store {
    fn refs(&self) -> PathBuf {
        self.dir().join("refs")
    }

    /// Named by a digest of the reference: references have slashes, and are longer than file names may be.
    fn record_path(&self, reference: &str) -> PathBuf {
        self.refs()
            .join(format!("{}.json", Digest::of(reference.as_bytes()).hex()))
    }

    /// All records by name, each with when it was last used.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or a newer release has written to it.
    pub fn records(&self) -> Result<Vec<(Record, SystemTime)>, StoreError> {
        let dir = self.refs();
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("read", &dir))? {
            let path = entry.map_err(StoreError::io("read", &dir))?.path();
            let Some(record) = self.read_record(&path)? else {
                continue;
            };
            let used = match fs::metadata(&path).and_then(|status| status.modified()) {
                Ok(used) => used,
                // Forgotten by somebody in between.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("read", &path)(error)),
            };
            records.push((record, used));
        }
        records.sort_by(|(a, _), (b, _)| a.reference.cmp(&b.reference));
        Ok(records)
    }

    fn read_record(&self, path: &std::path::Path) -> Result<Option<Record>, StoreError> {
        let Some(bytes) = read_bounded(path, MAX_RECORD_BYTES)? else {
            return Ok(None);
        };
        let version = serde_json::from_slice::<Version>(&bytes);
        if version.is_ok_and(|version| version.version > VERSION) {
            return Err(StoreError::Newer {
                path: path.to_owned(),
            });
        }
        match serde_json::from_slice::<Versioned<Record>>(&bytes) {
            Ok(versioned) => Ok(Some(versioned.record)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a reference's record was damaged and counts as not there");
                Ok(None)
            }
        }
    }

    pub(super) fn touch(&self, reference: &str) -> Result<(), StoreError> {
        let path = self.record_path(reference);
        match File::open(&path).and_then(|file| file.set_modified(SystemTime::now())) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io("mark as used", &path)(error)),
        }
    }

    pub(super) fn forget(&self, reference: &str) -> Result<bool, StoreError> {
        let path = self.record_path(reference);
        match fs::remove_file(&path) {
            Ok(()) => {
                sync_dir(&self.refs()).map_err(StoreError::io("remove", &path))?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reference_that_was_forgotten_meanwhile_is_used_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache")).unwrap();
        let visit = store.visit().await.unwrap();
        visit.touch("localhost/gone:latest").unwrap();
        assert_eq!(store.records().unwrap(), []);
    }

    #[test]
    fn a_record_has_the_digests_of_what_it_named_and_of_its_manifest() {
        let [index, manifest, config] =
            ["index", "manifest", "config"].map(|of| Digest::of(of.as_bytes()));
        let record = Record {
            reference: "localhost/x:1".to_owned(),
            named: index,
            manifest,
            config,
            layers: Vec::new(),
            root: Digest::of(b"root"),
            provenance: Provenance::Imported,
            resolved_at: 0,
            created: None,
        };
        assert!(record.has_digest(&index) && record.has_digest(&manifest));
        assert!(!record.has_digest(&config) && !record.has_digest(&record.root));
    }
}
