// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The handshake: each side sends a [`Hello`] as its first frame, each computes the same answer.
//!
//! The host speaks first. A guest that finds no common version still sends its own `Hello`, so that
//! both sides can tell their user which versions met, and closes.

use serde::{Deserialize, Serialize};

/// Lowest version that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// Highest version that this build speaks.
pub const VERSION_MAX: u16 = 1;
/// First bytes of every connection's first message: tells a peer of ours from a stray one.
pub const MAGIC: [u8; 4] = *b"WGGL";

/// A side's opening message. Frozen for ever: it is read before any version is agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// Lowest version the sender speaks.
    pub version_min: u16,
    /// Highest version the sender speaks.
    pub version_max: u16,
}

impl Hello {
    /// What this build says.
    pub const OURS: Self = Self {
        magic: MAGIC,
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
    };
}

/// Why two sides cannot talk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The peer is no peer of ours.
    #[error("peer opened with {0:02x?} instead of Waggle's magic")]
    BadMagic([u8; 4]),
    /// The peer follows the rules, but no version is common.
    #[error(
        "peer speaks protocol versions {theirs_min} to {theirs_max}, this side {ours_min} to {ours_max}"
    )]
    NoCommonVersion {
        /// Our lowest version.
        ours_min: u16,
        /// Our highest version.
        ours_max: u16,
        /// The peer's lowest version.
        theirs_min: u16,
        /// The peer's highest version.
        theirs_max: u16,
    },
}

/// The version to use: the highest that both speak. Symmetric in its arguments.
///
/// # Errors
///
/// [`HandshakeError`] if the peer's magic is wrong or the ranges do not meet.
pub fn negotiate(ours: Hello, theirs: Hello) -> Result<u16, HandshakeError> {
    if theirs.magic != MAGIC {
        return Err(HandshakeError::BadMagic(theirs.magic));
    }
    let highest = ours.version_max.min(theirs.version_max);
    let lowest = ours.version_min.max(theirs.version_min);
    if lowest <= highest {
        Ok(highest)
    } else {
        Err(HandshakeError::NoCommonVersion {
            ours_min: ours.version_min,
            ours_max: ours.version_max,
            theirs_min: theirs.version_min,
            theirs_max: theirs.version_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version_min: u16, version_max: u16) -> Hello {
        Hello {
            magic: MAGIC,
            version_min,
            version_max,
        }
    }

    #[test]
    fn the_highest_common_version_wins() {
        assert_eq!(negotiate(hello(1, 3), hello(2, 9)), Ok(3));
        assert_eq!(negotiate(hello(2, 9), hello(1, 3)), Ok(3));
        assert_eq!(negotiate(hello(1, 1), hello(1, 1)), Ok(1));
    }

    #[test]
    fn disjoint_and_inverted_ranges_are_refused() {
        for (ours, theirs) in [((1, 2), (3, 4)), ((3, 4), (1, 2)), ((1, 9), (5, 4))] {
            let outcome = negotiate(hello(ours.0, ours.1), hello(theirs.0, theirs.1));
            assert!(
                matches!(outcome, Err(HandshakeError::NoCommonVersion { .. })),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn a_stranger_is_named_by_its_first_bytes() {
        let stranger = Hello {
            magic: *b"SSH-",
            ..Hello::OURS
        };
        assert_eq!(
            negotiate(Hello::OURS, stranger),
            Err(HandshakeError::BadMagic(*b"SSH-"))
        );
    }
}
