// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Pushes to registries that lead them astray, or object without end.

use std::fs;

use waggle_images::registry::{Content, CredentialSources, Push, RegistryOptions, media};
use waggle_images::{Digest, Registry, RegistryError};

use crate::support::have;
use crate::support::liar::{Answer, Asked, Liar, head, response};
use crate::support::registry::{certify, write_login};
use crate::{CONTENT, image, impatient, logged_in, reference};

/// Where the registries of these tests want blobs.
const HERE: &str = "/v2/x/blobs/uploads/1?state=2";

/// An image of a layer and a configuration.
fn push_of(dir: &tempfile::TempDir) -> Push {
    let content = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("a file");
        Content {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            path,
        }
    };
    Push {
        layers: vec![content("layer", CONTENT)],
        config: content("config", b"config"),
        manifest: image().into(),
        media_type: media::OCI_MANIFEST.to_owned(),
    }
}

fn created() -> Answer {
    Answer::Bytes(response(201, &[], b""))
}

fn redirect(to: &str) -> Answer {
    Answer::Bytes(response(307, &[("Location", to)], b""))
}

/// A registry that has no blob, and begins uploads there.
fn begins_at(asked: &Asked, place: &str) -> Answer {
    match asked.line.split(' ').next() {
        Some("HEAD") => Answer::Bytes(response(404, &[], b"")),
        Some("POST") => Answer::Bytes(response(202, &[("Location", place)], b"")),
        _ => created(),
    }
}

async fn push(client: &Registry, liar: &Liar) -> Result<Digest, RegistryError> {
    let dir = tempfile::tempdir().expect("a folder");
    let image = push_of(&dir);
    client
        .push(&reference(liar, "x:1"), &image, &|_, _| ())
        .await
}

/// With a login, from a registry that wants one for everything.
fn wants_login(asked: &Asked, answer: impl FnOnce() -> Answer) -> Answer {
    if asked.header("authorization").is_some() {
        answer()
    } else {
        let challenge = [("WWW-Authenticate", "Basic realm=\"x\"")];
        Answer::Bytes(response(401, &challenge, b""))
    }
}

#[tokio::test]
async fn a_blob_goes_where_the_registry_says_with_its_digest() {
    let liar = Liar::start(|asked: &Asked, _| wants_login(asked, || begins_at(asked, HERE))).await;
    let (_dir, client) = logged_in(&liar);
    let pushed = push(&client, &liar).await.expect("pushed");
    assert_eq!(pushed, Digest::of(&image()));
    let asked = liar.asked();
    let puts: Vec<_> = asked
        .iter()
        .filter(|asked| asked.line.starts_with("PUT ") && asked.header("authorization").is_some())
        .collect();
    let digest = Digest::of(CONTENT).to_string().replace(':', "%3A");
    assert_eq!(puts[0].line, format!("PUT {HERE}&digest={digest}"));
    assert_eq!(puts[0].body.as_bytes(), CONTENT);
    assert_eq!(puts[2].line, "PUT /v2/x/manifests/1");
    assert_eq!(puts[2].header("content-type"), Some(media::OCI_MANIFEST));
    assert_eq!(puts[2].body.as_bytes(), image());
    let begins = asked.iter().filter(|asked| asked.line.starts_with("POST "));
    assert!(begins.clone().count() >= 2);
    assert!(
        begins
            .clone()
            .all(|asked| asked.header("content-length") == Some("0"))
    );
}

#[tokio::test]
async fn no_blob_is_sent_to_another_service_of_the_network() {
    let away = Liar::start(|_, _| created()).await;
    let places = [
        format!("http://{}/up", away.address),
        format!("http://{}/up", away.elsewhere()),
        format!("ftp://{}/up", away.address),
    ];
    for place in places {
        let there = place.clone();
        let liar = Liar::start(move |asked: &Asked, _| begins_at(asked, &there)).await;
        let (_dir, client) = logged_in(&liar);
        let error = push(&client, &liar).await.expect_err("not to be followed");
        assert!(
            matches!(error, RegistryError::Unexpected { .. }),
            "{place}: {error:?}"
        );
        assert!(
            liar.asked()
                .iter()
                .all(|asked| !asked.line.starts_with("PUT "))
        );
    }
    assert_eq!(away.counts(), (0, 0));
}

#[tokio::test]
async fn a_blob_goes_elsewhere_by_tls_and_without_the_login() {
    if !have(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let ca = certify(dir.path());
    let away = Liar::start_tls(dir.path(), |_, _| created()).await;
    let place = format!("https://{}/up", away.address);
    let liar =
        Liar::start(move |asked: &Asked, _| wants_login(asked, || begins_at(asked, &place))).await;
    let file = dir.path().join("config.json");
    write_login(&file, &liar.address, "bee", "hunter2");
    let credentials = CredentialSources {
        files: vec![file],
        ..CredentialSources::default()
    };
    let client = Registry::new(RegistryOptions {
        credentials,
        ca_bundle: Some(ca),
        ..impatient()
    });
    push(&client.expect("a client"), &liar)
        .await
        .expect("pushed");
    let asked = away.asked();
    let bodies: Vec<_> = asked.iter().map(|asked| asked.body.as_bytes()).collect();
    assert_eq!(bodies, [CONTENT, b"config"]);
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[tokio::test]
async fn a_push_follows_no_redirect() {
    let away = Liar::start(|_, _| created()).await;
    for redirects in ["POST", "PUT /v2/x/blobs", "PUT /v2/x/manifests"] {
        let target = format!("http://{}/x", away.address);
        let liar = Liar::start(move |asked: &Asked, _| {
            if asked.line.starts_with(redirects) {
                redirect(&target)
            } else {
                begins_at(asked, HERE)
            }
        })
        .await;
        let (_dir, client) = logged_in(&liar);
        let error = push(&client, &liar).await.expect_err(redirects);
        assert!(error.to_string().contains("redirect"), "{error}");
    }
    assert_eq!(away.counts(), (0, 0));
}

#[tokio::test]
async fn objections_are_told_and_not_read_without_end() {
    for objects in ["POST", "PUT /v2/x/blobs", "PUT /v2/x/manifests"] {
        let endless = Liar::start(move |asked: &Asked, _| {
            if asked.line.starts_with(objects) {
                Answer::Endless([head(400, &[]), b"too blue".to_vec()].concat())
            } else {
                begins_at(asked, HERE)
            }
        })
        .await;
        let (_dir, client) = logged_in(&endless);
        let error = push(&client, &endless).await.expect_err(objects);
        let text = error.to_string();
        assert!(text.contains("400") && text.contains("too blue"), "{text}");
        assert!(text.len() < 1000, "{text}");
    }
}

#[tokio::test]
async fn a_challenge_that_changes_sends_the_login_nowhere_else() {
    // Basic first; and once the login is known to be there, tokens of a service elsewhere.
    let away = Liar::start(|_, _| Answer::Bytes(response(200, &[], b"{\"token\":\"x\"}"))).await;
    let bearer = format!("Bearer realm=\"http://{}/token\"", away.elsewhere());
    let liar = Liar::start(move |asked: &Asked, _| {
        if asked.line.starts_with("POST ") {
            Answer::Bytes(response(401, &[("WWW-Authenticate", &bearer)], b""))
        } else {
            wants_login(asked, || begins_at(asked, HERE))
        }
    })
    .await;
    let (_dir, client) = logged_in(&liar);
    let error = push(&client, &liar).await.expect_err("plain http");
    assert!(error.to_string().contains("plain http"), "{error}");
    assert_eq!(away.counts(), (0, 0));
}

#[tokio::test]
async fn a_token_that_ends_during_an_upload_is_asked_for_anew() {
    let tokens = Liar::start(|_, before| {
        let body = format!("{{\"token\":\"token-{before}\"}}");
        Answer::Bytes(response(200, &[], body.as_bytes()))
    })
    .await;
    let bearer = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    let liar = Liar::start(move |asked: &Asked, _| {
        let late = asked.line.starts_with("PUT ") || asked.line.contains("/manifests/");
        match asked.header("authorization") {
            Some("Bearer token-1") => begins_at(asked, HERE),
            Some("Bearer token-0") if !late => begins_at(asked, HERE),
            _ => Answer::Bytes(response(401, &[("WWW-Authenticate", &bearer)], b"")),
        }
    })
    .await;
    let (_dir, client) = logged_in(&liar);
    push(&client, &liar).await.expect("pushed");
    assert_eq!(tokens.asked().len(), 2);
}
