// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Real servers on loopback, which the policy lists; clients speak to the proxy over TCP or in memory.

mod floods;
mod mirrored;
mod reached;
mod rebinding;
mod refused;
mod upstream;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use hyper_util::client::proxy::matcher::Matcher;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::network::{
    audit::Decision,
    dial::Connector,
    mirror::{self, MirrorOptions},
    policy::Packages,
    resolver::Resolve,
};

/// How long anything here may take.
const SOON: Duration = Duration::from_secs(20);

/// A resolver with answers of its own; it counts what it is asked.
#[derive(Debug, Default)]
struct Names {
    known: HashMap<&'static str, Vec<IpAddr>>,
    asked: Mutex<Vec<String>>,
}

impl Resolve for Names {
    fn resolve(
        &self,
        name: &str,
        _: Arc<Semaphore>,
    ) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.lock().expect("a list").push(name.to_owned());
        let found = self.known.get(name).cloned();
        async move { found.ok_or_else(|| io::Error::other("no such name")) }.boxed()
    }
}

fn names<const N: usize>(known: [(&'static str, &[&str]); N]) -> Arc<Names> {
    let parse = |text: &&str| text.parse().expect("an address");
    let known = known.map(|(name, all)| (name, all.iter().map(parse).collect()));
    Arc::new(Names {
        known: known.into(),
        asked: Mutex::default(),
    })
}

fn no_upstream() -> Matcher {
    Matcher::builder().build()
}

/// A way out for tests.
fn egress_of(
    allow: &str,
    names: Arc<impl Resolve>,
    upstream: Matcher,
    limits: Limits,
) -> Arc<Egress> {
    let policy = Policy::parse("none", allow, &Packages::default()).expect("a policy");
    let gateway = Gateway::new(policy.clone(), Dialer::new(names, upstream), None, limits);
    gateway.egress("env-test".to_owned(), policy)
}

fn egress(allow: &str) -> Arc<Egress> {
    egress_of(allow, names([]), no_upstream(), Limits::default())
}

/// A way out with a package mirror of pip's and apt's registry at `authority`, whose files are in `dir`.
fn mirrored(authority: &str, allow: &str, names: Arc<impl Resolve>, dir: &Path) -> Arc<Egress> {
    let registries = format!("pip=http://{authority}/simple/, apt=http://{authority}/debian/");
    let packages = Packages::parse(&registries).expect("registries");
    let policy = Policy::parse("packages", allow, &packages).expect("a policy");
    let dialer = Dialer::new(names, no_upstream());
    let options = MirrorOptions {
        dir: dir.to_owned(),
        max_bytes: 1 << 30,
        registries: packages.registries,
        base: "http://127.0.0.1:703/".parse().expect("a URL"),
        limits: mirror::Limits::default(),
    };
    let connector = Connector::new(dialer.clone(), policy.clone());
    let mirror = Arc::new(Mirror::open(options, connector));
    let gateway = Gateway::new(policy.clone(), dialer, Some(mirror), Limits::default());
    gateway.egress("env-test".to_owned(), policy)
}

/// A connection to the proxy.
fn client(egress: &Arc<Egress>) -> (DuplexStream, JoinHandle<()>) {
    let (inside, outside) = duplex(64 * 1024);
    (inside, tokio::spawn(Arc::clone(egress).serve(outside)))
}

/// Sends `request` and returns all that comes back.
async fn ask(egress: &Arc<Egress>, request: impl AsRef<[u8]>) -> String {
    let (mut stream, served) = client(egress);
    stream.write_all(request.as_ref()).await.expect("sent");
    stream.shutdown().await.expect("ended");
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .expect("soon")
        .expect("read");
    timeout(SOON, served)
        .await
        .expect("soon")
        .expect("no panic");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The body of an answer.
fn json(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Reads up to the end of an HTTP head.
async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(SOON, stream.read_u8()).await.expect("soon");
        head.push(byte.unwrap_or_else(|error| panic!("{error} after {head:?}")));
    }
    String::from_utf8(head).expect("ASCII")
}

/// A tunnel to `target`, by CONNECT.
async fn tunnel(egress: &Arc<Egress>, target: &str) -> DuplexStream {
    let (mut stream, _) = client(egress);
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream
}

/// A server that does `serve` with each connection.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that answers each connection's first request with `answer` and tells its head.
async fn answering(answer: String) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (sender, heads) = tokio::sync::mpsc::unbounded_channel();
    let address = server(move |mut stream| {
        let (answer, sender) = (answer.clone(), sender.clone());
        async move {
            let _ = sender.send(head(&mut stream).await);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    (address, heads)
}

/// A server that sends back what it gets, to the end.
async fn echo() -> SocketAddr {
    server(|mut stream| async move {
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    })
    .await
}

#[test]
fn a_burst_passes_and_then_the_rate_holds() {
    let start = Instant::now();
    let mut rate = Rate {
        left: BURST,
        at: start,
    };
    let mut passed = |millis, tries| {
        let now = start + Duration::from_millis(millis);
        (0..tries).filter(|_| rate.take(now).is_none()).count()
    };
    assert_eq!(passed(0, 2 * BURST), 1000);
    assert_eq!(passed(1000, BURST), 200);
    assert_eq!(passed(3_600_000, 2 * BURST), 1000);
}
