// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How far it is: counted by whoever does the work, told at a bounded rate by whoever waits for it.

use std::future::Future;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Finding out what the reference names, or what a file has.
    Resolve,
    /// Receiving or copying blobs. Counted in bytes.
    Download,
    /// Converting layers, the last of which are received. Counted in layers.
    Convert,
    /// Building the root. Not counted.
    Root,
    /// Sending blobs. Counted in bytes.
    Push,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How much of it is done.
    pub done: u64,
    /// How much there is; 0 if that is not counted.
    pub total: u64,
}

/// Who is told. Called at most ten times in a second, never twice with the same, from the task that waits.
pub type Report<'a> = dyn Fn(Progress) + Send + Sync + 'a;

/// Two reports are at least so far apart.
const INTERVAL: Duration = Duration::from_millis(100);

/// Counts. Shared with whoever works.
#[derive(Debug, Default)]
pub(super) struct Meter {
    phase: AtomicU8,
    pub(super) bytes: Count,
    pub(super) layers: Count,
}

#[derive(Debug, Default)]
pub(super) struct Count {
    done: AtomicU64,
    total: AtomicU64,
}

/// Which stage it is, as far as that does not follow from the counts.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Phase {
    Layers = 1,
    Root = 2,
    Push = 3,
}

impl Count {
    pub(super) fn add(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn expect(&self, total: u64) {
        self.total.fetch_add(total, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        let total = self.total.load(Ordering::Relaxed);
        // What is received twice, because a part was damaged, counts once.
        (self.done.load(Ordering::Relaxed).min(total), total)
    }
}

impl Meter {
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn read(&self) -> Progress {
        let (bytes, all_bytes) = self.bytes.read();
        let (layers, all_layers) = self.layers.read();
        let phase = self.phase.load(Ordering::Relaxed);
        let (stage, done, total) = if phase == Phase::Push as u8 {
            (Stage::Push, bytes, all_bytes)
        } else if phase == Phase::Root as u8 {
            (Stage::Root, 0, 0)
        } else if phase != Phase::Layers as u8 {
            (Stage::Resolve, 0, 0)
        } else if bytes < all_bytes {
            (Stage::Download, bytes, all_bytes)
        } else {
            (Stage::Convert, layers, all_layers)
        };
        Progress { stage, done, total }
    }
}

/// Tells how far `work` is while it goes on. Cancel-safe if the work is.
pub(super) async fn reporting<T>(
    meter: &Meter,
    report: &Report<'_>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut told = None;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once: what takes less than an interval is not told of.
    ticks.tick().await;
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            _ = ticks.tick() => {
                let progress = meter.read();
                if told.replace(progress) != Some(progress) {
                    report(progress);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_takes_long_is_told_of() {
        let (meter, told) = (Meter::default(), tokio::sync::Notify::new());
        meter.bytes.expect(10);
        meter.bytes.add(3);
        meter.enter(Phase::Layers);
        let expected = Progress {
            stage: Stage::Download,
            done: 3,
            total: 10,
        };
        let report = |progress| {
            assert_eq!(progress, expected);
            told.notify_one();
        };
        // It ends once somebody is told of it.
        reporting(&meter, &report, told.notified()).await;
    }
}
