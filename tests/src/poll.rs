// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Waiting for a condition, never for a fixed time.

use std::time::{Duration, Instant};

/// How long a condition may take before a test gives up. Machines may run under software emulation
/// on a busy host: this bounds a hang, it does not measure anything.
pub const PATIENCE: Duration = Duration::from_secs(90);

const INTERVAL: Duration = Duration::from_millis(50);

/// Asks `condition` until it gives a value.
///
/// # Panics
/// If there is none after [`PATIENCE`].
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "gave up after {PATIENCE:?} waiting until {what}"
        );
        tokio::time::sleep(INTERVAL).await;
    }
}
