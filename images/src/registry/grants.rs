// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a registry has granted, by repository and by what may be done with it: as long as it is good, and no more than so
//! much, since callers choose the names. It takes no clock.

use std::collections::BTreeMap;
use std::time::Instant;

use oci_client::RegistryOperation;
use oci_client::secrets::RegistryAuth;

/// One pull needs one. What is dropped is asked for once more.
const MOST: usize = 128;

/// What requests are authorized with, and until when it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) authorization: RegistryAuth,
    pub(super) until: Instant,
}

type Key = (String, RegistryOperation);

#[derive(Debug, Default)]
pub(super) struct Grants(BTreeMap<Key, Granted>);

impl Grants {
    /// What is good at `now`.
    pub(super) fn get(
        &self,
        repository: &str,
        access: RegistryOperation,
        now: Instant,
    ) -> Option<&RegistryAuth> {
        let granted = self.0.get(&(repository.to_owned(), access))?;
        (granted.until > now).then_some(&granted.authorization)
    }

    /// Keeps one. Those that have ended go, and beyond the bound the one that ends first.
    pub(super) fn insert(
        &mut self,
        repository: &str,
        access: RegistryOperation,
        granted: Granted,
        now: Instant,
    ) {
        self.0.retain(|_, other| other.until > now);
        let key = (repository.to_owned(), access);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            let first = self.0.iter().min_by_key(|(_, other)| other.until);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                self.0.remove(&first);
            }
        }
        self.0.insert(key, granted);
    }

    /// Drops one that did not suffice.
    pub(super) fn remove(&mut self, repository: &str, access: RegistryOperation) {
        self.0.remove(&(repository.to_owned(), access));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use RegistryOperation::{Pull, Push};

    fn granted(token: &str, until: Instant) -> Granted {
        Granted {
            authorization: RegistryAuth::Bearer(token.to_owned()),
            until,
        }
    }

    #[test]
    fn what_has_ended_is_neither_given_nor_kept() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut grants = Grants::default();
        grants.insert("a", Pull, granted("a", later), now);
        let bearer = RegistryAuth::Bearer("a".to_owned());
        assert_eq!(grants.get("a", Pull, now), Some(&bearer));
        assert_eq!(grants.get("a", Push, now), None);
        assert_eq!(grants.get("a", Pull, later), None);
        grants.insert(
            "b",
            Pull,
            granted("b", later + Duration::from_secs(60)),
            later,
        );
        assert_eq!(grants.0.len(), 1);
        grants.remove("b", Pull);
        assert_eq!(grants.0.len(), 0);
    }

    #[test]
    fn many_names_cost_no_more_than_the_bound() {
        let now = Instant::now();
        let until = |n: u64| now + Duration::from_secs(60 + n);
        let mut grants = Grants::default();
        for n in 0..1000 {
            grants.insert(&n.to_string(), Pull, granted("x", until(n)), now);
        }
        assert_eq!(grants.0.len(), MOST);
        assert!(grants.get("999", Pull, now).is_some());
        assert!(grants.get("0", Pull, now).is_none());
        // A newer one of the same name needs no room.
        grants.insert("999", Pull, granted("y", until(0)), now);
        assert_eq!(grants.0.len(), MOST);
    }
}
