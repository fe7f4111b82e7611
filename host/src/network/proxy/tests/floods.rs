// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A guest that asks for too much is held to its limits, and nobody else notices.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use tokio::io::ReadBuf;

use super::*;

/// A guest's connections, over TCP.
struct Guest(TcpListener);

/// A connection that holds its place.
struct Held(TcpStream, #[allow(dead_code)] OwnedSemaphorePermit);

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Calls for Guest {
    type Call = TcpStream;
    type Stream = Held;

    async fn next(&self) -> Option<TcpStream> {
        self.0.accept().await.ok().map(|(stream, _)| stream)
    }

    async fn greet(call: TcpStream, place: OwnedSemaphorePermit) -> Option<Held> {
        Some(Held(call, place))
    }
}

async fn guest(egress: &Arc<Egress>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (
        address,
        tokio::spawn(Arc::clone(egress).run(Guest(listener))),
    )
}

#[tokio::test]
async fn of_many_connections_only_so_many_are_served_and_the_rest_wait() {
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let counters = (Arc::clone(&open), Arc::clone(&most));
    let server = server(move |mut stream| {
        let (open, most) = (Arc::clone(&counters.0), Arc::clone(&counters.1));
        async move {
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let mut byte = [0];
            let _ = stream.read(&mut byte).await;
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let policy =
        Policy::parse("none", &server.to_string(), &Packages::default()).expect("a policy");
    // As with 96 descriptors and two environments.
    let limits = Limits::of(96, 2);
    let each = limits.connections_each;
    assert_eq!((limits.connections, each), (24, 12));
    let dialer = Dialer::new(names([]), no_upstream());
    let gateway = Gateway::new(policy.clone(), dialer, None, limits);
    let (flooder, other) = (
        gateway.egress("flood".into(), policy.clone()),
        gateway.egress("other".into(), policy),
    );
    let (address, flooded) = guest(&flooder).await;
    let (other, _other) = guest(&other).await;
    let request = format!("CONNECT {server} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut held = Vec::new();
    for _ in 0..3 * each {
        let mut stream = TcpStream::connect(address).await.expect("queued");
        stream.write_all(request.as_bytes()).await.expect("sent");
        held.push(stream);
    }
    timeout(SOON, async {
        while open.load(Ordering::SeqCst) < each {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("served to the limit");
    // The other environment is served at once, all that it may have.
    let mut others = Vec::new();
    for _ in 0..each {
        let mut stream = TcpStream::connect(other).await.expect("queued");
        stream.write_all(request.as_bytes()).await.expect("sent");
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        others.push(stream);
    }
    sleep(Duration::from_millis(100)).await;
    assert!(most.load(Ordering::SeqCst) <= 2 * each);
    drop(others);
    // Who ends makes room for those who wait.
    drop(held.drain(..2 * each));
    let mut last = held.pop().expect("one that waited");
    assert!(head(&mut last).await.starts_with("HTTP/1.1 200 "));
    // The end of the environment ends them all.
    flooded.abort();
    drop(held);
    timeout(SOON, async {
        while open.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("nothing is left");
}

#[tokio::test]
async fn the_end_of_the_environment_ends_its_tunnels() {
    let server = echo().await;
    let egress = egress(&server.to_string());
    let (address, running) = guest(&egress).await;
    let mut stream = TcpStream::connect(address).await.expect("queued");
    let request = format!("CONNECT {server} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    running.abort();
    let mut rest = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .expect("soon");
    assert!(rest.is_empty(), "{ended:?}");
    assert_eq!(Arc::strong_count(&egress), 1, "nothing holds it any more");
}

fn short(bytes: Option<u64>) -> Limits {
    Limits {
        bytes,
        header: Duration::from_millis(200),
        idle: Duration::from_millis(400),
        ..Limits::default()
    }
}

#[test]
fn environments_share_what_the_host_has() {
    let of = |descriptors, environments| {
        let limits = Limits::of(descriptors, environments);
        (limits.connections, limits.connections_each)
    };
    assert_eq!(of(1024, 10), (256, 25));
    assert_eq!(of(65_536, 10), (4096, 128));
    assert_eq!(of(1024, 1000), (256, 8), "few have too little for all");
    assert_eq!(of(u64::MAX, 0), (4096, 128));
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_trickles_is_closed() {
    let egress = egress_of("good.example", names([]), no_upstream(), short(None));
    for start in [
        "",
        "G",
        "GET http://good.example/ HTTP/1.1\r\nHost:",
        "\x05",
        "\x05\x01\0\x05\x01",
    ] {
        let (mut stream, served) = client(&egress);
        stream.write_all(start.as_bytes()).await.expect("sent");
        timeout(Duration::from_secs(5), served)
            .await
            .expect(start)
            .expect("no panic");
    }
    // A byte now and then does not help.
    let (mut stream, mut served) = client(&egress);
    let trickle = async {
        for byte in b"GET http://good.example/ HTTP/1.1\r\nX: "
            .iter()
            .chain(std::iter::repeat(&b'x'))
        {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = timeout(Duration::from_secs(5), &mut served) => ended.expect("closed").expect("no panic"),
        () = trickle => {}
    }
}

#[tokio::test]
async fn an_idle_tunnel_is_closed_and_a_busy_one_is_not() {
    let server = echo().await;
    let egress = egress_of(&server.to_string(), names([]), no_upstream(), short(None));
    let mut idle = tunnel(&egress, &server.to_string()).await;
    let mut busy = tunnel(&egress, &server.to_string()).await;
    for _ in 0..12 {
        busy.write_all(b"x").await.expect("sent");
        assert_eq!(busy.read_u8().await.expect("echoed"), b'x');
        sleep(Duration::from_millis(100)).await;
    }
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), idle.read_to_end(&mut rest))
        .await
        .expect("closed")
        .expect("read");
}

/// A connection that always moves something is never idle, and ends all the same.
#[tokio::test(start_paused = true)]
async fn a_busy_connection_ends_with_its_life() {
    let egress = egress("good.example");
    let start = Instant::now();
    let (mut stream, served) = client(&egress);
    let chat = async {
        loop {
            let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
            if stream.write_all(request).await.is_err() {
                break;
            }
            let mut piece = [0; 4096];
            if stream.read(&mut piece).await.is_ok_and(|count| count == 0) {
                break;
            }
            sleep(HEADER_TIMEOUT / 2).await;
        }
    };
    let ended = async {
        served.await.expect("no panic");
        start.elapsed()
    };
    let ((), ended) = tokio::join!(chat, ended);
    assert_eq!(ended.as_secs(), 12 * 60 * 60);
}

#[tokio::test]
async fn who_has_used_up_the_bytes_is_refused() {
    let server = echo().await;
    let egress = egress_of(
        &server.to_string(),
        names([]),
        no_upstream(),
        Limits {
            bytes: Some(1 << 20),
            ..Limits::default()
        },
    );
    let mut stream = tunnel(&egress, &server.to_string()).await;
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let write = async {
        let piece = vec![0; 64 * 1024];
        while writer.write_all(&piece).await.is_ok() {}
    };
    let mut sink = tokio::io::sink();
    let _ = timeout(
        SOON,
        futures_util::future::join(write, tokio::io::copy(&mut reader, &mut sink)),
    )
    .await
    .expect("cut");
    let record = &egress.audit().records()[0];
    assert!(record.bytes_in + record.bytes_out < 2 << 20, "{record:?}");
    let answer = ask(
        &egress,
        &format!("CONNECT {server} HTTP/1.1\r\nHost: x\r\n\r\n"),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("WAGGLE_NETWORK_MAX_MB"),
        "{answer}"
    );
}

/// A resolver that never answers, as slow names are.
#[derive(Debug)]
struct Slow;

impl Resolve for Slow {
    fn resolve(
        &self,
        name: &str,
        share: Arc<Semaphore>,
    ) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let fast = name.starts_with("fast");
        async move {
            let _one = share.acquire_owned().await.map_err(io::Error::other)?;
            if !fast {
                std::future::pending::<()>().await;
            }
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        }
        .boxed()
    }
}

#[tokio::test]
async fn slow_names_of_one_environment_do_not_delay_another() {
    let policy = Policy::parse("none", "*.example", &Packages::default()).expect("a policy");
    let dialer = Dialer::new(Arc::new(Slow), no_upstream());
    let (slow, other) = (dialer.share(), dialer.share());
    let target = |name: &str| Target::parse(name, None).expect("a target");
    let mut waiting = JoinSet::new();
    for number in 0..100 {
        let (slow, policy) = (slow.clone(), policy.clone());
        let target = target(&format!("slow-{number}.example:80"));
        waiting.spawn(async move {
            slow.connect(&policy, &target, Carries::Tunnel)
                .await
                .map(drop)
        });
    }
    sleep(Duration::from_millis(50)).await;
    // It resolves at once: to an address that is refused.
    let fast = target("fast.example:80");
    let outcome = timeout(SOON / 2, other.connect(&policy, &fast, Carries::Tunnel)).await;
    let error = outcome.expect("at once").expect_err("refused");
    assert!(matches!(error, DialError::Denied(_)), "{error}");
}
