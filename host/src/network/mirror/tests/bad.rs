// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Registries that lie, break off, wander, dawdle or are gone, folders that cannot be written to, and
//! clients that go away.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::network::{
    dial::{Connector, Dialer},
    mirror::Failed,
    policy::{Packages, Policy},
};

/// The mirror's path of a file of the registry's.
fn file(upstream: &Upstream, name: &str, digest: &Digest) -> String {
    let host = upstream.root.strip_prefix("http://").expect("a scheme");
    format!(
        "/pypi/files/sha256/{}/http/{host}/files/{name}",
        digest.hex()
    )
}

#[tokio::test]
async fn a_file_of_another_digest_is_neither_kept_nor_given_out_whole() {
    for len in [10, 200_000] {
        let upstream = Upstream::start(move |_| answer("application/zip", content(len))).await;
        let dir = tempfile::tempdir().expect("a folder");
        // Kept, and passed through because it is too large to be kept.
        for max_bytes in [1 << 30, 8] {
            let mirror = mirror_with(&upstream.root, dir.path(), max_bytes, limits());
            let answer = get(&mirror, &file(&upstream, "a", &Digest::of(b"other"))).await;
            let whole = answer.status == 200 && (answer.whole || answer.bytes.len() >= len);
            assert!(!whole, "{len} {max_bytes} {}", answer.status);
            eventually("forgotten", || files(dir.path()).is_empty()).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_taken_for_whole() {
    let bytes = content(100_000);
    let digest = Digest::of(&bytes);
    let upstream = Upstream::start(move |_| {
        let mut response = answer("application/zip", "");
        let headers = response.headers_mut();
        headers.insert("content-length", "100000".parse().expect("a value"));
        *response.body_mut() = paced(vec![bytes.slice(..60_000)], Duration::from_millis(1));
        response
    })
    .await;
    let (mirror, dir) = mirror(&upstream);
    let answer = get(&mirror, &file(&upstream, "a", &digest)).await;
    assert!(!answer.whole && answer.bytes.len() < 100_000);
    eventually("forgotten", || files(dir.path()).is_empty()).await;
    let index = get(&mirror, "/pypi/simple/a/").await;
    assert_eq!(index.status, 502);
    assert!(index.text().contains("broke off"), "{}", index.text());
}

#[tokio::test]
async fn redirects_lead_to_registries_only() {
    let upstream = Upstream::start(|parts| {
        let to = match parts.uri.path() {
            "/files/near" => "/files/there",
            "/files/far" => "http://127.0.0.2:9/files/there",
            "/files/loop" => "/files/loop",
            "/files/strange" => "file:///etc/passwd",
            "/files/there" => return answer("application/zip", "there"),
            _ => return status(StatusCode::NOT_FOUND),
        };
        let mut response = status(StatusCode::FOUND);
        let headers = response.headers_mut();
        headers.insert("location", to.parse().expect("a value"));
        response
    })
    .await;
    let (mirror, _dir) = mirror(&upstream);
    let digest = Digest::of(b"there");
    for (name, word) in [
        ("far", "127.0.0.2:9"),
        ("loop", "5 times"),
        ("strange", "file:///"),
    ] {
        let refused = get(&mirror, &file(&upstream, name, &digest)).await;
        assert_eq!(refused.status, 502);
        assert!(refused.text().contains(word), "{}", refused.text());
        assert!(
            refused.text().contains(&upstream.root),
            "{}",
            refused.text()
        );
    }
    let near = get(&mirror, &file(&upstream, "near", &digest)).await;
    assert_eq!((near.status, near.text()), (200, "there"));
}

#[tokio::test]
async fn a_registry_that_dawdles_is_given_up() {
    let upstream = Upstream::start(|_| {
        let mut response = answer("text/html", "");
        let pieces = vec![
            Bytes::from_static(b"<html>"),
            Bytes::from_static(b"</html>"),
        ];
        *response.body_mut() = paced(pieces, Duration::from_secs(30));
        response
    })
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let limits = Limits {
        idle: Duration::from_millis(200),
        ..limits()
    };
    let mirror = mirror_with(&upstream.root, dir.path(), 1 << 30, limits);
    let index = get(&mirror, "/pypi/simple/a/").await;
    assert_eq!(index.status, 504);
    assert!(index.text().contains("200ms"), "{}", index.text());
    let file = get(&mirror, &file(&upstream, "a", &Digest::of(b"a"))).await;
    assert!(!file.whole);
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let root = format!("http://{}", listener.local_addr().expect("an address"));
    let dir = tempfile::tempdir().expect("a folder");
    let limits = Limits {
        answer: Duration::from_millis(200),
        ..limits()
    };
    let mirror = mirror_with(&root, dir.path(), 1 << 30, limits);
    let index = get(&mirror, "/pypi/simple/a/").await;
    assert_eq!(index.status, 504);
    assert!(index.text().contains(&root), "{}", index.text());
}

#[tokio::test]
async fn without_the_registry_what_is_kept_is_served_however_old() {
    let bytes = content(50_000);
    let (digest, sent) = (Digest::of(&bytes), bytes.clone());
    let upstream = Upstream::start(move |parts| {
        let mut response = match parts.uri.path() {
            "/simple/six/" => answer("text/html", page("six.whl", &digest)),
            "/files/six.whl" => answer("application/zip", sent.clone()),
            _ => status(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let headers = response.headers_mut();
        headers.insert("cache-control", "max-age=0".parse().expect("a value"));
        response
    })
    .await;
    let (mirror, dir) = mirror(&upstream);
    let index = get(&mirror, "/pypi/simple/six/").await;
    let link = link(index.text());
    get(&mirror, path(&link)).await;
    eventually("kept", || files(&dir.path().join("sha256")).len() == 2).await;
    let broken = get(&mirror, "/pypi/simple/other/").await;
    assert_eq!(broken.status, 502);
    assert!(broken.text().contains("500"), "{}", broken.text());

    let root = upstream.root.clone();
    drop(upstream);
    for _ in 0..2 {
        let again = get(&mirror, "/pypi/simple/six/").await;
        assert_eq!((again.status, again.served), (200, Some(Served::Cache)));
        assert_eq!(again.bytes, index.bytes);
    }
    assert!(get(&mirror, path(&link)).await.bytes == bytes);

    let request = Request::get("/npm/none").body(()).expect("a request");
    let response = mirror.serve(request).await;
    assert_eq!(response.status(), 502);
    let Failed(words) = response.extensions().get().expect("for the audit");
    assert!(
        words.contains(&root) && words.contains("WAGGLE_NETWORK_PACKAGES"),
        "{words}"
    );
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_keeps_nothing_but_hinders_nobody() {
    let bytes = content(100_000);
    let (digest, sent) = (Digest::of(&bytes), bytes.clone());
    let upstream = Upstream::start(move |parts| match parts.uri.path() {
        "/simple/six/" => answer("text/html", page("six.whl", &digest)),
        _ => answer("application/zip", sent.clone()),
    })
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let in_the_way = dir.path().join("file");
    std::fs::write(&in_the_way, "").expect("written");
    let mirror = mirror_with(&upstream.root, &in_the_way, 1 << 30, limits());
    for _ in 0..2 {
        let index = get(&mirror, "/pypi/simple/six/").await;
        let file = get(&mirror, path(&link(index.text()))).await;
        assert!(file.whole && file.bytes == bytes);
        assert_eq!(file.served, Some(Served::Upstream));
    }
    assert_eq!(upstream.paths().len(), 4);
}

#[tokio::test]
async fn a_document_has_a_ceiling() {
    let upstream = Upstream::start(|parts| {
        let mut response = answer("text/html", content(2000));
        if parts.uri.path().ends_with("/unstated/") {
            *response.body_mut() = paced(vec![content(700); 3], Duration::from_millis(1));
        }
        response
    })
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let limits = Limits {
        document_bytes: 1000,
        ..limits()
    };
    let mirror = mirror_with(&upstream.root, dir.path(), 1 << 30, limits);
    for index in ["/pypi/simple/stated/", "/pypi/simple/unstated/"] {
        let answer = get(&mirror, index).await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("1000 bytes"), "{}", answer.text());
    }
    // What needs no rewriting needs no memory.
    let contents = get(&mirror, &format!("{}/debian/Contents", upstream.root)).await;
    assert!(contents.whole && contents.bytes == content(2000));
}

#[tokio::test]
async fn a_download_without_clients_ends_as_it_does_without_a_mirror() {
    for drop_mirror in [false, true] {
        let upstream = Upstream::start(|_| {
            let mut response = answer("application/zip", "");
            *response.body_mut() = paced(vec![content(1000); 1000], Duration::from_millis(50));
            response
        })
        .await;
        let dir = tempfile::tempdir().expect("a folder");
        let limits = Limits {
            grace: Duration::from_millis(if drop_mirror { 60_000 } else { 100 }),
            ..limits()
        };
        let mirror = mirror_with(&upstream.root, dir.path(), 1 << 30, limits);
        let file = file(&upstream, "a", &Digest::of(b"a"));
        let client = tokio::time::timeout(Duration::from_millis(200), get(&mirror, &file));
        assert!(client.await.is_err());
        assert_eq!(files(dir.path()).len(), 1, "half of it");
        if drop_mirror {
            drop(mirror);
        }
        eventually("ended", || files(dir.path()).is_empty()).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_no_index_is_told() {
    let upstream = Upstream::start(|parts| match parts.uri.path() {
        "/simple/json/" => answer("application/json", "<html>"),
        "/simple/zip/" => answer("application/zip", "PK"),
        _ => {
            let mut response = answer("text/html", "\u{1f}");
            let headers = response.headers_mut();
            headers.insert("content-encoding", "gzip".parse().expect("a value"));
            response
        }
    })
    .await;
    let (mirror, _dir) = mirror(&upstream);
    for (name, word) in [
        ("json", "not what it should be"),
        ("zip", "application/zip"),
        ("gzip", "gzip"),
    ] {
        let answer = get(&mirror, &format!("/pypi/simple/{name}/")).await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains(word), "{}", answer.text());
    }
}

#[tokio::test]
async fn headers_beyond_reason_break_nothing() {
    let upstream = Upstream::start(|_| {
        let mut response = answer("text/html", "<html></html>");
        let headers = response.headers_mut();
        for (name, value) in [
            ("age", "18446744073709551615"),
            (
                "cache-control",
                "max-age=18446744073709551615, s-maxage=99999999999999999999",
            ),
            ("date", "Fri, 31 Dec 9999 23:59:59 GMT"),
            ("expires", "Fri, 31 Dec 9999 23:59:59 GMT"),
            ("last-modified", "Thu, 01 Jan 0000 00:00:00 GMT"),
            ("vary", "accept, \u{e9}"),
            ("etag", "\u{e9}"),
        ] {
            headers.insert(name, value.parse().expect("a value"));
        }
        response
    })
    .await;
    let (mirror, _dir) = mirror(&upstream);
    for _ in 0..3 {
        assert_eq!(get(&mirror, "/pypi/simple/a/").await.status, 200);
        assert_eq!(
            get(&mirror, &format!("{}/debian/InRelease", upstream.root))
                .await
                .status,
            200
        );
    }
}

/// What a client sees on the wire, whether the registry states a length or not.
#[tokio::test]
async fn a_client_over_http_sees_that_a_wrong_file_ends_too_soon() {
    for stated in [true, false] {
        let upstream = Upstream::start(move |_| {
            let mut response = answer("application/zip", content(100_000));
            if !stated {
                let pieces = vec![content(50_000), content(50_000)];
                *response.body_mut() = paced(pieces, Duration::from_millis(1));
            }
            response
        })
        .await;
        let (mirror, _dir) = mirror(&upstream);
        let file = file(&upstream, "a", &Digest::of(b"other"));
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let service = service_fn(|request: Request<Incoming>| async {
            Ok::<_, std::convert::Infallible>(mirror.serve(request).await)
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let asking = async {
            let request = format!("GET {file} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            client.write_all(request.as_bytes()).await.expect("sent");
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.expect("ended");
            got
        };
        let (served, got) = tokio::join!(serving, asking);
        let head = String::from_utf8_lossy(got.get(..400).unwrap_or(&got)).to_lowercase();
        if head.starts_with("http/1.1 502") {
            // It was known to be wrong before the answer began.
            continue;
        }
        assert!(served.is_err(), "the connection was broken");
        assert!(got.len() < 100_000 && !got.ends_with(b"\r\n0\r\n\r\n"));
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(head.contains("content-length: 100000"), stated, "{head}");
    }
}

#[tokio::test]
async fn what_is_wrong_at_one_address_hinders_nobody_at_another() {
    let bytes = content(300_000);
    let (digest, sent) = (Digest::of(&bytes), bytes.clone());
    let upstream = Upstream::start(move |parts| {
        let mut response = answer("application/zip", "");
        *response.body_mut() = match parts.uri.path() {
            "/files/good" => body(sent.clone()),
            // Long enough to be under way all the time.
            _ => paced(vec![content(1000); 100], Duration::from_millis(50)),
        };
        response
    })
    .await;
    let (mirror, _dir) = mirror(&upstream);
    let (wrong, good) = (
        file(&upstream, "wrong", &digest),
        file(&upstream, "good", &digest),
    );
    let client = tokio::time::timeout(Duration::from_millis(200), get(&mirror, &wrong));
    assert!(client.await.is_err(), "under way");
    let answer = get(&mirror, &good).await;
    assert_eq!((answer.status, answer.whole), (200, true));
    assert!(answer.bytes == bytes);
}

#[tokio::test]
async fn no_part_of_a_file_is_given_out_before_the_whole_is_right() {
    let upstream = Upstream::start(|_| {
        let mut response = answer("application/zip", "");
        let headers = response.headers_mut();
        headers.insert("content-length", "200000".parse().expect("a value"));
        let pieces = vec![content(100_000), content(100_000)];
        *response.body_mut() = paced(pieces, Duration::from_millis(50));
        response
    })
    .await;
    let (mirror, dir) = mirror(&upstream);
    let wrong = file(&upstream, "a", &Digest::of(b"other"));
    let part = ask(&mirror, &wrong, &[("range", "bytes=10-19")]).await;
    assert_eq!((part.status, part.whole), (200, false));
    assert_eq!(part.header("content-range"), None);
    eventually("forgotten", || files(dir.path()).is_empty()).await;
}

#[tokio::test]
async fn what_one_request_is_refused_does_not_make_a_registry_down() {
    let upstream = Upstream::start(|parts| {
        let mut response = answer("text/html", page("a", &Digest::of(b"a")));
        let headers = response.headers_mut();
        headers.insert("cache-control", "max-age=0".parse().expect("a value"));
        if parts.uri.path().ends_with("/slow/") {
            // Beyond what a client takes, and so the connection breaks before there is an answer.
            let long = "x".repeat(1 << 20);
            headers.insert("x-long", long.parse().expect("a value"));
        }
        response
    })
    .await;
    let (mirror, _dir) = mirror(&upstream);
    assert_eq!(get(&mirror, "/pypi/simple/a/").await.status, 200);
    let long = format!("{}/debian/{}", upstream.root, "a".repeat(60_000));
    assert_eq!(get(&mirror, &long).await.status, 404);
    assert_eq!(get(&mirror, "/pypi/simple/slow/").await.status, 502);
    let again = get(&mirror, "/pypi/simple/a/").await;
    assert_eq!(again.served, Some(Served::Upstream), "asked again");
}

#[tokio::test]
async fn a_refusal_by_the_policy_is_told_as_such() {
    let policy = Policy::parse("none", "", &Packages::default()).expect("a policy");
    let dir = tempfile::tempdir().expect("a folder");
    let options = MirrorOptions {
        dir: dir.path().to_owned(),
        max_bytes: 1 << 30,
        registries: vec!["pip=http://192.0.2.1/simple/".parse().expect("a registry")],
        base: Url::parse("http://127.0.0.1:703/").expect("a URL"),
        limits: limits(),
    };
    let mirror = Mirror::open(options, Connector::new(Dialer::system(), policy));
    let answer = get(&mirror, "/pypi/simple/a/").await;
    assert_eq!(answer.status, 403);
    assert!(
        answer.text().contains("192.0.2.1") && answer.text().contains("refused"),
        "{}",
        answer.text()
    );
}
