// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The package mirror behind the proxy: found by every way of asking, and refused as anything else is.

use super::*;
use crate::network::policy::ALLOW_SETTING;

/// A registry with one project, on loopback.
async fn registry() -> SocketAddr {
    let page = "<html><a href=\"a.zip\">a.zip</a></html>";
    let answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}",
        page.len()
    );
    answering(answer).await.0
}

/// pip asks the proxy for everything if its configuration names one, also for the mirror.
#[tokio::test]
async fn the_mirror_is_found_in_absolute_form() {
    let dir = tempfile::tempdir().expect("a folder");
    let registry = registry().await;
    let egress = mirrored(
        &format!("registry.example:{}", registry.port()),
        &registry.to_string(),
        names([("registry.example", &["127.0.0.1"])]),
        dir.path(),
    );
    let get = |url: &str| format!("GET {url} HTTP/1.1\r\nHost: 127.0.0.1:703\r\n\r\n");
    for root in [
        "",
        "http://127.0.0.1:703",
        "http://localhost:703",
        "http://[::1]:703",
    ] {
        let answer = ask(&egress, get(&format!("{root}/pypi/simple/a/"))).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{root}: {answer}");
        assert!(answer.contains("a.zip"), "{root}: {answer}");
    }
    let found = egress.audit().records();
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|record| record.via == Via::Mirror));
    // Another port is another program's, of the guest itself or of this host.
    for root in [
        "http://127.0.0.1:704",
        "http://127.0.0.1",
        "http://localhost:80",
        "http://[::1]:7030",
        "http://127.0.0.2:703",
        "http://me.localhost:703",
    ] {
        let answer = ask(&egress, get(&format!("{root}/pypi/simple/a/"))).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{root}: {answer}");
    }
}

/// A company's own registry in a private range is named, but its address is not permitted by that.
#[tokio::test]
async fn a_registry_at_a_refused_address_is_refused_and_says_how_it_is_permitted() {
    let dir = tempfile::tempdir().expect("a folder");
    let names = names([("registry.example", &["10.0.0.1"])]);
    let egress = mirrored("registry.example", "", names, dir.path());
    let mark = egress.audit().mark();
    let file = format!(
        "/pypi/files/sha256/{}/http/registry.example/a.zip",
        "a".repeat(64)
    );
    let asked = [
        "/pypi/simple/a/",
        "http://127.0.0.1:703/pypi/simple/a/",
        &file,
        "http://registry.example/debian/InRelease",
        "http://registry.example/debian/pool/a.deb",
    ];
    for url in asked {
        let answer = ask(&egress, format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let line = answer.lines().next().expect("a line");
        assert!(
            line.starts_with(
                "HTTP/1.1 403 registry.example:80 is refused: it resolves to 10.0.0.1"
            ),
            "{url}: {line}"
        );
        assert!(
            line.ends_with(&format!("{ALLOW_SETTING}=10.0.0.1")),
            "{line}"
        );
        let status = "proxy-status: waggle; error=destination_ip_prohibited; details=\"";
        assert!(answer.contains(status), "{answer}");
        let json = json(&answer);
        assert_eq!(
            (&json["error"], &json["kind"], &json["asked"]),
            (
                &"refused".into(),
                &"special_address".into(),
                &"registry.example:80".into()
            )
        );
    }
    let head = ask(&egress, "HEAD /pypi/simple/a/ HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 403 registry.example:80 is refused"),
        "{head}"
    );
    let [record] = egress.audit().records().try_into().expect("one refusal");
    let Decision::Refused { denial } = record.decision else {
        panic!("{:?}", record.decision)
    };
    assert_eq!((record.via, record.times), (Via::Mirror, 6));
    assert_eq!(egress.audit().refused_since(mark, 8), [denial]);
}
