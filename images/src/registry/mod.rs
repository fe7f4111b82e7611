// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The protocol with registries (OCI distribution-spec 1.1 and Docker's, which it came from): from a reference to
//! verified manifests and to streams of blobs, and the way back for a push.
//!
//! ```text
//! Registry ──mirrors, then the registry──> Endpoint ──scheme, TLS, login, token──> one request
//!    │                                        └ retries around it
//!    ├ manifest, resolve   whole, bounded, verified
//!    ├ blob                a stream that mends itself by ranges; its digest is for the receiver to verify
//!    └ push                blobs, then the configuration, then the manifest
//! ```
//!
//! It owns connections, logins, tokens and retries; it keeps nothing on the disk. Invariants:
//!
//! - Every body is read up to a stated number of bytes and within a stated time. (The general OCI client reads manifests,
//!   tokens and errors whole, and follows redirects and upload places anywhere, so the requests are ours. What it knows of
//!   the protocol is used: references, logins, tokens, errors, media types.)
//! - A manifest that is returned has the digest that it is returned with, and the one that was asked for.
//! - Logins go to the registry that they are for and to the token service that it names, never over plain HTTP to
//!   another machine, and not along redirects to other places.
//! - Plain HTTP is for registries on loopback addresses, where there is no TLS, and goes by no proxy.
//! - Callers choose names. What is kept for a name is bounded.

mod answer;
mod auth;
mod blob;
mod credentials;
mod document;
mod endpoint;
mod error;
mod grants;
mod manifest;
mod mirrors;
mod places;
mod push;
mod recent;
mod redirect;
mod retry;
mod tls;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

pub use blob::BlobStream;
pub use credentials::CredentialSources;
pub use document::{Descriptor, ImageManifest, Index, IndexEntry, Manifest, Platform, media, pick};
pub use error::RegistryError;
pub use manifest::Resolved;
pub use mirrors::{Mirror, MirrorError};
pub use push::{Content, Push};
pub use retry::Retries;

use endpoint::Endpoint;
use places::Place;
use recent::Recent;

use crate::digest::Digest;
use crate::limits::Limits;
use crate::reference::DEFAULT_REGISTRY;

/// Hosts whose connections and tokens are kept: more than anybody pulls from at a time.
const MOST_ENDPOINTS: usize = 64;

/// What a [`Registry`] is made with. The default is what the user's other tools do, and no mirror.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// PEM certificates that are trusted for all registries, on top of the system's (`WAGGLE_CA_BUNDLE`).
    pub ca_bundle: Option<PathBuf>,
    /// Folders with a folder per registry (`HOST[:PORT]`), whose `*.crt` are trusted for that registry.
    pub certificate_folders: Vec<PathBuf>,
    /// Where to ask before the registry itself, in order (`WAGGLE_IMAGE_MIRRORS`).
    pub mirrors: Vec<Mirror>,
    /// Where logins are looked for.
    pub credentials: CredentialSources,
    /// The ceilings of manifests.
    pub limits: Limits,
    /// How often to ask.
    pub retries: Retries,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// What registries are told that asks them.
    pub user_agent: &'static str,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        let folders = ["/etc/docker/certs.d", "/etc/containers/certs.d"].map(PathBuf::from);
        let own = std::env::var_os("HOME")
            .map(|home| PathBuf::from(home).join(".config/containers/certs.d"));
        Self {
            ca_bundle: None,
            certificate_folders: folders.into_iter().chain(own).collect(),
            mirrors: Vec::new(),
            credentials: CredentialSources::of_user(),
            limits: Limits::default(),
            retries: Retries::default(),
            timeouts: Timeouts::default(),
            user_agent: concat!("waggle/", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For a whole manifest or token, and for a blob's first byte.
    pub answer: Duration,
    /// For [`Timeouts::FLOOR`] bytes of a blob.
    pub idle: Duration,
}

impl Timeouts {
    /// Bytes of a blob that must come within `idle`: a byte now and then is no progress.
    pub const FLOOR: u64 = 16 << 10;
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(60),
            idle: Duration::from_secs(30),
        }
    }
}

/// A manifest or index, whole and verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes, exactly as the registry has them.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// What the registry says that it is; empty where it does not say.
    pub media_type: String,
    /// The host that answered: the registry's, or a mirror's.
    pub host: String,
}

/// All registries, by one set of options. Cheap to clone; its connections, tokens and logins are shared.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: RegistryOptions,
    /// By host.
    endpoints: Mutex<Recent<Arc<Endpoint>>>,
}

impl Registry {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// [`RegistryError::Certificates`] if the bundle cannot be used.
    pub fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        tls::install_provider();
        // Read again for each registry; here only so that a wrong path is told at the start.
        tls::extra_roots(options.ca_bundle.as_deref(), &[], "")?;
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                endpoints: Mutex::new(Recent::new(MOST_ENDPOINTS)),
            }),
        })
    }
}

/// The host that serves a registry's API. Docker Hub's is another than its name.
fn api_host(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY {
        "registry-1.docker.io"
    } else {
        registry
    }
}
