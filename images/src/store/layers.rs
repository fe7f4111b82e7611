// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Layers: converted once, by whoever needs them first, and shared by all images that have them.
//!
//! A layer is there if its index is: that is renamed last. Its data must have the size that the index states.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::blobs::file_size;
use super::space::Watch;
use super::{Stop, Store, StoreError, Visit, blocking, create, seal};
use crate::layer::{self, BLOCK, Budget, Compression, Index, LayerError};
use crate::root::LayerFiles;
use crate::{Digest, Limits};

/// A converted layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its tar.
    pub diff_id: Digest,
    /// Where its content is.
    pub data: PathBuf,
    /// Where its entries are.
    pub index: PathBuf,
    /// Bytes of both files.
    pub bytes: u64,
    /// How many entries it has.
    pub entries: u64,
}

impl Layer {
    /// What a root is made of.
    #[must_use]
    pub fn files(&self) -> LayerFiles {
        LayerFiles {
            index: self.index.clone(),
            data: self.data.clone(),
            diff_id: self.diff_id,
        }
    }
}

/// What is to be converted. Its blob is in the store.
#[derive(Debug, Clone, Copy)]
pub struct Conversion {
    /// The layer as transferred.
    pub blob: Digest,
    /// What the image's configuration says that it unpacks to, if there is one.
    pub diff_id: Option<Digest>,
    /// How its media type says that it is compressed.
    pub compression: Option<Compression>,
}

impl Visit {
    /// A layer that is there. One whose files have another size than they should have is not.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<Layer>, StoreError> {
        self.store().layer(diff_id)
    }

    /// Sees to it that a layer is there. Dropping the future leaves nothing, if `stop` is asked then.
    ///
    /// # Errors
    ///
    /// The blob is missing, is no layer that an environment can have, unpacks to something else or to too much; or
    /// there is no room.
    pub async fn make_layer(
        &self,
        conversion: Conversion,
        quota: &Arc<Quota>,
        stop: &Stop,
    ) -> Result<Layer, StoreError> {
        // Without a diff id nobody else can be making the same one under its name.
        let lock = self
            .lock("layer", &conversion.diff_id.unwrap_or(conversion.blob))
            .await?;
        if let Some(diff_id) = &conversion.diff_id
            && let Some(layer) = self.layer(diff_id)?
        {
            quota.charge(layer.bytes, layer.entries)?;
            return Ok(layer);
        }
        let visit = self.clone();
        let quota = Arc::clone(quota);
        let stop = stop.clone();
        blocking(move || {
            let made = visit.convert(conversion, &quota, &stop);
            drop(lock);
            made
        })
        .await
    }

    fn convert(
        &self,
        conversion: Conversion,
        quota: &Arc<Quota>,
        stop: &Stop,
    ) -> Result<Layer, StoreError> {
        let store = self.store();
        store.room(0)?;
        let blob = self.open_blob(&conversion.blob)?;
        let temp = tempfile::tempdir_in(store.temp())
            .map_err(|error| store.failed("make a folder in", &store.temp(), error))?;
        let data_temp = temp.path().join("data");
        let index_temp = temp.path().join("index");
        let failed = |error| store.failed("write", temp.path(), error);
        let mut data = create(&data_temp).map_err(failed)?;
        let mut index = create(&index_temp).map_err(failed)?;
        let guard = Guard::new(store, quota, stop, &data).map_err(failed)?;
        let converted = layer::convert(
            blob,
            conversion.compression,
            &mut data,
            &mut index,
            &quota.left(),
            &|| guard.must_stop(),
        );
        let converted = converted.map_err(|error| guard.reason(conversion.blob, error))?;
        drop(guard);
        let found = converted.diff_id;
        if let Some(expected) = conversion.diff_id.filter(|expected| *expected != found) {
            return Err(StoreError::DiffId {
                blob: conversion.blob,
                expected,
                found,
            });
        }
        seal(&data).and_then(|()| seal(&index)).map_err(failed)?;
        let (data_path, index_path) = store.layer_paths(&found);
        fs::rename(&data_temp, &data_path)
            .and_then(|()| fs::rename(&index_temp, &index_path))
            .map_err(|error| store.failed("write", &data_path, error))?;
        let layer = self
            .layer(&found)?
            .ok_or_else(|| store.missing("the layer", &found))?;
        quota.charge(layer.bytes, layer.entries)?;
        Ok(layer)
    }
}

impl Store {
    pub(super) fn layers(&self) -> PathBuf {
        self.dir().join("layers")
    }

    /// Where a layer's data and index are.
    pub(super) fn layer_paths(&self, diff_id: &Digest) -> (PathBuf, PathBuf) {
        let hex = diff_id.hex();
        let dir = self.layers();
        (
            dir.join(format!("{hex}.data")),
            dir.join(format!("{hex}.index")),
        )
    }

    pub(super) fn layer(&self, diff_id: &Digest) -> Result<Option<Layer>, StoreError> {
        let (data, index) = self.layer_paths(diff_id);
        let (Some(data_bytes), Some(index_bytes)) = (file_size(&data)?, file_size(&index)?) else {
            return Ok(None);
        };
        let opened = match Index::open(&index) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(%diff_id, %error, "a layer was damaged and counts as not there");
                return Ok(None);
            }
        };
        if opened.data_blocks().checked_mul(BLOCK) != Some(data_bytes) {
            tracing::warn!(%diff_id, data_bytes, "a layer was damaged and counts as not there");
            return Ok(None);
        }
        let entries = opened.entries();
        let bytes = data_bytes.saturating_add(index_bytes);
        Ok(Some(Layer {
            diff_id: *diff_id,
            data,
            index,
            bytes,
            entries,
        }))
    }

    pub(super) fn missing(&self, what: &'static str, digest: &Digest) -> StoreError {
        StoreError::Missing {
            what,
            digest: *digest,
            dir: self.dir().to_owned(),
        }
    }
}

/// What the layers of one image may unpack to, all together, however many are converted at once.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    /// Of the layers that are done.
    bytes: AtomicU64,
    entries: AtomicU64,
    /// Of those under way.
    growing: AtomicU64,
}

impl Quota {
    /// All is left yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            limits: limits.clone(),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            growing: AtomicU64::new(0),
        })
    }

    /// Takes for a layer that is done.
    ///
    /// # Errors
    ///
    /// [`StoreError::Bomb`] if that is more than was left.
    pub fn charge(&self, bytes: u64, entries: u64) -> Result<(), StoreError> {
        let bytes = self
            .bytes
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        let entries = self
            .entries
            .fetch_add(entries, Ordering::Relaxed)
            .saturating_add(entries);
        if bytes > self.limits.unpacked_bytes {
            return Err(self.bomb_of_bytes());
        }
        if entries > self.limits.entries {
            return Err(StoreError::Bomb {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        Ok(())
    }

    fn bomb_of_bytes(&self) -> StoreError {
        StoreError::Bomb {
            what: "bytes",
            limit: self.limits.unpacked_bytes,
        }
    }

    /// What one layer may take of it, if no other one does.
    fn left(&self) -> Budget {
        let left =
            |limit: u64, used: &AtomicU64| limit.saturating_sub(used.load(Ordering::Relaxed));
        Budget {
            unpacked_bytes: left(self.limits.unpacked_bytes, &self.bytes),
            file_bytes: self.limits.file_bytes,
            entries: left(self.limits.entries, &self.entries),
        }
    }
}

/// Asked while a layer is converted: ends it when nobody waits, when the image becomes too large, when the disk
/// becomes full.
struct Guard<'a> {
    store: &'a Store,
    quota: &'a Quota,
    stop: &'a Stop,
    data: File,
    seen: RefCell<Seen>,
}

struct Seen {
    bytes: u64,
    watch: Watch,
    reason: Option<StoreError>,
}

impl<'a> Guard<'a> {
    fn new(
        store: &'a Store,
        quota: &'a Quota,
        stop: &'a Stop,
        data: &File,
    ) -> std::io::Result<Self> {
        let data = data.try_clone()?;
        let seen = RefCell::new(Seen {
            bytes: 0,
            watch: Watch::new(),
            reason: None,
        });
        Ok(Self {
            store,
            quota,
            stop,
            data,
            seen,
        })
    }

    fn must_stop(&self) -> bool {
        let mut seen = self.seen.borrow_mut();
        if self.stop.asked() {
            seen.reason = Some(StoreError::Stopped);
            return true;
        }
        // What cannot be measured is bounded by the layer's own budget.
        let bytes = self
            .data
            .metadata()
            .map_or(seen.bytes, |status| status.len())
            .max(seen.bytes);
        let grown = bytes - seen.bytes;
        seen.bytes = bytes;
        let growing = self
            .quota
            .growing
            .fetch_add(grown, Ordering::Relaxed)
            .saturating_add(grown);
        let done = self.quota.bytes.load(Ordering::Relaxed);
        if done.saturating_add(growing) > self.quota.limits.unpacked_bytes {
            seen.reason = Some(self.quota.bomb_of_bytes());
        } else if let Err(error) = seen.watch.wrote(self.store, grown, 0) {
            seen.reason = Some(error);
        }
        seen.reason.is_some()
    }

    /// What a failure comes from.
    fn reason(&self, blob: Digest, error: LayerError) -> StoreError {
        if let Some(reason) = self.seen.borrow_mut().reason.take() {
            return reason;
        }
        if let Some(full) = super::space::full(&error) {
            return self.store.failed("write", &self.store.layers(), full);
        }
        StoreError::Layer {
            blob,
            source: error,
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.quota
            .growing
            .fetch_sub(self.seen.borrow().bytes, Ordering::Relaxed);
    }
}
