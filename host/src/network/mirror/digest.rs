// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Digests, as registries state them: the names of what never changes.
//!
//! Pure.

use std::fmt::{self, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

/// How a digest is computed, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Algorithm {
    /// Of npm's oldest packages, which state nothing else.
    Sha1,
    /// pip's and apt's.
    Sha256,
    /// npm's.
    Sha512,
}

impl Algorithm {
    pub(super) const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    /// Its name in links, in integrity strings and in the store.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A digest in lower-case hexadecimal, of its algorithm's length: safe as a file's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    /// `hex` in either case.
    pub(super) fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let whole = hex.len() == 2 * algorithm.bytes();
        (whole && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| Self {
            algorithm,
            hex: hex.to_ascii_lowercase().into(),
        })
    }

    /// The strongest of an integrity string (W3C Subresource Integrity), such as `sha512-BASE64`.
    pub(super) fn from_integrity(text: &str) -> Option<Self> {
        let one = |part: &str| {
            let (name, rest) = part.split_once('-')?;
            let encoded = rest.split('?').next()?;
            let algorithm = Algorithm::parse(name)?;
            let bytes = STANDARD.decode(encoded).ok()?;
            (bytes.len() == algorithm.bytes()).then(|| Self::from_bytes(algorithm, &bytes))
        };
        text.split_ascii_whitespace()
            .filter_map(one)
            .max_by_key(|digest| digest.algorithm)
    }

    fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hex = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            // Writing into a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self {
            algorithm,
            hex: hex.into(),
        }
    }

    /// SHA-256 of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::from_bytes(Algorithm::Sha256, &Sha256::digest(bytes))
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn hex(&self) -> &str {
        &self.hex
    }

    /// Its raw bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0);
        let pair = |pair: &[u8]| match pair {
            [high, low] => u8::try_from(digit(*high) * 16 + digit(*low)).unwrap_or(0),
            _ => 0,
        };
        self.hex.as_bytes().chunks(2).map(pair).collect()
    }

    /// The digest whose bytes these are, if they are as many as a SHA-256 has.
    pub(super) fn from_sha256(bytes: &[u8]) -> Option<Self> {
        let whole = bytes.len() == Algorithm::Sha256.bytes();
        whole.then(|| Self::from_bytes(Algorithm::Sha256, bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// A digest that is still being computed.
#[derive(Debug, Clone)]
pub(super) enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Sha1(hasher) => Digest::from_bytes(Algorithm::Sha1, &hasher.finalize()),
            Self::Sha256(hasher) => Digest::from_bytes(Algorithm::Sha256, &hasher.finalize()),
            Self::Sha512(hasher) => Digest::from_bytes(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_hexadecimal_of_its_length() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").hex(), empty);
        let upper = Digest::from_hex(Algorithm::Sha256, &empty.to_uppercase());
        assert_eq!(upper, Some(Digest::of(b"")));
        assert_eq!(Digest::from_sha256(&Digest::of(b"").to_bytes()), upper);
        for text in [
            "",
            "e3",
            "../../../../../etc/passwd",
            &empty.replace('e', "g"),
        ] {
            assert_eq!(Digest::from_hex(Algorithm::Sha256, text), None, "{text}");
        }
        assert_eq!(Digest::from_hex(Algorithm::Sha512, empty), None);
    }

    #[test]
    fn the_strongest_of_an_integrity_string_counts() {
        for algorithm in Algorithm::ALL {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"honey");
            let digest = hasher.finish();
            let text = format!(
                "{}-{}",
                algorithm.name(),
                STANDARD.encode(digest.to_bytes())
            );
            assert_eq!(Digest::from_integrity(&text), Some(digest.clone()));
            let sha1 = "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=";
            let both = Digest::from_integrity(&format!("{sha1} {text}?option"));
            assert_eq!(both.map(|digest| digest.algorithm()), Some(algorithm));
        }
        for text in ["", "sha512-AAAA", "md5-AAAA", "sha512"] {
            assert_eq!(Digest::from_integrity(text), None, "{text}");
        }
    }
}
