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
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use url::Host;

pub use super::target::{MalformedTarget, Target};
use super::{
    address,
    registries::{Manager, Registry, RegistryError},
    target::{host_of, quoted, split_port},
};

/// The ready-made policies, by name.
pub const PRESETS: &str = "none, packages, all";

/// The setting that the operator adds entries to.
pub const ALLOW_SETTING: &str = "WAGGLE_NETWORK_ALLOW";

/// Most entries of one list: matching costs time with each, and nobody writes as many.
const ENTRIES_MAX: usize = 1000;

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
        let entries = words(text).map(Self::parse).collect::<Result<Vec<_>, _>>();
        within_limit(entries.map_err(|error| discreet(text, error))?)
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
    /// The entry may be, or hold, a part of a password, so nobody repeats it.
    #[error(
        "an entry beside an @ is malformed; no entry has one, and Waggle takes no user or password in a package registry's URL: write example.com:443 or pip=https://pypi.example/simple/ (the entry is not repeated here)"
    )]
    Unshown,
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
    /// `packages` stands for.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] naming the entry.
    pub fn parse(preset: &str, allow: &str, packages: &Packages) -> Result<Self, PolicyError> {
        let packages: Arc<[Entry]> = within_limit(packages.entries())?.into();
        let preset = preset.trim().to_ascii_lowercase();
        let mut entries = match preset.as_str() {
            "none" => Vec::new(),
            "packages" => packages.to_vec(),
            "all" => vec![Entry::All],
            _ => {
                let error = PolicyError::Preset(quoted(&preset));
                return Err(discreet(&preset, error));
            }
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
        self.narrowed_to(text)
            .map_err(|error| discreet(text, error))
    }

    fn narrowed_to(&self, text: &str) -> Result<Self, PolicyError> {
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

/// What the preset `packages` stands for.
#[derive(Debug, Clone, Default)]
pub struct Packages {
    /// The registries.
    pub registries: Vec<Registry>,
    /// Whatever else the operator listed.
    entries: Vec<Entry>,
}

impl Packages {
    /// What the operator says instead of what is recorded: `manager=URL` or plain entries, separated by commas.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] naming the entry, if that can hold no part of a password.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut packages = Self::default();
        for word in words(text) {
            let outcome = if word.contains(['=', '@']) {
                let registry = word.parse().map_err(PolicyError::from);
                registry.map(|registry| packages.registries.push(registry))
            } else {
                Entry::parse(word).map(|entry| packages.entries.push(entry))
            };
            outcome.map_err(|error| discreet(text, error))?;
        }
        Ok(packages)
    }

    fn entries(&self) -> Vec<Entry> {
        let registries = self.registries.iter().flat_map(registry_entries);
        registries.chain(self.entries.iter().cloned()).collect()
    }
}

/// The registries that are recorded.
impl From<Vec<Registry>> for Packages {
    fn from(registries: Vec<Registry>) -> Self {
        Self {
            registries,
            entries: Vec::new(),
        }
    }
}

/// `error` about an entry of `text`, unless it repeats what may be a part of a password: one may hold the comma
/// that separates entries, so an @ anywhere makes all before it suspect.
fn discreet(text: &str, error: PolicyError) -> PolicyError {
    let says_nothing = matches!(
        &error,
        PolicyError::Registry(RegistryError::Credentials(
            Manager::Pip | Manager::PipFiles | Manager::Npm | Manager::Apt
        )) | PolicyError::TooMany { .. }
            | PolicyError::None
    );
    match text.contains('@') && !says_nothing {
        true => PolicyError::Unshown,
        false => error,
    }
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
mod tests;
