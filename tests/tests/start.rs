// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How the server starts, and how it refuses to: health, the choice of an accelerator, missing
//! parts, and launches that fail.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use waggle_tests::http::Connection;
use waggle_tests::{Scene, Server, Settings, machines, settings};

#[tokio::test]
async fn health_answers() {
    let server = Server::start(Settings::default()).await;
    let mut connection = Connection::open(server.authority())
        .await
        .expect("it listens");
    let (status, body) = connection.get("/health").await.expect("an answer");
    assert_eq!(status, 200);
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["status"], "ok");
    let (status, _) = connection.get("/nothing").await.expect("an answer");
    assert_eq!(status, 404);
    server.stop(Signal::SIGTERM).await;
}

/// With nothing said, the server finds out whether KVM runs a stock kernel, and takes emulation if
/// it does not.
#[tokio::test]
async fn accelerator_is_chosen_by_itself() {
    let _permit = machines(2).await;
    let scene = Scene::with(Settings::default().choosing_accelerator()).await;
    let id = scene.create("shell").await;
    assert_eq!(scene.output(&id, "echo runs").await, "runs\n");
    scene.close().await;
}

/// Exit code, and the one line that says what is missing and what mends it.
async fn complaint(settings: Settings) -> String {
    let (status, stderr) = settings.serve_in_vain().await;
    assert!(!status.success(), "it started: {stderr}");
    let lines: Vec<_> = stderr
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    assert_eq!(lines.len(), 1, "one clear line: {stderr}");
    stderr
}

#[tokio::test]
async fn missing_parts_are_named_with_the_command_that_mends_it() {
    let empty = TempDir::new().expect("a temporary folder");
    let line = complaint(Settings::default().with(settings::LIB_DIR, empty.path())).await;
    assert!(line.contains("./dev"), "{line}");
    assert!(
        line.contains("libkrunfw") && line.contains("vhost-device-vsock"),
        "{line}"
    );
}

#[tokio::test]
async fn missing_qemu_is_named_with_the_command_that_mends_it() {
    let empty = TempDir::new().expect("a temporary folder");
    let line = complaint(Settings::default().with("PATH", empty.path())).await;
    assert!(line.to_lowercase().contains("qemu"), "{line}");
    assert!(
        line.contains("apt-get install") || line.contains("./dev"),
        "{line}"
    );
}

#[tokio::test]
async fn missing_images_are_named_with_the_command_that_mends_it() {
    let empty = TempDir::new().expect("a temporary folder");
    let line = complaint(Settings::default().with(settings::IMAGE_CACHE_DIR, empty.path())).await;
    assert!(line.contains("./dev images"), "{line}");
}

#[tokio::test]
async fn bad_settings_are_named() {
    for (variable, value) in [
        ("WAGGLE_LISTEN_ADDR", "nowhere"),
        ("WAGGLE_MAX_ENVIRONMENTS", "many"),
        ("WAGGLE_BOOT_TIMEOUT", "2 parsecs"),
        ("WAGGLE_ACCELERATOR", "warp"),
    ] {
        let (status, stderr) = Settings::default()
            .with(variable, value)
            .serve_in_vain()
            .await;
        assert!(!status.success(), "{variable}={value} was accepted");
        assert!(stderr.contains(value), "{variable}={value}: {stderr}");
    }
}

/// The network's settings are lists, of which the one entry is named that is wrong; a preset that there is not, with
/// those that there are.
#[tokio::test]
async fn bad_entries_of_the_network_are_named() {
    for (variable, value, named, helps) in [
        (
            "WAGGLE_NETWORK",
            "pakages",
            "pakages",
            "none, packages, all",
        ),
        (
            "WAGGLE_NETWORK_ALLOW",
            "good.example, bad example",
            "bad example",
            "example.com:443",
        ),
        (
            "WAGGLE_NETWORK_PACKAGES",
            "npm=https://npm.example/, pip=nowhere",
            "pip=nowhere",
            "http or https URL",
        ),
    ] {
        let line = complaint(Settings::default().with(variable, value)).await;
        assert!(line.contains(variable), "{line}");
        assert!(line.contains(named), "{line}");
        assert!(line.contains(helps), "{line}");
        assert!(
            !line.contains("good.example") && !line.contains("npm.example"),
            "{line}"
        );
    }
}

/// An entry with an @ may hold a password, so it is told that there is one and not which.
#[tokio::test]
async fn a_password_in_a_setting_is_not_repeated() {
    for value in [
        "pip=https://me:secret@index.example/simple/",
        "cargo=https://me:secret@index.example/",
        "me:secret@index.example",
    ] {
        let settings = Settings::default().with("WAGGLE_NETWORK_PACKAGES", value);
        let line = complaint(settings).await;
        assert!(line.contains("WAGGLE_NETWORK_PACKAGES"), "{line}");
        assert!(line.contains("password"), "{line}");
        assert!(!line.contains("secret") && !line.contains("me:"), "{line}");
    }
}

/// A launch that fails says why, and leaves no process, file, environment or occupied place.
async fn launch_fails(settings: Settings, reason: &[&str]) {
    let settings = settings.with("WAGGLE_MAX_ENVIRONMENTS", "1");
    let scene = Scene::with(settings).await;
    for _ in 0..2 {
        let arguments = json!({"runtime": "shell"});
        let text = scene
            .client
            .call("create_environment", arguments)
            .await
            .refused();
        let lower = text.to_lowercase();
        assert!(
            reason.iter().any(|word| lower.contains(word)),
            "why: {text}"
        );
        assert_eq!(scene.list().await.len(), 0);
        assert!(
            scene.server.descendants().is_empty(),
            "{:#?}",
            scene.server.descendants()
        );
        assert!(
            scene.server.run_files().is_empty(),
            "{:#?}",
            scene.server.run_files()
        );
    }
    scene.close().await;
}

/// A VMM that starts and fails at once, as it does for a bad option or a lack of memory.
#[tokio::test]
async fn failing_vmm_leaves_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = std::env::var("PATH").expect("a PATH");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-kernel*) echo 'no luck today' >&2; exit 1;; esac\n\
         PATH='{path}' exec qemu-system-x86_64 \"$@\"\n"
    );
    let fake = folder.path().join("qemu-system-x86_64");
    fs::write(&fake, script).expect("a script");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("an executable script");
    let path = format!("{}:{path}", folder.path().display());
    launch_fails(Settings::default().with("PATH", path), &["no luck today"]).await;
}

/// A machine that does not come up in time.
#[tokio::test]
async fn slow_boot_leaves_nothing() {
    let _permit = machines(1).await;
    let settings = Settings::default().with("WAGGLE_BOOT_TIMEOUT", "100ms");
    launch_fails(settings, &["not ready"]).await;
}
