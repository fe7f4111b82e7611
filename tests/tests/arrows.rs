// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The shape of the house: which packages exist, where they live, and who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// Each package, its folder, and the workspace packages that it may depend on in any way. Adding an
/// arrow is a decision about the architecture: make it in ARCHITECTURE.md first.
const HOUSE: &[(&str, &str, &[&str])] = &[
    ("waggle-protocol", "protocol", &[]),
    ("waggle-guest-agent", "guest-agent", &["waggle-protocol"]),
    ("waggle-images", "images", &[]),
    ("waggle-runtime", "runtime", &[]),
    (
        "waggle",
        "host",
        &["waggle-images", "waggle-protocol", "waggle-runtime"],
    ),
    (
        "waggle-tests",
        "tests",
        &[
            "waggle",
            "waggle-guest-agent",
            "waggle-images",
            "waggle-protocol",
            "waggle-runtime",
        ],
    ),
];

fn metadata() -> Metadata {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut command = MetadataCommand::new();
    // Only the workspace's own manifests matter here, and a test must not reach for the network.
    command.manifest_path(manifest).no_deps();
    command.exec().expect("cargo metadata")
}

fn packages(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    metadata
        .packages
        .iter()
        .map(|package| (package.name.as_str(), package))
        .collect()
}

#[test]
fn packages_are_those_of_the_house_in_their_folders() {
    let metadata = metadata();
    let root = &metadata.workspace_root;
    let found: BTreeSet<_> = metadata
        .packages
        .iter()
        .map(|package| {
            let folder = package
                .manifest_path
                .parent()
                .expect("a manifest lies in a folder");
            let folder = folder.strip_prefix(root).expect("inside the workspace");
            (package.name.to_string(), folder.to_string())
        })
        .collect();
    let expected: BTreeSet<_> = HOUSE
        .iter()
        .map(|(name, folder, _)| ((*name).to_owned(), (*folder).to_owned()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn arrows_are_the_allowed_ones() {
    let metadata = metadata();
    let packages = packages(&metadata);
    let mut forbidden = Vec::new();
    for (name, _, allowed) in HOUSE {
        // Every kind counts: a build or test dependency ties two packages together just as well.
        for dependency in &packages[name].dependencies {
            let target = dependency.name.as_str();
            if packages.contains_key(target) && !allowed.contains(&target) {
                forbidden.push(format!("{name} -> {target} ({})", dependency.kind));
            }
        }
    }
    assert!(
        forbidden.is_empty(),
        "dependency arrows that the design does not have: {forbidden:#?}"
    );
}

#[test]
fn packages_share_edition_licence_and_lints() {
    let metadata = metadata();
    for package in &metadata.packages {
        let name = &package.name;
        assert_eq!(package.edition.as_str(), "2024", "edition of {name}");
        assert_eq!(
            package.license.as_deref(),
            Some("Apache-2.0"),
            "licence of {name}"
        );
        assert!(package.rust_version.is_some(), "{name} declares no MSRV");
        // cargo metadata does not say where lints come from.
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("a manifest");
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert!(inherits, "{name} does not inherit the workspace's lints");
    }
}

#[test]
fn packages_that_must_be_safe_forbid_unsafe_code() {
    for root in ["protocol/src/lib.rs", "host/src/lib.rs", "host/src/main.rs"] {
        let path = format!("{}/../{root}", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).expect(root);
        assert!(
            source.contains("#![forbid(unsafe_code)]"),
            "{root} allows unsafe code"
        );
    }
}
