// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle image`, as people and scripts use it: what it prints and where, its exit codes, and what it says to do next.
//! Images come from tools that are not ours, by a real registry or as files. No machine boots.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

#[path = "image_command/checklist.rs"]
mod checklist;
#[path = "image_command/gate.rs"]
mod gate;
#[path = "image_command/store.rs"]
mod store;
#[path = "../../images/tests/support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use gate::Gate;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use store::{Store, bare, digest, registry_of_bare, root_fs};
use support::{
    have,
    image::{Layout, noise},
    registry::{Registry, Variant},
    run,
};
use tempfile::TempDir;
use waggle_tests::settings;

/// What most of these tests need of Debian's packages.
const TOOLS: [&str; 3] = ["docker-registry", "skopeo", "umoci"];

/// Of an image that comes through a gate: what the gate lets through, and more than that.
const PASSED: usize = 1 << 20;
const LARGE: usize = 8 << 20;

/// What wipes a terminal's line (ECMA-48, `EL`).
const CLEAR_LINE: &str = "\u{1b}[2K";

/// A registry with `acme/large:1`, and a way to it that stays shut before the image is through.
fn gated() -> (Registry, Gate) {
    let registry = Registry::start(Variant::Plain);
    let layout = Layout::new(registry.dir.path(), "large");
    layout.image("large", "amd64", &[("/large", &noise(LARGE))]);
    registry.put(&layout.path, "large", "acme/large:1");
    let gate = Gate::before(&registry.address, PASSED);
    (registry, gate)
}

#[test]
fn an_image_is_pulled_listed_shown_and_removed() {
    if !have(&TOOLS) {
        return;
    }
    let (registry, store) = (registry_of_bare(), Store::new());
    assert!(store.good(&["ls"]).contains("waggle image pull"), "a hint");
    let reference = format!("{}/acme/bare:1", registry.address);
    let digest = digest(&registry, "acme/bare:1");
    let line = format!("{reference} {digest}\n");
    assert_eq!(store.good(&["pull", &reference]), line);
    assert_eq!(store.good(&["pull", &reference]), line, "still the newest");

    let table = store.good(&["ls"]);
    let lines: Vec<_> = table.lines().collect();
    assert!(
        lines[0].starts_with("IMAGE ") && lines.len() == 2,
        "{table}"
    );
    assert!(
        lines[1].starts_with(&reference) && lines[1].contains(" pulled "),
        "{table}"
    );
    let listed = store.json(&["ls", "--json"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    let image = &listed[0];
    assert_eq!(
        (&image["reference"], &image["digest"]),
        (&reference.as_str().into(), &digest.as_str().into())
    );
    assert_eq!(
        (&image["source"], &image["whole"]),
        (&"pulled".into(), &true.into())
    );
    assert!(image["own_bytes"].as_u64() > Some(0), "{image}");

    let shown = store.good(&["inspect", &reference]);
    for part in [&reference, &digest, "linux/amd64", "1 entries"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown = store.json(&["inspect", &reference, "--json"]);
    assert_eq!(shown["digest"], digest.as_str());
    assert_eq!(
        (&shown["in_use"], &shown["architecture"]),
        (&false.into(), &"amd64".into())
    );
    let layers = shown["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 1);
    assert!(
        layers[0]["media_type"]
            .as_str()
            .is_some_and(|kind| kind.contains("layer"))
    );

    let removed = store.good(&["rm", &reference]);
    assert!(
        removed.starts_with(&format!("{reference} removed, ")),
        "{removed}"
    );
    let gone = store.bad(&["inspect", &reference]);
    assert!(
        gone.err.contains(&format!("waggle image pull {reference}")),
        "{}",
        gone.err
    );
}

/// Where there is no terminal, lines say how far it is; what is interrupted is gone on with.
#[test]
fn a_pull_tells_how_far_it_is_and_may_be_stopped() {
    if !have(&TOOLS) {
        return;
    }
    let ((_registry, gate), store) = (gated(), Store::new());
    let reference = format!("{}/acme/large:1", gate.address);
    let mut command = store.command(&["pull", &reference]);
    let mut pull = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("waggle runs");
    let mut lines = BufReader::new(pull.stderr.take().expect("a pipe")).lines();
    let far = lines.find_map(|line| line.ok().filter(|line| line.contains("receiving")));
    let far = far.expect("a line before it is there");
    assert!(
        far.starts_with(&format!("{reference}: receiving, ")),
        "{far}"
    );
    assert!(far.ends_with(" of 8.0 MiB"), "{far}");
    let id = i32::try_from(pull.id()).expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGINT).expect("interrupted");
    let said: Vec<_> = lines.map_while(Result::ok).collect();
    let output = pull.wait_with_output().expect("it ends");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(1), &b""[..])
    );
    assert!(
        said.last()
            .is_some_and(|line| line.contains("run it again to go on")),
        "{said:?}"
    );
    assert_eq!(store.json(&["ls", "--json"]), Value::Array(Vec::new()));
    gate.open();
    assert!(store.good(&["pull", &reference]).starts_with(&reference));
}

#[test]
fn on_a_terminal_a_pull_draws_a_bar() {
    if !have(&TOOLS) || !have(&["script", "stty"]) {
        return;
    }
    let ((_registry, gate), store) = (gated(), Store::new());
    let reference = format!("{}/acme/large:1", gate.address);
    let waggle = settings::path(settings::BIN);
    // A terminal of its own has no size.
    let line = format!(
        "stty cols 150; exec '{}' image pull {reference}",
        waggle.display()
    );
    let mut command = Command::new("script");
    store.surround(&mut command);
    command
        .args(["-qec", &line, "/dev/null"])
        .stdout(Stdio::piped());
    let mut script = command.spawn().expect("script runs");
    let mut output = script.stdout.take().expect("a pipe");
    let mut seen = String::new();
    let mut piece = [0; 1024];
    // What is drawn while the gate is shut: a part of the bar is full, the rest is not.
    while !(seen.contains("receiving ") && seen.contains('\u{2588}') && seen.contains('\u{2591}')) {
        let length = output.read(&mut piece).expect("the terminal's output");
        assert!(length > 0, "it ended without a bar: {seen:?}");
        seen += &String::from_utf8_lossy(&piece[..length]);
    }
    assert!(seen.contains("/8.00 MiB"), "{seen:?}");
    // Nothing is drawn before there is something to say.
    assert!(seen.trim_start().starts_with(&reference), "{seen:?}");
    gate.open();
    let mut rest = Vec::new();
    output
        .read_to_end(&mut rest)
        .expect("the terminal's output");
    let rest = String::from_utf8_lossy(&rest);
    assert!(script.wait().expect("it ends").success(), "{rest:?}");
    // The bar is wiped away before the result is printed.
    let last = rest.rsplit(CLEAR_LINE).next().unwrap_or_default();
    assert!(
        last.starts_with(&format!("{reference} sha256:")),
        "{rest:?}"
    );
    assert_eq!(last.lines().count(), 1, "{rest:?}");
}

#[test]
fn a_layout_is_imported_by_its_name_or_by_one_that_is_given() {
    if !have(&["umoci", "skopeo"]) {
        return;
    }
    let (dir, store) = (TempDir::new().expect("a folder"), Store::new());
    let layout = bare(dir.path()).path.display().to_string();
    let unnamed = store.bad(&["import", &layout]);
    assert!(
        unnamed.err.contains("\"bare\"") && unnamed.err.contains("--name localhost/"),
        "{}",
        unnamed.err
    );
    let imported = store.good(&["import", &layout, "--name", "localhost/bare"]);
    assert!(
        imported.starts_with("localhost/bare:latest sha256:"),
        "{imported}"
    );
    let (from, full) = (format!("oci:{layout}:bare"), "registry.example/acme/bare:2");
    let to = format!("oci-archive:{}/archive.tar:{full}", dir.path().display());
    run(
        dir.path(),
        "skopeo",
        &["copy", "--insecure-policy", "--quiet", &from, &to],
    );
    let archive = dir.path().join("archive.tar").display().to_string();
    let imported = store.good(&["import", &archive]);
    assert!(
        imported.starts_with(&format!("{full} sha256:")),
        "{imported}"
    );
    let listed = store.json(&["ls", "--json"]);
    let sources: Vec<_> = listed
        .as_array()
        .expect("images")
        .iter()
        .map(|image| &image["source"])
        .collect();
    assert_eq!(sources, ["imported", "imported"]);
}

#[test]
fn a_root_file_system_needs_a_name() {
    let (dir, store) = (TempDir::new().expect("a folder"), Store::new());
    let tar = root_fs(dir.path());
    let unnamed = store.bad(&["import", &tar]);
    assert!(unnamed.err.contains("--name localhost/"), "{}", unnamed.err);
    let imported = store.good(&["import", &tar, "--name", "localhost/tiny"]);
    assert!(
        imported.starts_with("localhost/tiny:latest sha256:"),
        "{imported}"
    );
    let checked = store.good(&["check", "localhost/tiny"]);
    assert!(
        checked.ends_with("\nserves shell (without install_packages)\n"),
        "{checked}"
    );
    let nothing = store.bad(&["import", "/nowhere/at/all"]);
    assert!(nothing.err.contains("/nowhere/at/all"), "{}", nothing.err);
}

#[test]
fn a_prune_of_all_leaves_an_empty_store() {
    let (dir, store) = (TempDir::new().expect("a folder"), Store::new());
    let tar = root_fs(dir.path());
    store.good(&["import", &tar, "--name", "localhost/tiny"]);
    // Imported images are nobody's to fetch again.
    let pruned = store.json(&["prune", "--json"]);
    assert_eq!(pruned["images"], Value::Array(Vec::new()));
    let pruned = store.json(&["prune", "--all", "--json"]);
    assert_eq!(pruned["images"][0], "localhost/tiny:latest", "{pruned}");
    assert!(
        pruned["bytes"].as_u64() > Some(0) && pruned["files"].as_u64() > Some(0),
        "{pruned}"
    );
    assert_eq!(store.json(&["ls", "--json"]), Value::Array(Vec::new()));
    assert_eq!(store.good(&["prune", "--all"]), "0 B freed\n");
}

/// Changes the first byte of each converted layer's data.
fn damage(store: &Store) {
    let files = fs::read_dir(store.images().join("layers")).expect("layers");
    let paths = files.map(|file| file.expect("a layer").path());
    for path in paths.filter(|path| path.extension().is_some_and(|end| end == "data")) {
        let mut bytes = fs::read(&path).expect("data");
        bytes[0] ^= 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("our own file");
        fs::write(&path, bytes).expect("damaged");
    }
}

#[test]
fn damage_is_told_and_mended() {
    if !have(&TOOLS) {
        return;
    }
    let (registry, store) = (registry_of_bare(), Store::new());
    let reference = format!("{}/acme/bare:1", registry.address);
    store.good(&["pull", &reference]);
    let all_is_well = store.good(&["verify"]);
    assert!(all_is_well.contains("as they should be"), "{all_is_well}");
    damage(&store);
    let damaged = store.bad(&["verify"]);
    assert!(
        damaged.out.contains("damaged: layer sha256:"),
        "{}",
        damaged.out
    );
    assert!(
        damaged.out.contains("waggle image verify --mend"),
        "{}",
        damaged.out
    );
    let mended = store.good(&["verify", "--mend"]);
    assert!(
        mended.contains("damaged: layer sha256:") && mended.contains("taken away"),
        "{mended}"
    );
    assert_eq!(store.json(&["ls", "--json"])[0]["whole"], false);
    // Its next use makes it again of what was transferred.
    drop(registry);
    store.bad(&["check", &reference]);
    assert_eq!(store.good(&["verify"]), all_is_well);
    assert_eq!(store.json(&["ls", "--json"])[0]["whole"], true);
}

#[test]
fn of_several_images_those_that_can_be_are_pulled_and_removed() {
    if !have(&TOOLS) {
        return;
    }
    let (registry, store) = (registry_of_bare(), Store::new());
    let good = format!("{}/acme/bare:1", registry.address);
    let unknown = format!("{}/acme/none:1", registry.address);
    let said = store.bad(&["pull", &unknown, "localhost/none", &good]);
    assert!(
        said.out.starts_with(&format!("{good} sha256:")) && said.out.lines().count() == 1,
        "{}",
        said.out
    );
    assert!(
        said.err.contains(&unknown) && said.err.contains("localhost/none"),
        "{}",
        said.err
    );
    let said = store.bad(&["rm", "localhost/none", &good]);
    assert!(
        said.out.starts_with(&format!("{good} removed")),
        "{}",
        said.out
    );
    assert!(
        said.err.contains("localhost/none:latest is not there"),
        "{}",
        said.err
    );
    let said = store.bad(&["rm", &good, &unknown]);
    assert_eq!(said.out, "");
}

#[test]
fn what_is_pushed_is_what_the_registry_has() {
    if !have(&TOOLS) {
        return;
    }
    let (registry, dir, store) = (
        Registry::start(Variant::Plain),
        TempDir::new().expect("a folder"),
        Store::new(),
    );
    let tar = root_fs(dir.path());
    store.good(&["import", &tar, "--name", "localhost/tiny"]);
    let nowhere = store.bad(&["push", "localhost/tiny"]);
    assert!(
        nowhere.err.contains("say where to, like registry.example/"),
        "{}",
        nowhere.err
    );
    let destination = format!("{}/acme/tiny:1", registry.address);
    let pushed = store.good(&["push", "localhost/tiny", &destination]);
    assert_eq!(
        pushed,
        format!("{destination} {}\n", digest(&registry, "acme/tiny:1"))
    );
    let unknown = store.bad(&["push", "localhost/none", &destination]);
    assert!(
        unknown.err.contains("waggle image import"),
        "{}",
        unknown.err
    );
}

#[test]
fn what_cannot_be_done_says_what_can() {
    let store = Store::new();
    for words in [
        &["pull", "Not/An/Image"][..],
        &["check", "a b"],
        &["rm", "x@sha256:1"],
        &["pull"],
        &["fetch", "x"],
    ] {
        let said = store.say(words);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{words:?}");
        assert!(said.err.contains("--help"), "{words:?}: {}", said.err);
    }
    let malformed = store.say(&["pull", "Not/An/Image"]).err;
    assert!(
        malformed.contains("Not/An/Image") && malformed.contains("ghcr.io/"),
        "{malformed}"
    );
    for words in [
        ["check", "localhost/none"],
        ["inspect", "localhost/none"],
        ["rm", "localhost/none"],
        ["pull", "localhost/none"],
    ] {
        let said = store.bad(&words);
        assert!(
            said.out.is_empty() && said.err.lines().count() == 1,
            "{}",
            said.err
        );
        assert!(
            said.err.contains("waggle image import"),
            "{words:?}: {}",
            said.err
        );
    }
}
