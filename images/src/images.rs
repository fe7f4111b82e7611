// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The images of this host: from a reference to a root that boots, and everything about what is there.
//!
//! It joins the parts and decides in which order they act: it knows policies ([`Pull`], age and size) and parallel work,
//! while registries, files, layers, roots and the store know nothing of each other.
//!
//! ```text
//! ensure ──known and whole?──yes──────────────────────────────┐
//!    └─no─> manifest ─> configuration ─┬ blob ─> layer ┐      ├─> hold ─> Image
//! import ─────┘                        ├ blob ─> layer ┼> root┘
//!                                      └ ...           ┘
//! ```
//!
//! A future that returns, with an error as well, leaves no work behind. Each may be dropped at any time: work on other
//! threads then ends soon after. What is whole stays, and parts of downloads are there for the next attempt.

mod error;
mod import;
mod install;
mod list;
mod look;
mod progress;
mod push;
mod sweep;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use list::{Inspection, LayerSummary, PROTOCOL_LABEL, Summary};
pub use progress::{Progress, Report, Stage};
pub use sweep::Removed;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use crate::config::ImageConfig;
use crate::reference::Reference;
use crate::registry::{Platform, Registry, RegistryError, RegistryOptions};
use crate::store::{Hold, Provenance, Record, Root, Stopper, Store, StoreError, Visit};
use crate::{Digest, Limits};
use install::{Install, Supply};
use progress::Meter;

/// What [`Images`] are opened with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store's folder (`WAGGLE_IMAGE_CACHE_DIR`).
    pub dir: PathBuf,
    /// What an image may be and cost.
    pub limits: Limits,
    /// How registries are asked.
    pub registry: RegistryOptions,
    /// Pulled images go that were not used for so long (`WAGGLE_IMAGE_CACHE_MAX_AGE`). None: never for that.
    pub max_age: Option<Duration>,
    /// Pulled images go while the store is larger than so many bytes. None: never for that.
    pub max_bytes: Option<u64>,
    /// Blobs that are received at once.
    pub downloads: usize,
}

impl Options {
    /// The default age: a week.
    pub const MAX_AGE: Duration = Duration::from_secs(168 * 3600);

    /// The defaults, in this folder.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            limits: Limits::default(),
            registry: RegistryOptions::default(),
            max_age: Some(Self::MAX_AGE),
            max_bytes: None,
            downloads: 4,
        }
    }
}

/// When a registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// If the image is not there.
    Missing,
    /// Each time, whether the reference names another image by now. If the registry cannot be reached, what is there
    /// will do.
    Always,
    /// Not at all.
    Never,
}

/// The images of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    store: Store,
    registry: Registry,
    options: Arc<Options>,
    downloads: Arc<Semaphore>,
    conversions: Arc<Semaphore>,
}

/// An image that is there, for as long as this lives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it was asked for by.
    pub reference: Reference,
    /// Its manifest.
    pub manifest: Digest,
    /// What its root is named by: images of the same layers have the same one.
    pub key: Digest,
    /// Its disk's descriptor, an absolute path, for a disk that is only read.
    pub disk: PathBuf,
    /// What its programs expect.
    pub config: Arc<ImageConfig>,
    #[expect(dead_code, reason = "held for as long as the image is used")]
    hold: Hold,
}

impl Images {
    /// Opens the store, and makes it if it is not there. Asks no registry.
    ///
    /// # Errors
    ///
    /// The folder or the registry's certificates cannot be used.
    pub fn open(options: Options) -> Result<Self, Error> {
        let store = Store::open(&options.dir)?;
        let registry = Registry::new(options.registry.clone())?;
        let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Ok(Self {
            store,
            registry,
            downloads: Arc::new(Semaphore::new(options.downloads.max(1))),
            conversions: Arc::new(Semaphore::new(cpus)),
            options: Arc::new(options),
        })
    }

    /// Where everything is.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether an image of that name is known. It may be damaged: its next use mends it then, or says why not. Blocks.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn knows(&self, reference: &Reference) -> Result<bool, Error> {
        let visit = self.store.visit_blocking()?;
        Ok(known(&visit, reference)?.is_some())
    }

    /// Sees to it that an image is there, and holds it. Cancel-safe.
    ///
    /// # Errors
    ///
    /// It is not there and may not or cannot be pulled, or cannot be used.
    pub async fn ensure(
        &self,
        reference: &Reference,
        pull: Pull,
        report: &Report<'_>,
    ) -> Result<Image, Error> {
        let meter = Meter::default();
        let (image, pulled) =
            progress::reporting(&meter, report, self.ensure_metered(reference, pull, &meter))
                .await?;
        if pulled {
            self.evict().await;
        }
        Ok(image)
    }

    async fn ensure_metered(
        &self,
        reference: &Reference,
        pull: Pull,
        meter: &Meter,
    ) -> Result<(Image, bool), Error> {
        let stopper = Stopper::default();
        let outcome = self.find_or_pull(reference, pull, meter, &stopper).await;
        stopper.ended().await;
        outcome
    }

    async fn find_or_pull(
        &self,
        reference: &Reference,
        pull: Pull,
        meter: &Meter,
        stopper: &Stopper,
    ) -> Result<(Image, bool), Error> {
        let visit = self.store.visit().await?;
        let known = known(&visit, reference)?;
        // What a digest names never changes.
        let fixed = reference.is_local() || reference.digest().is_some();
        if let Some(record) = &known
            && (pull != Pull::Always || fixed)
        {
            if let Some(image) = self.whole(&visit, reference, record).await? {
                return Ok((image, false));
            }
            // Something of it is damaged or gone. Most often its blobs are there still.
            match self.remake(&visit, reference, record, meter, stopper).await {
                Ok(image) => return Ok((image, false)),
                Err(error) if record.provenance == Provenance::Imported || pull == Pull::Never => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%reference, %error, "an image was damaged and is pulled again");
                }
            }
        }
        if reference.is_local() || pull == Pull::Never {
            return Err(Error::NotThere {
                reference: reference.clone(),
            });
        }
        let resolved = match self.registry.resolve(reference, &Platform::host()).await {
            Ok(resolved) => resolved,
            Err(error) => {
                return match known {
                    Some(record) => self.kept(&visit, reference, &record, error).await,
                    None => Err(error.into()),
                };
            }
        };
        if let Some(record) = known.filter(|record| record.named == resolved.top.digest)
            && let Some(image) = self.whole(&visit, reference, &record).await?
        {
            visit.remember(&Record {
                resolved_at: now(),
                ..record
            })?;
            return Ok((image, false));
        }
        let supply = Supply::Registry(&self.registry, reference);
        let manifest = resolved.manifest().bytes.clone();
        let install = Install {
            images: self,
            visit: &visit,
            supply,
            meter,
            stopper,
            provenance: Provenance::Pulled,
        };
        let done = install
            .run(&resolved.top.bytes, &manifest, &resolved.image)
            .await?;
        let record = done.record(reference);
        let image = self
            .hold(&visit, reference, &record, done.root, done.config)
            .await?;
        visit.remember(&record)?;
        Ok((image, true))
    }

    /// What is there, when the registry cannot be asked whether it is the newest.
    async fn kept(
        &self,
        visit: &Visit,
        reference: &Reference,
        record: &Record,
        error: RegistryError,
    ) -> Result<(Image, bool), Error> {
        if !error.is_transient() {
            return Err(error.into());
        }
        let Some(image) = self.whole(visit, reference, record).await? else {
            return Err(error.into());
        };
        tracing::warn!(%reference, %error, "the registry cannot be asked: the image that is there is used");
        Ok((image, false))
    }

    /// An image that is there as its record says, held and marked as used.
    async fn whole(
        &self,
        visit: &Visit,
        reference: &Reference,
        record: &Record,
    ) -> Result<Option<Image>, Error> {
        let Some(root) = visit.root(&record.root)? else {
            return Ok(None);
        };
        let named = (record.config, record.layers.len());
        let limit = self.options.limits.config_bytes;
        let what = reference.to_string();
        let Some(config) = install::config(visit, named, limit, what).await? else {
            return Ok(None);
        };
        let image = self.hold(visit, reference, record, root, config).await?;
        visit.touch(&record.reference)?;
        Ok(Some(image))
    }

    /// Makes an image's root again of the blobs that are there.
    async fn remake(
        &self,
        visit: &Visit,
        reference: &Reference,
        record: &Record,
        meter: &Meter,
        stopper: &Stopper,
    ) -> Result<Image, Error> {
        let limit = self.options.limits.manifest_bytes;
        let named = visit.read_blob(&record.named, limit)?;
        let manifest = visit.read_blob(&record.manifest, limit)?;
        let (Some(named), Some(manifest)) = (named, manifest) else {
            return Err(Error::Store(StoreError::Missing {
                what: "the manifest",
                digest: record.manifest,
                dir: self.store.dir().to_owned(),
            }));
        };
        let image =
            install::read_image(&reference.to_string(), &manifest, "", &self.options.limits)?;
        let install = Install {
            images: self,
            visit,
            supply: Supply::Store,
            meter,
            stopper,
            provenance: record.provenance,
        };
        let done = install.run(&named, &manifest, &image).await?;
        let image = self
            .hold(visit, reference, record, done.root, done.config)
            .await?;
        visit.touch(&record.reference)?;
        Ok(image)
    }

    async fn hold(
        &self,
        visit: &Visit,
        reference: &Reference,
        record: &Record,
        root: Root,
        config: ImageConfig,
    ) -> Result<Image, Error> {
        let hold = visit.hold(&root.key).await?;
        Ok(Image {
            reference: reference.clone(),
            manifest: record.manifest,
            key: root.key,
            disk: root.disk,
            config: Arc::new(config),
            hold,
        })
    }
}

/// What is known of a reference. A record of other content than the reference's digest says, as older releases took it
/// from files, is none.
fn known(visit: &Visit, reference: &Reference) -> Result<Option<Record>, StoreError> {
    let Some(record) = visit.record(&reference.to_string())? else {
        return Ok(None);
    };
    let right = reference
        .digest()
        .is_none_or(|digest| record.has_digest(&digest));
    if !right {
        let manifest = record.manifest;
        tracing::warn!(%reference, %manifest, "a name's digest is not its image's, so the name counts as not there");
    }
    Ok(right.then_some(record))
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

// Everything that an environment is made from crosses tasks.
const _: () = {
    const fn crosses<T: Send + Sync>() {}
    crosses::<Images>();
    crosses::<Image>();
};
