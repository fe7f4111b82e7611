// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;

const SECRET: &str = "hunter2";

struct Scene {
    dir: TempDir,
    sources: CredentialSources,
}

impl Scene {
    fn new(files: &[&Value]) -> Self {
        let texts: Vec<_> = files.iter().map(|file| file.to_string()).collect();
        Self::of_texts(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn of_texts(texts: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut sources = CredentialSources::default();
        for (n, text) in texts.iter().enumerate() {
            let file = dir.path().join(format!("{n}.json"));
            fs::write(&file, text).expect("a file");
            sources.files.push(file);
        }
        // The helpers need the shell's own programs.
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        sources.helper_path = Some(path.into());
        Self { dir, sources }
    }

    fn helper(&self, name: &str, script: &str) {
        let text = self.dir.path().join("script");
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).expect("a script");
        // By a process of its own: one that another test starts meanwhile would inherit the open file, and a file that
        // is open for writing cannot be run.
        let file = self.dir.path().join(format!("docker-credential-{name}"));
        let install = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&text, &file])
            .status();
        assert!(install.expect("install").success());
    }

    async fn find(&self, registry: &str, repository: &str) -> Found {
        self.sources.find(registry, repository).await
    }

    async fn login(&self, registry: &str, repository: &str) -> Option<Login> {
        let found = self.find(registry, repository).await;
        assert_eq!(found.note, None);
        found.login
    }
}

fn password(name: &str) -> Option<Login> {
    Some(Login::Password(name.to_owned(), SECRET.to_owned()))
}

fn plain(name: &str) -> Value {
    json!({ "username": name, "password": SECRET })
}

/// The files that such an environment names, in order.
fn files_of(variables: &[(&str, &str)]) -> Vec<String> {
    let sources = CredentialSources::of_environment(|name| {
        let mut all = variables.iter();
        let found = all.find(|(other, _)| *other == name);
        found.map(|(_, value)| value.into())
    });
    let files = sources.files.iter();
    files.map(|file| file.display().to_string()).collect()
}

#[test]
fn the_environment_names_the_files() {
    let home = ("HOME", "/home/bee");
    let plain = [
        "/home/bee/.config/containers/auth.json",
        "/home/bee/.docker/config.json",
    ];
    assert_eq!(files_of(&[home]), plain);
    // An empty variable is none.
    let empty = ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"].map(|name| (name, ""));
    assert_eq!(files_of(&[&[home][..], &empty].concat()), plain);
    let all = [
        home,
        ("XDG_CONFIG_HOME", "/conf"),
        ("XDG_RUNTIME_DIR", "/run/user/7"),
        ("DOCKER_CONFIG", "/docker"),
        ("REGISTRY_AUTH_FILE", "/auth"),
    ];
    let named = [
        "/auth",
        "/docker/config.json",
        "/run/user/7/containers/auth.json",
        "/conf/containers/auth.json",
    ];
    assert_eq!(files_of(&all), named, "and no other of docker's");
    assert_eq!(files_of(&[]), [""; 0]);
    assert_eq!(files_of(&[("XDG_CONFIG_HOME", "/conf")]), [named[3]]);
}

#[tokio::test]
async fn finds_what_tools_write() {
    let scene = Scene::new(&[&json!({ "auths": {
        // NAME:SECRET in base64, as docker and podman write it.
        "r.example:5000": { "auth": "YmVlOmh1bnRlcjI=" },
        "https://index.docker.io/v1/": plain("hub"),
        "token.example": { "auth": "YmVlOg==", "identitytoken": SECRET },
        "empty.example": { "auth": "" },
        "bare.example": {},
    }})]);
    assert_eq!(scene.login("r.example:5000", "x").await, password("bee"));
    assert_eq!(
        scene.login("docker.io", "library/python").await,
        password("hub")
    );
    assert_eq!(
        scene.login("token.example", "x").await,
        Some(Login::Identity(SECRET.to_owned()))
    );
    for none in [
        "r.example",
        "empty.example",
        "bare.example",
        "other.example",
    ] {
        assert_eq!(scene.login(none, "x").await, None, "{none}");
    }
}

#[tokio::test]
async fn the_most_specific_key_and_the_first_file_win() {
    let scene = Scene::new(&[
        &json!({ "auths": {
            "r.example/acme": plain("team"),
            "r.example/acme/tool": plain("tool"),
            "docker.io/acme": plain("hub-team"),
        }}),
        &json!({ "auths": { "r.example": plain("second"), "docker.io": plain("hub") } }),
    ]);
    assert_eq!(
        scene.login("r.example", "acme/tool").await,
        password("tool")
    );
    assert_eq!(
        scene.login("r.example", "acme/tool/sub").await,
        password("tool")
    );
    assert_eq!(
        scene.login("r.example", "acme/other").await,
        password("team")
    );
    assert_eq!(
        scene.login("r.example", "acmes/x").await,
        password("second")
    );
    assert_eq!(
        scene.login("docker.io", "acme/x").await,
        password("hub-team")
    );
    assert_eq!(
        scene.login("docker.io", "library/python").await,
        password("hub")
    );
}

#[tokio::test]
async fn asks_the_helper_of_the_registry_and_then_the_store() {
    let scene = Scene::new(&[&json!({
        "credHelpers": { "r.example": "own" },
        "credsStore": "all",
        "auths": { "r.example": plain("stored"), "kept.example": plain("stored"), "all.example": {} },
    })]);
    scene.helper("own", r#"read -r server; [ "$1 $server" = "get r.example" ] && echo '{"ServerURL":"x","Username":"own","Secret":"hunter2"}'"#);
    scene.helper(
        "all",
        r#"read -r server
case "$server" in
    all.example) echo '{"Username":"<token>","Secret":"hunter2"}' ;;
    https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"hunter2"}' ;;
    *) echo "credentials not found in native keychain"; exit 1 ;;
esac"#,
    );
    assert_eq!(scene.login("r.example", "x").await, password("own"));
    assert_eq!(scene.login("kept.example", "x").await, password("stored"));
    assert_eq!(scene.login("docker.io", "library/x").await, password("hub"));
    assert_eq!(
        scene.login("all.example", "x").await,
        Some(Login::Identity(SECRET.to_owned()))
    );
    assert_eq!(scene.login("none.example", "x").await, None);
}

#[tokio::test]
async fn a_broken_helper_is_noted_and_passed_over() {
    let second = json!({ "auths": { "r.example": plain("second") } });
    let cases = [
        (
            "fails",
            "echo hunter2; exit 3",
            "docker-credential-fails failed",
        ),
        (
            "talks",
            "echo hunter2",
            "docker-credential-talks answered with something else",
        ),
        ("missing", "", "docker-credential-missing cannot be run"),
        ("../evil", "", "is no helper's name"),
    ];
    for (name, script, problem) in cases {
        let scene = Scene::new(&[&json!({ "credHelpers": { "r.example": name } }), &second]);
        if !script.is_empty() {
            scene.helper(name, script);
        }
        let found = scene.find("r.example", "x").await;
        assert_eq!(found.login, password("second"), "{name}");
        let note = found.note.expect("a note");
        assert!(note.contains("0.json") && note.contains(problem), "{note}");
        assert!(!note.contains(SECRET), "{note}");
    }
}

#[tokio::test]
async fn a_helper_that_hangs_or_floods_is_ended() {
    let mut scene = Scene::new(&[&json!({ "credsStore": "slow" })]);
    scene.sources.helper_timeout = Duration::from_millis(200);
    scene.helper(
        "slow",
        "echo $$ > \"$(dirname \"$0\")/pid\"; exec sleep 600",
    );
    let found = scene.find("r.example", "x").await;
    assert!(found.login.is_none());
    assert!(
        found
            .note
            .expect("a note")
            .contains("did not answer within")
    );
    scene.sources.helper_timeout = Duration::from_secs(30);
    scene.helper("slow", "exec cat /dev/zero");
    let found = scene.find("r.example", "x").await;
    assert!(
        found
            .note
            .expect("a note")
            .contains("docker-credential-slow")
    );
}

#[tokio::test]
async fn a_damaged_file_is_noted_without_what_is_in_it() {
    let good = json!({ "auths": { "r.example": plain("second") } }).to_string();
    let cases = [
        (r#"{"auths":{"r.example":{"auth":"hunter2"#.to_owned(), "line 1"),
        (r#"["hunter2"]"#.to_owned(), "JSON object"),
        (json!({ "auths": { "r.example": { "auth": "%hunter2%" } } }).to_string(), "base64"),
        (json!({ "auths": { "r.example": { "auth": "YmVlOmh1bnRlcjI=", "username": "x", "password": "hunter2" } } }).to_string(), "differ"),
        (json!({ "auths": { "r.example": SECRET } }).to_string(), "expected form"),
        (" ".repeat(2 << 20), "more than"),
    ];
    for (text, problem) in cases {
        let scene = Scene::of_texts(&[&text, &good]);
        let found = scene.find("r.example", "x").await;
        assert_eq!(found.login, password("second"), "{problem}");
        let note = found.note.expect("a note");
        assert!(note.contains("0.json") && note.contains(problem), "{note}");
        assert!(!note.contains(SECRET), "{note}");
    }
}

#[tokio::test]
async fn files_that_are_not_there_or_empty_have_no_logins() {
    let mut scene = Scene::of_texts(&["", "\n"]);
    scene
        .sources
        .files
        .push(scene.dir.path().join("missing.json"));
    scene
        .sources
        .files
        .push(scene.dir.path().join("0.json/below"));
    assert_eq!(scene.login("r.example", "x").await, None);
}
