// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Reads everything and says what is not what it should be: blobs by their digests, layers and roots by making them
//! once more from what they were made of, since that gives the same bytes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use super::layers::Layer;
use super::partial::digest_of;
use super::refs::Record;
use super::roots::{DISK, META, RECORD, build_in_temp};
use super::space::Guard;
use super::{Stop, StoreError, Visit, create};
use crate::layer::{self, Budget, LayerError};
use crate::root::RootError;
use crate::{Digest, Limits};

/// Something that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A blob's content has another digest.
    Blob(Digest),
    /// A layer is missing, or has other content than its blob gives.
    Layer(Digest),
    /// A root is missing, or other than its layers give.
    Root(Digest),
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs that were hashed.
    pub blobs: usize,
    /// Layers that were made once more.
    pub layers: usize,
    /// What was not: layers whose blobs are gone to save room, layers and roots that today's ceilings refuse.
    pub unproven: usize,
    /// Roots that were made once more.
    pub roots: usize,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

impl Visit {
    /// Verifies all that these images need, and with `mend` takes away what is damaged, so that the next use makes
    /// it again. Blocks, for about as long as making them took.
    ///
    /// # Errors
    ///
    /// Something cannot be read, or there is no room to make it once more.
    pub fn verify(
        &self,
        images: &[Record],
        limits: &Limits,
        mend: bool,
        stop: &Stop,
    ) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        let mut blobs = BTreeSet::new();
        let mut layers = BTreeSet::new();
        let mut roots = BTreeSet::new();
        for record in images {
            for digest in record.blobs().filter(|digest| blobs.insert(*digest)) {
                self.verify_blob(&digest, &mut verified, stop)?;
            }
            for layer in record
                .layers
                .iter()
                .filter(|layer| layers.insert(layer.diff_id))
            {
                self.verify_layer(&layer.digest, &layer.diff_id, limits, &mut verified, stop)?;
            }
            if roots.insert(record.root) {
                self.verify_root(record, limits, &mut verified, stop)?;
            }
        }
        if mend {
            self.mend(&verified.damage)?;
        }
        Ok(verified)
    }

    fn verify_blob(
        &self,
        digest: &Digest,
        verified: &mut Verified,
        stop: &Stop,
    ) -> Result<(), StoreError> {
        // A missing one is no damage: those of layers go to save room.
        if !self.has_blob(digest, None)? {
            return Ok(());
        }
        verified.blobs += 1;
        let path = self.store().blob_path(digest);
        let (found, _) = digest_of(self.open_blob(digest)?, &path, stop)?;
        if found != *digest {
            verified.damage.push(Damage::Blob(*digest));
        }
        Ok(())
    }

    fn verify_layer(
        &self,
        blob: &Digest,
        diff_id: &Digest,
        limits: &Limits,
        verified: &mut Verified,
        stop: &Stop,
    ) -> Result<(), StoreError> {
        let Some(layer) = self.layer(diff_id)? else {
            verified.damage.push(Damage::Layer(*diff_id));
            return Ok(());
        };
        let damaged = verified.damage.contains(&Damage::Blob(*blob));
        if damaged || !self.has_blob(blob, None)? {
            verified.unproven += 1;
            return Ok(());
        }
        match self.prove_layer(blob, &layer, limits, stop)? {
            Proof::None => verified.unproven += 1,
            Proof::Same => verified.layers += 1,
            Proof::Other => {
                verified.layers += 1;
                verified.damage.push(Damage::Layer(*diff_id));
            }
        }
        Ok(())
    }

    /// Makes a layer once more of its blob, which is whole.
    fn prove_layer(
        &self,
        blob: &Digest,
        layer: &Layer,
        limits: &Limits,
        stop: &Stop,
    ) -> Result<Proof, StoreError> {
        let store = self.store();
        let temp = tempfile::tempdir_in(store.temp())
            .map_err(|error| store.failed("make a folder in", &store.temp(), error))?;
        let (data_path, index_path) = (temp.path().join("data"), temp.path().join("index"));
        let failed = |error| store.failed("write", temp.path(), error);
        let mut data = create(&data_path).map_err(failed)?;
        let mut index = create(&index_path).map_err(failed)?;
        let guard = Guard::new(store, stop, vec![data_path.clone(), index_path.clone()])?;
        let made = layer::convert(
            self.open_blob(blob)?,
            None,
            &mut data,
            &mut index,
            &Budget::from(limits),
            &|| guard.must_stop(),
        );
        let made = match made {
            Ok(made) => made,
            Err(error) => return unproven_layer(blob, error, &guard, temp.path()),
        };
        let same = made.diff_id == layer.diff_id
            && same(&data_path, &layer.data, stop)?
            && same(&index_path, &layer.index, stop)?;
        Ok(Proof::of(same))
    }

    fn verify_root(
        &self,
        record: &Record,
        limits: &Limits,
        verified: &mut Verified,
        stop: &Stop,
    ) -> Result<(), StoreError> {
        let damage = Damage::Root(record.root);
        let Some(root) = self.root(&record.root)? else {
            verified.damage.push(damage);
            return Ok(());
        };
        if root
            .layers
            .iter()
            .any(|layer| verified.damage.contains(&Damage::Layer(*layer)))
        {
            return Ok(());
        }
        let mut layers = Vec::new();
        for diff_id in &root.layers {
            layers.push(
                self.layer(diff_id)?
                    .ok_or_else(|| self.store().missing("the layer", diff_id))?,
            );
        }
        let temp = match build_in_temp(self.store(), &layers, limits, stop) {
            Ok(temp) => temp,
            Err(error) => return unproven_root(error, &layers, verified),
        };
        verified.roots += 1;
        let dir = self.store().root_dir(&record.root);
        for name in [META, DISK] {
            if !same(&temp.path().join(name), &dir.join(name), stop)? {
                verified.damage.push(damage);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes damaged things away. What environments have open stays open to them.
    fn mend(&self, damage: &[Damage]) -> Result<(), StoreError> {
        for damaged in damage {
            match damaged {
                Damage::Blob(digest) => remove(&self.store().blob_path(digest))?,
                Damage::Layer(diff_id) => {
                    // The index alone: without it the layer is not there, and its data is written over.
                    let (_, index) = self.store().layer_paths(diff_id);
                    remove(&index)?;
                }
                // The record alone: without it the root is not there, while whoever holds it still does.
                Damage::Root(key) => remove(&self.store().root_dir(key).join(RECORD))?,
            }
        }
        Ok(())
    }
}

/// What came of making a layer once more.
enum Proof {
    Same,
    Other,
    /// It could not be made.
    None,
}

impl Proof {
    fn of(same: bool) -> Self {
        if same { Self::Same } else { Self::Other }
    }
}

/// A layer's blob that is refused has the right digest, so that the layer was made of it once: by other rules, or below
/// higher ceilings. That is no damage.
fn unproven_layer(
    blob: &Digest,
    source: LayerError,
    guard: &Guard<'_>,
    dir: &Path,
) -> Result<Proof, StoreError> {
    if let Some(reason) = guard.reason(&source, dir) {
        return Err(reason);
    }
    match source {
        LayerError::Read(_) | LayerError::Write { .. } => Err(StoreError::Layer {
            blob: *blob,
            source,
        }),
        _ => Ok(Proof::None),
    }
}

/// A root that cannot be made once more: a layer is damaged, whose blob is gone, or its layers are refused now.
fn unproven_root(
    error: StoreError,
    layers: &[Layer],
    verified: &mut Verified,
) -> Result<(), StoreError> {
    let StoreError::Root(source) = &error else {
        return Err(error);
    };
    let damaged = match source {
        RootError::Index {
            source: LayerError::Stored { .. },
            ..
        }
        | RootError::Io { .. } => return Err(error),
        // Numbered from 1.
        RootError::Index { layer, .. } | RootError::Damaged { layer, .. } => {
            layers.get(usize::from(*layer).wrapping_sub(1))
        }
        RootError::DataSize { path, .. } => layers.iter().find(|layer| layer.data == *path),
        _ => None,
    };
    match damaged {
        Some(layer) => verified.damage.push(Damage::Layer(layer.diff_id)),
        None => verified.unproven += 1,
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether two files have the same content.
fn same(one: &Path, other: &Path, stop: &Stop) -> Result<bool, StoreError> {
    const CHUNK: usize = 256 << 10;
    let open = |path: &Path| {
        File::open(path)
            .map(|file| BufReader::with_capacity(CHUNK, file))
            .map_err(StoreError::io("open", path))
    };
    let (mut first, mut second) = (open(one)?, open(other)?);
    loop {
        stop.check()?;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        Read::by_ref(&mut first)
            .take(CHUNK as u64)
            .read_to_end(&mut left)
            .map_err(StoreError::io("read", one))?;
        Read::by_ref(&mut second)
            .take(CHUNK as u64)
            .read_to_end(&mut right)
            .map_err(StoreError::io("read", other))?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}
