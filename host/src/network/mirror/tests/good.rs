// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Registries that do what they should: what is asked twice is fetched once.

use sha2::{Digest as _, Sha512};

use super::*;
use crate::network::mirror::{Served, digest::Algorithm};

/// An index with one file.
async fn pip(bytes: Bytes) -> Upstream {
    let digest = Digest::of(&bytes);
    Upstream::start(move |parts| match parts.uri.path() {
        "/simple/six/" => answer("text/html", page("six-1.whl", &digest)),
        "/files/six-1.whl" => answer("application/zip", bytes.clone()),
        _ => status(StatusCode::NOT_FOUND),
    })
    .await
}

#[tokio::test]
async fn what_was_fetched_once_is_not_fetched_again() {
    let bytes = content(300_000);
    let upstream = pip(bytes.clone()).await;
    let (mirror, dir) = mirror(&upstream);
    for served in [Served::Upstream, Served::Cache] {
        let index = get(&mirror, "/pypi/simple/Six/").await;
        assert_eq!(
            (index.status, index.served),
            (200, Some(served)),
            "{index:?}"
        );
        let file = get(&mirror, path(&link(index.text()))).await;
        assert_eq!((file.status, file.served), (200, Some(served)));
        assert!(file.whole && file.bytes == bytes);
        assert_eq!(file.header("content-length"), Some("300000"));
        // The download ends for its clients before it is in its place.
        eventually("kept", || !files(&dir.path().join("sha256")).is_empty()).await;
        let kept = |file: &std::path::PathBuf| file.ends_with(Digest::of(&bytes).hex());
        eventually("the file is kept", || files(dir.path()).iter().any(kept)).await;
    }
    assert_eq!(upstream.paths(), ["/simple/six/", "/files/six-1.whl"]);
}

#[tokio::test]
async fn a_kept_file_is_served_in_parts_and_by_condition() {
    let bytes = content(100_000);
    let upstream = pip(bytes.clone()).await;
    let (mirror, dir) = mirror(&upstream);
    let index = get(&mirror, "/pypi/simple/six/").await;
    let link = link(index.text());
    let link = path(&link);
    let whole = get(&mirror, link).await;
    let tag = whole.header("etag").expect("a tag").to_owned();
    eventually("kept", || files(&dir.path().join("sha256")).len() == 2).await;
    let part = ask(
        &mirror,
        link,
        &[("range", "bytes=99990-"), ("if-range", &tag)],
    )
    .await;
    assert_eq!((part.status, part.served), (206, Some(Served::Cache)));
    assert_eq!(part.bytes, bytes.slice(99_990..));
    assert_eq!(
        part.header("content-range"),
        Some("bytes 99990-99999/100000")
    );
    let same = ask(&mirror, link, &[("if-none-match", &tag)]).await;
    assert_eq!((same.status, same.bytes.len()), (304, 0));
    let head = Request::head(link).body(Empty::<Bytes>::new());
    let head = mirror.serve(head.expect("a request")).await;
    assert_eq!(
        head.headers().get("content-length").expect("stated"),
        "100000"
    );
    let body = head.into_body().collect().await.expect("empty");
    assert!(body.to_bytes().is_empty());
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_download() {
    let bytes = content(400_000);
    let (digest, sent) = (Digest::of(&bytes), bytes.clone());
    let upstream = Upstream::start(move |parts| match parts.uri.path() {
        "/simple/six/" => {
            let page = Bytes::from(page("six-1.whl", &digest));
            let mut response = answer("text/html", "");
            *response.body_mut() = paced(vec![page], Duration::from_millis(200));
            response
        }
        _ => {
            let mut response = answer("application/zip", "");
            let pieces = (0..10).map(|i| sent.slice(i * 40_000..(i + 1) * 40_000));
            *response.body_mut() = paced(pieces.collect(), Duration::from_millis(50));
            response
        }
    })
    .await;
    let (mirror, _dir) = mirror(&upstream);
    let indexes =
        futures_util::future::join_all((0..5).map(|_| get(&mirror, "/pypi/simple/six/"))).await;
    let link = link(indexes[0].text());
    let file = path(&link);

    // The first goes away in the middle.
    let first = tokio::time::timeout(Duration::from_millis(150), get(&mirror, file)).await;
    assert!(first.is_err());
    let clients = futures_util::future::join_all((0..5).map(|_| get(&mirror, file))).await;
    for client in clients {
        assert!(client.whole && client.bytes == bytes);
    }
    assert_eq!(upstream.paths(), ["/simple/six/", "/files/six-1.whl"]);
}

#[tokio::test]
async fn an_index_is_asked_for_again_when_it_is_stale_and_only_whether_it_changed() {
    let upstream = Upstream::start(|parts| {
        let mut response = answer("text/html", page("a.whl", &Digest::of(b"a")));
        let headers = response.headers_mut();
        headers.insert("etag", "\"one\"".parse().expect("a value"));
        headers.insert("cache-control", "max-age=0".parse().expect("a value"));
        if parts.headers.get("if-none-match").is_some() {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = body("");
        }
        response
    })
    .await;
    let (mirror, _dir) = mirror(&upstream);
    let first = get(&mirror, "/pypi/simple/a/").await;
    let second = get(&mirror, "/pypi/simple/a/").await;
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.bytes, second.bytes);
    assert_eq!(second.served, Some(Served::Upstream));
    assert_eq!(upstream.header(0, "if-none-match"), None);
    assert_eq!(
        upstream.header(1, "if-none-match").as_deref(),
        Some("\"one\"")
    );
}

#[tokio::test]
async fn what_a_registry_says_about_caching_counts() {
    for (said, asked) in [("max-age=60", 1), ("no-store", 2), ("private", 2), ("", 1)] {
        let upstream = Upstream::start(move |_| {
            let mut response = answer("text/html", "<html></html>");
            if !said.is_empty() {
                let headers = response.headers_mut();
                headers.insert("cache-control", said.parse().expect("a value"));
            }
            response
        })
        .await;
        let (mirror, _dir) = mirror(&upstream);
        for _ in 0..2 {
            let pip = [("cache-control", "max-age=0")];
            assert_eq!(ask(&mirror, "/pypi/simple/a/", &pip).await.status, 200);
        }
        assert_eq!(upstream.paths().len(), asked, "{said}");
        let insisting = [("cache-control", "no-cache")];
        assert_eq!(
            ask(&mirror, "/pypi/simple/a/", &insisting).await.status,
            200
        );
        assert_eq!(upstream.paths().len(), asked + 1, "{said}");
    }
}

#[tokio::test]
async fn metadata_is_checked_by_its_own_digest() {
    let (wheel, metadata) = (Digest::of(b"wheel"), Digest::of(b"metadata"));
    let upstream = Upstream::start(move |parts| match parts.uri.path() {
        "/simple/a/" => answer(
            "application/vnd.pypi.simple.v1+json",
            format!(
                r#"{{"files":[{{"filename":"a.whl","url":"/files/a.whl","hashes":{{"sha256":"{}"}},"core-metadata":{{"sha256":"{}"}}}}]}}"#,
                wheel.hex(),
                metadata.hex()
            ),
        ),
        "/files/a.whl" => answer("application/zip", "wheel"),
        "/files/a.whl.metadata" => answer("text/plain", "metadata"),
        _ => status(StatusCode::NOT_FOUND),
    })
    .await;
    let (mirror, dir) = mirror(&upstream);
    let index = get(&mirror, "/pypi/simple/a/").await;
    let index: serde_json::Value = serde_json::from_slice(&index.bytes).expect("JSON");
    let link = index["files"][0]["url"].as_str().expect("a link");
    assert_eq!(get(&mirror, path(link)).await.text(), "wheel");
    let metadata = format!("{}.metadata", path(link));
    for served in [Served::Upstream, Served::Cache] {
        let answer = get(&mirror, &metadata).await;
        assert_eq!((answer.text(), answer.served), ("metadata", Some(served)));
        eventually("kept", || files(&dir.path().join("sha256")).len() == 3).await;
    }
}

#[tokio::test]
async fn npm_has_its_tarballs_by_link_and_by_the_registrys_own_path() {
    let bytes = content(50_000);
    let mut integrity = String::from("sha512-");
    base64::Engine::encode_string(
        &base64::engine::general_purpose::STANDARD,
        Sha512::digest(&bytes),
        &mut integrity,
    );
    let root = Arc::new(Mutex::new(String::new()));
    let (known, sent) = (Arc::clone(&root), bytes.clone());
    let upstream = Upstream::start(move |parts| match parts.uri.path() {
        "/npm/@a%2fb" => {
            let tarball = format!("{}/npm/@a/b/-/b-1.0.0.tgz", known.lock().expect("whole"));
            let dist = serde_json::json!({"tarball": tarball, "integrity": integrity});
            let document =
                serde_json::json!({"name": "@a/b", "versions": {"1.0.0": {"dist": dist}}});
            answer("application/json", document.to_string())
        }
        "/npm/@a/b/-/b-1.0.0.tgz" => answer("application/octet-stream", sent.clone()),
        _ => status(StatusCode::NOT_FOUND),
    })
    .await;
    root.lock().expect("whole").clone_from(&upstream.root);
    let (mirror, dir) = mirror(&upstream);
    let document = get(&mirror, "/npm/@a%2Fb").await;
    let document: serde_json::Value = serde_json::from_slice(&document.bytes).expect("JSON");
    let link = document["versions"]["1.0.0"]["dist"]["tarball"].as_str();
    let linked = get(&mirror, path(link.expect("a link"))).await;
    assert!(linked.whole && linked.bytes == bytes, "{linked:?}");
    eventually("kept", || {
        !files(&dir.path().join(Algorithm::Sha512.name())).is_empty()
    })
    .await;
    let own = get(&mirror, "/npm/@a/b/-/b-1.0.0.tgz").await;
    assert_eq!(own.served, Some(Served::Cache));
    assert!(own.bytes == bytes);

    let missing = get(&mirror, "/npm/none").await;
    assert_eq!(missing.status, 404);
    assert!(
        missing
            .text()
            .starts_with("{\"error\":\"waggle: the package registry"),
        "{}",
        missing.text()
    );
    let audit = Request::post("/npm/-/npm/v1/security/advisories/bulk");
    let audit = mirror
        .serve(audit.body(body("{}")).expect("a request"))
        .await;
    assert_eq!(audit.status(), 404);
}

#[tokio::test]
async fn two_servers_share_a_folder_and_one_that_is_killed_leaves_it_whole() {
    let bytes = content(100_000);
    let upstream = pip(bytes.clone()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let one = mirror_with(&upstream.root, dir.path(), 1 << 30, limits());
    let two = mirror_with(&upstream.root, dir.path(), 1 << 30, limits());
    let index = get(&one, "/pypi/simple/six/").await;
    let link = link(index.text());
    get(&one, path(&link)).await;
    eventually("kept", || files(&dir.path().join("sha256")).len() == 2).await;
    drop(one);
    // What a killed server leaves behind.
    std::fs::write(dir.path().join("temp/half"), "half").expect("written");
    let index = get(&two, "/pypi/simple/six/").await;
    let file = get(&two, path(&link)).await;
    assert_eq!(
        (index.served, file.served),
        (Some(Served::Cache), Some(Served::Cache))
    );
    assert!(file.bytes == bytes);
    assert_eq!(upstream.paths().len(), 2);
}

#[tokio::test]
async fn the_folder_stays_within_its_bound() {
    let upstream = Upstream::start(|parts| {
        let number: usize = parts
            .uri
            .path()
            .rsplit('/')
            .next()
            .expect("a name")
            .parse()
            .expect("a number");
        answer(
            "application/zip",
            Bytes::from(vec![u8::try_from(number).expect("small"); 100_000]),
        )
    })
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let mirror = mirror_with(&upstream.root, dir.path(), 1_000_000, limits());
    let host = upstream.root.strip_prefix("http://").expect("a scheme");
    for number in 0..40_u8 {
        let digest = Digest::of(&vec![number; 100_000]);
        let file = format!(
            "/pypi/files/sha256/{}/http/{host}/files/{number}",
            digest.hex()
        );
        assert!(get(&mirror, &file).await.whole);
    }
    let size = || -> u64 {
        let files = files(dir.path());
        files
            .iter()
            .filter_map(|file| Some(file.metadata().ok()?.len()))
            .sum()
    };
    eventually("within its bound", || {
        size() <= 1_000_000 && size() > 500_000
    })
    .await;
}
