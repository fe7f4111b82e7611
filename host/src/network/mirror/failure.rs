// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What went wrong between the mirror and a registry, and what a package manager is told of it.

use std::{path::Path, time::Duration};

use hyper::StatusCode;
use url::Url;

use super::digest::Digest;
use crate::network::policy::Denial;

/// A request that a registry did not answer well. Shared by all who waited for the answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failure {
    /// No connection.
    #[error(
        "the package registry at {url} cannot be reached: {why}; check the host's network, its proxy (HTTPS_PROXY) and WAGGLE_NETWORK_PACKAGES"
    )]
    Unreachable { url: Url, why: String },
    /// The server's policy refuses the connection: the name is permitted, its address is not.
    #[error("the server's own request to the package registry at {url} was refused: {denial}")]
    Denied { url: Url, denial: Box<Denial> },
    /// An answer, or its next bytes, did not come.
    #[error(
        "the package registry at {url} has not sent what was waited for within {}; try again, or check the host's network",
        humantime::format_duration(*after)
    )]
    Slow { url: Url, after: Duration },
    /// The connection ended before the answer or within it.
    #[error(
        "the package registry at {url} broke off before its answer was whole: {why}; try again"
    )]
    Broken { url: Url, why: String },
    /// An error of the registry's own.
    #[error("the package registry answered {status} for {url}")]
    Status { url: Url, status: StatusCode },
    /// A redirect to where the mirror does not go.
    #[error(
        "the package registry at {url} redirects to {to:?}, which is no recorded registry; allow it by WAGGLE_NETWORK_PACKAGES if it should be one"
    )]
    Redirect { url: Url, to: String },
    /// Bytes that are not what the registry's index promised.
    #[error(
        "the package registry sent {found} for {url}, but its index states {expected}; nothing of it was kept; try again, and do not trust that registry if it stays so"
    )]
    Mismatch {
        url: Url,
        expected: Box<Digest>,
        found: Box<Digest>,
    },
    /// More than a document or an artefact may have.
    #[error("the answer of the package registry at {url} is larger than {limit} bytes")]
    TooLarge { url: Url, limit: u64 },
    /// An answer that cannot be understood.
    #[error("the answer of the package registry at {url} is of no use: {why}")]
    Unusable { url: Url, why: String },
    /// Too much else is being fetched.
    #[error("too many packages are being fetched for {url} to be asked for now; try again")]
    Busy { url: Url },
    /// The store failed under a download.
    #[error(
        "{url} could not be kept in {}: {why}; try again: it is now passed through without being kept",
        folder.display()
    )]
    Store {
        url: Url,
        folder: Box<Path>,
        why: Box<str>,
    },
    /// The download was ended: the server stops.
    #[error("the download of {url} was ended, because the server stops")]
    Ended { url: Url },
}

impl Failure {
    /// The status that a package manager gets. One that is about the package is passed on, so that a
    /// missing package looks missing.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Status { status, .. } if status.is_client_error() => *status,
            Self::Denied { .. } => StatusCode::FORBIDDEN,
            Self::Slow { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Busy { .. } | Self::Ended { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// What it is in a few words: apt and pip show a response's reason phrase.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "Package registry unreachable",
            Self::Denied { .. } => "Package registry refused by the server's network policy",
            Self::Slow { .. } => "Package registry too slow",
            Self::Broken { .. } => "Package registry broke off",
            Self::Status { .. } => "Package registry said no",
            Self::Redirect { .. } => "Package registry redirects elsewhere",
            Self::Mismatch { .. } => "Package has another digest than its index states",
            Self::TooLarge { .. } => "Package registry's answer too large",
            Self::Unusable { .. } => "Package registry's answer of no use",
            Self::Busy { .. } => "Too many packages are being fetched",
            Self::Store { .. } => "Package cache cannot be written to",
            Self::Ended { .. } => "Server stops",
        }
    }

    /// Whether something older may be served instead: the registry is not there, rather than it saying no.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Denied { .. } => false,
            _ => true,
        }
    }
}
