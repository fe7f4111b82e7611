// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What goes from the store, and when: by age, by size, and all that nothing refers to.
//!
//! Mark and sweep, with the store to itself. What stays:
//!
//! - images (references) that are younger than the age, that fit the size, or that only this store has: imported
//!   ones go by name or with [`Policy::all`] only, because they cannot be pulled again;
//! - what these need: blobs, layers, root;
//! - roots that an environment holds, with their layers, whatever has become of their references.
//!
//! Over the size, the blobs of converted layers go first: environments do not need them, and a registry has them.
//! Then whole images, the least recently used first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::locks::Lock;
use super::refs::{Provenance, Record};
use super::{GATE, Store, StoreError};
use crate::Digest;

/// What may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Pulled images which have not been used for so long.
    pub max_age: Option<Duration>,
    /// Pulled images, until the store has no more bytes than this.
    pub max_bytes: Option<u64>,
    /// All images that no environment holds, imported ones as well.
    pub all: bool,
    /// Parts of downloads, even if somebody might go on with them soon.
    pub partials: bool,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// References.
    pub images: Vec<String>,
    /// Files and roots.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How long a part of a download is kept for somebody to go on with it.
const PARTIAL_AGE: Duration = Duration::from_secs(3600);

/// The store, with nobody else at work in it.
#[derive(Debug)]
pub struct Sweep {
    store: Store,
    #[expect(dead_code, reason = "held for as long as the sweep lasts")]
    gate: Lock,
}

/// One image and when it was last used.
type Used = (Record, SystemTime);

/// What must stay.
#[derive(Default)]
struct Marks {
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
    roots: BTreeSet<Digest>,
    /// An environment holds a root whose record cannot be read: any layer might be its.
    all_layers: bool,
}

impl Sweep {
    pub(super) fn new(store: Store, gate: Lock) -> Self {
        Self { store, gate }
    }

    /// Removes what may go, and what nothing refers to. Blocks.
    ///
    /// # Errors
    ///
    /// Something cannot be read or removed, or a newer release has written to the store: then nothing is removed that
    /// it might need. What went before the failure is gone.
    pub fn prune(&self, policy: &Policy, now: SystemTime) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let held = self.held()?;
        let mut images = Vec::new();
        for (record, used) in self.store.records()? {
            if held.contains(&record.root) {
                // In use is used.
                self.store.touch(&record.reference)?;
                images.push((record, now));
            } else if outlived(policy, &record, used, now) {
                self.forget(&record.reference, &mut pruned)?;
            } else {
                images.push((record, used));
            }
        }
        self.collect(&images, &held, &mut pruned)?;
        self.leftovers(policy, now, &mut pruned)?;
        if let Some(max_bytes) = policy.max_bytes {
            self.shrink(images, &held, max_bytes, &mut pruned)?;
        }
        Ok(pruned)
    }

    /// The roots that environments hold.
    fn held(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let mut held = BTreeSet::new();
        for (key, _) in named(&self.store.roots())? {
            if self.store.is_held(&key)? {
                held.insert(key);
            }
        }
        Ok(held)
    }

    fn forget(&self, reference: &str, pruned: &mut Pruned) -> Result<(), StoreError> {
        if self.store.forget(reference)? {
            pruned.images.push(reference.to_owned());
        }
        Ok(())
    }

    fn mark(&self, images: &[Used], held: &BTreeSet<Digest>) -> Result<Marks, StoreError> {
        let mut marks = Marks::default();
        for (record, _) in images {
            marks.blobs.extend(record.blobs());
            marks
                .layers
                .extend(record.layers.iter().map(|layer| layer.diff_id));
            marks.roots.insert(record.root);
        }
        for key in held {
            marks.roots.insert(*key);
            match self.store.root_record(key)? {
                Some(record) => marks.layers.extend(record.layers),
                None => marks.all_layers = true,
            }
        }
        Ok(marks)
    }

    /// Removes what nothing refers to: roots before layers, an index before its data, so that at any point all that
    /// is there is whole.
    fn collect(
        &self,
        images: &[Used],
        held: &BTreeSet<Digest>,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        let marks = self.mark(images, held)?;
        for (key, path) in named(&self.store.roots())? {
            if !marks.roots.contains(&key) {
                pruned.bytes = pruned.bytes.saturating_add(size_below(&path)?);
                pruned.files += 1;
                self.store.discard_dir(&path)?;
            }
        }
        let mut layers = named(&self.store.layers())?;
        layers.sort_by_key(|(_, path)| path.extension().is_some_and(|kind| kind == "data"));
        for (diff_id, path) in layers {
            if !marks.all_layers && !marks.layers.contains(&diff_id) {
                remove(&path, pruned)?;
            }
        }
        for (digest, path) in named(&self.store.blobs())? {
            if !marks.blobs.contains(&digest) {
                remove(&path, pruned)?;
            }
        }
        Ok(())
    }

    /// What killed processes left. Nobody is at work, so all of `temp` is that, and no lock is held.
    fn leftovers(
        &self,
        policy: &Policy,
        now: SystemTime,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        let temp = self.store.temp();
        for path in children(&temp)? {
            pruned.bytes = pruned.bytes.saturating_add(size_below(&path)?);
            pruned.files += 1;
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(StoreError::io("remove", &path))?;
        }
        for path in children(&self.store.dir().join("partial"))? {
            let changed = fs::metadata(&path).and_then(|status| status.modified());
            let changed = changed.map_err(StoreError::io("look at", &path))?;
            if policy.partials
                || now
                    .duration_since(changed)
                    .is_ok_and(|age| age > PARTIAL_AGE)
            {
                remove(&path, pruned)?;
            }
        }
        for path in children(&self.store.dir().join("locks"))? {
            if path.file_name().is_some_and(|name| name != GATE) {
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Makes the store no larger than this, as far as it may.
    fn shrink(
        &self,
        mut images: Vec<Used>,
        held: &BTreeSet<Digest>,
        max_bytes: u64,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        let mut bytes = self.store.used_bytes()?;
        for digest in self.spare_blobs(&images)? {
            if bytes <= max_bytes {
                return Ok(());
            }
            bytes = bytes.saturating_sub(remove(&self.store.blob_path(&digest), pruned)?);
        }
        images.sort_by_key(|(_, used)| *used);
        let mut at = 0;
        while bytes > max_bytes {
            let Some((record, _)) = images.get(at) else {
                return Ok(());
            };
            if record.provenance == Provenance::Imported || held.contains(&record.root) {
                at += 1;
                continue;
            }
            let (record, _) = images.remove(at);
            self.forget(&record.reference, pruned)?;
            self.collect(&images, held, pruned)?;
            bytes = self.store.used_bytes()?;
        }
        Ok(())
    }

    /// Blobs of layers which are there converted, and which a registry has: the least recently used first.
    fn spare_blobs(&self, images: &[Used]) -> Result<Vec<Digest>, StoreError> {
        let mut spare: BTreeMap<Digest, SystemTime> = BTreeMap::new();
        let mut needed = BTreeSet::new();
        for (record, used) in images {
            for layer in &record.layers {
                if record.provenance == Provenance::Imported
                    || self.store.layer(&layer.diff_id)?.is_none()
                {
                    needed.insert(layer.digest);
                }
                let latest = spare.entry(layer.digest).or_insert(*used);
                *latest = (*latest).max(*used);
            }
        }
        let mut spare: Vec<_> = spare
            .into_iter()
            .filter(|(digest, _)| !needed.contains(digest) && self.store.blob_path(digest).exists())
            .collect();
        spare.sort_by_key(|(_, used)| *used);
        Ok(spare.into_iter().map(|(digest, _)| digest).collect())
    }
}

/// Whether an image may go that no environment holds.
fn outlived(policy: &Policy, record: &Record, used: SystemTime, now: SystemTime) -> bool {
    let old = policy
        .max_age
        .is_some_and(|max_age| now.duration_since(used).is_ok_and(|age| age > max_age));
    policy.all || old && record.provenance == Provenance::Pulled
}

impl Store {
    pub(super) fn blobs(&self) -> PathBuf {
        self.dir().join("blobs/sha256")
    }

    /// Bytes of all that the store has, parts of downloads included.
    ///
    /// # Errors
    ///
    /// A folder cannot be read.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0_u64;
        for folder in ["blobs/sha256", "layers", "roots", "partial", "temp"] {
            bytes = bytes.saturating_add(size_below(&self.dir().join(folder))?);
        }
        Ok(bytes)
    }
}

/// What is in a folder under names that begin with a digest, as all of ours do. Nothing else is touched.
fn named(dir: &Path) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
    let mut named = Vec::new();
    for path in children(dir)? {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(digest) = stem.and_then(|hex| format!("sha256:{hex}").parse().ok()) {
            named.push((digest, path));
        }
    }
    Ok(named)
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).map_err(StoreError::io("read", dir))?;
    let mut paths: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(StoreError::io("read", dir))?;
    paths.sort();
    Ok(paths)
}

/// Removes a file and says how large it was.
fn remove(path: &Path, pruned: &mut Pruned) -> Result<u64, StoreError> {
    let bytes = fs::symlink_metadata(path)
        .and_then(|status| fs::remove_file(path).map(|()| status.len()))
        .map_err(StoreError::io("remove", path))?;
    pruned.bytes = pruned.bytes.saturating_add(bytes);
    pruned.files += 1;
    Ok(bytes)
}

/// Bytes of all files below a path, or of the file itself. What is gone in between counts nothing.
pub(super) fn size_below(path: &Path) -> Result<u64, StoreError> {
    let status = match fs::symlink_metadata(path) {
        Ok(status) => status,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(StoreError::io("look at", path)(error)),
    };
    if !status.is_dir() {
        return Ok(status.len());
    }
    let mut bytes = 0_u64;
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read", path))?;
        // As deep as a root's folder among the leftovers: three.
        bytes = bytes.saturating_add(size_below(&entry.path())?);
    }
    Ok(bytes)
}
