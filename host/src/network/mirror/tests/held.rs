// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the mirror holds while its clients take their time: memory for documents, disk for downloads.

use super::*;
use crate::network::mirror::{answer::Source, memory::AT_ONCE, route::Route};

const DOCUMENT: usize = 256 * 1024;

/// A repository with any number of large documents, which say this about being kept.
async fn documents(cache_control: &'static str) -> Upstream {
    Upstream::start(move |_| {
        let mut response = answer("text/plain", content(DOCUMENT));
        let headers = response.headers_mut();
        headers.insert("cache-control", cache_control.parse().expect("a value"));
        response
    })
    .await
}

fn small(upstream: &Upstream, dir: &Path) -> Mirror {
    let limits = Limits {
        document_bytes: u64::try_from(DOCUMENT).expect("small"),
        answer: Duration::from_secs(1),
        ..limits()
    };
    mirror_with(&upstream.root, dir, 1 << 30, limits)
}

/// Asks for many documents at once and reads none of the answers.
async fn unread(mirror: &Mirror, root: &str, many: usize) -> Vec<Response<Body>> {
    let asking = (0..many).map(|i| {
        let request = Request::get(format!("{root}/debian/dists/d{i}")).body(());
        mirror.serve(request.expect("a request"))
    });
    futures_util::future::join_all(asking).await
}

#[tokio::test]
async fn slow_readers_of_documents_that_are_kept_hold_no_memory() {
    let upstream = documents("max-age=60").await;
    let dir = tempfile::tempdir().expect("a folder");
    let mirror = small(&upstream, dir.path());
    let all = mirror.documents.memory.left();
    let unread = unread(&mirror, &upstream.root, 12).await;
    assert!(unread.iter().all(|response| response.status() == 200));
    assert_eq!(mirror.documents.memory.left(), all);
    for response in unread {
        let served = response.extensions().get::<Served>().copied();
        assert_eq!(served, Some(Served::Upstream));
        let body = response.into_body().collect().await.expect("whole");
        assert!(body.to_bytes() == content(DOCUMENT));
    }

    // Who needs the whole of one has its room as long as it has the bytes.
    let url = Url::parse(&format!("{}/debian/dists/d0", upstream.root)).expect("a URL");
    let request = Request::get(url.as_str()).body(()).expect("a request");
    let route = Route::of(&mirror.links, &request.into_parts().0);
    let Some(Route::Apt(apt)) = route else {
        panic!("{route:?}")
    };
    let kept = mirror.documents.kept(&apt.wanted()).await.expect("kept");
    assert!(matches!(kept.content.source, Source::File(..)));
    let bytes = mirror.documents.bytes(kept.content.source).await;
    assert!(
        bytes
            .as_ref()
            .is_some_and(|bytes| *bytes == content(DOCUMENT))
    );
    assert!(mirror.documents.memory.left() < all);
    drop(bytes);
    assert_eq!(mirror.documents.memory.left(), all);
}

#[tokio::test]
async fn slow_readers_of_what_cannot_be_kept_hold_no_more_than_there_is() {
    let upstream = documents("no-store").await;
    let dir = tempfile::tempdir().expect("a folder");
    let mirror = small(&upstream, dir.path());
    let all = mirror.documents.memory.left();
    let mut held = unread(&mirror, &upstream.root, 12).await;
    let good = |all: &[Response<Body>]| all.iter().filter(|one| one.status() == 200).count();
    assert_eq!(good(&held), usize::try_from(AT_ONCE).expect("few"));
    assert!(
        held.iter()
            .all(|one| matches!(one.status().as_u16(), 200 | 503))
    );
    assert_eq!(mirror.documents.memory.left(), 0);

    // What one lets go of the next one gets.
    let first = held.iter().position(|one| one.status() == 200);
    let first = held.swap_remove(first.expect("there are"));
    let body = first.into_body().collect().await.expect("whole");
    assert!(body.to_bytes() == content(DOCUMENT));
    let next = get(&mirror, &format!("{}/debian/dists/next", upstream.root)).await;
    assert_eq!((next.status, next.bytes.len()), (200, DOCUMENT));
    drop(held);
    drop(next);
    assert_eq!(mirror.documents.memory.left(), all);
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn downloads_beyond_what_the_folder_has_for_them_are_passed_through() {
    let bytes = |name: &str| {
        let first = name.bytes().last().expect("a name");
        Bytes::from(vec![first; 400_000])
    };
    for stated in [true, false] {
        let upstream = Upstream::start(move |parts| {
            let mut response = answer("application/zip", "");
            let file = bytes(parts.uri.path());
            if stated {
                let headers = response.headers_mut();
                headers.insert("content-length", "400000".parse().expect("a value"));
            }
            let pieces = vec![file.slice(..200_000), file.slice(200_000..)];
            // Not at the same moment: each would find the room taken by the other.
            let pause = if parts.uri.path().ends_with('a') {
                300
            } else {
                450
            };
            *response.body_mut() = paced(pieces, Duration::from_millis(pause));
            response
        })
        .await;
        let dir = tempfile::tempdir().expect("a folder");
        let mirror = mirror_with(&upstream.root, dir.path(), 1_000_000, limits());
        let host = upstream.root.strip_prefix("http://").expect("a scheme");
        let uri = |name: &str| {
            let digest = Digest::of(&bytes(name));
            format!(
                "/pypi/files/sha256/{}/http/{host}/files/{name}",
                digest.hex()
            )
        };
        let (one, other) = (uri("a"), uri("b"));
        let (one, other) = tokio::join!(get(&mirror, &one), get(&mirror, &other));
        let whole = [&one, &other].map(|answer| answer.whole && answer.bytes.len() == 400_000);
        match stated {
            true => assert_eq!(whole, [true, true]),
            // The one that came too far to be passed through breaks off, and is not taken for whole.
            false => assert_eq!(whole, [false, true]),
        }
        eventually("one is kept", || files(dir.path()).len() == 1).await;
    }
}
