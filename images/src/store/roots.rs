// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Roots: built once of an image's layers, held by the environments that have them.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::blobs::file_size;
use super::layers::Layer;
use super::locks::{Lock, Mode};
use super::space::Guard;
use super::{Stop, Store, StoreError, Visit, blocking, create, sync_dir, write_whole};
use crate::root::{self, LayerFiles};
use crate::{Digest, Limits};

/// A root that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What it is named by: of its layers and the format.
    pub key: Digest,
    /// The disk's descriptor, `root.vmdk`.
    pub disk: PathBuf,
    /// Its layers by diff id, the lowest first.
    pub layers: Vec<Digest>,
    /// Bytes that it takes itself, without its layers.
    pub bytes: u64,
}

/// Keeps a root and its layers from being swept away, across processes. Cheap to clone; it ends with its last clone,
/// or with the process.
#[derive(Debug, Clone)]
pub struct Hold(#[expect(dead_code, reason = "held for as long as it lives")] Arc<Lock>);

/// `root.json`: what the sweep needs to know, and what a whole root looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootRecord {
    version: u32,
    pub(super) layers: Vec<Digest>,
    meta_bytes: u64,
    disk_bytes: u64,
}

/// Only the version: a newer record may have another shape.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

const VERSION: u32 = 1;
pub(super) const META: &str = root::METADATA;
pub(super) const DISK: &str = root::DESCRIPTOR;
pub(super) const RECORD: &str = "root.json";
const HOLD: &str = "hold";

/// More than the record of as many layers as an image may have.
const MAX_RECORD_BYTES: u64 = 1 << 20;

impl Visit {
    /// A root that is there, as are its layers.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn root(&self, key: &Digest) -> Result<Option<Root>, StoreError> {
        self.store().root(key)
    }

    /// Sees to it that the root of these layers is there. Dropping the future leaves nothing, if `stop` is asked then.
    ///
    /// # Errors
    ///
    /// The layers do not make a root, or there is no room.
    pub async fn make_root(
        &self,
        layers: Vec<Layer>,
        limits: &Limits,
        stop: &Stop,
    ) -> Result<Root, StoreError> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let key = root::key(&diff_ids);
        let lock = self.lock("root", &key).await?;
        if let Some(root) = self.root(&key)? {
            return Ok(root);
        }
        let visit = self.clone();
        let limits = limits.clone();
        let stop = stop.clone();
        blocking(move || {
            let made = visit.build(key, &layers, &limits, &stop);
            drop(lock);
            made
        })
        .await
    }

    fn build(
        &self,
        key: Digest,
        layers: &[Layer],
        limits: &Limits,
        stop: &Stop,
    ) -> Result<Root, StoreError> {
        let store = self.store();
        let temp = build_in_temp(store, layers, limits, stop)?;
        let failed = |error| store.failed("write", temp.path(), error);
        let size = |name: &str| Ok(file_size(&temp.path().join(name))?.unwrap_or_default());
        let record = RootRecord {
            version: VERSION,
            layers: layers.iter().map(|layer| layer.diff_id).collect(),
            meta_bytes: size(META)?,
            disk_bytes: size(DISK)?,
        };
        for name in [META, DISK] {
            // They are synced already; their rights need not be.
            let rights = fs::Permissions::from_mode(0o444);
            fs::set_permissions(temp.path().join(name), rights).map_err(failed)?;
        }
        let json = serde_json::to_vec(&record)
            .map_err(io::Error::from)
            .map_err(failed)?;
        write_whole(store, &temp.path().join(RECORD), &json, 0o444)?;
        let dir = store.root_dir(&key);
        take_hold(&dir, temp.path()).map_err(failed)?;
        sync_dir(temp.path()).map_err(failed)?;

        // A damaged one is in the way. It goes to the leftovers as a whole, so that no half of it is ever seen.
        store.discard_dir(&dir)?;
        fs::rename(temp.path(), &dir).map_err(failed)?;
        self.root(&key)?
            .ok_or_else(|| store.missing("the root", &key))
    }

    /// Holds a root. It is there, as this visit has seen.
    ///
    /// # Errors
    ///
    /// The lock file cannot be opened.
    pub async fn hold(&self, key: &Digest) -> Result<Hold, StoreError> {
        let path = self.store().root_dir(key).join(HOLD);
        let lock = Lock::take(&path, Mode::Shared)
            .await
            .map_err(StoreError::io("hold", &path))?;
        Ok(Hold(Arc::new(lock)))
    }

    /// Whether an environment of any process holds a root.
    ///
    /// # Errors
    ///
    /// The lock file cannot be opened.
    pub fn is_held(&self, key: &Digest) -> Result<bool, StoreError> {
        self.store().is_held(key)
    }
}

/// Builds a root in a folder of its own, which goes if nobody takes it.
pub(super) fn build_in_temp(
    store: &Store,
    layers: &[Layer],
    limits: &Limits,
    stop: &Stop,
) -> Result<tempfile::TempDir, StoreError> {
    let temp = tempfile::tempdir_in(store.temp())
        .map_err(|error| store.failed("make a folder in", &store.temp(), error))?;
    let files: Vec<_> = layers.iter().map(Layer::files).collect();
    let name = |layer: &LayerFiles| format!("../../layers/{}.data", layer.diff_id.hex());
    let guard = Guard::new(store, stop, vec![temp.path().join(META)])?;
    let built = root::build(&files, temp.path(), &name, limits, &|| guard.must_stop());
    built.map_err(|error| {
        let reason = guard.reason(&error, temp.path());
        reason.unwrap_or(StoreError::Root(error))
    })?;
    Ok(temp)
}

/// Gives a root that is made anew the `hold` of the one in its place: environments have their locks on that very file.
fn take_hold(old: &Path, new: &Path) -> io::Result<()> {
    let path = new.join(HOLD);
    match fs::hard_link(old.join(HOLD), &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(&path).map(drop),
        linked => linked,
    }
}

impl Store {
    pub(super) fn roots(&self) -> PathBuf {
        self.dir().join("roots")
    }

    pub(super) fn root_dir(&self, key: &Digest) -> PathBuf {
        self.roots().join(key.hex())
    }

    pub(super) fn root(&self, key: &Digest) -> Result<Option<Root>, StoreError> {
        let Some(record) = self.root_record(key)? else {
            return Ok(None);
        };
        let dir = self.root_dir(key);
        let disk = dir.join(DISK);
        let whole = file_size(&dir.join(META))? == Some(record.meta_bytes)
            && file_size(&disk)? == Some(record.disk_bytes);
        if !whole {
            tracing::warn!(%key, "a root was damaged and counts as not there");
            return Ok(None);
        }
        for diff_id in &record.layers {
            if self.layer(diff_id)?.is_none() {
                return Ok(None);
            }
        }
        let bytes = record.meta_bytes.saturating_add(record.disk_bytes);
        Ok(Some(Root {
            key: *key,
            disk,
            layers: record.layers,
            bytes,
        }))
    }

    /// What a root's record says, if it has one that can be read.
    pub(super) fn root_record(&self, key: &Digest) -> Result<Option<RootRecord>, StoreError> {
        let path = self.root_dir(key).join(RECORD);
        let Some(bytes) = read_bounded(&path, MAX_RECORD_BYTES)? else {
            return Ok(None);
        };
        let version = serde_json::from_slice::<Version>(&bytes);
        if version.is_ok_and(|version| version.version > VERSION) {
            return Err(StoreError::Newer { path });
        }
        match serde_json::from_slice::<RootRecord>(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(%key, %error, "a root was damaged and counts as not there");
                Ok(None)
            }
        }
    }

    pub(super) fn is_held(&self, key: &Digest) -> Result<bool, StoreError> {
        let path = self.root_dir(key).join(HOLD);
        Lock::is_taken(&path).map_err(StoreError::io("look at", &path))
    }

    /// Makes a folder disappear as a whole, then removes what it had.
    pub(super) fn discard_dir(&self, dir: &Path) -> Result<(), StoreError> {
        let failed = |error| self.failed("remove", dir, error);
        let grave = tempfile::tempdir_in(self.temp()).map_err(failed)?;
        match fs::rename(dir, grave.path().join("root")) {
            Ok(()) => grave.close().map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// A small file; none if it is not there. What is beyond the limit is left out, so that it does not parse.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}
