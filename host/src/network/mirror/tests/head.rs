// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! HEAD: what a GET would be answered, with nothing fetched for it.

use super::*;

const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

/// An index with one file, and a repository.
async fn registry() -> Upstream {
    Upstream::start(|parts| {
        let digest = Digest::of(&content(90_000));
        let mut response = match parts.uri.path() {
            "/simple/six/" => answer("text/html", page("six.whl", &digest)),
            "/files/six.whl" => answer("application/zip", content(90_000)),
            "/debian/dists/x/Release" => answer("text/plain", "release"),
            "/debian/pool/u.deb" => answer("application/x-deb", "unknown"),
            "/npm/a/-/a-1.tgz" => answer("application/gzip", "tarball"),
            _ => return status(StatusCode::NOT_FOUND),
        };
        let headers = response.headers_mut();
        headers.insert("last-modified", DATE.parse().expect("a value"));
        headers.insert("cache-control", "max-age=60".parse().expect("a value"));
        response
    })
    .await
}

async fn head(mirror: &Mirror, uri: &str) -> Answer {
    ask_by("HEAD", mirror, uri, &[("range", "bytes=1-2")]).await
}

#[tokio::test]
async fn a_head_downloads_nothing() {
    let upstream = registry().await;
    let (mirror, dir) = mirror(&upstream);
    let host = upstream.root.strip_prefix("http://").expect("a scheme");
    let digest = Digest::of(&content(90_000));
    let file = format!(
        "/pypi/files/sha256/{}/http/{host}/files/six.whl",
        digest.hex()
    );
    let root = &upstream.root;
    let (release, package) = (
        format!("{root}/debian/dists/x/Release"),
        format!("{root}/debian/pool/u.deb"),
    );
    for (uri, len) in [
        ("/pypi/simple/six/", None),
        (file.as_str(), Some("90000")),
        (&release, Some("7")),
        (&package, Some("7")),
        ("/npm/a/-/a-1.tgz", Some("7")),
    ] {
        let answer = head(&mirror, uri).await;
        assert_eq!((answer.status, answer.bytes.len()), (200, 0), "{uri}");
        assert_eq!(answer.header("content-length"), len, "{uri}");
        assert_eq!(answer.header("last-modified"), Some(DATE), "{uri}");
        assert_eq!(answer.served, Some(Served::Upstream), "{uri}");
    }
    for missing in ["/pypi/simple/none/", "/npm/none", "/npm/none/-/none-1.tgz"] {
        assert_eq!(head(&mirror, missing).await.status, 404, "{missing}");
    }
    assert!(upstream.methods().iter().all(|method| method == "HEAD"));
    assert!(files(dir.path()).is_empty());
}

/// On the wire an index that nobody has seen has no length, rather than none at all.
#[tokio::test]
async fn a_head_says_no_wrong_length_over_http() {
    let upstream = registry().await;
    let (mirror, _dir) = mirror(&upstream);
    for (uri, len) in [("/pypi/simple/six/", None), ("/npm/a/-/a-1.tgz", Some("7"))] {
        let (client, server) = tokio::io::duplex(1 << 20);
        let service = service_fn(|request: Request<Incoming>| async {
            Ok::<_, std::convert::Infallible>(mirror.serve(request).await)
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let asking = async {
            let handshake = hyper::client::conn::http1::handshake(TokioIo::new(client));
            let (mut sender, connection) = handshake.await.expect("connected");
            let request = Request::head(uri).body(Empty::<Bytes>::new());
            let asked = sender.send_request(request.expect("a request"));
            tokio::select! {
                response = asked => response.expect("an answer"),
                ended = connection => panic!("{ended:?}"),
            }
        };
        let response = tokio::select! {
            response = asking => response,
            served = serving => panic!("{served:?}"),
        };
        assert_eq!(response.status(), 200);
        let stated = response.headers().get("content-length");
        assert_eq!(stated.map(|len| len.to_str().expect("text")), len, "{uri}");
    }
}

#[tokio::test]
async fn a_head_of_what_is_kept_asks_nobody() {
    let upstream = registry().await;
    let (mirror, dir) = mirror(&upstream);
    let index = get(&mirror, "/pypi/simple/six/").await;
    let link = link(index.text());
    let file = get(&mirror, path(&link)).await;
    eventually("kept", || files(&dir.path().join("sha256")).len() == 2).await;
    let asked = upstream.paths().len();
    for (uri, got) in [("/pypi/simple/six/", &index), (path(&link), &file)] {
        let answer = head(&mirror, uri).await;
        assert_eq!(answer.served, Some(Served::Cache));
        for name in ["content-length", "content-type", "etag", "last-modified"] {
            assert!(answer.header(name).is_some(), "{name}");
            assert_eq!(answer.header(name), got.header(name), "{name}");
        }
        assert_eq!((answer.status, answer.bytes.len()), (200, 0));
        let tag = answer.header("etag").expect("a tag");
        let same = ask_by("HEAD", &mirror, uri, &[("if-none-match", tag)]).await;
        assert_eq!(same.status, 304);
    }
    assert_eq!(upstream.paths().len(), asked);

    // One that insists has the registry asked, and what is kept if that is gone.
    let insisting = [("cache-control", "no-cache")];
    let insisted = ask_by("HEAD", &mirror, "/pypi/simple/six/", &insisting).await;
    assert_eq!(insisted.served, Some(Served::Upstream));
    assert_eq!(upstream.methods().last().map(String::as_str), Some("HEAD"));
    drop(upstream);
    let cut = ask_by("HEAD", &mirror, "/pypi/simple/six/", &insisting).await;
    assert_eq!((cut.status, cut.served), (200, Some(Served::Cache)));
}
