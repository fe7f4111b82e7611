// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What tests of images share: a real registry, images made by tools that are not ours, and a registry that lies.
//!
//! The tools are Debian's (`docker-registry skopeo umoci buildah apache2-utils openssl`). Where one is missing, a test
//! says so and passes, but not in CI: see [`have`].

// Each test program has the whole of it and uses its part.
#![allow(dead_code, reason = "every test program compiles all of it")]

pub(crate) mod image;
pub(crate) mod liar;
pub(crate) mod registry;
pub(crate) mod token;

use std::path::Path;
use std::process::{Command, Output};

/// Whether all of these programs are installed. If not, the test is to be left out, see [`skip`].
pub(crate) fn have(programs: &[&str]) -> bool {
    let paths: Vec<_> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    let installed = |program: &str| {
        paths
            .iter()
            .any(|path: &std::path::PathBuf| path.join(program).is_file())
    };
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !installed(program))
        .collect();
    if !missing.is_empty() {
        skip(&format!("not installed: {missing:?}"));
    }
    missing.is_empty()
}

/// Says that a test, or a part of it, is left out.
///
/// # Panics
/// In CI (the variable `CI` is set): what is left out there is seen by nobody.
pub(crate) fn skip(why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "nothing is skipped in CI: {why}"
    );
    eprintln!("skipped: {why}");
}

/// Runs a program to its end. `dir` is its working folder and its home, so that it leaves nothing elsewhere.
///
/// # Panics
/// With its output, if it fails.
pub(crate) fn run(dir: &Path, program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("HOME", dir)
        .env("XDG_RUNTIME_DIR", dir)
        .env_remove("REGISTRY_AUTH_FILE")
        .env_remove("DOCKER_CONFIG")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
