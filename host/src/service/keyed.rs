// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Runs that carry an idempotency key: a repeated call joins the first one's run, or gets its
//! result, and never starts another.
//!
//! Owns: which keys an environment has seen. Does not own: how a program runs.
//!
//! Invariants: a key stays taken as long as its environment lives, unless the run turned out not to
//! have begun. Only the newest [`RESULTS_MAX`] results are kept; a key whose result is gone is refused, not
//! run again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Call, Execution, ServiceError};
use crate::lock::lock;

/// Most keys of one environment.
pub(super) const KEYS_MAX: usize = 4096;
/// Most results kept for one environment. Each has up to twice the largest output of a call.
const RESULTS_MAX: usize = 64;

/// How a run ended, shared by all who asked for it.
pub(super) type Outcome = Result<Execution, Arc<ServiceError>>;

/// SHA-256 of a request.
pub(super) type Fingerprint = [u8; 32];

/// The keys of one environment.
#[derive(Debug, Default)]
pub(super) struct KeyedRuns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// Counts entries, so that the oldest result can be found.
    count: u64,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    number: u64,
    /// `None` once the result is dropped.
    run: Option<Joined>,
}

/// A run that callers wait for.
#[derive(Debug, Clone)]
pub(super) struct Joined {
    outcome: watch::Receiver<Option<Outcome>>,
    /// The call that started it.
    pub(super) call: Arc<Call>,
    /// Ends the run.
    pub(super) cancel: CancellationToken,
}

/// What a key is, to one caller.
#[derive(Debug)]
pub(super) enum Claim {
    /// New: the caller starts the run, and tells its outcome.
    First(Promise, Joined),
    /// Taken: its run is under way or over.
    Joined(Joined),
}

/// Why a key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another request had the same key.
    #[error(
        "idempotency_key {0:?} was used for a different program or different arguments; repeat that call as it was, or give another key"
    )]
    Differs(String),
    /// The result is not kept any more.
    #[error(
        "the program with idempotency_key {0:?} was run, but its result is no longer kept; look at what it did (list_files, read_file), and give another key to run it again"
    )]
    Forgotten(String),
    /// Too many keys.
    #[error(
        "this environment has seen {KEYS_MAX} idempotency keys, which is the limit; leave idempotency_key out, or create a new environment"
    )]
    TooMany,
}

/// The duty to tell an outcome. Dropped without one, the run counts as lost.
#[derive(Debug)]
pub(super) struct Promise {
    outcome: watch::Sender<Option<Outcome>>,
}

impl KeyedRuns {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Claims `key` for a request, or joins the run that has it.
    ///
    /// # Errors
    ///
    /// [`KeyError`].
    pub(super) fn claim(
        &self,
        key: &str,
        fingerprint: Fingerprint,
        call: &Arc<Call>,
    ) -> Result<Claim, KeyError> {
        let mut state = self.state();
        if let Some(entry) = state.entries.get(key) {
            if entry.fingerprint != fingerprint {
                return Err(KeyError::Differs(key.to_owned()));
            }
            let run = entry.run.clone();
            return run
                .map(Claim::Joined)
                .ok_or_else(|| KeyError::Forgotten(key.to_owned()));
        }
        if state.entries.len() >= KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        let (sender, receiver) = watch::channel(None);
        let joined = Joined {
            outcome: receiver,
            call: Arc::clone(call),
            cancel: CancellationToken::new(),
        };
        state.count += 1;
        let entry = Entry {
            fingerprint,
            number: state.count,
            run: Some(joined.clone()),
        };
        state.entries.insert(key.to_owned(), entry);
        state.drop_oldest_results();
        Ok(Claim::First(Promise { outcome: sender }, joined))
    }

    /// Gives `key` free: its run never began.
    pub(super) fn release(&self, key: &str) {
        self.state().entries.remove(key);
    }
}

impl State {
    fn drop_oldest_results(&mut self) {
        let done = |entry: &&mut Entry| {
            let run = entry.run.as_ref();
            run.is_some_and(|run| run.outcome.borrow().is_some())
        };
        let mut done: Vec<_> = self.entries.values_mut().filter(done).collect();
        if let Some(surplus) = done.len().checked_sub(RESULTS_MAX).filter(|n| *n > 0) {
            done.sort_by_key(|entry| entry.number);
            for entry in done.into_iter().take(surplus) {
                entry.run = None;
            }
        }
    }
}

impl Promise {
    /// Tells all who wait.
    pub(super) fn keep(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Joined {
    /// Waits for the run's end. `None` if its task was lost. Cancel-safe.
    pub(super) async fn outcome(&mut self) -> Option<Outcome> {
        let told = self.outcome.wait_for(Option::is_some).await.ok()?;
        told.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Err(Arc::new(ServiceError::ShuttingDown))
    }

    fn first(runs: &KeyedRuns, key: &str) -> Promise {
        match runs.claim(key, [1; 32], &Arc::default()) {
            Ok(Claim::First(promise, _)) => promise,
            other => panic!("{key}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_repeated_key_joins_and_another_request_is_refused() {
        let runs = KeyedRuns::default();
        let promise = first(&runs, "a");
        let Ok(Claim::Joined(mut joined)) = runs.claim("a", [1; 32], &Arc::default()) else {
            panic!("not joined");
        };
        assert!(matches!(
            runs.claim("a", [2; 32], &Arc::default()),
            Err(KeyError::Differs(_))
        ));
        promise.keep(failed());
        assert!(matches!(joined.outcome().await, Some(Err(_))));
        let Ok(Claim::Joined(mut late)) = runs.claim("a", [1; 32], &Arc::default()) else {
            panic!("not joined");
        };
        assert!(late.outcome().await.is_some());
        runs.release("a");
        drop(first(&runs, "a"));
    }

    #[tokio::test]
    async fn old_results_go_but_their_keys_stay_taken() {
        let runs = KeyedRuns::default();
        let under_way = first(&runs, "slow");
        for number in 0..RESULTS_MAX + 2 {
            first(&runs, &number.to_string()).keep(failed());
        }
        assert!(matches!(
            runs.claim("0", [1; 32], &Arc::default()),
            Err(KeyError::Forgotten(_))
        ));
        assert!(matches!(
            runs.claim("9", [1; 32], &Arc::default()),
            Ok(Claim::Joined(_))
        ));
        assert!(matches!(
            runs.claim("slow", [1; 32], &Arc::default()),
            Ok(Claim::Joined(_))
        ));
        drop(under_way);
        for number in RESULTS_MAX + 2..KEYS_MAX - 1 {
            first(&runs, &number.to_string()).keep(failed());
        }
        assert_eq!(
            runs.claim("new", [1; 32], &Arc::default()).err(),
            Some(KeyError::TooMany)
        );
    }
}
