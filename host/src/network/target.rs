// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Where a connection shall go: a normalised host and a port.
//!
//! Pure. Invariants: a [`Target`]'s text is printable ASCII without spaces, so that it may stand in header
//! lines; whatever is an odd spelling of an IPv4 address (`0x7f.1`, `127.1`, a mapped address) is that
//! address, and no name.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use url::Host;

/// Longest host name (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;

/// Longest piece of the caller's text that an error repeats, in characters.
const QUOTED_MAX: usize = 100;

/// Where a connection shall go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The normalised host. An IPv4-mapped IPv6 address is an IPv4 address here.
    pub host: Host<String>,
    /// The TCP port, not 0.
    pub port: u16,
}

/// A text names no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not like host:port")]
pub struct MalformedTarget(String);

impl Target {
    /// A target from a host as people and programs write it, IPv6 with or without brackets.
    ///
    /// # Errors
    ///
    /// [`MalformedTarget`].
    pub fn new(host: &str, port: u16) -> Result<Self, MalformedTarget> {
        match host_of(host) {
            Some(host) if port != 0 => Ok(Self { host, port }),
            _ => Err(MalformedTarget(quoted(&format!("{host}:{port}")))),
        }
    }

    /// A target from `host:port`, or `host` alone where a default port is known.
    ///
    /// # Errors
    ///
    /// [`MalformedTarget`].
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, MalformedTarget> {
        let malformed = || MalformedTarget(quoted(text));
        let (host, port) = split_port(text).ok_or_else(malformed)?;
        let port = port.or(default_port).ok_or_else(malformed)?;
        Self::new(host, port).map_err(|_| malformed())
    }

    /// The address, if the host is one.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some((*address).into()),
            Host::Ipv6(address) => Some((*address).into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The host in `text`, as the URL standard reads it.
pub(super) fn host_of(text: &str) -> Option<Host<String>> {
    let bare = text
        .strip_prefix('[')
        .map_or(Some(text), |rest| rest.strip_suffix(']'))?;
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return Some(match address.to_canonical() {
            IpAddr::V4(address) => Host::Ipv4(address),
            IpAddr::V6(address) => Host::Ipv6(address),
        });
    }
    match Host::parse(text).ok()? {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(&name);
            let whole = !name.is_empty() && !name.split('.').any(str::is_empty);
            (whole && name.len() <= NAME_MAX).then(|| Host::Domain(name.to_owned()))
        }
        other => Some(other),
    }
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port` and a bare IPv6 address.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => return Some((text, None)),
    };
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some((host, Some(port)))
}

/// As much of `text`, which comes from outside, as an error repeats.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX).collect()
}
