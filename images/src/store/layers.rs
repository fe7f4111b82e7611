// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Layers: converted once, by whoever needs them first, and shared by all images that have them.
//!
//! A layer is there if its index is: that is renamed last. Its data must have the size that the index states.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::blobs::file_size;
use super::quota::{Quota, Share};
use super::space::Guard;
use super::{Stop, Store, StoreError, Visit, blocking, create, seal};
use crate::Digest;
use crate::layer::{self, BLOCK, Compression, Index};
use crate::root::LayerFiles;

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
            quota.charge(&layer)?;
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
        quota: &Quota,
        stop: &Stop,
    ) -> Result<Layer, StoreError> {
        let store = self.store();
        let blob = self.open_blob(&conversion.blob)?;
        let temp = tempfile::tempdir_in(store.temp())
            .map_err(|error| store.failed("make a folder in", &store.temp(), error))?;
        let data_temp = temp.path().join("data");
        let index_temp = temp.path().join("index");
        let failed = |error| store.failed("write", temp.path(), error);
        let mut data = create(&data_temp).map_err(failed)?;
        let mut index = create(&index_temp).map_err(failed)?;
        let guard = Guard::new(store, stop, vec![data_temp.clone(), index_temp.clone()])?;
        let mut share = Share::of(quota);
        let converted = layer::convert_counted(
            blob,
            conversion.compression,
            (&mut data, &mut index),
            &quota.budget(),
            &share,
            &|| guard.must_stop(),
        );
        let converted = converted.map_err(|source| {
            let reason = share.refused();
            let reason = reason.or_else(|| guard.reason(&source, &data_temp));
            let blob = conversion.blob;
            reason.unwrap_or(StoreError::Layer { blob, source })
        })?;
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
        share.keep();
        self.layer(&found)?
            .ok_or_else(|| store.missing("the layer", &found))
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
