// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Looking into an image without running it.

use super::{Error, Image, Images};
use crate::root::{Tree, tree};
use crate::store::{Stop, StoreError};

impl Images {
    /// The merged files of an image, in memory. Blocks.
    ///
    /// # Errors
    ///
    /// A layer of it is damaged, or it has more than the ceilings allow.
    pub fn tree(&self, image: &Image, stop: &Stop) -> Result<Tree, Error> {
        let visit = self.store.visit_blocking()?;
        let mut layers = Vec::new();
        for diff_id in &image.config.diff_ids {
            let layer = visit.layer(diff_id)?;
            let layer = layer.ok_or_else(|| StoreError::Missing {
                what: "the layer",
                digest: *diff_id,
                dir: self.store.dir().to_owned(),
            })?;
            layers.push(layer.files());
        }
        let tree = tree(&layers, &self.options.limits, &|| stop.asked());
        Ok(tree.map_err(StoreError::Root)?)
    }
}
