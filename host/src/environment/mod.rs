// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a user creates: its identity, its life, and the store of all that exist.
//!
//! Owns: [`EnvironmentId`], [`Runtime`], the state machine in [`state`], the [`store::Store`]. Does
//! not own: machines and sessions, which the store only holds on behalf of `service`.

pub mod state;
pub mod store;

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use rand::RngExt as _;
use waggle_images::{Digest, Reference};

pub use state::Status;

/// What an environment is made for: chooses its image and `execute`'s default language.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Python 3 with pip.
    Python,
    /// Node.js with npm.
    Node,
    /// A POSIX shell with everyday tools.
    Shell,
}

impl Runtime {
    /// All of them, in the order in which they are named to users.
    pub const ALL: [Self; 3] = [Self::Python, Self::Node, Self::Shell];

    /// The name used in arguments, image names and variables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Shell => "shell",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An environment's id: `env-` and twelve hexadecimal digits. Also its machine's name and its
/// guest's host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnvironmentId(String);

const ID_PREFIX: &str = "env-";
const ID_DIGITS: usize = 12;

impl EnvironmentId {
    /// A new id: 48 random bits, so that ids cannot be guessed from one another.
    #[must_use]
    pub fn random() -> Self {
        let bits = rand::rng().random::<u64>() >> 16;
        Self(format!("{ID_PREFIX}{bits:0ID_DIGITS$x}"))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvironmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is not an environment's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an environment id, which is `env-` and {ID_DIGITS} hexadecimal digits")]
pub struct MalformedId {
    text: String,
}

impl FromStr for EnvironmentId {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let digits = text.strip_prefix(ID_PREFIX).unwrap_or_default();
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == ID_DIGITS && digits.bytes().all(hexadecimal) {
            Ok(Self(text.to_owned()))
        } else {
            // The text comes from outside: it may be long.
            Err(MalformedId {
                text: text.chars().take(64).collect(),
            })
        }
    }
}

/// A copy of what is known of an environment at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Its id.
    pub id: EnvironmentId,
    /// The user's name for it; the id if the user gave none.
    pub name: String,
    /// What it was made for.
    pub runtime: Runtime,
    /// Where it is in its life.
    pub status: Status,
    /// When its creation began.
    pub created_at: Timestamp,
    /// How long it may be idle before the reaper destroys it.
    pub idle_timeout: Duration,
    /// Why its machine failed, if it did.
    pub failure: Option<String>,
    /// What it may reach, in words.
    pub network: String,
    /// What its image was named by.
    pub image: Reference,
    /// What came of the image, once it runs.
    pub made: Option<Made>,
}

/// What an environment was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The image's manifest.
    pub digest: Digest,
    /// Whom the image names to run its programs as, if not root. They run as `sandbox` all the same.
    pub image_user: Option<String>,
    /// The folder that programs start in; the user's home if absent.
    pub working_directory: Option<String>,
    /// What of the image's configuration is not followed, and why.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_their_own_parse() {
        for _ in 0..100 {
            let id = EnvironmentId::random();
            assert_eq!(id.as_str().parse(), Ok(id.clone()), "{id}");
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        let long = "x".repeat(10_000);
        for text in [
            "",
            "env-",
            "env-12345678901",
            "env-12345678901G",
            "ENV-123456789012",
            &long,
        ] {
            let error = text.parse::<EnvironmentId>().expect_err(text);
            assert!(error.to_string().len() < 300);
        }
    }
}
