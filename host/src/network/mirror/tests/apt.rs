// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An apt repository, asked as apt asks its proxy.

use super::*;

const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

/// A repository with one package that its list knows and one that it does not.
async fn repository() -> (Upstream, Digest) {
    let list = format!(
        "Package: a\nFilename: pool/a/a_1+b.deb\nSHA256: {}\n\n",
        Digest::of(&content(60_000)).hex()
    );
    let digest = Digest::of(list.as_bytes());
    let upstream = Upstream::start(move |parts| {
        let path = parts.uri.path();
        let mut response = match path {
            "/debian/dists/x/InRelease" => answer("text/plain", "signed"),
            "/debian/pool/a/a_1%2bb.deb" => answer("application/x-deb", content(60_000)),
            "/debian/pool/u/u_1.deb" => answer("application/x-deb", "unknown"),
            _ if path.contains("x/main/binary-amd64/by-hash/SHA256/")
                || path.starts_with("/files/") =>
            {
                answer("text/plain", list.clone())
            }
            _ => return status(StatusCode::NOT_FOUND),
        };
        let headers = response.headers_mut();
        headers.insert("last-modified", DATE.parse().expect("a value"));
        if path.ends_with("InRelease") {
            headers.insert("cache-control", "max-age=0".parse().expect("a value"));
        }
        let since = parts.headers.get("if-modified-since");
        if since.is_some_and(|since| since == DATE) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = body("");
        }
        response
    })
    .await;
    (upstream, digest)
}

#[tokio::test]
async fn a_package_that_a_list_knows_is_kept() {
    let (upstream, digest) = repository().await;
    let (mirror, dir) = mirror(&upstream);
    let root = format!("{}/debian", upstream.root);
    let list = format!(
        "{root}/dists/x/main/binary-amd64/by-hash/SHA256/{}",
        digest.hex()
    );
    for served in [Served::Upstream, Served::Cache] {
        let list = get(&mirror, &list).await;
        assert_eq!((list.status, list.served), (200, Some(served)));
        let package = get(&mirror, &format!("{root}/pool/a/a_1%2bb.deb")).await;
        assert_eq!((package.status, package.served), (200, Some(served)));
        assert!(package.whole && package.bytes == content(60_000));
        eventually("kept", || files(&dir.path().join("sha256")).len() == 2).await;
    }
    assert_eq!(upstream.paths().len(), 2);

    // apt goes on with a part that it has, if it is of the same file.
    let package = format!("{root}/pool/a/a_1%2bb.deb");
    let rest = [("range", "bytes=59999-"), ("if-range", DATE)];
    let part = ask(&mirror, &package, &rest).await;
    assert_eq!((part.status, part.bytes.len()), (206, 1));
    let other = [
        ("range", "bytes=5-"),
        ("if-range", "Tue, 14 Nov 2023 22:13:21 GMT"),
    ];
    let whole = ask(&mirror, &package, &other).await;
    assert_eq!((whole.status, whole.bytes.len()), (200, 60_000));
}

#[tokio::test]
async fn a_package_that_no_list_knows_is_passed_through() {
    let (upstream, _) = repository().await;
    let (mirror, dir) = mirror(&upstream);
    let package = format!("{}/debian/pool/u/u_1.deb", upstream.root);
    for _ in 0..2 {
        let answer = ask(&mirror, &package, &[("range", "bytes=1-"), ("x-own", "no")]).await;
        assert_eq!(
            (answer.text(), answer.served),
            ("unknown", Some(Served::Upstream))
        );
        assert_eq!(answer.header("last-modified"), Some(DATE));
    }
    assert_eq!(upstream.header(1, "range").as_deref(), Some("bytes=1-"));
    assert_eq!(upstream.header(1, "x-own"), None);
    let unchanged = ask(&mirror, &package, &[("if-modified-since", DATE)]).await;
    assert_eq!((unchanged.status, unchanged.whole), (304, true));
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn a_list_whose_table_was_lost_is_learned_again() {
    let (upstream, digest) = repository().await;
    let (mirror, dir) = mirror(&upstream);
    let root = format!("{}/debian", upstream.root);
    let list = format!(
        "{root}/dists/x/main/binary-amd64/by-hash/SHA256/{}",
        digest.hex()
    );
    let package = format!("{root}/pool/a/a_1%2bb.deb");
    let tables = dir.path().join("tables");
    assert!(get(&mirror, &list).await.whole);
    assert!(get(&mirror, &package).await.whole);
    eventually("kept", || files(&dir.path().join("sha256")).len() == 2).await;
    assert_eq!(files(&tables).len(), 1);
    for _ in 0..2 {
        std::fs::remove_dir_all(&tables).expect("removed");
        assert_eq!(get(&mirror, &list).await.served, Some(Served::Cache));
        let known = get(&mirror, &package).await;
        assert_eq!((known.whole, known.served), (true, Some(Served::Cache)));
        assert_eq!(files(&tables).len(), 1);
    }
    // While its table is there nobody is asked for it.
    assert_eq!(get(&mirror, &list).await.served, Some(Served::Cache));
    assert_eq!(upstream.methods(), ["GET", "GET", "HEAD", "HEAD"]);
}

#[tokio::test]
async fn what_came_from_elsewhere_is_no_list() {
    let (upstream, digest) = repository().await;
    let (mirror, dir) = mirror(&upstream);
    // The same bytes as some package's file.
    let host = upstream.root.strip_prefix("http://").expect("a scheme");
    let elsewhere = format!(
        "/pypi/files/sha256/{}/http/{host}/files/by-hash/SHA256/list",
        digest.hex()
    );
    assert_eq!(get(&mirror, &elsewhere).await.status, 200);
    eventually("kept", || files(&dir.path().join("sha256")).len() == 1).await;
    let root = format!("{}/debian", upstream.root);
    let list = format!("{root}/x/binary-y/by-hash/SHA256/{}", digest.hex());
    assert_eq!(get(&mirror, &list).await.served, Some(Served::Cache));
    for _ in 0..2 {
        let package = get(&mirror, &format!("{root}/pool/a/a_1%2bb.deb")).await;
        assert_eq!(package.served, Some(Served::Upstream), "passed through");
    }
    assert!(files(&dir.path().join("tables")).is_empty());
}

#[tokio::test]
async fn a_repository_with_a_page_for_everything_vouches_for_no_list() {
    let list = format!(
        "Filename: pool/a/a_1.deb\nSHA256: {}\n\n",
        Digest::of(b"other").hex()
    );
    let digest = Digest::of(list.as_bytes());
    let upstream = Upstream::start(move |parts| match parts.uri.path() {
        "/files/list" => answer("text/plain", list.clone()),
        _ => answer("text/html", "<html>welcome</html>"),
    })
    .await;
    let (mirror, dir) = mirror(&upstream);
    let host = upstream.root.strip_prefix("http://").expect("a scheme");
    let elsewhere = format!("/pypi/files/sha256/{}/http/{host}/files/list", digest.hex());
    assert!(get(&mirror, &elsewhere).await.whole);
    eventually("kept", || files(&dir.path().join("sha256")).len() == 1).await;
    let root = format!("{}/debian", upstream.root);
    let list = format!("{root}/x/binary-y/by-hash/SHA256/{}", digest.hex());
    assert_eq!(get(&mirror, &list).await.served, Some(Served::Cache));
    let package = get(&mirror, &format!("{root}/pool/a/a_1.deb")).await;
    assert_eq!(
        (package.status, package.served),
        (200, Some(Served::Upstream))
    );
    assert!(files(&dir.path().join("tables")).is_empty());
}

#[tokio::test]
async fn a_package_whose_list_is_wrong_is_passed_through_after_it_failed() {
    let list = format!(
        "Filename: pool/a/a_1.deb\nSHA256: {}\n\n",
        Digest::of(b"other").hex()
    );
    let digest = Digest::of(list.as_bytes());
    let upstream = Upstream::start(move |parts| match parts.uri.path() {
        "/debian/pool/a/a_1.deb" => answer("application/x-deb", content(60_000)),
        _ => answer("text/plain", list.clone()),
    })
    .await;
    let (mirror, dir) = mirror(&upstream);
    let root = format!("{}/debian", upstream.root);
    let list = format!("{root}/x/binary-y/by-hash/SHA256/{}", digest.hex());
    assert!(get(&mirror, &list).await.whole);
    let package = format!("{root}/pool/a/a_1.deb");
    let first = get(&mirror, &package).await;
    assert!(first.status != 200 || !first.whole);
    for _ in 0..2 {
        let again = get(&mirror, &package).await;
        assert!(again.status == 200 && again.whole && again.bytes == content(60_000));
    }
    let tables = files(&dir.path().join("tables"));
    let len = |table: &std::path::PathBuf| table.metadata().expect("there").len();
    assert_eq!(tables.iter().map(len).collect::<Vec<_>>(), [0]);
}

#[tokio::test]
async fn a_release_is_revalidated_for_the_mirror_and_for_apt() {
    let (upstream, _) = repository().await;
    let (mirror, _dir) = mirror(&upstream);
    let release = format!("{}/debian/dists/x/InRelease", upstream.root);
    let first = get(&mirror, &release).await;
    assert_eq!(
        (first.text(), first.header("last-modified")),
        ("signed", Some(DATE))
    );
    let second = ask(&mirror, &release, &[("if-modified-since", DATE)]).await;
    assert_eq!((second.status, second.bytes.len()), (304, 0));
    assert_eq!(
        upstream.header(1, "if-modified-since").as_deref(),
        Some(DATE)
    );
    // One whose copy is older gets the kept one, though the registry says that nothing changed.
    let older = [("if-modified-since", "Tue, 14 Nov 2023 22:13:00 GMT")];
    let third = ask(&mirror, &release, &older).await;
    assert_eq!((third.status, third.text()), (200, "signed"));
}

#[tokio::test]
async fn what_is_not_below_a_repository_is_not_for_the_mirror() {
    let (upstream, _) = repository().await;
    let (mirror, _dir) = mirror(&upstream);
    for uri in [
        format!("{}/other/x", upstream.root),
        format!("{}/debian/../x", upstream.root),
    ] {
        let request = Request::get(uri).body(()).expect("a request");
        let (parts, ()) = request.into_parts();
        assert_eq!(mirror.upstream(&parts), None);
        let answer = mirror.serve(Request::from_parts(parts, ())).await;
        assert_eq!(answer.status(), 404);
    }
    assert!(upstream.paths().is_empty());
}
