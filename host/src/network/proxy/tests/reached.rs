// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What may be reached is, byte for byte, with back pressure, and is noted.

use super::*;

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_ends_in_halves() {
    let server = echo().await;
    let egress = egress(&server.to_string());
    let mut tunnel = tunnel(&egress, &server.to_string()).await;
    tunnel.write_all(b"hello").await.expect("sent");
    let mut got = [0; 5];
    tunnel.read_exact(&mut got).await.expect("echoed");
    tunnel.write_all(b" and goodbye").await.expect("sent");
    // The echo ends only when its input does.
    tunnel.shutdown().await.expect("half closed");
    let mut rest = Vec::new();
    timeout(SOON, tunnel.read_to_end(&mut rest))
        .await
        .expect("soon")
        .expect("read");
    assert_eq!([got.as_slice(), &rest].concat(), b"hello and goodbye");
    let records = egress.audit().records();
    assert_eq!((records[0].bytes_in, records[0].bytes_out), (17, 17));
    assert_eq!(
        (records[0].via, records[0].address),
        (Via::Connect, Some(server))
    );
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let server = server(|mut stream| async move {
        let _ = stream.write_all(b"220 welcome\r\n").await;
    })
    .await;
    let egress = egress(&server.to_string());
    let mut tunnel = tunnel(&egress, &server.to_string()).await;
    let mut got = String::new();
    tunnel.read_to_string(&mut got).await.expect("read");
    assert_eq!(got, "220 welcome\r\n");
}

#[tokio::test]
async fn socks_reaches_addresses_and_names() {
    let server = echo().await;
    let names = names([("good.example", &["127.0.0.1"])]);
    let allow = format!("good.example, {server}");
    let egress = egress_of(&allow, names, no_upstream(), Limits::default());
    let [high, low] = server.port().to_be_bytes();
    for asked in [
        [b"\x01\x7f\0\0\x01".as_slice(), &[high, low]].concat(),
        [b"\x03\x0cgood.example".as_slice(), &[high, low]].concat(),
    ] {
        let (mut stream, _) = client(&egress);
        stream.write_all(b"\x05\x02\0\x02").await.expect("sent");
        stream
            .write_all(&[b"\x05\x01\0", asked.as_slice()].concat())
            .await
            .expect("sent");
        let mut answer = [0; 12];
        timeout(SOON, stream.read_exact(&mut answer))
            .await
            .expect("soon")
            .expect("read");
        assert_eq!(answer, *b"\x05\0\x05\0\0\x01\0\0\0\0\0\0");
        stream.write_all(b"ping").await.expect("sent");
        let mut got = [0; 4];
        stream.read_exact(&mut got).await.expect("echoed");
        assert_eq!(&got, b"ping");
    }
}

#[tokio::test]
async fn a_plain_request_loses_what_concerns_one_hop() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\nX-Kept: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (server, mut heads) = answering(answer.to_owned()).await;
    let egress = egress(&server.to_string());
    let request = format!(
        "GET http://{server}/a?b=c HTTP/1.1\r\nHost: other.example\r\nProxy-Authorization: Basic eA==\r\nConnection: x-mine\r\nX-Mine: 1\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: x\r\nX-Sent: 1\r\n\r\n"
    );
    let answer = ask(&egress, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(
        lower.contains("x-kept: 1") && lower.contains("via: 1.1 waggle"),
        "{answer}"
    );
    assert!(
        !lower.contains("x-hop") && !lower.contains("proxy-authenticate"),
        "{answer}"
    );
    let head = heads.recv().await.expect("a request").to_ascii_lowercase();
    assert!(head.starts_with("get /a?b=c http/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("host: {server}\r\n")) && head.contains("x-sent: 1"),
        "{head}"
    );
    for gone in ["proxy-", "x-mine", "upgrade", "\r\nte:", "other.example"] {
        assert!(!head.contains(gone), "{gone}: {head}");
    }
}

#[tokio::test]
async fn several_requests_share_a_connection_and_go_where_they_say() {
    let (one, _a) = answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none".to_owned()).await;
    let (two, _b) = answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo".to_owned()).await;
    let egress = egress(&format!("{one},{two}"));
    let request = format!(
        "GET http://{one}/ HTTP/1.1\r\nHost: x\r\n\r\nGET http://{two}/ HTTP/1.1\r\nHost: x\r\n\r\nGET http://evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n"
    );
    let answer = ask(&egress, &request).await;
    assert!(
        answer.contains("one") && answer.contains("two") && answer.contains("403"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_goes_up() {
    let server = server(|mut stream| async move {
        let head = head(&mut stream).await.to_ascii_lowercase();
        assert!(head.contains("content-length: 6"), "{head}");
        let mut body = [0; 6];
        stream.read_exact(&mut body).await.expect("a body");
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
            .await;
        let _ = stream.write_all(&body).await;
    })
    .await;
    let egress = egress(&server.to_string());
    let request =
        format!("PUT http://{server}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nupload");
    assert!(ask(&egress, &request).await.ends_with("\r\n\r\nupload"));
}

#[tokio::test]
async fn what_cannot_be_reached_says_why() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = closed.local_addr().expect("an address");
    drop(closed);
    let silent = server(|stream| async move { drop(stream) }).await;
    let egress = egress(&format!("{address}, {silent}, gone.example"));
    for (target, status) in [
        (address.to_string(), "error=connection_refused"),
        ("gone.example:80".to_owned(), "error=dns_error"),
    ] {
        let answer = ask(
            &egress,
            &format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains(status),
            "{answer}"
        );
        assert!(answer.contains(&target[..12]), "{answer}");
    }
    let answer = ask(
        &egress,
        &format!("GET http://{silent}/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("broke off"),
        "{answer}"
    );
    let failed = egress.audit().records();
    assert_eq!(
        failed
            .iter()
            .filter(|record| matches!(record.decision, Decision::Failed { .. }))
            .count(),
        3
    );
    assert!(egress.audit().refused_since(0, 8).is_empty());
}

/// A hundred megabytes for a reader who takes his time: the writer is held back.
#[tokio::test]
async fn a_long_download_is_not_held_in_memory() {
    const SIZE: usize = 100 << 20;
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let server = server(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            let piece = vec![7_u8; 64 * 1024];
            for _ in 0..SIZE / piece.len() {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
                counter.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .await;
    let egress = egress(&server.to_string());
    let mut tunnel = tunnel(&egress, &server.to_string()).await;
    sleep(Duration::from_millis(300)).await;
    let ahead = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(ahead < SIZE / 4, "{ahead} bytes are on their way to nobody");
    let mut got = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match tunnel.read(&mut buffer).await.expect("read") {
            0 => break,
            count => got += count,
        }
    }
    assert_eq!(got, SIZE);
    assert_eq!(
        egress.audit().records()[0].bytes_in,
        u64::try_from(SIZE).expect("fits")
    );
}
