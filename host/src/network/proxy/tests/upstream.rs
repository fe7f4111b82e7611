// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The host's own proxy: asked for what is permitted, and for nothing else.

use hyper_util::rt::TokioIo;
use tower_service::Service as _;

use super::*;

/// A proxy of a company's: knows `inside.example`, wants a password, notes the heads it gets.
async fn company(target: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    let address = server(move |mut stream| {
        let noted = Arc::clone(&noted);
        async move {
            let head = head(&mut stream).await;
            noted.lock().expect("a list").push(head.clone());
            if !head
                .to_ascii_lowercase()
                .contains("proxy-authorization: basic bwu6c2vjcmv0")
                && !head.contains("bWU6c2VjcmV0")
            {
                let _ = stream
                    .write_all(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
                    .await;
                return;
            }
            if head.starts_with("CONNECT ") {
                let Ok(mut outside) = TcpStream::connect(target).await else {
                    return;
                };
                // What the server says first comes in the same packet.
                let mut first = [0; 64];
                let count = outside.read(&mut first).await.unwrap_or(0);
                let answer = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &first[..count]].concat();
                let _ = stream.write_all(&answer).await;
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut outside).await;
            } else {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nforward")
                    .await;
            }
        }
    })
    .await;
    (address, heads)
}

fn by(proxy: &str) -> Matcher {
    Matcher::builder()
        .all(proxy.to_owned())
        .no("direct.example".to_owned())
        .build()
}

#[tokio::test]
async fn names_go_by_the_upstream_proxy_with_its_password() {
    let target = server(|mut stream| async move {
        let _ = stream.write_all(b"220 hello\r\n").await;
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await;
    let (proxy, heads) = company(target).await;
    let known = names([
        ("public.example", &["192.0.2.1"]),
        ("private.example", &["10.0.0.1"]),
        ("mixed.example", &["192.0.2.1", "10.0.0.1"]),
        ("direct.example", &["127.0.0.1"]),
    ]);
    let allow = format!("*.example, 8.8.8.8, {target}");
    let egress = egress_of(
        &allow,
        known,
        by(&format!("http://me:secret@{proxy}")),
        Limits::default(),
    );

    // One that only the proxy knows, and one that resolves here as well.
    for name in ["inside.example:443", "public.example:443"] {
        let mut stream = tunnel(&egress, name).await;
        let mut first = [0; 11];
        timeout(SOON, stream.read_exact(&mut first))
            .await
            .expect("soon")
            .expect("read");
        assert_eq!(&first, b"220 hello\r\n", "nothing is lost");
        stream.write_all(b"x").await.expect("sent");
        assert_eq!(stream.read_u8().await.expect("echoed"), b'x');
        let head = heads.lock().expect("a list").pop().expect("a request");
        assert!(
            head.starts_with(&format!("CONNECT {name} HTTP/1.1\r\n")),
            "{head}"
        );
    }
    // A plain request goes in absolute form, with the proxy's password and not the guest's.
    let request = "GET http://inside.example/a HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic guest\r\n\r\n";
    let answer = ask(&egress, request).await;
    assert!(answer.ends_with("forward"), "{answer}");
    let head = heads.lock().expect("a list").pop().expect("a request");
    assert!(
        head.starts_with("GET http://inside.example/a HTTP/1.1\r\n") && !head.contains("guest"),
        "{head}"
    );

    // The proxy is told what was checked, and nothing that it could read in another way.
    for (asked, told) in [
        ("http://010.8.8.8/", "http://8.8.8.8/"),
        (
            "http://me:mine@INSIDE.example.:80/a?b=c",
            "http://inside.example/a?b=c",
        ),
        ("http://0x8.8.8.8:81?b", "http://8.8.8.8:81/?b"),
    ] {
        let answer = ask(&egress, &format!("GET {asked} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(answer.ends_with("forward"), "{asked}: {answer}");
        let head = heads.lock().expect("a list").pop().expect("a request");
        assert!(
            head.starts_with(&format!("GET {told} HTTP/1.1\r\n")) && !head.contains("mine"),
            "{asked}: {head}"
        );
    }

    // Refused by name, refused by address, or not by the proxy at all.
    for (asked, status) in [
        ("evil.test:443", "403"),
        ("private.example:443", "403"),
        ("mixed.example:443", "403"),
        ("169.254.169.254:80", "403"),
    ] {
        let answer = ask(
            &egress,
            &format!("CONNECT {asked} HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    let _direct = tunnel(&egress, &format!("direct.example:{}", target.port())).await;
    let _literal = tunnel(&egress, &target.to_string()).await;
    assert!(
        heads.lock().expect("a list").is_empty(),
        "the proxy was not asked"
    );
}

#[tokio::test]
async fn its_refusal_is_told_without_its_password() {
    let (proxy, _heads) = company(SocketAddr::from(([127, 0, 0, 1], 1))).await;
    let egress = egress_of(
        "*.example",
        names([]),
        by(&format!("http://me:wrong@{proxy}")),
        Limits::default(),
    );
    let answer = ask(
        &egress,
        "CONNECT inside.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("407"),
        "{answer}"
    );
    assert!(
        !answer.contains("wrong") && !answer.contains("me:"),
        "{answer}"
    );
    let egress = egress_of(
        "*.example",
        names([]),
        by("socks5://me:wrong@127.0.0.1:1"),
        Limits::default(),
    );
    let answer = ask(
        &egress,
        "CONNECT inside.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    .await;
    assert!(
        answer.contains("HTTPS_PROXY") && !answer.contains("wrong"),
        "{answer}"
    );
    let records = format!("{:?}", egress.audit().records());
    assert!(!records.contains("wrong"), "{records}");
}

#[tokio::test]
async fn the_connector_keeps_to_its_policy() {
    let server = echo().await;
    let policy =
        Policy::parse("none", &server.to_string(), &Packages::default()).expect("a policy");
    let mut connector = Connector::new(Dialer::new(names([]), no_upstream()), policy);
    let uri = |text: String| text.parse().expect("a URI");
    let mut stream: TokioIo<_> = connector
        .call(uri(format!("https://{server}/")))
        .await
        .expect("permitted");
    stream.inner_mut().write_all(b"x").await.expect("sent");
    assert_eq!(stream.inner_mut().read_u8().await.expect("echoed"), b'x');
    for refused in [
        "https://evil.example/",
        "http://127.0.0.1/",
        "http://[::1]:1/",
    ] {
        let error = connector
            .call(uri(refused.to_owned()))
            .await
            .expect_err(refused);
        assert!(matches!(error, DialError::Denied(_)), "{error}");
    }
}

/// A resolver that nobody answers.
#[derive(Debug)]
struct Cut;

impl Resolve for Cut {
    fn resolve(&self, _: &str, _: Arc<Semaphore>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        std::future::pending().boxed()
    }
}

#[tokio::test]
async fn without_outside_dns_the_proxy_is_asked_soon() {
    let (proxy, _heads) = company(echo().await).await;
    let dialer = Dialer::new(Arc::new(Cut), by(&format!("http://me:secret@{proxy}")));
    let policy = Policy::parse("none", "*.example", &Packages::default()).expect("a policy");
    let target = Target::parse("inside.example:80", None).expect("a target");
    // The mirror gives up after 12 seconds.
    let connected = timeout(
        Duration::from_secs(10),
        dialer.connect(&policy, &target, Carries::Http),
    );
    let outbound = connected.await.expect("soon").expect("by the proxy");
    assert!(outbound.forward.is_some());
}

/// Set for this program when a test starts it once more, in an environment of its own.
const CHILD: &str = "WAGGLE_TEST_HAS_PROXY";

/// The variables are a process's, so the test is a process of its own: it starts itself with `HTTPS_PROXY` set. The
/// target is an address, so that nobody is asked for a name.
#[tokio::test]
async fn the_proxy_is_that_of_the_environment() {
    let target = "192.0.2.1:443";
    if std::env::var_os(CHILD).is_some() {
        let policy = Policy::parse("none", target, &Packages::default()).expect("a policy");
        let gateway = Gateway::new(policy.clone(), Dialer::system(), None, Limits::default());
        let egress = gateway.egress("env-test".to_owned(), policy);
        let mut stream = tunnel(&egress, target).await;
        assert_eq!(stream.read_u8().await.expect("a byte"), b'x');
        return;
    }
    let outside = server(|mut stream| async move {
        let _ = stream.write_all(b"x").await;
    })
    .await;
    let (proxy, heads) = company(outside).await;
    let test = format!("{}::the_proxy_is_that_of_the_environment", module_path!());
    let (_, test) = test.split_once("::").expect("a crate's module");
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
    child
        .args(["--exact", test])
        .env_clear()
        .env(CHILD, "1")
        .env("HTTPS_PROXY", format!("http://me:secret@{proxy}"));
    let output = tokio::task::spawn_blocking(move || child.output()).await;
    let output = output.expect("no panic").expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    let head = heads.lock().expect("a list").pop().expect("a request");
    assert!(
        head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")),
        "{head}"
    );
}
