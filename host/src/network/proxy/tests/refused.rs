// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What may not be reached is not, by no way of asking; and the answer says why.

use super::*;
use crate::network::policy::ALLOW_SETTING;

#[tokio::test]
async fn by_name_and_by_address_in_every_form() {
    let names = names([]);
    let egress = egress_of(
        "good.example",
        Arc::clone(&names),
        no_upstream(),
        Limits::default(),
    );
    for target in [
        "evil.example:443",
        "127.0.0.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "0x7f.1:80",
        "2130706433:80",
        "169.254.169.254:80",
        "GOOD.example.evil.example:443",
        "192.0.2.1:80",
    ] {
        let answer = ask(
            &egress,
            &format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        .await;
        let asked = Target::parse(target, None).expect(target).to_string();
        let line = answer.lines().next().expect("a line");
        assert!(
            line.starts_with(&format!("HTTP/1.1 403 {asked} is refused: ")),
            "{line}"
        );
        assert!(line.contains(ALLOW_SETTING), "{line}");
        let json = json(&answer);
        assert_eq!(
            (&json["error"], &json["asked"]),
            (&"refused".into(), &asked.into())
        );
        assert!(json["rule"].is_string() && json["remedy"].is_string() && json["kind"].is_string());
        let status = "proxy-status: waggle; error=http_request_denied; details=\"";
        assert!(answer.contains(status), "{answer}");

        let answer = ask(
            &egress,
            &format!("GET http://{target}/x HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    assert!(
        names.asked.lock().expect("a list").is_empty(),
        "a refused name is never resolved"
    );
    let records = egress.audit().records();
    assert_eq!(records.len(), 12, "{records:?}");
    assert!(
        records
            .iter()
            .all(|record| matches!(record.decision, Decision::Refused { .. }))
    );
    assert_eq!(egress.audit().refused_since(0, 100).len(), 6, "each once");
}

#[tokio::test]
async fn by_socks_with_a_name_and_with_addresses() {
    let egress = egress("good.example");
    for asked in [
        b"\x03\x0cevil.example\x01\xbb".as_slice(),
        b"\x01\x7f\0\0\x01\0\x50",
        b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50",
        b"\x03\x09127.0.0.1\0\x50",
        b"\x03\x060x7f.1\0\x50",
    ] {
        let (mut stream, served) = client(&egress);
        stream.write_all(b"\x05\x01\0").await.expect("sent");
        stream
            .write_all(&[b"\x05\x01\0", asked].concat())
            .await
            .expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("read");
        assert_eq!(
            answer.get(..4),
            Some(b"\x05\0\x05\x02".as_slice()),
            "{asked:?}"
        );
        served.await.expect("no panic");
    }
    let records = egress.audit().records();
    assert!(
        records.iter().all(|record| record.via == Via::Socks),
        "{records:?}"
    );
    // The two spellings of an address are one refusal.
    assert_eq!(records.len(), 3, "{records:?}");
}

#[tokio::test]
async fn by_a_name_that_resolves_to_this_host() {
    let names = names([
        ("good.example", &["127.0.0.1", "::1"]),
        ("meta.example", &["169.254.169.254"]),
        ("mapped.example", &["::ffff:10.0.0.1"]),
        ("nat.example", &["64:ff9b::a00:1"]),
    ]);
    let egress = egress_of("*.example", names, no_upstream(), Limits::default());
    for (name, address) in [
        ("good.example", "127.0.0.1"),
        ("meta.example", "169.254.169.254"),
        ("mapped.example", "10.0.0.1"),
        ("nat.example", "64:ff9b::a00:1"),
    ] {
        let answer = ask(
            &egress,
            &format!("CONNECT {name}:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(
            answer.contains("error=destination_ip_prohibited"),
            "{answer}"
        );
        assert!(
            answer.contains(&format!("it resolves to {address}")),
            "{answer}"
        );
    }
}

/// One bad address among good ones is not connected to, whatever order they come in.
#[tokio::test]
async fn by_names_that_resolve_to_both() {
    let server = echo().await;
    let names = names([(
        "mixed.example",
        &["169.254.169.254", "::1", "127.0.0.1", "10.0.0.1"],
    )]);
    let allow = format!("mixed.example, 127.0.0.1:{}", server.port());
    let egress = egress_of(&allow, names, no_upstream(), Limits::default());
    let _tunnel = tunnel(&egress, &format!("mixed.example:{}", server.port())).await;
    let records = egress.audit().records();
    assert_eq!(records[0].address, Some(server));
}

/// The proxy follows no redirect: the client asks again, and is refused then.
#[tokio::test]
async fn by_redirect() {
    let answer =
        "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n";
    let (server, _heads) = answering(answer.to_owned()).await;
    let egress = egress(&server.to_string());
    let answer = ask(
        &egress,
        &format!("GET http://{server}/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");
    let location = "GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n";
    assert!(ask(&egress, location).await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn what_is_no_request_to_a_proxy() {
    let egress = egress("good.example");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: good.example\r\n\r\n", "404"),
        (
            "GET https://good.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
            "400",
        ),
        ("GET ftp://good.example/ HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("CONNECT good.example HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("CONNECT good.example:0 HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        (
            "CONNECT me@good.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
            "400",
        ),
        ("nonsense\r\n\r\n", "400"),
        ("\x16\x03\x01", ""),
        ("", ""),
    ] {
        let answer = ask(&egress, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) || status.is_empty(),
            "{request}: {answer}"
        );
    }
    // What names a target of some kind is in the list, quoted.
    let records = egress.audit().records();
    let asked: Vec<_> = records
        .iter()
        .map(|record| {
            assert!(
                matches!(record.decision, Decision::Failed { .. }),
                "{record:?}"
            );
            record.asked.as_str()
        })
        .collect();
    assert_eq!(
        asked,
        [
            r#""good.example""#,
            r#""good.example""#,
            r#""good.example""#,
            r#""good.example:0""#,
            r#""me@good.example:443""#,
        ]
    );
    let mut huge = "GET http://good.example/ HTTP/1.1\r\n".to_owned();
    huge.push_str(&format!("X: {}\r\n\r\n", "x".repeat(1 << 20)));
    let (mut stream, served) = client(&egress);
    let _ = stream.write_all(huge.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 431 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    served.await.expect("no panic");
}

#[tokio::test]
async fn what_socks_can_do_beside_connect() {
    let egress = egress("good.example");
    for (bytes, answer) in [
        // BIND and UDP ASSOCIATE.
        (
            b"\x05\x01\0\x05\x02\0\x01\x7f\0\0\x01\0\x50".as_slice(),
            b"\x05\0\x05\x07".as_slice(),
        ),
        (
            b"\x05\x01\0\x05\x03\0\x01\x7f\0\0\x01\0\x50",
            b"\x05\0\x05\x07",
        ),
        // Only with a password.
        (b"\x05\x01\x02", b"\x05\xff"),
        // A name that is none.
        (b"\x05\x01\0\x05\x01\0\x03\x03a b\0\x50", b"\x05\0\x05\x04"),
        (b"\x05\x01\0\x05\x01\0\x03\0\0\x50", b"\x05\0\x05\x04"),
    ] {
        let (mut stream, served) = client(&egress);
        stream.write_all(bytes).await.expect("sent");
        stream.shutdown().await.expect("ended");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.expect("read");
        assert!(got.starts_with(answer), "{bytes:?}: {got:?}");
        served.await.expect("no panic");
    }
    let records = egress.audit().records();
    let asked: Vec<_> = records.iter().map(|record| record.asked.as_str()).collect();
    assert_eq!(
        asked,
        [
            r#""127.0.0.1:80""#,
            r#""127.0.0.1:80""#,
            r#""a b:80""#,
            r#"":80""#
        ]
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// Whatever a guest sends, the proxy ends, without a panic and without a connection.
    #[test]
    fn any_bytes(
        start in proptest::prelude::prop_oneof![
            proptest::prelude::Just(b"\x05".to_vec()),
            proptest::prelude::Just(b"\x05\x01\0\x05\x01\0".to_vec()),
            proptest::prelude::Just(b"CONNECT ".to_vec()),
            proptest::prelude::Just(b"GET http://".to_vec()),
            proptest::prelude::Just(Vec::new()),
        ],
        rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let names = names([]);
            let egress = egress_of("good.example", Arc::clone(&names), no_upstream(), Limits::default());
            let (mut stream, served) = client(&egress);
            let _ = stream.write_all(&[start, rest].concat()).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("soon");
            timeout(SOON, served).await.expect("soon").expect("no panic");
        });
    }
}
