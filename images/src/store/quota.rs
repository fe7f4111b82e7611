// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the layers of one image may come to, all together, however many are converted at once.
//!
//! A layer counts from its first byte on, before it is written, and until it has its name: so what is on the disk never
//! exceeds the ceilings. One that fails gives back what it took: another attempt at it needs that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::StoreError;
use super::layers::Layer;
use crate::Limits;
use crate::layer::{Budget, Tally};

/// The ceilings of one image, and what its layers took so far.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Quota {
    /// All is left yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            limits: limits.clone(),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
        })
    }

    /// What one layer may come to if no other one takes anything.
    pub(super) fn budget(&self) -> Budget {
        Budget::from(&self.limits)
    }

    /// Takes for a layer that was there before.
    ///
    /// # Errors
    ///
    /// That is more than was left.
    pub(super) fn charge(&self, layer: &Layer) -> Result<(), StoreError> {
        self.take_bytes(layer.bytes)?;
        self.take_entries(layer.entries)
    }

    fn take_bytes(&self, bytes: u64) -> Result<(), StoreError> {
        let limit = self.limits.unpacked_bytes;
        match take(&self.bytes, bytes, limit) {
            true => Ok(()),
            false => Err(StoreError::BombOfBytes { limit }),
        }
    }

    fn take_entries(&self, entries: u64) -> Result<(), StoreError> {
        let limit = self.limits.entries;
        match take(&self.entries, entries, limit) {
            true => Ok(()),
            false => Err(StoreError::BombOfEntries { limit }),
        }
    }
}

/// Takes in any case. Says whether that is within the limit.
fn take(taken: &AtomicU64, more: u64, limit: u64) -> bool {
    let before = taken.fetch_add(more, Ordering::Relaxed);
    before.saturating_add(more) <= limit
}

/// What a layer under way took. Given back when it is dropped, unless the layer is kept.
pub(super) struct Share<'a> {
    quota: &'a Quota,
    bytes: AtomicU64,
    entries: AtomicU64,
    /// Why it got no more. What others took then, they may have given back since.
    refused: OnceLock<StoreError>,
}

impl<'a> Share<'a> {
    pub(super) fn of(quota: &'a Quota) -> Self {
        Self {
            quota,
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            refused: OnceLock::new(),
        }
    }

    /// Why it got no more, if it did not.
    pub(super) fn refused(&mut self) -> Option<StoreError> {
        self.refused.take()
    }

    fn note(&self, taken: Result<(), StoreError>) -> bool {
        match taken {
            Ok(()) => true,
            Err(error) => {
                // Only the first one is of interest.
                let _ = self.refused.set(error);
                false
            }
        }
    }

    /// The layer has its name.
    pub(super) fn keep(mut self) {
        *self.bytes.get_mut() = 0;
        *self.entries.get_mut() = 0;
    }
}

impl Tally for Share<'_> {
    fn member(&self) -> bool {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.note(self.quota.take_entries(1))
    }

    fn reach(&self, bytes: u64) -> bool {
        let before = self.bytes.fetch_max(bytes, Ordering::Relaxed);
        self.note(self.quota.take_bytes(bytes.saturating_sub(before)))
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let give_back = |to: &AtomicU64, from: &mut AtomicU64| {
            to.fetch_sub(*from.get_mut(), Ordering::Relaxed);
        };
        give_back(&self.quota.bytes, &mut self.bytes);
        give_back(&self.quota.entries, &mut self.entries);
    }
}
