// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle image check`, of our own images and of a bare one.

use serde_json::Value;
use waggle_tests::settings;

use super::{
    TOOLS,
    store::{Said, Store, registry_of_bare},
    support::have,
};

/// The command on the store that `./dev images` made.
fn on_ours(words: &[&str], environment: &[(&str, &str)]) -> Said {
    let home = Store::new();
    let mut command = home.command(words);
    command.env(
        settings::IMAGE_CACHE_DIR,
        settings::path(settings::IMAGE_CACHE_DIR),
    );
    command.envs(environment.iter().copied());
    Said::of(command.output().expect("waggle runs"))
}

#[test]
fn our_own_image_passes_the_checklist() {
    let said = on_ours(&["check", "localhost/waggle-python"], &[]);
    assert_eq!(
        (said.code, said.err.as_str()),
        (Some(0), ""),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("\nserves python, shell\n"),
        "{}",
        said.out
    );
    let said = on_ours(&["check", "localhost/waggle-python", "--json"], &[]);
    let checked: Value = serde_json::from_str(&said.out).expect("JSON");
    let found = |part: &str| {
        let mut items = checked["items"].as_array().expect("items").iter();
        let item = items.find(|item| item["part"] == part).expect(part);
        assert_eq!(item["passed"], true, "{item}");
        item["found"].as_str().expect("text").to_owned()
    };
    assert_eq!(found("python venv"), "/home/sandbox/venv");
    assert_eq!(found("package manager"), "/usr/bin/apt-get, run as root");
    for part in [
        "shell",
        "agent",
        "user sandbox",
        "python",
        "pip",
        "base64",
        "find",
    ] {
        found(part);
    }
    let said = on_ours(&["check", "localhost/waggle-node"], &[]);
    assert!(said.out.contains(" node, shell\n"), "{}", said.out);
}

#[test]
fn a_check_takes_the_variables_of_serve_into_account() {
    let check = ["check", "localhost/waggle-python"];
    let python = "WAGGLE_RUNTIME_PYTHON_EXEC_COMMAND";
    let said = on_ours(&check, &[(python, "/usr/bin/python3")]);
    assert!(
        said.out.contains(&format!("/usr/bin/python3, by {python}")),
        "{}",
        said.out
    );
    let said = on_ours(&check, &[(python, "/opt/none")]);
    assert_eq!(said.code, Some(0), "the image is good for other runtimes");
    assert!(
        said.out.contains("no program /opt/none") && said.out.contains("\nserves shell\n"),
        "{}",
        said.out
    );
    // One that a server ignores is ignored here, with the same warning.
    let said = on_ours(&check, &[(python, "python3")]);
    assert!(
        said.err.contains("ignored a command override"),
        "{}",
        said.err
    );
    assert!(
        said.out.contains("/home/sandbox/venv/bin/python3\n"),
        "{}",
        said.out
    );
    let said = on_ours(&check, &[("WAGGLE_BOOT_TIMEOUT", "soon")]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    assert!(
        said.err.contains("waggle serve") && said.err.contains("soon"),
        "{}",
        said.err
    );
}

#[test]
fn a_bare_image_fails_the_checklist_which_says_what_mends_it() {
    if !have(&TOOLS) {
        return;
    }
    let (registry, store) = (registry_of_bare(), Store::new());
    let reference = format!("{}/acme/bare:1", registry.address);
    let said = store.bad(&["check", &reference]);
    assert!(said.err.contains("lacks something"), "{}", said.err);
    assert!(said.out.contains("\nserves no runtime\n"), "{}", said.out);
    let lines: Vec<_> = said.out.lines().collect();
    let shell = lines
        .iter()
        .position(|line| line.starts_with("missing ") && line.contains("/bin/sh"));
    let remedy = shell
        .and_then(|at| lines.get(at + 1))
        .expect("a line below it");
    assert!(
        remedy.trim_start().starts_with("-> install a POSIX shell"),
        "{}",
        said.out
    );
    let said = store.bad(&["check", &reference, "--json"]);
    let checked: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(checked["runtimes"], Value::Array(Vec::new()));
    let needed = |item: &&Value| item["needed"] == true && item["passed"] == false;
    let items = checked["items"].as_array().expect("items");
    let missing: Vec<_> = items.iter().filter(needed).collect();
    assert_eq!(missing.len(), 1, "{checked}");
    assert!(missing[0]["remedy"].is_string(), "{checked}");
}
