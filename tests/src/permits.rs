// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How many machines boot and work at once, so that tests on a small host do not starve each other.
//!
//! cargo runs test programs one after the other, so a count within the process is enough.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Machines that may be busy at once: CI has two cores, and a machine under software emulation
/// fills one.
const MACHINES: usize = 2;

static PERMITS: Semaphore = Semaphore::const_new(MACHINES);

/// Waits until `count` machines may run; they may for as long as the answer lives.
///
/// # Panics
/// Never: the semaphore is not closed.
pub async fn machines(count: usize) -> SemaphorePermit<'static> {
    let count = u32::try_from(count).expect("a small number");
    PERMITS
        .acquire_many(count)
        .await
        .expect("the semaphore is never closed")
}
