// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The handshake: each side sends a [`Hello`] as its first frame, each computes the same version, and
//! what the other side accepts.
//!
//! The host speaks first. A guest that finds no common version still sends its own `Hello`, so that
//! both sides can tell their user which versions met, and closes.

use serde::{Deserialize, Serialize};

use crate::limits::{DATA_PAYLOAD_MAX, PAYLOAD_MAX_MIN, REPLY_PAYLOAD_MAX, REQUEST_PAYLOAD_MAX};

/// Lowest version that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// Highest version that this build speaks.
pub const VERSION_MAX: u16 = 3;
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
    /// Largest control payload that the sender accepts, in bytes.
    pub control_max: u32,
    /// Largest data payload that the sender accepts, in bytes.
    pub data_max: u32,
}

impl Hello {
    /// What this build's host says.
    pub const HOST: Self = Self::of_build(REPLY_PAYLOAD_MAX, DATA_PAYLOAD_MAX);
    /// What this build's guest says.
    pub const GUEST: Self = Self::of_build(REQUEST_PAYLOAD_MAX, DATA_PAYLOAD_MAX);

    #[allow(clippy::cast_possible_truncation)] // The assertions come first, at compile time.
    const fn of_build(control_max: usize, data_max: usize) -> Self {
        assert!(control_max <= u32::MAX as usize && data_max <= u32::MAX as usize);
        Self {
            magic: MAGIC,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            control_max: control_max as u32,
            data_max: data_max as u32,
        }
    }
}

/// What holds on a connection after its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The version to speak.
    pub version: u16,
    /// Largest control payload that may be sent to the peer, in bytes.
    pub control_max: usize,
    /// Largest data payload that may be sent to the peer, in bytes.
    pub data_max: usize,
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
    /// The peer accepts so little that no operation would work.
    #[error(
        "peer accepts control payloads of {control_max} and data payloads of {data_max} bytes, \
         the least is {PAYLOAD_MAX_MIN}"
    )]
    PayloadMaxTooSmall {
        /// The peer's ceiling for control payloads, in bytes.
        control_max: u32,
        /// The peer's ceiling for data payloads, in bytes.
        data_max: u32,
    },
}

/// The version to use, the highest that both speak and so the same on both sides; and what may be
/// sent to the peer: as much as it accepts, and never more than the protocol knows.
///
/// # Errors
///
/// [`HandshakeError`] if the peer's magic is wrong, the ranges do not meet, or the peer accepts less
/// than [`PAYLOAD_MAX_MIN`].
pub fn negotiate(ours: Hello, theirs: Hello) -> Result<Agreed, HandshakeError> {
    if theirs.magic != MAGIC {
        return Err(HandshakeError::BadMagic(theirs.magic));
    }
    let highest = ours.version_max.min(theirs.version_max);
    let lowest = ours.version_min.max(theirs.version_min);
    if lowest > highest {
        return Err(HandshakeError::NoCommonVersion {
            ours_min: ours.version_min,
            ours_max: ours.version_max,
            theirs_min: theirs.version_min,
            theirs_max: theirs.version_max,
        });
    }
    let (control_max, data_max) = (bytes(theirs.control_max), bytes(theirs.data_max));
    if control_max.min(data_max) < PAYLOAD_MAX_MIN {
        return Err(HandshakeError::PayloadMaxTooSmall {
            control_max: theirs.control_max,
            data_max: theirs.data_max,
        });
    }
    Ok(Agreed {
        version: highest,
        control_max: control_max.min(REQUEST_PAYLOAD_MAX),
        data_max: data_max.min(DATA_PAYLOAD_MAX),
    })
}

fn bytes(ceiling: u32) -> usize {
    usize::try_from(ceiling).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version_min: u16, version_max: u16) -> Hello {
        Hello {
            magic: MAGIC,
            version_min,
            version_max,
            ..Hello::HOST
        }
    }

    #[test]
    fn the_highest_common_version_wins() {
        for (ours, theirs, version) in [
            ((1, 3), (2, 9), 3),
            ((2, 9), (1, 3), 3),
            ((1, 1), (1, 1), 1),
        ] {
            let agreed = negotiate(hello(ours.0, ours.1), hello(theirs.0, theirs.1)).unwrap();
            assert_eq!(agreed.version, version);
        }
    }

    #[test]
    fn what_may_be_sent_is_what_the_peer_accepts_within_the_protocols_limits() {
        let agreed = |ours, theirs| {
            let agreed = negotiate(ours, theirs).unwrap();
            (agreed.control_max, agreed.data_max)
        };
        let (host, guest) = (Hello::HOST, Hello::GUEST);
        assert_eq!(agreed(guest, host), (REPLY_PAYLOAD_MAX, DATA_PAYLOAD_MAX));
        assert_eq!(agreed(host, guest), (REQUEST_PAYLOAD_MAX, DATA_PAYLOAD_MAX));
        let with = |control_max, data_max| Hello {
            control_max,
            data_max,
            ..guest
        };
        assert_eq!(agreed(host, with(5000, 4096)), (5000, 4096));
        let most = agreed(host, with(u32::MAX, u32::MAX));
        assert_eq!(most, (REQUEST_PAYLOAD_MAX, DATA_PAYLOAD_MAX));
        for (control_max, data_max) in [(4095, 4096), (4096, 4095), (0, 0)] {
            assert_eq!(
                negotiate(host, with(control_max, data_max)),
                Err(HandshakeError::PayloadMaxTooSmall {
                    control_max,
                    data_max
                })
            );
        }
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
            ..Hello::HOST
        };
        assert_eq!(
            negotiate(Hello::HOST, stranger),
            Err(HandshakeError::BadMagic(*b"SSH-"))
        );
    }
}
