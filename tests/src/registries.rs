// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How this machine reaches package registries, so that tests which install packages work where its own
//! package managers are configured for others than the images' recipes.
//!
//! Names none: the recipes' are recorded with the images, this machine's are asked of its pip, npm
//! and apt.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::process::Command;

use waggle_images::recorded;

use crate::{Settings, settings};

impl Settings {
    /// Lets environments reach the registries that this machine reaches.
    ///
    /// # Panics
    /// If there are no images.
    #[must_use]
    pub fn with_registries(self) -> Self {
        let images = settings::path(settings::IMAGE_CACHE_DIR);
        let recorded = recorded::registries(&images).expect("what is recorded with the images");
        assert!(
            !recorded.is_empty(),
            "no registries are recorded: run `./dev images`"
        );
        let recorded: Vec<_> = recorded.iter().map(|entry| with_slash(entry)).collect();
        let all = merged(&recorded, &of_this_machine());
        let mut result = self;
        if all != merged(&recorded, &[]) {
            result = result.with("WAGGLE_NETWORK_PACKAGES", all.join(","));
        }
        let private = private_addresses(&all);
        if !private.is_empty() {
            result = result.with("WAGGLE_NETWORK_ALLOW", private.join(","));
        }
        result
    }
}

fn with_slash(entry: &str) -> String {
    format!("{}/", entry.trim_end_matches('/'))
}

/// `recorded`, but for the managers that are in `own`.
fn merged(recorded: &[String], own: &[String]) -> Vec<String> {
    let manager = |entry: &str| entry.split('=').next().map(str::to_owned);
    let replaced = |entry: &String| own.iter().any(|other| manager(other) == manager(entry));
    let kept = recorded.iter().filter(|entry| !replaced(entry)).cloned();
    let mut all: Vec<_> = kept
        .chain(own.iter().map(|entry| with_slash(entry)))
        .collect();
    all.sort();
    all.dedup();
    all
}

/// What this machine's own package managers are configured for, `MANAGER=URL`.
fn of_this_machine() -> Vec<String> {
    let mut all = Vec::new();
    let index = std::env::var("PIP_INDEX_URL").ok();
    let index = index.or_else(|| {
        said(
            "python3",
            &["-m", "pip", "config", "get", "global.index-url"],
        )
    });
    if let Some(index) = index.filter(|url| is_plain_url(url)) {
        // Where an index of one's own keeps its files is usually the same host.
        let host: Vec<_> = index.splitn(4, '/').take(3).collect();
        all.push(format!("pip-files={}/", host.join("/")));
        all.push(format!("pip={index}"));
    }
    let registry = said("npm", &["config", "get", "registry"]);
    all.extend(
        registry
            .filter(|url| is_plain_url(url))
            .map(|url| format!("npm={url}")),
    );
    // Only those for the release that the images are of.
    let suite = suite();
    let format = "$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)";
    let targets = said(
        "apt-get",
        &["indextargets", "--format", format, "Created-By: Packages"],
    );
    for line in targets.unwrap_or_default().lines() {
        let fields: Vec<_> = line.split('|').collect();
        if let ["Debian" | "Debian-Security", codename, "main", url] = fields.as_slice()
            && codename.starts_with(&suite)
            && is_plain_url(url)
        {
            all.push(format!("apt={url}"));
        }
    }
    all
}

/// The release of Debian that the images are of, from the tools that build them.
fn suite() -> String {
    if let Ok(suite) = std::env::var("WAGGLE_IMAGE_SUITE") {
        return suite;
    }
    let pins = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/pins.sh");
    let pins = std::fs::read_to_string(pins).expect("tools/pins.sh");
    let mut lines = pins.lines();
    let line = lines.find(|line| line.starts_with("IMAGE_SUITE="));
    let default = line.and_then(|line| line.split(":-").nth(1));
    let default = default.expect("IMAGE_SUITE=${WAGGLE_IMAGE_SUITE:-...} in tools/pins.sh");
    default.trim_end_matches('}').to_owned()
}

/// A URL without a password.
fn is_plain_url(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && !url.contains('@')
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

/// The addresses of registries that lie in networks which environments may not reach unless they are
/// listed.
fn private_addresses(registries: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for entry in registries {
        let host = entry
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let host = host.unwrap_or_default();
        let with_port = if host.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:443")
        };
        let addresses = with_port.to_socket_addrs().into_iter().flatten();
        all.extend(
            addresses
                .map(|address| address.ip())
                .filter(is_private)
                .map(|ip| ip.to_string()),
        );
    }
    all.sort();
    all.dedup();
    all
}

fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let shared = first == 100 && (64..128).contains(&second);
            let benchmark = first == 198 && (18..20).contains(&second);
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared || benchmark
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
