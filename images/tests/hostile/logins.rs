// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Who gets a login: the registry that it is for and the token service that it names, whatever it answers.

use std::path::Path;
use std::process::Command;

use waggle_images::registry::{CredentialSources, RegistryOptions};
use waggle_images::{Reference, Registry, RegistryError};

use crate::support::liar::{Answer, Asked, Liar, response};
use crate::support::registry::{certify, write_login};
use crate::support::{have, skip};
use crate::{CONTENT, image, impatient, logged_in, manifest_answer, read, reference};

const BASIC: &str = "Basic realm=\"x\"";

fn redirect(status: u16, to: &str) -> Answer {
    Answer::Bytes(response(status, &[("Location", to)], b""))
}

fn challenge(challenge: &str) -> Answer {
    Answer::Bytes(response(401, &[("WWW-Authenticate", challenge)], b""))
}

/// A registry that wants a login, and sends who has one elsewhere.
async fn sends_to(target: String) -> Liar {
    Liar::start(
        move |asked: &Asked, _| match asked.header("authorization") {
            Some(_) => redirect(307, &target),
            None => challenge(BASIC),
        },
    )
    .await
}

fn logins(liar: &Liar) -> Vec<Option<String>> {
    let asked = liar.asked();
    let each = asked.iter();
    each.map(|asked| asked.header("authorization").map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn a_login_stays_within_the_registry() {
    let liar = Liar::start(|asked: &Asked, _| match asked.header("authorization") {
        None => challenge(BASIC),
        Some(_) if asked.line.ends_with("/there") => Answer::Bytes(response(200, &[], CONTENT)),
        Some(_) => redirect(307, "/there"),
    })
    .await;
    let (_dir, client) = logged_in(&liar);
    assert_eq!(read(&client, &liar, 0).await.expect("a blob"), CONTENT);
}

#[tokio::test]
async fn no_later_hop_gets_the_login_that_the_first_did_not() {
    let away = Liar::start(|asked: &Asked, _| {
        if asked.line.ends_with("/two") {
            Answer::Bytes(response(200, &[], CONTENT))
        } else {
            redirect(307, "/two")
        }
    })
    .await;
    let liar = sends_to(format!("http://{}/one", away.address)).await;
    let (_dir, client) = logged_in(&liar);
    assert_eq!(read(&client, &liar, 0).await.expect("a blob"), CONTENT);
    assert_eq!(logins(&away), [None, None]);
}

#[tokio::test]
async fn who_comes_back_by_a_redirect_has_no_login() {
    // What is elsewhere must not choose what the registry is asked for with our login.
    let away = Liar::start(|asked: &Asked, _| {
        let home = asked.line.split("home=").nth(1).expect("where from");
        redirect(307, &format!("http://{home}/back"))
    })
    .await;
    let target = format!("http://{}/one", away.address);
    let liar = Liar::start(move |asked: &Asked, _| {
        let home = asked.header("host").expect("a host");
        match asked.header("authorization") {
            _ if asked.line.ends_with("/back") => challenge(BASIC),
            Some(_) => redirect(307, &format!("{target}?home={home}")),
            None => challenge(BASIC),
        }
    })
    .await;
    let (_dir, client) = logged_in(&liar);
    let error = read(&client, &liar, 0).await.expect_err("no login");
    assert!(
        matches!(error, RegistryError::Unexpected { .. }),
        "{error:?}"
    );
    let back: Vec<_> = liar.asked();
    let back: Vec<_> = back
        .iter()
        .filter(|asked| asked.line.ends_with("/back"))
        .map(|asked| asked.header("authorization"))
        .collect();
    assert_eq!(back, [None]);
}

#[tokio::test]
async fn the_challenge_of_another_place_is_not_met() {
    let tokens = Liar::start(|_, _| Answer::Bytes(response(200, &[], b"{\"token\":\"x\"}"))).await;
    let bearer = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    for wanted in [BASIC.to_owned(), bearer] {
        let away = Liar::start(move |_, _| challenge(&wanted)).await;
        // One that wants no login of its own sends on at once.
        let target = format!("http://{}/blob", away.address);
        let liar = Liar::start(move |_, _| redirect(302, &target)).await;
        let (_dir, client) = logged_in(&liar);
        let error = read(&client, &liar, 0).await.expect_err("no login");
        assert!(
            matches!(error, RegistryError::Unexpected { .. }),
            "{error:?}"
        );
        assert_eq!((logins(&away), logins(&liar)), (vec![None], vec![None]));
    }
    assert_eq!(tokens.counts(), (0, 0));
}

fn client_of(file: &Path, ca: Option<&Path>) -> Registry {
    let credentials = CredentialSources {
        files: vec![file.to_owned()],
        ..CredentialSources::default()
    };
    let options = RegistryOptions {
        credentials,
        ca_bundle: ca.map(Path::to_owned),
        ..impatient()
    };
    Registry::new(options).expect("a client")
}

#[tokio::test]
async fn a_token_service_does_not_pass_the_login_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.json");
    for status in [301, 302, 303, 307, 308] {
        let away =
            Liar::start(|_, _| Answer::Bytes(response(200, &[], b"{\"token\":\"x\"}"))).await;
        let target = format!("http://{}/token", away.address);
        let tokens = Liar::start(move |_, _| redirect(status, &target)).await;
        let bearer = format!("Bearer realm=\"http://{}/token\"", tokens.address);
        let liar = Liar::start(move |_, _| challenge(&bearer)).await;
        let identity = serde_json::json!({ "identitytoken": "hunter2" });
        let password = serde_json::json!({ "username": "bee", "password": "hunter2" });
        for login in [identity, password] {
            let config = serde_json::json!({ "auths": { &liar.address: login } });
            std::fs::write(&file, config.to_string()).expect("a file");
            let error = client_of(&file, None)
                .manifest(&reference(&liar, "x:1"))
                .await
                .expect_err("a redirect");
            assert!(error.to_string().contains("redirects"), "{error}");
        }
        assert_eq!(tokens.asked().len(), 2, "{status}");
        assert_eq!(away.counts(), (0, 0), "{status}");
    }
}

/// Where a registry is that is reached by TLS and by no loopback address.
fn far(liar: &Liar, name: &str) -> Reference {
    let text = format!("{}/{name}", liar.elsewhere());
    text.parse().expect("a reference")
}

#[tokio::test]
async fn a_registry_elsewhere_leads_to_nothing_on_this_host() {
    if !have(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let ca = certify(dir.path());
    let here = Liar::start(|_, _| Answer::Bytes(response(200, &[], b"{\"token\":\"x\"}"))).await;
    let target = format!("http://{}/token", here.address);
    let bearer = format!("Bearer realm=\"{target}\"");
    let tokens = Liar::start_tls(dir.path(), move |_, _| challenge(&bearer)).await;
    let redirects = Liar::start_tls(dir.path(), move |_, _| redirect(307, &target)).await;
    for (liar, said) in [(tokens, "a token service"), (redirects, "a place")] {
        let file = dir.path().join("config.json");
        write_login(&file, &liar.elsewhere(), "bee", "hunter2");
        let error = client_of(&file, Some(&ca))
            .manifest(&far(&liar, "x:1"))
            .await
            .expect_err("not to be followed");
        assert!(
            matches!(error, RegistryError::Unexpected { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(text.contains(said) && text.contains("127.0.0.1"), "{text}");
        assert_eq!(logins(&liar), [None]);
    }
    assert_eq!(here.counts(), (0, 0));
}

#[tokio::test]
async fn a_registry_on_this_host_leads_to_no_plain_http_elsewhere() {
    let away = Liar::start(|_, _| Answer::Bytes(response(200, &[], CONTENT))).await;
    let target = format!("http://{}/blob", away.elsewhere());
    let liar = sends_to(target.clone()).await;
    let (_dir, client) = logged_in(&liar);
    let error = read(&client, &liar, 0).await.expect_err("plain http");
    assert!(error.to_string().contains("plain http"), "{error}");
    // Nor does it name a token service there.
    let bearer = format!("Bearer realm=\"{target}\"");
    let liar = Liar::start(move |_, _| challenge(&bearer)).await;
    let (_dir, client) = logged_in(&liar);
    let error = read(&client, &liar, 0).await.expect_err("plain http");
    assert!(error.to_string().contains("plain http"), "{error}");
    assert_eq!(away.counts(), (0, 0));
}

#[tokio::test]
async fn nothing_leads_from_tls_to_plain_http() {
    if !have(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let ca = certify(dir.path());
    let plain = Liar::start(|_, _| Answer::Bytes(manifest_answer(&image()))).await;
    let target = format!("http://{}/x", plain.address);
    let liar = Liar::start_tls(dir.path(), move |_, _| redirect(307, &target)).await;
    let error = client_of(&dir.path().join("none.json"), Some(&ca))
        .manifest(&reference(&liar, "x:1"))
        .await
        .expect_err("plain http");
    assert!(error.to_string().contains("from https"), "{error}");
    assert_eq!(plain.counts(), (0, 0));
}

#[tokio::test]
async fn plain_http_is_never_spoken_to_what_is_not_loopback_by_name() {
    // It leads to this host, and speaks no TLS: a client that tried plain HTTP would be answered.
    let liar = Liar::start(|_, _| Answer::Bytes(manifest_answer(&image()))).await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.json");
    write_login(&file, &liar.elsewhere(), "bee", "hunter2");
    let error = client_of(&file, None).manifest(&far(&liar, "x:1")).await;
    error.expect_err("no TLS");
    let (requests, handshakes) = liar.counts();
    assert!(requests == 0 && handshakes > 0, "{requests} {handshakes}");
}

#[tokio::test]
async fn a_registry_on_the_loopback_address_of_ipv6_is_asked_in_plain_http() {
    let liar = Liar::start_v6(|asked: &Asked, _| match asked.header("authorization") {
        Some(_) => Answer::Bytes(manifest_answer(&image())),
        None => challenge(BASIC),
    })
    .await;
    let Some(liar) = liar else {
        skip("this host has no ::1");
        return;
    };
    let (_dir, client) = logged_in(&liar);
    let reference = reference(&liar, "x:1");
    assert!(reference.registry().starts_with("[::1]:"), "{reference}");
    client.manifest(&reference).await.expect("a manifest");
}

const VARIABLE: &str = "WAGGLE_TEST_BEHIND_PROXY";

/// The other process of the next test: it asks two registries, with a login for both.
#[test]
fn behind_a_proxy() {
    let Some(file) = std::env::var_os(VARIABLE) else {
        return;
    };
    let text = std::fs::read_to_string(&file).expect("logins");
    let config: serde_json::Value = serde_json::from_str(&text).expect("logins");
    let names = config["auths"].as_object().expect("logins").keys();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = client_of(Path::new(&file), None);
    for name in names {
        let reference = format!("{name}/x:1").parse().expect("a reference");
        let fetched = runtime.block_on(client.manifest(&reference));
        let local = name.starts_with("127.");
        assert_eq!(fetched.is_ok(), local, "{name}: {fetched:?}");
    }
}

#[tokio::test]
async fn no_proxy_sees_plain_http() {
    let proxy = Liar::start(|_, _| Answer::Bytes(response(502, &[], b""))).await;
    let liar = Liar::start(|asked: &Asked, _| match asked.header("authorization") {
        Some(_) => Answer::Bytes(manifest_answer(&image())),
        None => challenge(BASIC),
    })
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.json");
    let login = serde_json::json!({ "username": "bee", "password": "hunter2" });
    let auths = serde_json::json!({ &liar.address: login, liar.elsewhere(): login });
    let config = serde_json::json!({ "auths": auths });
    std::fs::write(&file, config.to_string()).expect("a file");
    let url = format!("http://{}", proxy.address);
    let mut other = Command::new(std::env::current_exe().expect("this program"));
    other
        .args(["--exact", "logins::behind_a_proxy"])
        .env(VARIABLE, &file);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        other.env(name, &url);
    }
    for name in ["NO_PROXY", "no_proxy", "https_proxy", "all_proxy"] {
        other.env_remove(name);
    }
    let output = tokio::task::spawn_blocking(move || other.output()).await;
    let output = output.expect("no panic").expect("another process");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    // What goes by TLS asks the proxy for a tunnel, and tells it no more.
    let tunnel = format!("CONNECT {}", liar.elsewhere());
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    for asked in asked {
        assert_eq!(asked.line, tunnel);
        assert_eq!(asked.header("authorization"), None);
    }
    assert_eq!(liar.asked().len(), 2);
}
