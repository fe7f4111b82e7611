// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images from files: their names, their manifests for this host, and a root file system made into an image.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::install::{Done, Install, Supply, blocking, read_image};
use super::progress::{Meter, reporting};
use super::{Error, Images, Report, Summary};
use crate::Digest;
use crate::layer::{Index, Kind as EntryKind};
use crate::reference::Reference;
use crate::registry::{ImageManifest, Manifest, Platform, pick};
use crate::source::{Content, Found, Kind, Name, Source, SourceError, single_layer};
use crate::store::{
    Conversion, Expected, Layer, Provenance, Quota, Stop, Stopper, StoreError, Visit,
};

/// How many indexes may be in one another: a layout's own one, a list of images, one of platforms.
const DEEPEST: u32 = 3;

/// Names that were given, each with the manifest of another image that it meant before.
type Imported = BTreeMap<String, Option<Digest>>;

/// What says what an image is.
struct Documents {
    /// The image's manifest, or the index that it is from.
    named: Bytes,
    manifest: Bytes,
    image: ImageManifest,
}

impl Images {
    /// Takes all images of a file or folder in, under their own names or under this one. A name that meant another image
    /// means the new one from then on, as with `docker load`; [`Summary::replaced`] tells it. Cancel-safe: what is in
    /// already stays.
    ///
    /// # Errors
    ///
    /// It has no image that can be used, none with a name, or one by the digest of another. Images before the one that
    /// fails are in.
    pub async fn import(
        &self,
        path: &Path,
        name: Option<&Reference>,
        report: &Report<'_>,
    ) -> Result<Vec<Summary>, Error> {
        let meter = Meter::default();
        let work = self.import_metered(path, name, &meter);
        let mut imported = reporting(&meter, report, work).await?;
        self.evict().await;
        let mut summaries = self.list()?;
        summaries.retain_mut(|summary| {
            let replaced = imported.remove(&summary.reference.to_string());
            summary.replaced = replaced.flatten();
            replaced.is_some()
        });
        Ok(summaries)
    }

    async fn import_metered(
        &self,
        path: &Path,
        name: Option<&Reference>,
        meter: &Meter,
    ) -> Result<Imported, Error> {
        let stopper = Stopper::default();
        let outcome = self.take_in(path, name, meter, &stopper).await;
        stopper.ended().await;
        outcome
    }

    async fn take_in(
        &self,
        path: &Path,
        name: Option<&Reference>,
        meter: &Meter,
        stopper: &Stopper,
    ) -> Result<Imported, Error> {
        let visit = self.store.visit().await?;
        let (owned, limits) = (path.to_owned(), self.options.limits.clone());
        let stop = stopper.stop();
        let open = move || Source::open(&owned, &limits, &|| stop.asked());
        let source = Arc::new(blocking(open).await?);
        let install = |supply| Install {
            images: self,
            visit: &visit,
            supply,
            meter,
            stopper,
            provenance: Provenance::Imported,
        };
        let mut imported = Imported::new();
        if source.kind() == Kind::RootFs {
            let reference = name.ok_or_else(|| unnamed(path, None))?;
            let (config, manifest) = self.root_fs(&visit, &source, stopper).await?;
            let digest = Digest::of(&manifest);
            may_be_called(path, reference, digest, digest)?;
            visit.put_blob(&config)?;
            let image = read_image(&reference.to_string(), &manifest, "", &self.options.limits)?;
            let done = install(Supply::Store)
                .run(&manifest, &manifest, &image)
                .await?;
            name_it(&visit, &done, reference, &mut imported)?;
            return Ok(imported);
        }
        for (found, references) in named(&source, name)? {
            let documents = self.documents(&source, &found).await?;
            for reference in &references {
                let manifest = Digest::of(&documents.manifest);
                may_be_called(path, reference, found.digest, manifest)?;
            }
            let done = install(Supply::Source(Arc::clone(&source)))
                .run(&documents.named, &documents.manifest, &documents.image)
                .await?;
            for reference in &references {
                name_it(&visit, &done, reference, &mut imported)?;
            }
        }
        Ok(imported)
    }

    /// This host's image of what was found.
    async fn documents(&self, source: &Arc<Source>, found: &Found) -> Result<Documents, Error> {
        let limits = &self.options.limits;
        let what = source.path().display().to_string();
        let read = async |digest: Digest, limit: u64| {
            let source = Arc::clone(source);
            blocking(move || source.document(&digest, limit)).await
        };
        let named = Bytes::from(read(found.digest, limits.manifest_bytes).await?);
        let (mut bytes, mut media_type) = (named.clone(), found.media_type.clone());
        for _ in 0..DEEPEST {
            let entries = match Manifest::read(&what, &bytes, &media_type, limits)? {
                Manifest::Image(image) => {
                    return Ok(Documents {
                        named,
                        manifest: bytes,
                        image,
                    });
                }
                Manifest::Index(entries) => entries,
            };
            let entry = pick(&what, &entries, &Platform::host())?.descriptor.clone();
            let limit = entry.size.min(limits.manifest_bytes);
            bytes = read(entry.digest, limit).await?.into();
            media_type = entry.media_type;
        }
        Err(Error::Nested {
            what,
            limit: DEEPEST,
        })
    }

    /// Takes a root file system in as a layer, and says what its configuration and its manifest are.
    async fn root_fs(
        &self,
        visit: &Visit,
        source: &Arc<Source>,
        stopper: &Stopper,
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let limits = &self.options.limits;
        let expected = Expected {
            digest: None,
            size: None,
            limit: limits.blob_bytes,
        };
        let (copier, file, stop) = (visit.clone(), Arc::clone(source), stopper.stop());
        let (blob, size, magic) = blocking(move || {
            let mut magic = [0; 4];
            let content = file.tar()?;
            begin(file.tar()?, &mut magic);
            let copied = copier.copy_blob(content, expected, file.path(), &stop, &|_| ());
            copied
                .map(|(blob, size)| (blob, size, magic))
                .map_err(Error::from)
        })
        .await?;
        let conversion = Conversion {
            blob,
            diff_id: None,
            compression: None,
        };
        let quota = Quota::new(limits);
        let layer = visit
            .make_layer(conversion, &quota, &stopper.stop())
            .await?;
        let (diff_id, path) = (layer.diff_id, source.path().to_owned());
        let stop = stopper.stop();
        if blocking(move || is_of_images(&layer, &stop)).await? {
            return Err(SourceError::Compressed { path }.into());
        }
        Ok(single_layer(blob, size, magic, &diff_id))
    }
}

/// The first bytes of a file; zeros for what it does not have.
fn begin(content: Content, magic: &mut [u8; 4]) {
    let mut head = Vec::new();
    // What cannot be read is told by whoever reads it next.
    if content.take(4).read_to_end(&mut head).is_ok() {
        for (to, from) in magic.iter_mut().zip(head) {
            *to = from;
        }
    }
}

/// Whether a layer is an archive of images, which was compressed so that nobody could tell.
fn is_of_images(layer: &Layer, stop: &Stop) -> Result<bool, Error> {
    let damaged = |source| StoreError::Layer {
        blob: layer.diff_id,
        source,
    };
    for entry in Index::open(&layer.index).map_err(damaged)? {
        stop.check()?;
        let entry = entry.map_err(damaged)?;
        let telling = matches!(entry.path.as_slice(), b"manifest.json" | b"oci-layout");
        if telling && matches!(entry.kind, EntryKind::File { .. }) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses a name whose digest is of other content: nobody looks again whether what a digest names is right.
fn may_be_called(
    path: &Path,
    reference: &Reference,
    named: Digest,
    manifest: Digest,
) -> Result<(), Error> {
    match reference.digest() {
        Some(digest) if digest != named && digest != manifest => Err(Error::OtherContent {
            path: path.to_owned(),
            reference: reference.to_string(),
            manifest,
        }),
        _ => Ok(()),
    }
}

/// Gives an image its name, and notes what that meant before.
fn name_it(
    visit: &Visit,
    done: &Done,
    reference: &Reference,
    imported: &mut Imported,
) -> Result<(), Error> {
    let name = reference.to_string();
    let before = visit.record(&name)?.map(|record| record.manifest);
    let replaced = before.filter(|before| *before != done.manifest);
    visit.remember(&done.record(reference))?;
    if let Some(before) = replaced {
        let manifest = done.manifest;
        tracing::info!(%reference, %manifest, %before, "a name means another image than before");
    }
    // Of two images of one name in a file, the second replaces the first, which nobody has seen.
    imported.entry(name).or_insert(replaced);
    Ok(())
}

fn unnamed(path: &Path, tag: Option<String>) -> Error {
    Error::Unnamed {
        path: path.to_owned(),
        tag,
    }
}

/// What each image is going to be called.
fn named(source: &Source, name: Option<&Reference>) -> Result<Vec<(Found, Vec<Reference>)>, Error> {
    let found = source.images();
    if let Some(name) = name {
        return match found {
            [one] => Ok(vec![(one.clone(), vec![name.clone()])]),
            _ => Err(Error::Ambiguous {
                path: source.path().to_owned(),
                count: found.len(),
            }),
        };
    }
    let mut images = Vec::new();
    for image in found {
        let mut references = Vec::new();
        for name in &image.names {
            match Name::of(name) {
                Name::Full(full) => references.push(full.parse()?),
                Name::Tag(tag) => return Err(unnamed(source.path(), Some(tag))),
            }
        }
        if references.is_empty() {
            return Err(unnamed(source.path(), None));
        }
        images.push((image.clone(), references));
    }
    Ok(images)
}
