// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The name of an image, as people write it and as this crate compares it; and which names are permitted.
//!
//! The grammar and the defaults are the ecosystem's, by `oci_client`: `python` is
//! `docker.io/library/python:latest`. On top of them:
//!
//! - A registry may be an IPv6 address in brackets, as distribution's grammar has it.
//! - A registry's name is compared without regard to case, since host names are.
//! - `localhost/NAME`, the registry `localhost` without a port, is an image of this host: it is never fetched.
//! - A reference with a tag and a digest means the digest. The tag is kept for people, and is checked by nobody.
//! - Only sha256 is known.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use oci_client::{ParseError, Reference as Parsed};

use crate::digest::{Digest, DigestError};

/// The registry of references that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The registry of images that exist on this host only.
pub const LOCAL_REGISTRY: &str = "localhost";

/// Docker Hub's former name, which old references have.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Where Docker Hub keeps what has no namespace.
const OFFICIAL: &str = "library";
/// Stands for an address in brackets, which the parser does not know. Nobody has this name (RFC 2606).
const STAND_IN: &str = "address.invalid";

/// Text that names no image, or permits none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not of the grammar.
    #[error("{text:?} is no image reference: {reason} (valid ones: {VALID})")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// With a digest that is not supported.
    #[error("{text:?} is no image reference: {source} (valid ones: {VALID})")]
    Digest {
        /// What was given.
        text: String,
        /// What is wrong with its digest.
        source: DigestError,
    },
    /// Not a pattern of references.
    #[error("{text:?} is no pattern of image references: {reason} (valid ones: {VALID_PATTERNS})")]
    Pattern {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

const VALID: &str =
    "python, python:3.13, ghcr.io/acme/tool:1, ghcr.io/acme/tool@sha256:<64 hexadecimal digits>";
const VALID_PATTERNS: &str = "python, python:3.*, ghcr.io/acme/*, ghcr.io/acme/tool@sha256:<64 hexadecimal digits>, or * for all";

/// An image by its canonical name. Two that are equal mean the same image.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with its port if one is named. Lower case, an IPv6 address in its shortest form.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path in the registry, such as `library/python`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. One at least of tag and digest is there.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which decides if there is one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Whether this image is never fetched: its registry is this host.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.registry == LOCAL_REGISTRY
    }

    /// The same repository at that digest. The tag is dropped: it may mean another image.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// What a manifest is asked for by: the digest, else the tag.
    #[must_use]
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            // Parsing supplies `latest` where there is neither.
            (None, None) => "latest".to_owned(),
        }
    }

    /// `REGISTRY/REPOSITORY`, without tag or digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let malformed = |reason: &str| ReferenceError::Malformed {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (address, plain) = match split_address(text) {
            Some((address, rest)) => (Some(address), Cow::Owned(format!("{STAND_IN}{rest}"))),
            None => (None, Cow::Borrowed(text)),
        };
        let parsed = Parsed::try_from(&*plain).map_err(|error| match error {
            ParseError::DigestUnsupported => malformed("its digest is not of sha256"),
            ParseError::ReferenceInvalidFormat if text.chars().any(char::is_uppercase) => {
                malformed("names are lower case, and have letters, digits and . _ - only")
            }
            error => malformed(&error.to_string()),
        })?;
        // The grammar takes the first part for a host, which may have capitals, even where it is none.
        if parsed.repository().chars().any(char::is_uppercase) {
            return Err(malformed("a repository's name is lower case"));
        }
        let registry = match address {
            Some(address) => {
                let port = parsed.registry().strip_prefix(STAND_IN);
                let port = port.filter(|port| port.is_empty() || port.starts_with(':'));
                let port =
                    port.ok_or_else(|| malformed("an address is followed by a port or /"))?;
                format!("[{address}]{port}")
            }
            None => canonical_registry(parsed.registry()),
        };
        let digest = parsed.digest().map(Digest::from_str).transpose();
        let digest = digest.map_err(|source| ReferenceError::Digest {
            text: text.to_owned(),
            source,
        })?;
        Ok(Self {
            // A capital hides Docker Hub from the parser's own rules, so they are applied once more.
            repository: canonical_repository(&registry, parsed.repository()),
            registry,
            tag: parsed.tag().map(str::to_owned),
            digest,
        })
    }
}

/// An IPv6 address in brackets (RFC 3986, 3.2.2) at the begin of a name, and what follows it.
fn split_address(text: &str) -> Option<(Ipv6Addr, &str)> {
    let (address, rest) = text.strip_prefix('[')?.split_once(']')?;
    Some((address.parse().ok()?, rest))
}

fn canonical_registry(registry: &str) -> String {
    if let Some((address, port)) = split_address(registry) {
        return format!("[{address}]{port}");
    }
    let lower = registry.to_ascii_lowercase();
    if lower == LEGACY_REGISTRY {
        DEFAULT_REGISTRY.to_owned()
    } else {
        lower
    }
}

fn canonical_repository(registry: &str, repository: &str) -> String {
    if canonical_registry(registry) == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("{OFFICIAL}/{repository}")
    } else {
        repository.to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Which references may be used: comma-separated patterns, which are completed like references.
///
/// | pattern | permits |
/// |---|---|
/// | `python` | any tag and any digest of `docker.io/library/python`, as container policies read a repository |
/// | `python:3.*` | its tags that match; no digest, not even beside such a tag, which nobody would check |
/// | `ghcr.io/acme/tool@sha256:…` | that content, with or without a tag beside it |
/// | `ghcr.io/acme/*` | the repositories directly below; `**` is any depth |
/// | `*` | everything |
///
/// `*` and `?` stand for characters of one part of the path, never for a `/`. The registry is compared as a whole
/// and holds no wildcard, so that a pattern for one host permits nothing of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    All,
    Of {
        registry: String,
        repository: String,
        version: Version,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    Any,
    Tag(String),
    Digest(Digest),
}

impl AllowList {
    /// Reads comma-separated patterns. Blanks around them and empty ones are ignored: no pattern permits nothing.
    ///
    /// # Errors
    /// [`ReferenceError::Pattern`] with the first that is none.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let patterns = text
            .split(',')
            .map(str::trim)
            .filter(|pattern| !pattern.is_empty())
            .map(Pattern::parse);
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// Whether one of the patterns matches this reference.
    #[must_use]
    pub fn permits(&self, reference: &Reference) -> bool {
        self.patterns
            .iter()
            .any(|pattern| pattern.matches(reference))
    }

    /// Whether nothing is permitted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, ReferenceError> {
        let broken = |reason| ReferenceError::Pattern {
            text: text.to_owned(),
            reason,
        };
        if text == "*" {
            return Ok(Self::All);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@*?".contains(c);
        let after_address = split_address(text).map_or(text, |(_, rest)| rest);
        if !after_address.chars().all(plain) {
            return Err(broken("it has characters that no reference has"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = split_tag(name);
        let version = match (digest, tag) {
            (Some(_), Some(_)) => {
                return Err(broken("it has a tag and a digest: give one of them"));
            }
            (Some(digest), None) => {
                let digest = digest.parse();
                Version::Digest(digest.map_err(|_| broken("its digest is not sha256 and whole"))?)
            }
            (None, Some("")) => return Err(broken("its tag is empty")),
            (None, Some(tag)) => Version::Tag(tag.to_owned()),
            (None, None) => Version::Any,
        };
        let (registry, repository) = split_registry(name).map_err(broken)?;
        // With the wildcards filled in it must be a reference; else it would match nothing and never be noticed.
        let sample = repository.replace("**", "a").replace(['*', '?'], "a");
        if format!("{registry}/{sample}").parse::<Reference>().is_err() {
            return Err(broken("no reference can match it"));
        }
        Ok(Self::Of {
            registry,
            repository,
            version,
        })
    }

    fn matches(&self, reference: &Reference) -> bool {
        match self {
            Self::All => true,
            Self::Of {
                registry,
                repository,
                version,
            } => {
                *registry == reference.registry
                    && fast_glob::glob_match(repository, &reference.repository)
                    && version.matches(reference)
            }
        }
    }
}

impl Version {
    fn matches(&self, reference: &Reference) -> bool {
        match (self, reference.digest(), reference.tag()) {
            (Self::Any, _, _) => true,
            (Self::Digest(permitted), Some(digest), _) => *permitted == digest,
            (Self::Tag(permitted), None, Some(tag)) => fast_glob::glob_match(permitted, tag),
            (Self::Digest(_), None, _) | (Self::Tag(_), _, _) => false,
        }
    }
}

/// A colon after the last slash begins the tag; one before it, a port.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

/// The registry and the repository of a pattern, by the rules for references.
fn split_registry(name: &str) -> Result<(String, String), &'static str> {
    let (first, rest) = match name.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    // `*/tool` may be meant for any registry, or for any namespace of Docker Hub.
    if first.contains(['*', '?']) {
        return Err("a wildcard may not stand for a registry: begin with one, such as docker.io/");
    }
    let (registry, repository) = match rest {
        Some(rest) if first.contains(['.', ':']) || first == LOCAL_REGISTRY => {
            (canonical_registry(first), rest)
        }
        _ => (DEFAULT_REGISTRY.to_owned(), name),
    };
    // `**` is any depth, so it is not only what has no namespace.
    if repository == "**" {
        return Ok((registry, repository.to_owned()));
    }
    let repository = canonical_repository(&registry, repository);
    Ok((registry, repository))
}

#[cfg(test)]
mod tests;
