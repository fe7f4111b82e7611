// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What can go wrong between this host and a registry, each with what to do next, and whether to try again.
//!
//! Nothing here carries a secret: no URL with its query (signed links are in there), no header, no body of a token
//! answer. What a registry says is shortened and stripped of control characters.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::digest::{Digest, DigestError};
use crate::limits::SETTING_LAYERS;

/// Why an image was not fetched or pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The image is of this host only.
    #[error(
        "{reference} is an image of this host and is never fetched: `waggle image ls` shows those there are"
    )]
    LocalOnly {
        /// The reference.
        reference: String,
    },
    /// There is no such image, or no such blob.
    #[error("{host} has no {what}: check the name and the tag")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// The registry wants a login, or does not take the one it was given.
    #[error(
        "{host} {} for {what}: check the name, and log in with `docker login {host}` or `skopeo login {host}`, \
         whose credential files are read{}",
        if *had_login { "refuses the login" } else { "wants a login" },
        note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default()
    )]
    Unauthorized {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Whether a login was found and sent.
        had_login: bool,
        /// What was wrong with the credential files, if anything.
        note: Option<String>,
    },
    /// The login is known and may not do this.
    #[error(
        "{host} denies access to {what}: check the name, or log in as somebody who may (`docker login {host}`)"
    )]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// Too many requests.
    #[error(
        "{host} limits the rate of requests{}: log in (`docker login {host}`) for a higher limit, or set WAGGLE_IMAGE_MIRRORS",
        after.map(|after| format!(" and says to wait {} s", after.as_secs())).unwrap_or_default()
    )]
    RateLimited {
        /// The registry.
        host: String,
        /// How long it says to wait.
        after: Option<Duration>,
    },
    /// No connection that can be trusted.
    #[error(
        "no trusted TLS connection to {host}: {detail}; if its certificate is of a private authority, name that in WAGGLE_CA_BUNDLE"
    )]
    Tls {
        /// The registry.
        host: String,
        /// What the TLS library said.
        detail: String,
    },
    /// No connection.
    #[error("cannot reach {host}: {detail}; check the name, the network and HTTPS_PROXY")]
    Unreachable {
        /// The registry.
        host: String,
        /// What the system said.
        detail: String,
    },
    /// The registry failed.
    #[error("{host} failed with HTTP status {status} for {what}: try again later")]
    Failed {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The HTTP status, 500 or above.
        status: u16,
        /// How long it says to wait.
        after: Option<Duration>,
    },
    /// An answer that no registry gives.
    #[error(
        "{host} answers {detail} for {what}: check that it is a registry and that the path is right"
    )]
    Unexpected {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What it answers.
        detail: String,
    },
    /// The connection ended early.
    #[error("{host} broke off {what} after {received} bytes: {detail}; try again")]
    Broken {
        /// The registry.
        host: String,
        /// What was being fetched.
        what: String,
        /// How much of it had come.
        received: u64,
        /// What the system said.
        detail: String,
    },
    /// Too little came for too long.
    #[error("{host} sent next to nothing of {what} for {} s: try again, or set WAGGLE_IMAGE_MIRRORS", waited.as_secs())]
    Stalled {
        /// The registry.
        host: String,
        /// What was being fetched.
        what: String,
        /// How long nothing came.
        waited: Duration,
    },
    /// More than this host takes.
    #[error(
        "{what} of {host} is larger than {limit} bytes, the most that is taken{}",
        setting.map(|setting| format!(": raise {setting} to allow it")).unwrap_or_default()
    )]
    TooLarge {
        /// The registry.
        host: String,
        /// What was being fetched.
        what: String,
        /// The ceiling, in bytes.
        limit: u64,
        /// The setting that raises it, if one does.
        setting: Option<&'static str>,
    },
    /// Not the content that was named.
    #[error(
        "{what} of {host} has digest {actual} instead of {expected}: it was changed on its way, or the registry is wrong"
    )]
    DigestMismatch {
        /// The registry.
        host: String,
        /// What was fetched.
        what: String,
        /// What was named.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Not the length that was stated.
    #[error(
        "{what} of {host} has {actual} bytes instead of {expected}: it was changed on its way, or the image is wrong"
    )]
    SizeMismatch {
        /// The registry.
        host: String,
        /// What was fetched.
        what: String,
        /// What was stated.
        expected: u64,
        /// What came, or more than was stated.
        actual: u64,
    },
    /// A manifest of Docker's first form.
    #[error(
        "{what} has a manifest of Docker's schema 1, which names no verifiable layers: push it anew with a current tool, \
         such as `skopeo copy --format oci docker://SOURCE docker://TARGET`"
    )]
    Schema1 {
        /// What was fetched.
        what: String,
    },
    /// A manifest of another kind, or one that says two things.
    #[error("{what} is no image: {detail}; name an OCI or Docker image")]
    MediaType {
        /// What was fetched.
        what: String,
        /// What it is.
        detail: String,
    },
    /// A manifest that cannot be read.
    #[error(
        "the manifest of {what} cannot be read: {source}; it is broken, build and push the image anew"
    )]
    Malformed {
        /// What was fetched.
        what: String,
        /// What the parser met.
        source: serde_json::Error,
    },
    /// A manifest with a digest of another algorithm.
    #[error("the manifest of {what} cannot be used: {source}")]
    Digest {
        /// What was fetched.
        what: String,
        /// Which digest.
        source: DigestError,
    },
    /// More layers than are taken.
    #[error(
        "{what} has {layers} layers, more than {limit}: build it with fewer, or raise {SETTING_LAYERS} to allow it"
    )]
    TooManyLayers {
        /// What was fetched.
        what: String,
        /// How many it has.
        layers: usize,
        /// The ceiling.
        limit: usize,
    },
    /// No image for this machine.
    #[error(
        "{what} has no image for {wanted}, only for: {}; build it for {wanted}",
        if available.is_empty() { "nothing".to_owned() } else { available.join(", ") }
    )]
    NoPlatform {
        /// The reference.
        what: String,
        /// The platform of this host.
        wanted: String,
        /// Those that there are.
        available: Vec<String>,
    },
    /// An index where an image is expected.
    #[error(
        "{what} is an index of indexes, which is not followed: name one of its images by digest"
    )]
    NestedIndex {
        /// The reference.
        what: String,
    },
    /// A layer that is not in the registry.
    #[error(
        "layer {digest} of {what} is not distributed with the image but by its vendor, and is never fetched from there: \
         use an image that has all its layers"
    )]
    Foreign {
        /// The reference.
        what: String,
        /// The layer.
        digest: Digest,
    },
    /// A file of certificates that cannot be used.
    #[error("cannot use the certificates in {}: {detail}; it must be a file of PEM certificates", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// No client could be made.
    #[error(
        "cannot set up connections to {host}: {detail}; install ca-certificates or set WAGGLE_CA_BUNDLE"
    )]
    Client {
        /// The registry.
        host: String,
        /// What is wrong.
        detail: String,
    },
    /// A file that is pushed cannot be read.
    #[error("cannot read {}: check that it is there and readable", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A push by digest, or of something that does not name its content.
    #[error("cannot push to {reference}: {detail}")]
    PushTarget {
        /// The reference.
        reference: String,
        /// What is wrong.
        detail: &'static str,
    },
}

impl RegistryError {
    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Unreachable { .. }
                | Self::Failed { .. }
                | Self::Broken { .. }
                | Self::Stalled { .. }
        )
    }

    /// How long the registry says to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { after, .. } | Self::Failed { after, .. } => *after,
            _ => None,
        }
    }
}

/// What a connection ended with: an untrusted one is told from none at all.
pub(super) fn of_request(host: &str, what: &str, error: reqwest::Error) -> RegistryError {
    // The URL may hold a signature.
    let error = error.without_url();
    let detail = chain(&error);
    let host = host.to_owned();
    if tls_cause(&error).is_some() {
        return RegistryError::Tls { host, detail };
    }
    if error.is_connect() || error.is_timeout() {
        return RegistryError::Unreachable { host, detail };
    }
    RegistryError::Broken {
        host,
        what: what.to_owned(),
        received: 0,
        detail,
    }
}

/// The TLS library's error among the causes.
pub(super) fn tls_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error names its inner error's cause as its own, and so hides the inner one.
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return tls_cause(io.get_ref()?);
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line, without those that only repeat.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    said(&text)
}

/// What somebody else said, fit for a line of text: short, and without control characters.
pub(super) fn said(text: &str) -> String {
    const LONGEST: usize = 300;
    let clean = text.chars().filter(|c| !c.is_control());
    let mut short: String = clean.clone().take(LONGEST).collect();
    if clean.count() > LONGEST {
        short.push('…');
    }
    short
}
