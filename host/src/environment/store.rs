// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! All environments of this server, behind one short-held lock.
//!
//! Invariants: every change of status goes through [`Status::after`]; an environment that counts
//! against the capacity is in the map; readers get copies. No lock is held across an await.
//!
//! `L` is what an environment holds while it runs (its live link); the store never looks inside.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::{Environment, EnvironmentId, Made, Status, state::Event};
use crate::lock::lock;

/// Why the store refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The server goes down.
    #[error("the store is closed")]
    Closed,
    /// As many environments exist as are allowed.
    #[error("{capacity} of {capacity} environments exist already")]
    Full {
        /// How many are allowed.
        capacity: usize,
    },
    /// No environment has this id.
    #[error("no environment {0} exists")]
    Unknown(EnvironmentId),
    /// It exists, but takes no work.
    #[error("environment {} is {:?}, not running", .0.id, .0.status)]
    NotRunning(Box<Environment>),
}

#[derive(Debug)]
struct Slot<L> {
    environment: Environment,
    live: Option<Arc<L>>,
    last_used: Instant,
    /// Operations under way: a busy environment is never idle.
    busy: usize,
}

impl<L> Slot<L> {
    fn apply(&mut self, event: Event) -> Result<(), StoreError> {
        match self.environment.status.after(event) {
            Ok(status) => {
                self.environment.status = status;
                Ok(())
            }
            Err(_) => Err(StoreError::NotRunning(Box::new(self.environment.clone()))),
        }
    }
}

/// The environments of one server.
#[derive(Debug)]
pub struct Store<L> {
    capacity: usize,
    state: Mutex<State<L>>,
}

#[derive(Debug)]
struct State<L> {
    slots: HashMap<EnvironmentId, Slot<L>>,
    /// Set once, when the server goes down: nothing is created or becomes running any more.
    closed: bool,
}

impl<L> State<L> {
    fn slot(&mut self, id: &EnvironmentId) -> Result<&mut Slot<L>, StoreError> {
        self.slots
            .get_mut(id)
            .ok_or_else(|| StoreError::Unknown(id.clone()))
    }
}

impl<L> Store<L> {
    /// An empty store for at most `capacity` environments.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let state = State {
            slots: HashMap::new(),
            closed: false,
        };
        Self {
            capacity,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<L>> {
        // Nothing panics while it holds the lock; if it did, each slot is still whole.
        lock(&self.state)
    }

    /// From now on nothing is created and nothing becomes running.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// Takes a place for `environment`, which starts as `Creating`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] at capacity, [`StoreError::Closed`].
    pub fn insert(&self, environment: Environment) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.closed {
            return Err(StoreError::Closed);
        }
        if state.slots.len() >= self.capacity {
            return Err(StoreError::Full {
                capacity: self.capacity,
            });
        }
        let id = environment.id.clone();
        let slot = Slot {
            environment,
            live: None,
            last_used: Instant::now(),
            busy: 0,
        };
        state.slots.insert(id, slot);
        Ok(())
    }

    /// Marks `id` as running with its live link, made of this, and returns a copy.
    ///
    /// # Errors
    ///
    /// If it is gone or not `Creating`, or the store is closed; `live` is then dropped.
    pub fn booted(
        &self,
        id: &EnvironmentId,
        live: Arc<L>,
        made: Made,
    ) -> Result<Environment, StoreError> {
        let mut state = self.state();
        if state.closed {
            return Err(StoreError::Closed);
        }
        let slot = state.slot(id)?;
        slot.apply(Event::Booted)?;
        slot.live = Some(live);
        slot.environment.made = Some(made);
        slot.last_used = Instant::now();
        Ok(slot.environment.clone())
    }

    /// Marks `id` as failed for `reason` and hands out its live link for disposal. Does nothing
    /// when it is on its way out already.
    pub fn failed(&self, id: &EnvironmentId, reason: String) -> Option<Arc<L>> {
        let mut state = self.state();
        let slot = state.slots.get_mut(id)?;
        slot.apply(Event::Failed).ok()?;
        slot.environment.failure = Some(reason);
        slot.live.clone()
    }

    /// Marks `id` as being destroyed and hands out its live link, for the caller to end. Of several
    /// callers one succeeds.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unknown`], or [`StoreError::NotRunning`] if it is being created, or somebody else
    /// destroys it.
    pub fn begin_destroy(&self, id: &EnvironmentId) -> Result<Option<Arc<L>>, StoreError> {
        let mut state = self.state();
        let slot = state.slot(id)?;
        slot.apply(Event::Destroy)?;
        Ok(slot.live.take())
    }

    /// As [`Self::begin_destroy`], for all environments that have been idle for longer than they may
    /// at `now`. One with an operation under way is not idle, nor is one that is being created.
    pub fn begin_destroy_idle(&self, now: Instant) -> Vec<(EnvironmentId, Option<Arc<L>>)> {
        let overdue = |slot: &&mut Slot<L>| {
            slot.busy == 0
                && now.saturating_duration_since(slot.last_used) > slot.environment.idle_timeout
        };
        let mut state = self.state();
        let idle = state.slots.values_mut().filter(overdue);
        let taken = idle.filter_map(|slot| {
            slot.apply(Event::Destroy).ok()?;
            Some((slot.environment.id.clone(), slot.live.take()))
        });
        taken.collect()
    }

    /// Frees the place of `id`, of which nothing is left: its destruction ended, or it never booted.
    pub fn remove(&self, id: &EnvironmentId) {
        self.state().slots.remove(id);
    }

    /// The live link of `id`, for one operation. The environment counts as busy until the
    /// [`Lease`] is dropped, and as used at both moments.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unknown`] or [`StoreError::NotRunning`].
    pub fn lease(self: &Arc<Self>, id: &EnvironmentId) -> Result<Lease<L>, StoreError> {
        let mut state = self.state();
        let slot = state.slot(id)?;
        let (Status::Running, Some(live)) = (slot.environment.status, &slot.live) else {
            return Err(StoreError::NotRunning(Box::new(slot.environment.clone())));
        };
        slot.busy += 1;
        slot.last_used = Instant::now();
        Ok(Lease {
            environment: slot.environment.clone(),
            live: Arc::clone(live),
            store: Arc::clone(self),
        })
    }

    /// Copies of all, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Environment> {
        let state = self.state();
        let mut all: Vec<_> = state
            .slots
            .values()
            .map(|slot| slot.environment.clone())
            .collect();
        all.sort_by(|a, b| (a.created_at, a.id.as_str()).cmp(&(b.created_at, b.id.as_str())));
        all
    }

    /// A copy of `id`, if it exists.
    #[must_use]
    pub fn get(&self, id: &EnvironmentId) -> Option<Environment> {
        self.state()
            .slots
            .get(id)
            .map(|slot| slot.environment.clone())
    }

    fn release(&self, id: &EnvironmentId) {
        if let Some(slot) = self.state().slots.get_mut(id) {
            slot.busy = slot.busy.saturating_sub(1);
            slot.last_used = Instant::now();
        }
    }
}

/// The right to work in an environment, for one operation.
#[derive(Debug)]
pub struct Lease<L> {
    /// A copy of what is known of it.
    pub environment: Environment,
    /// Its live link.
    pub live: Arc<L>,
    store: Arc<Store<L>>,
}

impl<L> Drop for Lease<L> {
    fn drop(&mut self) {
        self.store.release(&self.environment.id);
    }
}

/// Minutes as a duration.
#[must_use]
pub fn minutes(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Runtime;

    fn environment() -> Environment {
        let id = EnvironmentId::random();
        Environment {
            name: id.to_string(),
            id,
            runtime: Runtime::Shell,
            status: Status::Creating,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            idle_timeout: minutes(1),
            failure: None,
            network: "none".to_owned(),
            image: "localhost/test".parse().expect("a reference"),
            made: None,
        }
    }

    fn made() -> Made {
        Made {
            digest: waggle_images::Digest::of(b"manifest"),
            image_user: None,
            working_directory: None,
            notes: Vec::new(),
        }
    }

    fn running(store: &Store<&'static str>) -> EnvironmentId {
        let environment = environment();
        store.insert(environment.clone()).expect("room");
        store
            .booted(&environment.id, Arc::new("live"), made())
            .expect("creating");
        environment.id
    }

    #[test]
    fn the_capacity_counts_all_that_exist() {
        let store = Store::<()>::new(1);
        let first = environment();
        store.insert(first.clone()).expect("room");
        assert_eq!(
            store.insert(environment()),
            Err(StoreError::Full { capacity: 1 })
        );
        store.remove(&first.id);
        store.insert(environment()).expect("room again");
    }

    #[test]
    fn copies_do_not_change_the_original() {
        let store = Store::new(1);
        let id = running(&store);
        let mut copy = store.list().remove(0);
        copy.status = Status::Destroyed;
        assert_eq!(
            store.get(&id).map(|copy| copy.status),
            Some(Status::Running)
        );
    }

    #[test]
    fn only_an_unused_environment_becomes_idle() {
        let store = Arc::new(Store::new(2));
        let id = running(&store);
        store
            .insert(environment())
            .expect("room for one that is being created");
        let later = Instant::now() + minutes(2);
        let lease = store.lease(&id).expect("running");
        assert!(
            store.begin_destroy_idle(later).is_empty(),
            "an operation is under way"
        );
        drop(lease);
        assert!(
            store.begin_destroy_idle(Instant::now()).is_empty(),
            "used just now"
        );
        assert_eq!(
            store.begin_destroy_idle(later),
            [(id.clone(), Some(Arc::new("live")))]
        );
        assert!(store.lease(&id).is_err(), "it is on its way out");
    }

    #[test]
    fn nothing_becomes_running_in_a_closed_store() {
        let store = Store::new(2);
        let late = environment();
        store.insert(late.clone()).expect("room");
        store.close();
        assert_eq!(
            store.booted(&late.id, Arc::new("live"), made()),
            Err(StoreError::Closed)
        );
        assert_eq!(store.insert(environment()), Err(StoreError::Closed));
    }

    #[test]
    fn one_of_two_destroyers_wins() {
        let store = Arc::new(Store::new(1));
        let id = running(&store);
        assert!(store.begin_destroy(&id).expect("the first").is_some());
        assert!(matches!(
            store.begin_destroy(&id),
            Err(StoreError::NotRunning(_))
        ));
        assert!(matches!(store.lease(&id), Err(StoreError::NotRunning(_))));
        store.remove(&id);
        assert!(matches!(store.lease(&id), Err(StoreError::Unknown(_))));
    }

    #[test]
    fn a_dead_machine_leaves_its_environment_for_the_user_to_see() {
        let store = Arc::new(Store::new(1));
        let id = running(&store);
        assert!(store.failed(&id, "reason".into()).is_some());
        assert_eq!(
            store.get(&id).and_then(|copy| copy.failure).as_deref(),
            Some("reason")
        );
        assert!(matches!(store.lease(&id), Err(StoreError::NotRunning(_))));
        assert!(
            store.failed(&id, "reason".into()).is_none(),
            "failing twice does nothing"
        );
    }
}
