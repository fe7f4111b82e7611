// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What an environment may reach: whatever the operator's settings permit, or the part of it that
//! `create_environment` asked for. Everything else is refused.
//!
//! Pure; resolves nothing. Invariants: a name is compared as the URL standard normalises it (IDNA,
//! lower case, no final dot; whatever is an odd spelling of an IPv4 address is that address); a
//! narrowed policy never permits what the one it came from refuses; an address in a
//! [special range](address::special) is permitted only if the operator's own entries list it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use url::Host;

use super::{
    address,
    registries::{Registry, RegistryError},
};

/// The ready-made policies, by name.
pub const PRESETS: &str = "none, packages, all";

/// The setting that the operator adds entries to.
pub const ALLOW_SETTING: &str = "WAGGLE_NETWORK_ALLOW";

/// Longest host name (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;

/// Most entries of one list: matching costs time with each, and nobody writes as many.
const ENTRIES_MAX: usize = 1000;

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
fn host_of(text: &str) -> Option<Host<String>> {
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
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
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

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX).collect()
}

/// One thing that is permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// Every host and public address.
    All,
    /// This name.
    Host(String, Option<u16>),
    /// Every name below this one, not itself.
    Below(String, Option<u16>),
    /// These addresses.
    Net(IpNet, Option<u16>),
}

impl Entry {
    fn parse(text: &str) -> Result<Self, PolicyError> {
        let malformed = |why| PolicyError::Entry {
            entry: quoted(text),
            why,
        };
        if text.contains("://") {
            return Err(malformed("a URL is not an entry, its host and port are"));
        }
        if matches!(
            text.to_ascii_lowercase().as_str(),
            "none" | "packages" | "all"
        ) {
            return Err(malformed("that is a preset, which WAGGLE_NETWORK takes"));
        }
        if text == "*" {
            return Err(malformed("for every host there is the preset all"));
        }
        if text.contains('/') {
            return Self::net(text).map_err(malformed);
        }
        let (host, port) =
            split_port(text).ok_or_else(|| malformed("the port is not 1 to 65535"))?;
        let below = host.strip_prefix("*.");
        let name = below.unwrap_or(host);
        if name.contains('*') {
            return Err(malformed(
                "a * may only stand for everything before the first dot, as in *.example.com",
            ));
        }
        match (host_of(name), below) {
            (None, _) => Err(malformed("that is no host name and no address")),
            (Some(Host::Domain(name)), None) => Ok(Self::Host(name, port)),
            (Some(Host::Domain(name)), Some(_)) => Ok(Self::Below(name, port)),
            (Some(_), Some(_)) => Err(malformed("addresses have no subdomains")),
            (Some(Host::Ipv4(_)), None) if name.parse::<Ipv4Addr>().is_err() => {
                Err(malformed("an IPv4 address has four decimal numbers"))
            }
            (Some(Host::Ipv4(address)), None) => Ok(Self::Net(IpAddr::from(address).into(), port)),
            (Some(Host::Ipv6(address)), None) => Ok(Self::Net(IpAddr::from(address).into(), port)),
        }
    }

    fn net(text: &str) -> Result<Self, &'static str> {
        let net: IpNet = text
            .parse()
            .map_err(|_| "that is no address with a prefix length, like 192.0.2.0/24")?;
        if net != net.trunc() {
            return Err("the address has bits behind the prefix; write the range's first address");
        }
        if matches!(net, IpNet::V6(net) if net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some())
        {
            return Err("write an IPv4 range as IPv4");
        }
        Ok(Self::Net(net, None))
    }

    fn parse_list(text: &str) -> Result<Vec<Self>, PolicyError> {
        let entries = words(text)
            .map(Self::parse)
            .collect::<Result<Vec<_>, _>>()?;
        within_limit(entries)
    }

    fn permits(&self, target: &Target) -> bool {
        let port = |port: &Option<u16>| port.is_none_or(|port| port == target.port);
        match (self, &target.host) {
            (Self::All, _) => true,
            (Self::Host(name, p), Host::Domain(asked)) => name == asked && port(p),
            (Self::Below(name, p), Host::Domain(asked)) => is_below(asked, name) && port(p),
            (Self::Net(net, p), Host::Ipv4(asked)) => {
                net.contains(&IpAddr::from(*asked)) && port(p)
            }
            (Self::Net(net, p), Host::Ipv6(asked)) => {
                net.contains(&IpAddr::from(*asked)) && port(p)
            }
            _ => false,
        }
    }

    /// Whether this permits all that `narrower` does, or at least its hosts on some port if it names no
    /// port.
    fn covers(&self, narrower: &Self) -> bool {
        let port = |ours: &Option<u16>, theirs: &Option<u16>| {
            ours.is_none() || theirs.is_none() || ours == theirs
        };
        match (self, narrower) {
            (Self::All, Self::Net(net, _)) => {
                !address::RANGES.iter().any(|range| range.net.contains(net))
            }
            (Self::All, _) => true,
            (Self::Host(a, p), Self::Host(b, q)) | (Self::Below(a, p), Self::Below(b, q))
                if a == b =>
            {
                port(p, q)
            }
            (Self::Below(a, p), Self::Host(b, q) | Self::Below(b, q)) => {
                is_below(b, a) && port(p, q)
            }
            (Self::Net(a, p), Self::Net(b, q)) => a.contains(b) && port(p, q),
            _ => false,
        }
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

fn within_limit(entries: Vec<Entry>) -> Result<Vec<Entry>, PolicyError> {
    match entries.len() {
        count if count > ENTRIES_MAX => Err(PolicyError::TooMany { count }),
        _ => Ok(entries),
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            Self::All => return f.write_str("all"),
            Self::Host(name, port) => {
                f.write_str(name)?;
                port
            }
            Self::Below(name, port) => {
                write!(f, "*.{name}")?;
                port
            }
            Self::Net(net, port) => {
                match (net.addr(), net.prefix_len() == net.max_prefix_len()) {
                    (IpAddr::V6(address), true) if port.is_some() => write!(f, "[{address}]")?,
                    (address, true) => write!(f, "{address}")?,
                    (_, false) => write!(f, "{net}")?,
                }
                port
            }
        };
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A text is no policy, or asks for more than there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Neither a preset nor anything that could be an entry.
    #[error("{0:?} is no preset; the presets are {PRESETS}")]
    Preset(String),
    /// One entry is malformed.
    #[error(
        "network entry {entry:?}: {why}; entries are like example.com, example.com:443, *.example.com, 192.0.2.0/24, 192.0.2.1:80, [2001:db8::1]:80"
    )]
    Entry {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A registry is malformed.
    #[error("a package registry is malformed")]
    Registry(#[from] RegistryError),
    /// Longer than anyone writes.
    #[error("{count} network entries exceed limit {ENTRIES_MAX}; use *.domain or a range")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// `none` together with something.
    #[error("none stands alone; leave it out, or what is beside it")]
    None,
    /// More than the server permits.
    #[error(
        "this server does not permit {entry:?}: its network policy is {policy}; ask for less (presets: {PRESETS}), or its owner permits it with {ALLOW_SETTING}={entry}"
    )]
    Beyond {
        /// What was asked for.
        entry: String,
        /// The server's policy in words.
        policy: String,
    },
}

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DenialKind {
    /// No entry permits the host, or that port of it.
    NotPermitted,
    /// The host is, or resolves to, an address in a refused range.
    SpecialAddress,
    /// The environment has used up what it may.
    Limit,
}

/// One refusal: what was asked, which rule refused it, and how the owner allows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub struct Denial {
    /// Which kind of rule refused it.
    pub kind: DenialKind,
    /// What was asked for, as host:port.
    pub asked: String,
    /// The rule.
    pub rule: String,
    /// What lets it pass.
    pub remedy: String,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is refused: {}; {}",
            self.asked, self.rule, self.remedy
        )
    }
}

/// What one list permits.
#[derive(Debug, PartialEq, Eq)]
struct Rules {
    /// In words.
    text: String,
    entries: Vec<Entry>,
}

/// What an environment may reach. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What the preset `packages` stands for.
    packages: Arc<[Entry]>,
    /// The operator's.
    server: Arc<Rules>,
    /// What is left of it.
    narrowed: Vec<Arc<Rules>>,
}

impl Policy {
    /// The operator's policy: a preset, a comma-separated list of further entries, and what the preset
    /// `packages` stands for: `recorded`, or `packages` instead if it is given (comma separated,
    /// `manager=URL` or plain entries).
    ///
    /// # Errors
    ///
    /// [`PolicyError`] naming the entry.
    pub fn parse(
        preset: &str,
        allow: &str,
        recorded: &[Registry],
        packages: Option<&str>,
    ) -> Result<Self, PolicyError> {
        let packages = match packages {
            Some(text) => packages_entries(text)?,
            None => recorded.iter().flat_map(registry_entries).collect(),
        };
        let packages: Arc<[Entry]> = within_limit(packages)?.into();
        let preset = preset.trim().to_ascii_lowercase();
        let mut entries = match preset.as_str() {
            "none" => Vec::new(),
            "packages" => packages.to_vec(),
            "all" => vec![Entry::All],
            _ => return Err(PolicyError::Preset(quoted(&preset))),
        };
        let allowed = Entry::parse_list(allow)?;
        let text = described(Some(&preset), &allowed);
        entries.extend(allowed);
        Ok(Self {
            packages,
            server: Arc::new(Rules { text, entries }),
            narrowed: Vec::new(),
        })
    }

    /// The part of this policy that `text` asks for: presets and entries, comma separated. An entry
    /// without a port is whatever ports this policy permits of it.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] naming the entry that is malformed, or beyond this policy.
    pub fn narrow(&self, text: &str) -> Result<Self, PolicyError> {
        let asked: Vec<_> = words(text).collect();
        if asked.is_empty() {
            return Err(PolicyError::Preset(String::new()));
        }
        let mut entries = Vec::new();
        let mut shown = Vec::new();
        for word in &asked {
            let preset = word.to_ascii_lowercase();
            let these = match preset.as_str() {
                "none" if asked.len() == 1 => Vec::new(),
                "none" => return Err(PolicyError::None),
                "all" => vec![Entry::All],
                "packages" => self.packages.to_vec(),
                _ => vec![self.entry(word)?],
            };
            let text = match these.as_slice() {
                [Entry::All] => preset,
                [entry] if preset != "packages" => entry.to_string(),
                _ => preset,
            };
            if !these.iter().all(|entry| self.covers(entry)) {
                let policy = self.to_string();
                return Err(PolicyError::Beyond {
                    entry: text,
                    policy,
                });
            }
            shown.push(text);
            entries.extend(these);
        }
        let rules = Rules {
            text: shown.join(", "),
            entries: within_limit(entries)?,
        };
        let mut narrowed = self.clone();
        narrowed.narrowed.push(Arc::new(rules));
        Ok(narrowed)
    }

    /// An entry of a narrower policy. A word without a dot or port is more likely a misspelled preset
    /// than a host, unless it is listed.
    fn entry(&self, word: &str) -> Result<Entry, PolicyError> {
        let entry = Entry::parse(word)?;
        let listed = self.server.entries.contains(&entry);
        if word.contains(['.', ':']) || listed {
            Ok(entry)
        } else {
            Err(PolicyError::Preset(quoted(word)))
        }
    }

    fn covers(&self, entry: &Entry) -> bool {
        self.layers()
            .all(|rules| rules.entries.iter().any(|ours| ours.covers(entry)))
    }

    fn layers(&self) -> impl Iterator<Item = &Rules> {
        std::iter::once(&self.server)
            .chain(&self.narrowed)
            .map(Arc::as_ref)
    }

    /// Whether `target` may be asked for at all: by its name, before that is resolved, or as an address.
    ///
    /// # Errors
    ///
    /// The [`Denial`].
    pub fn permits(&self, target: &Target) -> Result<(), Denial> {
        let refusing = |rules: &&Rules| !rules.entries.iter().any(|entry| entry.permits(target));
        if let Some(rules) = self.layers().find(refusing) {
            return Err(self.not_permitted(target, rules));
        }
        target
            .literal()
            .map_or(Ok(()), |address| self.permits_address(target, address))
    }

    fn not_permitted(&self, target: &Target, rules: &Rules) -> Denial {
        let owner = std::ptr::eq(rules, self.server.as_ref());
        let whose = if owner { "server" } else { "environment" };
        Denial {
            kind: DenialKind::NotPermitted,
            asked: target.to_string(),
            rule: format!("the {whose}'s network policy is {}", rules.text),
            remedy: if owner {
                format!("the server's owner permits it with {ALLOW_SETTING}={target}")
            } else {
                format!("create an environment whose argument network includes {target}")
            },
        }
    }

    /// Whether `target`, which is permitted, may be reached at `address`, which it resolved to.
    ///
    /// # Errors
    ///
    /// The [`Denial`] if the address is in a special range that the operator's entries do not list.
    pub fn permits_address(&self, target: &Target, address: IpAddr) -> Result<(), Denial> {
        let address = address.to_canonical();
        let Some(range) = address::special(address) else {
            return Ok(());
        };
        let listed = |entry: &Entry| match entry {
            Entry::Net(net, port) => {
                net.contains(&address) && port.is_none_or(|port| port == target.port)
            }
            Entry::All | Entry::Host(..) | Entry::Below(..) => false,
        };
        if self.server.entries.iter().any(listed) {
            return Ok(());
        }
        let is = match target.literal() {
            Some(_) => "it is".to_owned(),
            None => format!("it resolves to {address}, which is"),
        };
        Err(Denial {
            kind: DenialKind::SpecialAddress,
            asked: target.to_string(),
            rule: format!(
                "{is} {} ({}), which no name and no preset permits",
                range.name, range.source
            ),
            remedy: format!("the server's owner permits it with {ALLOW_SETTING}={address}"),
        })
    }
}

/// A policy in words: the presets and entries it was made of.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.narrowed.last().unwrap_or(&self.server);
        f.write_str(&last.text)
    }
}

fn described(preset: Option<&str>, entries: &[Entry]) -> String {
    let preset = preset.filter(|preset| *preset != "none" || entries.is_empty());
    let entries = entries.iter().map(Entry::to_string);
    let all: Vec<_> = preset
        .map(str::to_owned)
        .into_iter()
        .chain(entries)
        .collect();
    all.join(", ")
}

fn packages_entries(text: &str) -> Result<Vec<Entry>, PolicyError> {
    let mut entries = Vec::new();
    for word in words(text) {
        if word.contains('=') {
            entries.extend(registry_entries(&word.parse()?));
        } else {
            entries.push(Entry::parse(word)?);
        }
    }
    Ok(entries)
}

/// A registry is reached at its URL's port, and by https: many answer http with a redirect.
fn registry_entries(registry: &Registry) -> Vec<Entry> {
    let host = registry.url.host_str().and_then(host_of);
    let ports = [registry.url.port_or_known_default(), Some(443)];
    let mut entries: Vec<Entry> = Vec::new();
    for port in ports.into_iter().flatten() {
        let entry = match &host {
            Some(Host::Domain(name)) => Entry::Host(name.clone(), Some(port)),
            Some(Host::Ipv4(address)) => Entry::Net(IpAddr::from(*address).into(), Some(port)),
            Some(Host::Ipv6(address)) => Entry::Net(IpAddr::from(*address).into(), Some(port)),
            None => continue,
        };
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(preset: &str, allow: &str) -> Policy {
        let recorded = [
            "pip=https://index.example/simple/",
            "apt=http://deb.example/debian/",
        ];
        let recorded: Vec<Registry> = recorded.map(|text| text.parse().expect(text)).into();
        Policy::parse(preset, allow, &recorded, None).expect("a policy")
    }

    fn target(text: &str) -> Target {
        Target::parse(text, None).expect(text)
    }

    fn permits(policy: &Policy, text: &str) -> bool {
        policy.permits(&target(text)).is_ok()
    }

    #[test]
    fn hosts_are_normalised() {
        for (text, normal) in [
            ("EXAMPLE.com.:443", "example.com:443"),
            ("b\u{fc}cher.example:80", "xn--bcher-kva.example:80"),
            ("0x7f.1:80", "127.0.0.1:80"),
            ("2130706433:80", "127.0.0.1:80"),
            ("127.1:80", "127.0.0.1:80"),
            ("127.0.0.1.:80", "127.0.0.1:80"),
            ("0177.0.0.1:80", "127.0.0.1:80"),
            ("ex%61mple.com:1", "example.com:1"),
            ("\u{ff11}27.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[0:0::0001]:80", "[::1]:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ] {
            assert_eq!(target(text).to_string(), normal);
        }
        assert_eq!(
            Target::new("::1", 1).expect("no brackets").to_string(),
            "[::1]:1"
        );
        for text in [
            "",
            ":80",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:x",
            "a b:1",
            "a/b:1",
            "a@b:1",
            "[::1:1",
            "::1]:1",
            "[fe80::1%eth0]:1",
            ".:1",
            "..:1",
            "a..b:1",
            ".a:1",
            "a:1:2",
            "999.1.1.1:1",
            "a:+1",
            &format!("{}:1", "a.".repeat(130)),
        ] {
            assert!(Target::parse(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn entries_permit_what_they_say() {
        let listed = policy(
            "none",
            "one.example, two.example:8080, *.sub.example, *.port.example:1, 192.0.2.0/24, 10.1.2.3:80, [fd00::1]:80, fd00::2",
        );
        for text in [
            "one.example:1",
            "ONE.example.:65535",
            "two.example:8080",
            "a.sub.example:5",
            "a.b.sub.example:5",
            "a.port.example:1",
            "192.0.2.255:9",
            "10.1.2.3:80",
            "[fd00::1]:80",
            "[fd00::2]:1",
            "[::ffff:10.1.2.3]:80",
            "0xa.1.2.3:80",
        ] {
            assert!(permits(&listed, text), "{text}");
        }
        for text in [
            "an.one.example:1",
            "two.example:80",
            "sub.example:5",
            "asub.example:5",
            "a.port.example:2",
            "192.0.3.0:9",
            "10.1.2.3:81",
            "10.1.2.4:80",
            "[fd00::1]:81",
            "[fd00::3]:1",
            "other.example:1",
        ] {
            assert!(!permits(&listed, text), "{text}");
        }
    }

    #[test]
    fn presets() {
        let packages = policy("packages", "");
        for text in ["index.example:443", "deb.example:80", "deb.example:443"] {
            assert!(permits(&packages, text), "{text}");
            assert!(permits(&policy("all", ""), text) && !permits(&policy("none", ""), text));
        }
        for text in [
            "index.example:80",
            "deb.example:81",
            "files.example:443",
            "192.0.2.1:443",
        ] {
            assert!(!permits(&packages, text), "{text}");
            assert!(permits(&policy("ALL", ""), text), "{text}");
        }
        for text in [
            "127.0.0.1:80",
            "[::1]:80",
            "169.254.169.254:80",
            "[::ffff:7f00:1]:1",
        ] {
            assert!(!permits(&policy("all", ""), text), "{text}");
            assert!(!permits(&policy("all", "other.example"), text), "{text}");
        }
        let own = Policy::parse(
            "packages",
            "",
            &[],
            Some("npm=https://npm.example/, files.example:81"),
        );
        let own = own.expect("entries of both kinds");
        assert!(permits(&own, "npm.example:443") && permits(&own, "files.example:81"));
        assert!(!permits(&own, "index.example:443"));
        let words: Vec<_> = [
            ("none", ""),
            ("packages", "a.example:1"),
            ("none", "192.0.2.1"),
            ("all", ""),
        ]
        .map(|(preset, allow)| policy(preset, allow).to_string())
        .into();
        assert_eq!(words, ["none", "packages, a.example:1", "192.0.2.1", "all"]);
    }

    #[test]
    fn only_listed_addresses_of_special_ranges_are_reached() {
        let listed = policy("none", "name.example, 10.0.0.0/8, 127.0.0.1:80");
        let name = |port| target(&format!("name.example:{port}"));
        let at = |port, address: &str| {
            listed.permits_address(&name(port), address.parse().expect(address))
        };
        assert!(
            at(1, "10.9.9.9").is_ok() && at(80, "127.0.0.1").is_ok() && at(1, "192.0.2.1").is_ok()
        );
        assert!(at(1, "::ffff:10.9.9.9").is_ok());
        for (port, address) in [
            (81, "127.0.0.1"),
            (80, "127.0.0.2"),
            (1, "192.168.0.1"),
            (1, "fe80::1"),
        ] {
            let denial = at(port, address).expect_err(address);
            assert_eq!(denial.kind, DenialKind::SpecialAddress);
            let text = denial.to_string();
            assert!(text.contains(address) && text.contains("RFC"), "{text}");
            assert!(
                text.contains(&format!("{ALLOW_SETTING}={address}")),
                "{text}"
            );
        }
    }

    #[test]
    fn a_denial_says_what_was_asked_which_rule_refused_it_and_what_permits_it() {
        let denial = policy("packages", "")
            .permits(&target("evil.example:443"))
            .expect_err("refused");
        assert_eq!(
            denial.to_string(),
            "evil.example:443 is refused: the server's network policy is packages; the server's owner permits it with WAGGLE_NETWORK_ALLOW=evil.example:443"
        );
        let narrowed = policy("all", "").narrow("index.example").expect("less");
        let denial = narrowed
            .permits(&target("evil.example:443"))
            .expect_err("refused");
        assert!(denial.rule.contains("environment") && denial.rule.contains("index.example"));
        assert!(denial.remedy.contains("create an environment"), "{denial}");
    }

    #[test]
    fn what_is_no_policy_names_the_entry() {
        for entry in [
            "http://a.example/",
            "a.example/x",
            "*",
            "*.*.example",
            "a.*.example",
            "*a.example",
            "a.example:0",
            "a.example:",
            "a.example:99999",
            "a b",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::ffff:10.0.0.0/104",
            "0x7f.1",
            "127.1",
            "*.10.0.0.1",
            "[::1",
            "packages",
            "user@a.example",
        ] {
            let text = format!("good.example, {entry}");
            let error = Policy::parse("none", &text, &[], None).expect_err(entry);
            assert!(matches!(error, PolicyError::Entry { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{entry:?}")), "{error}");
        }
        let error = Policy::parse("some", "", &[], None)
            .expect_err("no preset")
            .to_string();
        assert!(error.contains("some") && error.contains(PRESETS), "{error}");
        let many = "a.example,".repeat(ENTRIES_MAX + 1);
        assert!(matches!(
            Policy::parse("none", &many, &[], None),
            Err(PolicyError::TooMany { .. })
        ));
        assert!(Policy::parse("none", "", &[], Some("pip=nowhere")).is_err());
    }

    #[test]
    fn narrowing_takes_away() {
        let server = policy("packages", "*.dev.example, 10.0.0.0/8, one.example:80");
        for (text, open, closed) in [
            ("none", "", "index.example:443"),
            ("packages", "index.example:443", "a.dev.example:1"),
            (
                "packages, a.dev.example",
                "a.dev.example:7",
                "b.dev.example:7",
            ),
            ("*.a.dev.example", "x.a.dev.example:7", "a.dev.example:7"),
            ("10.2.0.0/16", "10.2.3.4:5", "10.3.0.0:5"),
            ("one.example", "one.example:80", "one.example:81"),
            ("one.example:80", "one.example:80", "index.example:443"),
        ] {
            let narrowed = server.narrow(text).expect(text);
            assert!(
                open.is_empty() || permits(&narrowed, open),
                "{text}: {open}"
            );
            assert!(!permits(&narrowed, closed), "{text}: {closed}");
        }
        for (text, named) in [
            ("all", "all"),
            ("index.example, evil.example", "evil.example"),
            ("one.example:81", "one.example:81"),
            ("*.example", "*.example"),
            ("*.one.example", "*.one.example"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("11.0.0.1", "11.0.0.1"),
        ] {
            let error = server.narrow(text).expect_err(text);
            assert!(matches!(error, PolicyError::Beyond { .. }), "{error}");
            let error = error.to_string();
            assert!(
                error.contains(&format!("{named:?}")) && error.contains(ALLOW_SETTING),
                "{error}"
            );
        }
        for text in ["", " , ", "pakages"] {
            let error = server.narrow(text).expect_err(text).to_string();
            assert!(error.contains(PRESETS), "{error}");
            assert!(policy("all", "").narrow(text).is_err());
        }
        assert_eq!(
            server.narrow("none, packages").expect_err("both"),
            PolicyError::None
        );
        assert!(policy("none", "").narrow("packages").is_err());
        assert!(policy("all", "").narrow("10.0.0.1").is_err());
        assert!(policy("all", "").narrow("packages").is_ok());
        // What the operator lists stays reachable by the names that are left.
        let address = "10.1.1.1".parse().expect("an address");
        let narrowed = server.narrow("packages").expect("less");
        assert!(
            narrowed
                .permits_address(&target("index.example:443"), address)
                .is_ok()
        );
    }

    fn host() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ab]{1}\\.example",
            "[ab]\\.[ab]\\.example",
            Just("index.example".to_owned()),
            any::<[u8; 4]>().prop_map(|_| "10.0.0.1".to_owned()),
            (0_u8..3, 0_u8..3).prop_map(|(a, b)| format!("10.{a}.{b}.1")),
            Just("[fd00::1]".to_owned()),
            Just("127.0.0.1".to_owned()),
            Just("8.8.8.8".to_owned()),
        ]
    }

    fn entry() -> impl Strategy<Value = String> {
        let ports = prop_oneof![Just(""), Just(":80"), Just(":443")];
        prop_oneof![
            (host(), ports.clone()).prop_map(|(host, port)| format!("{host}{port}")),
            ("[ab]\\.example|example", ports).prop_map(|(name, port)| format!("*.{name}{port}")),
            (0_u8..3, 8_u8..25).prop_map(|(a, length)| {
                let net: IpNet = format!("10.{a}.0.0/{length}").parse().expect("a range");
                net.trunc().to_string()
            }),
        ]
    }

    fn preset() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("none"), Just("packages"), Just("all")]
    }

    proptest! {
        #[test]
        fn narrowing_never_permits_what_the_server_refuses(
            preset in preset(),
            allow in proptest::collection::vec(entry(), 0..4),
            narrow in proptest::collection::vec(prop_oneof![3 => entry(), 1 => super::tests::preset().prop_map(str::to_owned)], 1..4),
            host in host(),
            port in prop_oneof![Just(80_u16), Just(443), any::<u16>().prop_filter("a port", |port| *port != 0)],
            resolved in (0_u8..3, 0_u8..3),
        ) {
            let server = policy(preset, &allow.join(","));
            if let Ok(narrowed) = server.narrow(&narrow.join(",")) {
                let target = Target::new(&host, port).expect("a target");
                prop_assert!(narrowed.permits(&target).is_err() || server.permits(&target).is_ok());
                let address = IpAddr::from([10, resolved.0, resolved.1, 1]);
                prop_assert_eq!(
                    narrowed.permits_address(&target, address),
                    server.permits_address(&target, address)
                );
            }
        }

        #[test]
        fn nothing_in_a_special_range_is_permitted_unlisted(host in "\\PC{0,40}", port in 1_u16..) {
            if let Ok(target) = Target::new(&host, port)
                && let Some(address) = target.literal()
            {
                let open = permits(&policy("all", ""), &target.to_string());
                prop_assert_eq!(open, address::special(address).is_none());
            }
        }

        #[test]
        fn parsing_takes_anything(text in "\\PC{0,60}") {
            let _ = Policy::parse(&text, &text, &[], Some(&text));
            let _ = policy("all", "").narrow(&text);
            if let Ok(target) = Target::parse(&text, Some(80)) {
                // A denial's text goes into header lines.
                prop_assert!(target.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(Target::parse(&target.to_string(), None), Ok(target));
            }
        }

        #[test]
        fn entries_are_their_own_parse(text in entry()) {
            let parsed = Entry::parse(&text).expect("an entry");
            prop_assert_eq!(Entry::parse(&parsed.to_string()), Ok(parsed));
        }
    }
}
