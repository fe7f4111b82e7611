// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Many callers, one piece of work: who asks for what is already under way waits for that.
//!
//! The work is a task of its own, so that a caller who goes away does not end it for the others.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};

use crate::lock::lock;

type Waiting<T> = Shared<BoxFuture<'static, Option<T>>>;

/// The work that is under way, by what it is about.
#[derive(Debug)]
pub(super) struct Flights<K, T: Clone>(Arc<Mutex<HashMap<K, Waiting<T>>>>);

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Takes the work off the list, also if it panicked.
struct Landing<K: Eq + Hash, T: Clone> {
    key: K,
    flights: Arc<Mutex<HashMap<K, Waiting<T>>>>,
}

impl<K: Eq + Hash, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights);
        flights.remove(&self.key);
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Waits for the work on `key`, which is `work` if none is under way. None if the work broke.
    ///
    /// Cancel-safe; the work goes on.
    pub(super) async fn join<F>(&self, key: &K, work: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let waiting = {
            let mut flights = lock(&self.0);
            if let Some(waiting) = flights.get(key) {
                waiting.clone()
            } else {
                let landing = Landing {
                    key: key.clone(),
                    flights: Arc::clone(&self.0),
                };
                let work = work();
                let task = tokio::spawn(async move {
                    let _landing = landing;
                    work.await
                });
                let waiting = task.map(Result::ok).boxed().shared();
                flights.insert(key.clone(), waiting.clone());
                waiting
            }
        };
        waiting.await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_share_the_work_and_none_ends_it() {
        let flights = Arc::new(Flights::<u32, u32>::default());
        let runs = Arc::new(AtomicU32::new(0));
        let call = || {
            let (flights, runs) = (Arc::clone(&flights), Arc::clone(&runs));
            async move {
                let work = || async move {
                    sleep(Duration::from_secs(5)).await;
                    runs.fetch_add(1, Ordering::SeqCst) + 1
                };
                flights.join(&7, work).await
            }
        };
        let impatient = timeout(Duration::from_secs(1), call()).await;
        assert!(impatient.is_err(), "went away");
        let (one, two) = tokio::join!(call(), call());
        assert_eq!((one, two), (Some(1), Some(1)));
        assert_eq!(call().await, Some(2), "what has ended is begun anew");
        assert!(flights.0.lock().expect("whole").is_empty());
    }

    #[tokio::test]
    async fn broken_work_is_told_and_forgotten() {
        let flights = Flights::<u32, u32>::default();
        let work = || async { std::panic::resume_unwind(Box::new(())) };
        assert_eq!(flights.join(&1, work).await, None);
        assert_eq!(flights.join(&1, || async { 3 }).await, Some(3));
    }
}
