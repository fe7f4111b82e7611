// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From the store to a registry.

use std::collections::BTreeMap;

use super::install::receive;
use super::progress::{Meter, Phase, reporting};
use super::{Error, Images, Report};
use crate::Digest;
use crate::reference::Reference;
use crate::registry::{Content, Push, media};
use crate::store::{Provenance, Record, Stopper, StoreError, Visit, Wanted};

impl Images {
    /// Pushes an image of the store, and returns the digest of its manifest. Cancel-safe: a push that is dropped leaves
    /// no image in the registry.
    ///
    /// # Errors
    ///
    /// It is not there, or the registry does not take it.
    pub async fn push(
        &self,
        local: &Reference,
        to: &Reference,
        report: &Report<'_>,
    ) -> Result<Digest, Error> {
        let meter = Meter::default();
        reporting(&meter, report, self.push_metered(local, to, &meter)).await
    }

    async fn push_metered(
        &self,
        local: &Reference,
        to: &Reference,
        meter: &Meter,
    ) -> Result<Digest, Error> {
        let visit = self.store.visit().await?;
        let record = visit
            .record(&local.to_string())?
            .ok_or_else(|| Error::NotThere {
                reference: local.clone(),
            })?;
        let stopper = Stopper::default();
        let fetched = self.fetch_layers(&visit, local, &record, &stopper).await;
        stopper.ended().await;
        fetched?;
        let push = self.prepare(&visit, &record)?;
        let sizes: BTreeMap<_, _> = push
            .layers
            .iter()
            .map(|layer| (layer.digest, layer.size))
            .collect();
        meter
            .bytes
            .expect(sizes.values().sum::<u64>().saturating_add(push.config.size));
        meter.enter(Phase::Push);
        let done = |content: &Content, _there: bool| meter.bytes.add(content.size);
        Ok(self.registry.push(to, &push, &done).await?)
    }

    /// Blobs that went to save room, because their registry has them.
    async fn fetch_layers(
        &self,
        visit: &Visit,
        local: &Reference,
        record: &Record,
        stopper: &Stopper,
    ) -> Result<(), Error> {
        if record.provenance != Provenance::Pulled {
            return Ok(());
        }
        for layer in &record.layers {
            let wanted = Wanted {
                digest: layer.digest,
                size: layer.size,
            };
            if !visit.has_blob(&wanted.digest, Some(wanted.size))? {
                receive(visit, &self.registry, local, wanted, &stopper.stop()).await?;
            }
        }
        Ok(())
    }

    fn prepare(&self, visit: &Visit, record: &Record) -> Result<Push, Error> {
        let missing = |digest: &Digest| StoreError::Missing {
            what: "the blob",
            digest: *digest,
            dir: self.store.dir().to_owned(),
        };
        let content = |digest: &Digest| {
            let size = visit.blob_size(digest)?.ok_or_else(|| missing(digest))?;
            Ok::<_, Error>(Content {
                digest: *digest,
                size,
                path: visit.blob_path(digest),
            })
        };
        let manifest = visit
            .read_blob(&record.manifest, self.options.limits.manifest_bytes)?
            .ok_or_else(|| missing(&record.manifest))?;
        let layers = record.layers.iter().map(|layer| content(&layer.digest));
        Ok(Push {
            layers: layers.collect::<Result<_, _>>()?,
            config: content(&record.config)?,
            media_type: media_type(&manifest),
            manifest: manifest.into(),
        })
    }
}

/// What a manifest says that it is. OCI's need not say.
fn media_type(manifest: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        media_type: Option<String>,
    }
    let named = serde_json::from_slice::<Named>(manifest).ok();
    named
        .and_then(|named| named.media_type)
        .unwrap_or_else(|| media::OCI_MANIFEST.to_owned())
}
