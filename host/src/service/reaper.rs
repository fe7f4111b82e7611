// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Destroys environments that nobody has used for longer than their timeout. One that is busy is
//! never idle, however long its operation takes. Likewise removes images that nobody has used for long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::Service;

/// How often old images are looked for: they are kept for days.
const EVICT_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Removes images beyond the owner's age and size, none that an environment uses.
pub(super) async fn evict_images(service: Arc<Service>) {
    let mut ticks = interval(EVICT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = service.closing.cancelled() => return,
        }
        tokio::select! {
            () = service.images.evict() => {}
            () = service.closing.cancelled() => return,
        }
    }
}

pub(super) async fn run(service: Arc<Service>) {
    let mut ticks = interval(service.settings.reaper_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = service.closing.cancelled() => return,
        }
        for (id, live) in service.store.begin_destroy_idle(Instant::now()) {
            tracing::info!(%id, "destroying an idle environment");
            service.end(id, live).await;
        }
    }
}
