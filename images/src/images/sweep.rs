// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What goes: by name, by age and size, or because it is damaged.

use std::time::{Duration, SystemTime};

use super::{Error, Images};
use crate::reference::Reference;
use crate::store::{Policy, Pruned, Record, Stop, StoreError, Verified, Visit};

/// What became of an image that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Bytes that are free now.
    pub bytes: u64,
    /// Somebody is pulling: what only this image needed goes with the next removal or pull.
    pub deferred: bool,
}

/// How long an eviction waits for those at work: no longer than a process that was just started keeps a lock.
const EVICT_PATIENCE: Duration = Duration::from_millis(20);

/// How long a removal waits for pulls to end, so that what is free is said at once.
const SWEEP_PATIENCE: Duration = Duration::from_millis(500);

/// How long a prune waits for them, since nothing but that was asked for.
const PRUNE_PATIENCE: Duration = Duration::from_secs(10);

impl Images {
    /// Removes an image. What only it needed goes as well, now or with the next sweep. Blocks.
    ///
    /// # Errors
    ///
    /// It is not there, or an environment uses it.
    pub fn remove(&self, reference: &Reference) -> Result<Removed, Error> {
        let name = reference.to_string();
        let visit = self.store.visit_blocking()?;
        let records = self.store.records()?;
        let Some((record, _)) = records.iter().find(|(record, _)| record.reference == name) else {
            return Err(Error::NotThere {
                reference: reference.clone(),
            });
        };
        // Another name of the same root keeps it.
        let shared = records
            .iter()
            .any(|(other, _)| other.root == record.root && other.reference != record.reference);
        if shared {
            visit.forget(&name)?;
        } else if visit.is_held(&record.root)? || !forget_unheld(&visit, record)? {
            return Err(Error::InUse {
                reference: reference.clone(),
            });
        }
        drop(visit);
        match self.swept(&Policy::default(), SWEEP_PATIENCE) {
            Ok(pruned) => Ok(Removed {
                bytes: pruned.bytes,
                deferred: false,
            }),
            Err(StoreError::Busy { .. }) => Ok(Removed {
                bytes: 0,
                deferred: true,
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes images that are older than the age or do not fit the size, with `all` every image that no environment
    /// uses, and all that nothing needs. Blocks.
    ///
    /// # Errors
    ///
    /// Pulls are under way, or something cannot be removed.
    pub fn prune(&self, all: bool) -> Result<Pruned, Error> {
        let policy = Policy {
            all,
            partials: true,
            ..self.policy()
        };
        Ok(self.swept(&policy, PRUNE_PATIENCE)?)
    }

    /// Like [`Self::prune`] without `all`, if nobody is at work in the store; to be called now and then. What fails is
    /// logged: nobody waits for it.
    pub async fn evict(&self) {
        let images = self.clone();
        let work = move || images.swept(&images.policy(), EVICT_PATIENCE);
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(pruned)) if !pruned.images.is_empty() => {
                tracing::info!(images = ?pruned.images, bytes = pruned.bytes, "images were evicted");
            }
            Ok(Ok(_) | Err(StoreError::Busy { .. })) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the image cache cannot be swept"),
            Err(error) => tracing::warn!(%error, "the image cache cannot be swept"),
        }
    }

    /// Reads everything and says what is damaged; with `mend` it is taken away, and made again at the next use. Blocks,
    /// for about as long as making it took.
    ///
    /// # Errors
    ///
    /// Something cannot be read.
    pub fn verify(&self, mend: bool) -> Result<Verified, Error> {
        let visit = self.store.visit_blocking()?;
        let records: Vec<_> = self
            .store
            .records()?
            .into_iter()
            .map(|(record, _)| record)
            .collect();
        let stop = Stop::default();
        Ok(visit.verify(&records, &self.options.limits, mend, &stop)?)
    }

    fn policy(&self) -> Policy {
        Policy {
            max_age: self.options.max_age,
            max_bytes: self.options.max_bytes,
            ..Policy::default()
        }
    }

    fn swept(&self, policy: &Policy, patience: Duration) -> Result<Pruned, StoreError> {
        self.store.sweep(patience)?.prune(policy, SystemTime::now())
    }
}

/// Forgets an image that nobody holds. False: somebody took it in this moment, so its name is there again.
pub(super) fn forget_unheld(visit: &Visit, record: &Record) -> Result<bool, StoreError> {
    if !visit.forget(&record.reference)? || !visit.is_held(&record.root)? {
        return Ok(true);
    }
    // Unless a pull has given the name to what it brought.
    if visit.record(&record.reference)?.is_none() {
        visit.remember(record)?;
    }
    Ok(false)
}
