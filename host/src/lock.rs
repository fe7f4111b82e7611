// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Locks that outlive a panic.
//!
//! Nothing in this crate panics halfway through a change of what it has locked: it changes it in one step, or
//! so that each step leaves it whole. A panic elsewhere is no reason to refuse everybody from then on.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also if somebody panicked while they had it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
