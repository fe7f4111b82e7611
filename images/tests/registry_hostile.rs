// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The registry client against peers that are hostile, broken or busy.

#[path = "hostile/layers.rs"]
mod layers;
#[path = "hostile/logins.rs"]
mod logins;
#[path = "hostile/pushes.rs"]
mod pushes;
mod support;

use std::time::Duration;

use futures_util::TryStreamExt;
use support::liar::{Answer, Asked, Liar, head, response};
use support::registry::{options, write_login};
use waggle_images::registry::{CredentialSources, Mirror, Platform, RegistryOptions, media};
use waggle_images::{Digest, Reference, Registry, RegistryError};

const CONTENT: &[u8] = b"the bytes of a blob, which are handed out in pieces";

fn reference(liar: &Liar, name: &str) -> Reference {
    let text = format!("{}/{name}", liar.address);
    text.parse().expect("a reference")
}

/// With short waits: each of these peers is waited for.
fn client() -> Registry {
    Registry::new(impatient()).expect("a client")
}

fn impatient() -> RegistryOptions {
    let mut options = options();
    options.timeouts.answer = Duration::from_secs(2);
    options.timeouts.idle = Duration::from_secs(1);
    options.retries.attempts = 3;
    options
}

fn manifest_answer(body: &[u8]) -> Vec<u8> {
    response(200, &[("Content-Type", media::OCI_MANIFEST)], body)
}

fn image() -> Vec<u8> {
    let blob = |content: &[u8]| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": Digest::of(content).to_string(),
            "size": content.len(),
        })
    };
    let image = serde_json::json!({
        "schemaVersion": 2, "config": blob(b"config"), "layers": [blob(CONTENT)],
    });
    image.to_string().into_bytes()
}

async fn read(client: &Registry, liar: &Liar, from: u64) -> Result<Vec<u8>, RegistryError> {
    let size = CONTENT.len() as u64;
    let stream = client
        .blob(&reference(liar, "x:1"), &Digest::of(CONTENT), size, from)
        .await?;
    let pieces: Vec<_> = stream.try_collect().await?;
    Ok(pieces.concat())
}

#[tokio::test]
async fn a_manifest_without_end_is_cut_off() {
    let stated = Liar::start(|_, _| {
        // 100 MiB, as it says.
        let length = (100 << 20).to_string();
        let headers = [
            ("Content-Type", media::OCI_MANIFEST),
            ("Content-Length", &length),
        ];
        Answer::Endless(head(200, &headers))
    })
    .await;
    let unstated =
        Liar::start(|_, _| Answer::Endless(head(200, &[("Content-Type", media::OCI_MANIFEST)])))
            .await;
    for liar in [stated, unstated] {
        let error = client()
            .manifest(&reference(&liar, "x:1"))
            .await
            .expect_err("too large");
        match error {
            RegistryError::TooLarge { limit, .. } => assert_eq!(limit, 4 << 20),
            error => panic!("{error:?}"),
        }
        assert_eq!(
            liar.asked().len(),
            1,
            "a larger answer is not asked for again"
        );
    }
}

#[tokio::test]
async fn no_error_page_and_no_token_is_read_without_end() {
    for status in [400, 403, 404, 500] {
        let liar = Liar::start(move |_, _| Answer::Endless(head(status, &[]))).await;
        let error = client()
            .manifest(&reference(&liar, "x:1"))
            .await
            .expect_err("an error");
        match (status, &error) {
            (400, RegistryError::Unexpected { .. })
            | (403, RegistryError::Denied { .. })
            | (404, RegistryError::NotFound { .. })
            | (500, RegistryError::Failed { status: 500, .. }) => {}
            _ => panic!("{status}: {error:?}"),
        }
        assert_eq!(liar.asked().len(), if status == 500 { 3 } else { 1 });
    }
    let tokens = Liar::start(|_, _| Answer::Endless(head(200, &[]))).await;
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    let liar =
        Liar::start(move |_, _| Answer::Bytes(response(401, &[("WWW-Authenticate", &realm)], b"")))
            .await;
    let error = client().manifest(&reference(&liar, "x:1")).await;
    assert!(
        matches!(error, Err(RegistryError::TooLarge { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_manifest_is_what_its_digests_say() {
    let liar = Liar::start(|_, _| Answer::Bytes(manifest_answer(&image()))).await;
    let wrong = reference(&liar, "x").with_digest(Digest::of(b"another"));
    let error = client().manifest(&wrong).await;
    assert!(
        matches!(error, Err(RegistryError::DigestMismatch { .. })),
        "{error:?}"
    );
    let stated = Digest::of(b"another").to_string();
    let liar = Liar::start(move |_, _| {
        let headers = [
            ("Content-Type", media::OCI_MANIFEST),
            ("Docker-Content-Digest", &stated),
        ];
        Answer::Bytes(response(200, &headers, &image()))
    })
    .await;
    let error = client().manifest(&reference(&liar, "x:1")).await;
    assert!(
        matches!(error, Err(RegistryError::DigestMismatch { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_index_is_held_to_what_it_says() {
    let child = image();
    let size = child.len();
    for (stated, nested) in [(size + 1, false), (size, true), (size, false)] {
        let child = if nested {
            serde_json::json!({ "schemaVersion": 2, "manifests": [] })
                .to_string()
                .into_bytes()
        } else {
            child.clone()
        };
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": media::OCI_MANIFEST,
            "digest": Digest::of(&child).to_string(),
            "size": if nested { child.len() } else { stated },
            "platform": { "os": "linux", "architecture": "amd64" },
        }]});
        let liar = Liar::start(move |asked: &Asked, _| {
            if asked.line.ends_with("/manifests/1") {
                let index = index.to_string();
                Answer::Bytes(response(
                    200,
                    &[("Content-Type", media::OCI_INDEX)],
                    index.as_bytes(),
                ))
            } else {
                Answer::Bytes(response(200, &[], &child))
            }
        })
        .await;
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            variant: String::new(),
        };
        let resolved = client().resolve(&reference(&liar, "x:1"), &platform).await;
        match (stated == size, nested, resolved) {
            (false, _, Err(RegistryError::SizeMismatch { .. }))
            | (true, true, Err(RegistryError::NestedIndex { .. }))
            | (true, false, Ok(_)) => {}
            (_, _, other) => panic!("{stated} {nested}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn redirects_end() {
    let liar = Liar::start(|asked: &Asked, _| {
        let next = format!("{}x", asked.line.trim_start_matches("GET "));
        Answer::Bytes(response(302, &[("Location", &next)], b""))
    })
    .await;
    let error = client()
        .manifest(&reference(&liar, "x:1"))
        .await
        .expect_err("a loop");
    assert!(
        matches!(error, RegistryError::Unexpected { .. }),
        "{error:?}"
    );
    assert_eq!(liar.asked().len(), 6, "the first, and five that it led to");
}

fn logged_in(liar: &Liar) -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.json");
    write_login(&file, &liar.address, "bee", "hunter2");
    let credentials = CredentialSources {
        files: vec![file],
        ..CredentialSources::default()
    };
    let options = RegistryOptions {
        credentials,
        ..impatient()
    };
    (dir, Registry::new(options).expect("a client"))
}

#[tokio::test]
async fn a_blob_has_the_length_that_was_stated() {
    // One byte more, as it says and as it does not say; and without end.
    let longer = [CONTENT, b"!"].concat();
    let more = longer.clone();
    let stated = Liar::start(move |_, _| Answer::Bytes(response(200, &[], &more))).await;
    let unstated =
        Liar::start(move |_, _| Answer::Bytes([head(200, &[]), longer.clone()].concat())).await;
    let endless = Liar::start(|_, _| Answer::Endless(head(200, &[]))).await;
    for liar in [stated, unstated, endless] {
        let error = read(&client(), &liar, 0).await;
        assert!(
            matches!(error, Err(RegistryError::SizeMismatch { .. })),
            "{error:?}"
        );
        assert_eq!(liar.asked().len(), 1);
    }
    let short =
        Liar::start(|_, _| Answer::Bytes([head(200, &[]), CONTENT[..9].to_vec()].concat())).await;
    let error = read(&client(), &short, 0).await.expect_err("too short");
    assert!(matches!(error, RegistryError::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn a_broken_blob_goes_on_where_it_broke() {
    let total = CONTENT.len();
    let liar = Liar::start(move |asked: &Asked, before| {
        let from: usize = match asked.header("range") {
            None => 0,
            Some(range) => range
                .trim_start_matches("bytes=")
                .trim_end_matches('-')
                .parse()
                .expect("a range"),
        };
        let rest = &CONTENT[from..];
        let length = rest.len().to_string();
        let range = format!("bytes {from}-{}/{total}", total - 1);
        let headers = [
            ("Content-Length", length.as_str()),
            ("Content-Range", &range),
        ];
        let head = head(
            if from == 0 { 200 } else { 206 },
            if from == 0 { &headers[..1] } else { &headers },
        );
        // Twice it breaks after some bytes.
        let given = if before < 2 {
            &rest[..10.min(rest.len())]
        } else {
            rest
        };
        Answer::Bytes([head, given.to_vec()].concat())
    })
    .await;
    assert_eq!(read(&client(), &liar, 0).await.expect("mended"), CONTENT);
    let ranges: Vec<_> = liar
        .asked()
        .iter()
        .map(|asked| asked.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=10-".to_owned()),
            Some("bytes=20-".to_owned())
        ]
    );
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_from_the_start() {
    let liar = Liar::start(|_, _| Answer::Bytes(response(200, &[], CONTENT))).await;
    let client = client();
    let size = CONTENT.len() as u64;
    let stream = client
        .blob(&reference(&liar, "x:1"), &Digest::of(CONTENT), size, 20)
        .await;
    let stream = stream.expect("a blob");
    let pieces: Vec<_> = stream.try_collect().await.expect("the rest");
    assert_eq!(pieces.concat(), CONTENT[20..]);
    // One that answers with another range than was asked for is not believed.
    let total = CONTENT.len();
    let liar = Liar::start(move |_, _| {
        let range = format!("bytes 0-{}/{total}", total - 1);
        Answer::Bytes(response(206, &[("Content-Range", &range)], CONTENT))
    })
    .await;
    let error = read(&client, &liar, 20).await;
    assert!(
        matches!(error, Err(RegistryError::Unexpected { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn silence_is_waited_for_only_so_long() {
    let length = CONTENT.len().to_string();
    let liar = Liar::start(move |asked: &Asked, _| {
        let head = head(200, &[("Content-Length", &length)]);
        if asked.line.contains("/blobs/") {
            Answer::Silent([head, CONTENT[..5].to_vec()].concat())
        } else {
            Answer::Silent(head)
        }
    })
    .await;
    let error = read(&client(), &liar, 0).await.expect_err("silence");
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error:?}");
    let error = client()
        .manifest(&reference(&liar, "x:1"))
        .await
        .expect_err("silence");
    assert!(error.is_transient(), "{error:?}");
    let mute = Liar::start(|_, _| Answer::Silent(Vec::new())).await;
    let error = client()
        .manifest(&reference(&mute, "x:1"))
        .await
        .expect_err("silence");
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error:?}");
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let liar = Liar::start(|_, before| match before {
        0 => Answer::Bytes(response(503, &[], b"")),
        1 => Answer::Bytes(response(429, &[("Retry-After", "1")], b"")),
        _ => Answer::Bytes(manifest_answer(&image())),
    })
    .await;
    let began = std::time::Instant::now();
    client()
        .manifest(&reference(&liar, "x:1"))
        .await
        .expect("in the end");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "as it was asked to wait"
    );
    let busy =
        Liar::start(|_, _| Answer::Bytes(response(429, &[("Retry-After", "86400")], b""))).await;
    let error = client()
        .manifest(&reference(&busy, "x:1"))
        .await
        .expect_err("busy");
    match &error {
        RegistryError::RateLimited { after, .. } => {
            assert_eq!(*after, Some(Duration::from_secs(86400)));
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(busy.asked().len(), 1, "a day is not waited for");
    let broken = Liar::start(|_, before| match before {
        0 => Answer::Bytes(Vec::new()),
        _ => Answer::Bytes(response(200, &[], CONTENT)),
    })
    .await;
    assert_eq!(
        read(&client(), &broken, 0).await.expect("in the end"),
        CONTENT
    );
}

#[tokio::test]
async fn dockers_first_form_is_refused() {
    let liar = Liar::start(|_, _| {
        let body = br#"{"schemaVersion":1,"name":"x","tag":"1","fsLayers":[],"history":[],"signatures":[]}"#;
        let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        Answer::Bytes(response(200, &[("Content-Type", signed)], body))
    })
    .await;
    let error = client()
        .resolve(&reference(&liar, "x:1"), &Platform::host())
        .await;
    assert!(
        matches!(error, Err(RegistryError::Schema1 { .. })),
        "{error:?}"
    );
    let accept = liar.asked()[0]
        .header("accept")
        .map(str::to_owned)
        .expect("it says what it takes");
    assert!(
        !accept.contains("docker.distribution.manifest.v1"),
        "{accept}"
    );
}

#[tokio::test]
async fn tokens_are_asked_for_once_and_anew_when_refused() {
    let tokens = Liar::start(|asked: &Asked, before| {
        let fine = asked.header("authorization").is_some()
            && asked.line.contains("scope=repository%3Ax%3Apull");
        let body = format!("{{\"token\":\"token-{before}\",\"expires_in\":300}}");
        Answer::Bytes(response(if fine { 200 } else { 401 }, &[], body.as_bytes()))
    })
    .await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"test\"",
        tokens.address
    );
    // The first token serves for three requests, and then no more.
    let liar = Liar::start(move |asked: &Asked, before| {
        let wanted = if before < 4 {
            "Bearer token-0"
        } else {
            "Bearer token-1"
        };
        if asked.header("authorization") == Some(wanted) {
            Answer::Bytes(manifest_answer(&image()))
        } else {
            Answer::Bytes(response(401, &[("WWW-Authenticate", &challenge)], b""))
        }
    })
    .await;
    let (_dir, client) = logged_in(&liar);
    for _ in 0..5 {
        client
            .manifest(&reference(&liar, "x:1"))
            .await
            .expect("a manifest");
    }
    assert_eq!(tokens.asked().len(), 2);
    assert!(tokens.asked()[0].line.contains("service=test"));
    let error = Registry::new(impatient())
        .expect("a client")
        .manifest(&reference(&liar, "x:1"))
        .await;
    assert!(
        matches!(
            error,
            Err(RegistryError::Unauthorized {
                had_login: false,
                ..
            })
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_identity_is_exchanged_and_not_sent_along() {
    let tokens = Liar::start(|asked: &Asked, _| {
        let fine = asked.line == "POST /token" && asked.body.contains("refresh_token=hunter2");
        Answer::Bytes(response(
            if fine { 200 } else { 400 },
            &[],
            b"{\"access_token\":\"granted\"}",
        ))
    })
    .await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", tokens.address);
    let liar = Liar::start(
        move |asked: &Asked, _| match asked.header("authorization") {
            Some("Bearer granted") => Answer::Bytes(manifest_answer(&image())),
            _ => Answer::Bytes(response(401, &[("WWW-Authenticate", &challenge)], b"")),
        },
    )
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.json");
    let config = serde_json::json!({ "auths": { &liar.address: { "identitytoken": "hunter2" } } });
    std::fs::write(&file, config.to_string()).expect("a file");
    let credentials = CredentialSources {
        files: vec![file],
        ..CredentialSources::default()
    };
    let client = Registry::new(RegistryOptions {
        credentials,
        ..impatient()
    })
    .expect("a client");
    client
        .manifest(&reference(&liar, "x:1"))
        .await
        .expect("a manifest");
    assert!(
        liar.asked()
            .iter()
            .all(|asked| !asked.head.contains("hunter2"))
    );
}

#[tokio::test]
async fn a_mirror_that_lies_is_passed_over() {
    let home = Liar::start(|asked: &Asked, _| {
        if asked.line.contains("/blobs/") {
            Answer::Bytes(response(200, &[], CONTENT))
        } else {
            Answer::Bytes(manifest_answer(&image()))
        }
    })
    .await;
    let mirror = Liar::start(|_, _| Answer::Bytes(manifest_answer(b"{\"schemaVersion\":2}"))).await;
    let mirrors =
        Mirror::parse_list(&format!("{}={}", home.address, mirror.address)).expect("mirrors");
    let client = Registry::new(RegistryOptions {
        mirrors,
        ..impatient()
    })
    .expect("a client");
    let pinned = reference(&home, "x").with_digest(Digest::of(&image()));
    let fetched = client.manifest(&pinned).await.expect("the registry's own");
    assert_eq!(fetched.host, home.address);
    assert_eq!(mirror.asked().len(), 1);
    // A blob of another length as well.
    assert_eq!(read(&client, &home, 0).await.expect("a blob"), CONTENT);
}
