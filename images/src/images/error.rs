// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What can go wrong with an image, whatever part found it.

use std::path::PathBuf;

use crate::Digest;
use crate::config::ConfigError;
use crate::reference::{Reference, ReferenceError};
use crate::registry::RegistryError;
use crate::source::SourceError;
use crate::store::{ReceiveError, StoreError};

/// Why an image cannot be had, kept or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry, or what it sent.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A file or folder that should have images.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The image's configuration.
    #[error("{reference} cannot be used")]
    Config {
        /// The image.
        reference: String,
        /// Why.
        source: ConfigError,
    },
    /// It is not in the store, and is not to be pulled.
    #[error("{}", not_there(reference))]
    NotThere {
        /// The image.
        reference: Reference,
    },
    /// An environment uses it.
    #[error("{reference} is used by an environment: destroy that first")]
    InUse {
        /// The image.
        reference: Reference,
    },
    /// It is in a registry, but is no image of programs.
    #[error("{what} is no container image: its configuration is of the type {media_type:?}")]
    Artifact {
        /// What was asked for.
        what: String,
        /// What its configuration is.
        media_type: String,
    },
    /// A layer of a type that is not known, such as an encrypted one.
    #[error("layer {digest} of {what} has the type {media_type:?}, which cannot be used")]
    LayerType {
        /// What was asked for.
        what: String,
        /// The layer.
        digest: Digest,
        /// What it is.
        media_type: String,
    },
    /// An index in an index in an index.
    #[error("{what} has indexes within indexes, deeper than {limit}")]
    Nested {
        /// What was asked for.
        what: String,
        /// How deep they may be.
        limit: u32,
    },
    /// What is imported does not say what it is called.
    #[error("the image in {} has no name{}: give one", path.display(), tag.as_ref().map(|tag| format!(" but the tag {tag:?}")).unwrap_or_default())]
    Unnamed {
        /// The file or folder.
        path: PathBuf,
        /// The tag alone, if it has one.
        tag: Option<String>,
    },
    /// What is imported would be called by the digest of something else.
    #[error("the image {manifest} in {} cannot be called {reference}, which is the name of other content: give it another name", path.display())]
    OtherContent {
        /// The file or folder.
        path: PathBuf,
        /// The name.
        reference: String,
        /// The image's manifest.
        manifest: Digest,
    },
    /// One name for several images.
    #[error("{} has {count} images, which cannot all have the name that was given: give none", path.display())]
    Ambiguous {
        /// The file or folder.
        path: PathBuf,
        /// How many it has.
        count: usize,
    },
}

impl From<ReceiveError<RegistryError>> for Error {
    fn from(error: ReceiveError<RegistryError>) -> Self {
        match error {
            ReceiveError::Store(error) => Self::Store(error),
            ReceiveError::Origin(error) => Self::Registry(error),
        }
    }
}

fn not_there(reference: &Reference) -> String {
    if reference.is_local() {
        format!(
            "{reference} is not there, and images of {} are never pulled: build it (`./dev images`) or import it \
             (`waggle image import`)",
            reference.registry()
        )
    } else {
        format!("{reference} is not there: pull it (`waggle image pull {reference}`)")
    }
}
