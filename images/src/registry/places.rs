// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Whom to ask for an image: its registry's mirrors, and the registry itself.

use std::sync::{Arc, PoisonError};

use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::{Registry, Retries};
use crate::reference::Reference;

/// One place to ask for a repository.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) repository: String,
    pub(super) retries: Retries,
}

impl Registry {
    /// Where to ask for this image, in order: the registry itself is last.
    pub(super) async fn places(&self, reference: &Reference) -> Result<Vec<Place>, RegistryError> {
        let home = self.home(reference).await?;
        let options = &self.inner.options;
        let mut places = Vec::new();
        let mirrors = options.mirrors.iter();
        for mirror in mirrors.filter(|mirror| mirror.registry == reference.registry()) {
            // The registry is there if the mirror is not, so no long wait for that.
            let attempts = options.retries.attempts.min(2);
            match self.endpoint(&mirror.host).await {
                Ok(endpoint) => places.push(Place {
                    endpoint,
                    repository: mirror.repository(reference),
                    retries: Retries {
                        attempts,
                        ..options.retries.clone()
                    },
                }),
                Err(error) => tracing::warn!(mirror = mirror.host, %error, "a mirror is left out"),
            }
        }
        places.push(home);
        Ok(places)
    }

    /// The registry itself.
    pub(super) async fn home(&self, reference: &Reference) -> Result<Place, RegistryError> {
        if reference.is_local() {
            return Err(RegistryError::LocalOnly {
                reference: reference.to_string(),
            });
        }
        Ok(Place {
            endpoint: self.endpoint(reference.registry()).await?,
            repository: reference.repository().to_owned(),
            retries: self.inner.options.retries.clone(),
        })
    }

    /// The endpoint of a host, made at its first use.
    async fn endpoint(&self, host: &str) -> Result<Arc<Endpoint>, RegistryError> {
        // A panic elsewhere leaves the list whole: each entry is added in one step.
        let recent = || {
            let endpoints = self.inner.endpoints.lock();
            endpoints.unwrap_or_else(PoisonError::into_inner)
        };
        let known = recent().get(host);
        if let Some(endpoint) = known {
            return Ok(endpoint);
        }
        let (inner, name) = (Arc::clone(&self.inner), host.to_owned());
        // Its certificates are files, and all that are trusted are parsed.
        let made = tokio::task::spawn_blocking(move || Endpoint::new(&name, &inner.options)).await;
        let made = made.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        Ok(recent().keep(host, Arc::new(made)))
    }
}
