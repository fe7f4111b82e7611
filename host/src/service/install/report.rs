// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What package managers say: which packages they installed, and why they failed. Pure.
//!
//! All of it is output of a guest: bounded, believed for what it is, and never acted on but by trying
//! again once.

use std::collections::BTreeMap;

use crate::resolve::Dialect;

/// Most packages in a report, and bytes of a name or version: with them a report fits into a result.
const REPORT_MAX: usize = 1000;
const WORD_MAX: usize = 200;

/// A package that was installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The packages that a manager says it installed, those that came along included; each once.
pub(super) fn installed(dialect: Dialect, output: &str) -> Vec<Package> {
    let found: Vec<(&str, &str)> = match dialect {
        Dialect::Pip => pip(output).collect(),
        Dialect::Apt => output.lines().filter_map(apt).collect(),
        Dialect::Apk => output.lines().filter_map(apk).collect(),
        Dialect::Dnf => dnf(output).collect(),
        Dialect::Zypper => output.lines().filter_map(zypper).collect(),
        // npm tells numbers alone: see `npm`.
        Dialect::Npm | Dialect::Unknown => Vec::new(),
    };
    bounded(found.into_iter())
}

/// Those of them whose name and version are short enough to be any; each once.
pub(super) fn bounded<'a>(found: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Package> {
    let short = |word: &str| (1..=WORD_MAX).contains(&word.len());
    let found = found.filter(|(name, version)| short(name) && short(version));
    // The last word on a package counts.
    let all: BTreeMap<_, _> = found.take(REPORT_MAX).collect();
    let package = |(name, version): (&str, &str)| Package {
        name: name.to_owned(),
        version: version.to_owned(),
    };
    all.into_iter().map(package).collect()
}

/// `Successfully installed six-1.16.0 zope.interface-6.0`, in every pip of the last years. A version
/// has no minus (PEP 440).
fn pip(output: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = output.lines();
    let lines = lines.filter_map(|line| line.strip_prefix("Successfully installed "));
    lines
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.rsplit_once('-'))
}

/// `Setting up libjq1:amd64 (1.6-2.1) ...`, which is dpkg's.
fn apt(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("Setting up ")?.split_once(" (")?;
    let (version, _) = rest.split_once(')')?;
    Some((name.split(':').next()?, version))
}

/// `(1/3) Installing oniguruma (6.9.8-r1)`, `(2/3) Upgrading musl (1.2.4-r1 -> 1.2.4-r2)`.
fn apk(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.strip_prefix('(')?.split_once(") ")?;
    let rest = ["Installing ", "Upgrading ", "Downgrading "]
        .into_iter()
        .find_map(|verb| rest.strip_prefix(verb))?;
    let (name, version) = rest.split_once(" (")?;
    let version = version.strip_suffix(')')?;
    Some((name, version.rsplit(" -> ").next()?))
}

/// Words below `Installed:` and the like, such as `jq-1.6-17.el9.x86_64`.
fn dnf(output: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut below = false;
    let words = output.lines().flat_map(move |line| {
        if !line.starts_with(char::is_whitespace) {
            below = matches!(
                line.trim_end(),
                "Installed:" | "Upgraded:" | "Downgraded:" | "Reinstalled:"
            );
            return "".split_whitespace();
        }
        if below { line } else { "" }.split_whitespace()
    });
    words.filter_map(rpm)
}

/// `(1/2) Installing: jq-1.6-3.3.1.x86_64 [..done]`
fn zypper(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(") Installing: ")?;
    rpm(rest.split_whitespace().next()?)
}

/// `name-version-release.architecture`
fn rpm(word: &str) -> Option<(&str, &str)> {
    let (word, _) = word.rsplit_once('.')?;
    let (front, _) = word.rsplit_once('-')?;
    let (name, _) = front.rsplit_once('-')?;
    Some((name, word.get(name.len() + 1..)?))
}

/// Whether pip says that the operating system manages its environment (PEP 668).
pub(super) fn is_externally_managed(output: &str) -> bool {
    output.contains("externally-managed-environment")
}

/// Whether Python says that it cannot make virtual environments, because Debian packs that apart.
pub(super) fn lacks_venv(output: &str) -> bool {
    output.contains("ensurepip is not") || output.contains("No module named venv")
}

/// Whether apt says that it does not know a package or version, or that the registry no longer has what
/// its lists name: newer lists may help.
pub(super) fn lists_are_stale(output: &str) -> bool {
    has(
        output,
        &[
            "Unable to locate package",
            "has no installation candidate",
            "Couldn't find any package by",
            "was not found",
            "404  Not Found",
            "maybe run apt-get update",
        ],
    )
}

fn has(output: &str, words: &[&str]) -> bool {
    words.iter().any(|word| output.contains(word))
}

/// What kept a manager from installing, as far as its words tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    DiskFull,
    Refused,
    Untrusted,
    Unreachable,
    NotFound,
    Conflict,
    NotBuilt,
    Other,
}

impl Trouble {
    /// A manager that does not reach its registry often says that there is no such package: the reason
    /// comes first.
    pub(super) fn of(output: &str) -> Self {
        let table: [(Self, &[&str]); 7] = [
            (
                Self::DiskFull,
                &[
                    "No space left on device",
                    "ENOSPC",
                    "enough free space",
                    "Disk quota exceeded",
                ],
            ),
            (
                Self::Refused,
                &[
                    "403 Forbidden",
                    "error: 403",
                    "E403",
                    "Tunnel connection failed",
                    "tunneling socket could not be established",
                    "403  Forbidden",
                    "HTTP error 403",
                    "403 Client Error",
                    "response 403 from proxy",
                ],
            ),
            (
                Self::Untrusted,
                &[
                    "CERTIFICATE_VERIFY_FAILED",
                    "certificate verif",
                    "Certificate verif",
                    "SELF_SIGNED_CERT",
                    "self-signed certificate",
                    "UNABLE_TO_GET_ISSUER_CERT",
                    "UNABLE_TO_VERIFY_LEAF",
                    "certificate is NOT trusted",
                    // The mirror's, of its own request.
                    "invalid peer certificate",
                ],
            ),
            (
                Self::Unreachable,
                &[
                    "ECONNREFUSED",
                    "ECONNRESET",
                    "ETIMEDOUT",
                    "ENOTFOUND",
                    "EAI_AGAIN",
                    "E502",
                    "E503",
                    "E504",
                    "502 Bad Gateway",
                    "503 Service Unavailable",
                    "504 Gateway Timeout",
                    "502  Bad Gateway",
                    "503  Service Unavailable",
                    "504  Gateway Timeout",
                    "Bad Gateway",
                    "Gateway Timeout",
                    "Connection refused",
                    "connection broken by",
                    "Connection reset",
                    "Read timed out",
                    "Could not connect",
                    "Could not resolve",
                    "Temporary failure",
                    "temporary error",
                    "network error",
                    "NewConnectionError",
                    "ProxyError",
                    "Max retries exceeded",
                    "Cannot download",
                    "Failed to fetch",
                    "Unable to connect",
                ],
            ),
            (
                Self::Conflict,
                &[
                    "ResolutionImpossible",
                    "ERESOLVE",
                    "unmet dependencies",
                    "held broken packages",
                    "downgraded and -y",
                    "conflicting requests",
                    "unable to select packages",
                ],
            ),
            (
                Self::NotBuilt,
                &[
                    "Failed building wheel",
                    "Failed to build",
                    "metadata-generation-failed",
                    "subprocess-exited-with-error",
                    "node-gyp",
                    "gyp ERR",
                ],
            ),
            (
                Self::NotFound,
                &[
                    "No matching distribution",
                    "E404",
                    "ETARGET",
                    "Unable to locate package",
                    "has no installation candidate",
                    "Couldn't find any package by",
                    "was not found",
                    "no such package",
                    "Unable to find a match",
                    "No match for argument",
                    "not found in package names",
                ],
            ),
        ];
        // apk's two words for one thing.
        if output.contains("no such package") {
            return Self::NotFound;
        }
        let mut table = table.into_iter();
        let found = table.find(|(_, words)| has(output, words));
        found.map_or(Self::Other, |(trouble, _)| trouble)
    }

    /// Whether a registry that cannot be reached may be behind it: managers then often say that there
    /// is no such package, or little at all.
    pub(super) fn may_be_unreachable(self) -> bool {
        matches!(self, Self::NotFound | Self::Unreachable | Self::Other)
    }

    /// What it is if something could not be reached, and that is why.
    pub(super) fn of_failure(why: &str) -> Self {
        match Self::of(why) {
            Self::Untrusted => Self::Untrusted,
            _ => Self::Unreachable,
        }
    }

    /// What to do about it.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::DiskFull => {
                "the environment's disk is full: remove files with execute, or ask the owner of this server for \
                 larger disks (WAGGLE_DEFAULT_DISK_MB)"
            }
            Self::Refused => {
                "an address was refused, by the network policy of this environment or by the registry: the owner \
                 of this server permits the registries of package managers by WAGGLE_NETWORK=packages, names \
                 others in WAGGLE_NETWORK_PACKAGES, and permits further hosts by WAGGLE_NETWORK_ALLOW; an \
                 environment that was created with a narrower network argument has to be created anew"
            }
            Self::Untrusted => {
                "the registry's certificate is not trusted: the owner of this server adds the authority that \
                 signed it by WAGGLE_CA_BUNDLE"
            }
            Self::Unreachable => {
                "the registry could not be reached: it or the way to it may be down for a while, so call again; if \
                 that does not help, the owner of this server checks that it reaches the registry (HTTPS_PROXY, \
                 WAGGLE_NETWORK, WAGGLE_NETWORK_PACKAGES)"
            }
            Self::NotFound => {
                "the registry has no such package or version for this environment: check the spelling and the \
                 version, or leave the version out"
            }
            Self::Conflict => {
                "what was asked for does not fit together, or not with what is installed: give other versions, or \
                 none, or use an environment of its own"
            }
            Self::NotBuilt => {
                "the package has no ready build for this environment and could not be built in it: try another \
                 version, or install a compiler first (execute as root: apt-get update && apt-get install -y \
                 build-essential python3-dev)"
            }
            Self::Other => "read what the package manager says in stdout and stderr",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(dialect: Dialect, output: &str) -> Vec<String> {
        let text = |package: Package| format!("{} {}", package.name, package.version);
        installed(dialect, output).into_iter().map(text).collect()
    }

    #[test]
    fn each_manager_is_read() {
        let pip = "Collecting pandas\n  Using cached x\nInstalling collected packages: pytz, six\n\
                   Successfully installed pytz-2024.1 python-dateutil-2.9.0.post0 six-1.16.0\n";
        assert_eq!(
            report(Dialect::Pip, pip),
            ["python-dateutil 2.9.0.post0", "pytz 2024.1", "six 1.16.0"]
        );
        let apt = "Unpacking jq (1.6-2.1) ...\nSetting up libonig5:amd64 (6.9.8-1) ...\r\n\
                   Setting up jq (1.6-2.1) ...\nProcessing triggers for libc-bin (2.36-9) ...\n";
        assert_eq!(
            report(Dialect::Apt, apt),
            ["jq 1.6-2.1", "libonig5 6.9.8-1"]
        );
        let apk = "(1/2) Installing oniguruma (6.9.8-r1)\n(2/2) Upgrading musl (1.2.4-r1 -> 1.2.4-r2)\nOK: 9 MiB\n";
        assert_eq!(
            report(Dialect::Apk, apk),
            ["musl 1.2.4-r2", "oniguruma 6.9.8-r1"]
        );
        let dnf = "Installing:\n jq x86_64 1.6\nInstalled:\n  jq-1.6-17.el9.x86_64   oniguruma-6.9.6-1.el9.x86_64\n\nComplete!\n";
        assert_eq!(
            report(Dialect::Dnf, dnf),
            ["jq 1.6-17.el9", "oniguruma 6.9.6-1.el9"]
        );
        let zypper = "(1/1) Installing: jq-1.6-3.3.1.x86_64 [..done]\n";
        assert_eq!(report(Dialect::Zypper, zypper), ["jq 1.6-3.3.1"]);
        for dialect in [Dialect::Pip, Dialect::Apt, Dialect::Apk, Dialect::Dnf] {
            assert!(report(dialect, "Requirement already satisfied: six\n0 upgraded\n").is_empty());
        }
    }

    #[test]
    fn a_flood_stays_within_bounds() {
        let flood = format!("Successfully installed {}", "a-1 ".repeat(10 * REPORT_MAX));
        assert_eq!(report(Dialect::Pip, &flood), ["a 1"]);
        let long = format!("Successfully installed {}-1", "a".repeat(WORD_MAX + 1));
        assert!(report(Dialect::Pip, &long).is_empty());
    }

    #[test]
    fn the_reason_comes_before_what_follows_from_it() {
        for (output, trouble) in [
            (
                "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found for six",
                Trouble::Unreachable,
            ),
            (
                "ERROR: No matching distribution found for sixx",
                Trouble::NotFound,
            ),
            ("npm ERR! code E404", Trouble::NotFound),
            ("E: Unable to locate package jqq", Trouble::NotFound),
            ("npm ERR! code E403", Trouble::Refused),
            (
                "OSError: [Errno 28] No space left on device",
                Trouble::DiskFull,
            ),
            (
                "SSL: CERTIFICATE_VERIFY_FAILED, Max retries exceeded",
                Trouble::Untrusted,
            ),
            (
                "ERROR: unable to select packages:\n  jqq (no such package):",
                Trouble::NotFound,
            ),
            ("what?", Trouble::Other),
        ] {
            assert_eq!(Trouble::of(output), trouble, "{output}");
        }
        for (why, trouble) in [
            ("nobody listens there", Trouble::Unreachable),
            ("E404", Trouble::Unreachable),
            (
                "client error (Connect): invalid peer certificate: UnknownIssuer",
                Trouble::Untrusted,
            ),
        ] {
            assert_eq!(Trouble::of_failure(why), trouble, "{why}");
        }
    }
}
