// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From a manifest to a root: the configuration, the layers in parallel, each converted while others are still on their
//! way, and the root.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE};

use super::progress::{Meter, Phase};
use super::{Error, Images, now};
use crate::config::ImageConfig;
use crate::layer::Compression;
use crate::reference::Reference;
use crate::registry::{BlobStream, Descriptor, ImageManifest, Manifest, Registry, RegistryError};
use crate::source::Source;
use crate::store::{
    Conversion, Expected, Layer, Origin, Provenance, Quota, Record, RecordLayer, Root, Stop,
    Stopper, StoreError, Visit, Wanted,
};
use crate::{Digest, Limits};

/// Where blobs come from that the store does not have.
pub(super) enum Supply<'a> {
    Registry(&'a Registry, &'a Reference),
    Source(Arc<Source>),
    /// From nowhere.
    Store,
}

/// One image on its way into the store.
pub(super) struct Install<'a> {
    pub(super) images: &'a Images,
    pub(super) visit: &'a Visit,
    pub(super) supply: Supply<'a>,
    pub(super) meter: &'a Meter,
    pub(super) stopper: &'a Stopper,
    pub(super) provenance: Provenance,
}

/// An image that is in the store, but has no name yet.
pub(super) struct Done {
    named: Digest,
    pub(super) manifest: Digest,
    image: ImageManifest,
    provenance: Provenance,
    pub(super) config: ImageConfig,
    pub(super) root: Root,
}

impl Done {
    /// The image by this name.
    pub(super) fn record(&self, reference: &Reference) -> Record {
        let layers = self.image.layers.iter().zip(&self.config.diff_ids);
        Record {
            reference: reference.to_string(),
            named: self.named,
            manifest: self.manifest,
            config: self.image.config.digest,
            layers: layers
                .map(|(layer, diff_id)| RecordLayer {
                    digest: layer.digest,
                    size: layer.size,
                    media_type: layer.media_type.clone(),
                    diff_id: *diff_id,
                })
                .collect(),
            root: self.root.key,
            provenance: self.provenance,
            resolved_at: now(),
            created: self.config.created.clone(),
        }
    }
}

/// What an image's configuration is called: OCI's name, and Docker's.
const CONFIG_TYPES: [&str; 2] = [IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE];

impl Install<'_> {
    /// Puts everything into the store, `named` (the manifest, or the index that it is from) included.
    pub(super) async fn run(
        self,
        named: &[u8],
        manifest: &[u8],
        image: &ImageManifest,
    ) -> Result<Done, Error> {
        self.check(image)?;
        let visit = self.visit.clone();
        let documents = (named.to_owned(), manifest.to_owned());
        let (named, manifest) = blocking(move || {
            Ok::<_, StoreError>((visit.put_blob(&documents.0)?, visit.put_blob(&documents.1)?))
        })
        .await?;
        let config = self.config(image).await?;
        let layers = self.layers(image, &config).await?;
        self.meter.enter(Phase::Root);
        let limits = &self.images.options.limits;
        let root = self
            .visit
            .make_root(layers, limits, &self.stopper.stop())
            .await?;
        Ok(Done {
            named,
            manifest,
            image: image.clone(),
            provenance: self.provenance,
            config,
            root,
        })
    }

    fn what(&self) -> String {
        match &self.supply {
            Supply::Registry(_, reference) => reference.to_string(),
            Supply::Source(source) => source.path().display().to_string(),
            Supply::Store => "the image".to_owned(),
        }
    }

    fn check(&self, image: &ImageManifest) -> Result<(), Error> {
        let media_type = &image.config.media_type;
        if !CONFIG_TYPES.contains(&media_type.as_str()) {
            let media_type = media_type.clone();
            return Err(Error::Artifact {
                what: self.what(),
                media_type,
            });
        }
        for layer in &image.layers {
            if Compression::of_media_type(&layer.media_type).is_none() {
                return Err(Error::LayerType {
                    what: self.what(),
                    digest: layer.digest,
                    media_type: layer.media_type.clone(),
                });
            }
        }
        Ok(())
    }

    async fn config(&self, image: &ImageManifest) -> Result<ImageConfig, Error> {
        let limit = self.images.options.limits.config_bytes;
        let named = (image.config.digest, image.layers.len());
        let read = || config(self.visit, named, limit, self.what());
        if let Some(config) = read().await? {
            return Ok(config);
        }
        self.drop_if_damaged(&named.0).await?;
        self.bring(&image.config).await?;
        read().await?.ok_or_else(|| self.missing(&named.0))
    }

    async fn layers(
        &self,
        image: &ImageManifest,
        config: &ImageConfig,
    ) -> Result<Vec<Layer>, Error> {
        let pairs: Vec<_> = image
            .layers
            .iter()
            .zip(config.diff_ids.iter().copied())
            .collect();
        // The same layer twice is one piece of work.
        let mut seen = BTreeSet::new();
        let distinct: Vec<_> = pairs
            .iter()
            .filter(|(layer, diff_id)| seen.insert((layer.digest, *diff_id)))
            .collect();
        for (layer, _) in &distinct {
            self.meter.bytes.expect(layer.size);
            self.meter.layers.expect(1);
        }
        self.meter.enter(Phase::Layers);
        let quota = Quota::new(&self.images.options.limits);
        let made = try_join_all(
            distinct
                .iter()
                .map(|(layer, diff_id)| self.layer(layer, *diff_id, &quota)),
        )
        .await?;
        let find = |diff_id: &Digest| made.iter().find(|layer| layer.diff_id == *diff_id).cloned();
        pairs
            .iter()
            .map(|(_, diff_id)| find(diff_id).ok_or_else(|| self.missing(diff_id)))
            .collect()
    }

    async fn layer(
        &self,
        layer: &Descriptor,
        diff_id: Digest,
        quota: &Arc<Quota>,
    ) -> Result<Layer, Error> {
        let there = self.visit.layer(&diff_id)?;
        // Only this store has an imported image, so it keeps the blob for a push.
        let imported = matches!(self.supply, Supply::Source(_));
        if there.is_none() || imported {
            self.bring(layer).await?;
        } else {
            self.meter.bytes.add(layer.size);
        }
        let conversion = Conversion {
            blob: layer.digest,
            diff_id: Some(diff_id),
            compression: Compression::of_media_type(&layer.media_type),
        };
        let made = match self.convert(conversion, quota).await {
            // Perhaps the blob was damaged since it was verified.
            Err(StoreError::Layer { .. } | StoreError::DiffId { .. })
                if self.drop_if_damaged(&layer.digest).await? =>
            {
                self.bring(layer).await?;
                self.convert(conversion, quota).await
            }
            outcome => outcome,
        };
        self.meter.layers.add(1);
        Ok(made?)
    }

    async fn convert(
        &self,
        conversion: Conversion,
        quota: &Arc<Quota>,
    ) -> Result<Layer, StoreError> {
        // The semaphores are never closed.
        let _permit = self.images.conversions.acquire().await;
        self.visit
            .make_layer(conversion, quota, &self.stopper.stop())
            .await
    }

    async fn drop_if_damaged(&self, digest: &Digest) -> Result<bool, StoreError> {
        let (visit, digest, stop) = (self.visit.clone(), *digest, self.stopper.stop());
        blocking(move || visit.drop_if_damaged(&digest, &stop)).await
    }

    /// Sees to it that a blob is in the store.
    async fn bring(&self, blob: &Descriptor) -> Result<(), Error> {
        let wanted = Wanted {
            digest: blob.digest,
            size: blob.size,
        };
        let stop = self.stopper.stop();
        match &self.supply {
            Supply::Registry(registry, reference) => {
                let _permit = self.images.downloads.acquire().await;
                let origin = FromRegistry {
                    registry,
                    reference,
                };
                let on_bytes = |count| self.meter.bytes.add(count);
                Ok(self
                    .visit
                    .receive(wanted, &origin, &stop, &on_bytes)
                    .await?)
            }
            Supply::Source(source) => {
                let _permit = self.images.downloads.acquire().await;
                let (visit, source) = (self.visit.clone(), Arc::clone(source));
                blocking(move || copy(&visit, &source, wanted, &stop)).await?;
                self.meter.bytes.add(wanted.size);
                Ok(())
            }
            Supply::Store => {
                if !self.visit.has_blob(&wanted.digest, Some(wanted.size))? {
                    return Err(self.missing(&wanted.digest));
                }
                self.meter.bytes.add(wanted.size);
                Ok(())
            }
        }
    }

    fn missing(&self, digest: &Digest) -> Error {
        let dir = self.visit.store().dir().to_owned();
        Error::Store(StoreError::Missing {
            what: "the blob",
            digest: *digest,
            dir,
        })
    }
}

fn copy(visit: &Visit, source: &Source, wanted: Wanted, stop: &Stop) -> Result<(), Error> {
    // One of another size would be copied again, one of other content is found out by its conversion.
    if visit.has_blob(&wanted.digest, Some(wanted.size))? {
        return Ok(());
    }
    let content = source.blob(&wanted.digest)?;
    let expected = Expected {
        digest: Some(wanted.digest),
        size: Some(wanted.size),
        limit: wanted.size,
    };
    visit.copy_blob(content, expected, source.path(), stop, &|_| ())?;
    Ok(())
}

/// Blobs of an image in a registry.
struct FromRegistry<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
}

impl Origin for FromRegistry<'_> {
    type Error = RegistryError;
    type Stream = BlobStream;

    async fn open(&self, wanted: &Wanted, from: u64) -> Result<BlobStream, RegistryError> {
        self.registry
            .blob(self.reference, &wanted.digest, wanted.size, from)
            .await
    }
}

/// Receives a blob of an image that came from there.
pub(super) async fn receive(
    visit: &Visit,
    registry: &Registry,
    reference: &Reference,
    wanted: Wanted,
    stop: &Stop,
) -> Result<(), Error> {
    Ok(visit
        .receive(
            wanted,
            &FromRegistry {
                registry,
                reference,
            },
            stop,
            &|_| (),
        )
        .await?)
}

/// Reads the configuration of this digest, for so many layers, of what is called so. None: the store does not have it,
/// or it is damaged. Off this thread: hostile ones are long.
pub(super) async fn config(
    visit: &Visit,
    (digest, layers): (Digest, usize),
    limit: u64,
    what: String,
) -> Result<Option<ImageConfig>, Error> {
    let visit = visit.clone();
    blocking(move || read_config(&visit, (digest, layers), limit, what)).await
}

/// Like [`config`], on this thread.
pub(super) fn read_config(
    visit: &Visit,
    (digest, layers): (Digest, usize),
    limit: u64,
    what: String,
) -> Result<Option<ImageConfig>, Error> {
    let bytes = visit.read_blob(&digest, limit)?;
    let parsed = bytes.map(|bytes| ImageConfig::parse(&bytes, layers));
    parsed.transpose().map_err(|source| Error::Config {
        reference: what,
        source,
    })
}

/// Reads a manifest which is that of one image.
pub(super) fn read_image(
    what: &str,
    bytes: &[u8],
    media_type: &str,
    limits: &Limits,
) -> Result<ImageManifest, Error> {
    match Manifest::read(what, &Bytes::copy_from_slice(bytes), media_type, limits)? {
        Manifest::Image(image) => Ok(image),
        Manifest::Index(_) => Err(Error::Nested {
            what: what.to_owned(),
            limit: 0,
        }),
    }
}

/// Runs what blocks elsewhere. A panic there goes on here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
