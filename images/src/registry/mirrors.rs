// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Other places to ask for a registry's images: `WAGGLE_IMAGE_MIRRORS`.
//!
//! A mirror is asked before its registry, for pulls only. What is named by digest is verified, so a mirror cannot
//! change it; which image a tag means is the mirror's word, so that one which answered is logged.

use std::str::FromStr;

use super::tls::is_loopback;
use crate::reference::Reference;

/// One mirror of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The registry, as references name it, such as `docker.io`.
    pub registry: String,
    /// The mirror's host, with its port if it has one.
    pub host: String,
    /// What repositories have before their name at the mirror. Often empty.
    pub prefix: String,
}

/// Text that names no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// Not of the form `REGISTRY=HOST[/PREFIX]`.
    #[error(
        "mirror {0:?} is not of the form REGISTRY=HOST[:PORT][/PREFIX], such as docker.io=mirror.example/hub"
    )]
    Form(String),
    /// Plain HTTP to another machine.
    #[error("mirror {0:?} is asked for over plain HTTP, which is for loopback only: use https")]
    Plain(String),
}

impl Mirror {
    /// Reads `REGISTRY=HOST[:PORT][/PREFIX]`, comma-separated, in the order in which they are asked.
    ///
    /// # Errors
    /// With the first that is none.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, MirrorError> {
        let each = text.split(',').map(str::trim);
        each.filter(|each| !each.is_empty())
            .map(str::parse)
            .collect()
    }

    /// The repository's name at the mirror.
    pub(super) fn repository(&self, reference: &Reference) -> String {
        if self.prefix.is_empty() {
            reference.repository().to_owned()
        } else {
            format!("{}/{}", self.prefix, reference.repository())
        }
    }
}

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let form = || MirrorError::Form(without_login(text));
        let (registry, place) = text.split_once('=').ok_or_else(form)?;
        let (plain, place) = match place.split_once("://") {
            Some(("http", place)) => (true, place),
            Some(("https", place)) => (false, place),
            Some(_) => return Err(form()),
            None => (false, place),
        };
        // The grammar of references has that of hosts and prefixes in it; `x` stands for an image.
        let named = |name: &str| format!("{name}/x").parse::<Reference>().map_err(|_| form());
        let place = place.trim_end_matches('/');
        let at = named(place)?;
        let host = at.registry().to_owned();
        // Without a dot, a colon or `localhost` the parser takes a host for a namespace of Docker Hub.
        let stated = place.split('/').next().unwrap_or_default();
        if !stated.eq_ignore_ascii_case(&host) || at.tag() != Some("latest") {
            return Err(form());
        }
        if plain && !is_loopback(&host) {
            return Err(MirrorError::Plain(text.to_owned()));
        }
        let of = named(registry)?;
        let path = place.split_once('/').map(|(_, path)| path);
        if registry.contains('/') || of.is_local() || of.digest().is_some() {
            return Err(form());
        }
        if of.registry() == crate::reference::DEFAULT_REGISTRY && !registry.contains("docker.io") {
            return Err(form());
        }
        Ok(Self {
            registry: of.registry().to_owned(),
            host,
            prefix: path.unwrap_or_default().to_owned(),
        })
    }
}

/// A login has no place in a mirror's name, and none in a message.
fn without_login(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mirrors_in_order() {
        let mirrors = Mirror::parse_list(
            "docker.io=mirror.example/hub, index.docker.io=https://second.example:8443/a/b/ ,\
             ghcr.io=http://127.0.0.1:5000,quay.io=http://[::1]:5000/q",
        );
        let of = |registry: &str, host: &str, prefix: &str| Mirror {
            registry: registry.to_owned(),
            host: host.to_owned(),
            prefix: prefix.to_owned(),
        };
        assert_eq!(
            mirrors,
            Ok(vec![
                of("docker.io", "mirror.example", "hub"),
                of("docker.io", "second.example:8443", "a/b"),
                of("ghcr.io", "127.0.0.1:5000", ""),
                of("quay.io", "[::1]:5000", "q"),
            ])
        );
        assert_eq!(Mirror::parse_list(" , "), Ok(Vec::new()));
    }

    #[test]
    fn a_repository_takes_on_the_prefix() {
        let reference: Reference = "python".parse().expect("a reference");
        let mirror: Mirror = "docker.io=mirror.example/hub".parse().expect("a mirror");
        assert_eq!(mirror.repository(&reference), "hub/library/python");
    }

    #[test]
    fn refuses_what_is_no_mirror() {
        for text in [
            "docker.io",
            "docker.io=",
            "=mirror.example",
            "docker.io=mirror",
            "dockerio=mirror.example",
            "docker.io/library=mirror.example",
            "docker.io=ftp://mirror.example",
            "docker.io=user:secret@mirror.example",
            "docker.io=mirror.example/x@sha256:00",
            "localhost=mirror.example",
            "docker.io=mirror.example/Hub",
        ] {
            let parsed = text.parse::<Mirror>();
            assert_eq!(parsed, Err(MirrorError::Form(without_login(text))));
            assert!(!without_login(text).contains("secret"));
        }
        let plain = "docker.io=http://mirror.example";
        let parsed = plain.parse::<Mirror>();
        assert_eq!(parsed, Err(MirrorError::Plain(plain.to_owned())));
    }
}
