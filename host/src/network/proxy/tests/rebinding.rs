// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! DNS rebinding: a name whose address is a good one when it is checked, and one of this host's afterwards.

use super::*;

/// Resolves every name to an address that is permitted, the first time, and to this host after that.
#[derive(Debug, Default)]
struct Rebinding {
    lookups: Mutex<usize>,
}

/// Listed by the tests, so as good as a public one; a server of theirs is there.
const GOOD: [u8; 4] = [127, 0, 0, 1];

/// Not listed: loopback as any.
const BAD: [u8; 4] = [127, 0, 0, 2];

impl Rebinding {
    fn lookups(&self) -> usize {
        *self.lookups.lock().expect("a number")
    }
}

impl Resolve for Rebinding {
    fn resolve(&self, _: &str, _: Arc<Semaphore>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let mut lookups = self.lookups.lock().expect("a number");
        *lookups += 1;
        let found = if *lookups == 1 { GOOD } else { BAD };
        async move { Ok(vec![found.into()]) }.boxed()
    }
}

/// A connection that resolved again after the check would go where nobody answers. So what the server says shows that
/// the checked address was taken; the second connection has a lookup and a check of its own.
async fn one_lookup_each(resolver: &Rebinding, egress: &Arc<Egress>, requests: [Vec<u8>; 2]) {
    let [first, second] = requests;
    let answer = ask(egress, first).await;
    assert!(answer.contains("the good one"), "{answer}");
    assert_eq!(resolver.lookups(), 1);
    let answer = ask(egress, second).await;
    let refused =
        answer.starts_with("HTTP/1.1 403 rebind.example:") || answer.starts_with("\x05\0\x05\x02");
    assert!(refused && !answer.contains("the good one"), "{answer}");
    assert_eq!(resolver.lookups(), 2);
    let denials = egress.audit().refused_since(0, 8);
    assert!(denials[0].rule.contains("127.0.0.2"), "{denials:?}");
}

async fn good_server() -> SocketAddr {
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: 25\r\n\r\n<html>the good one</html>";
    answering(answer.to_owned()).await.0
}

#[tokio::test]
async fn gains_nothing_by_a_tunnel_or_a_plain_request() {
    let server = good_server().await;
    let name = format!("rebind.example:{}", server.port());
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let [high, low] = server.port().to_be_bytes();
    let socks = [
        b"\x05\x01\0\x05\x01\0\x03\x0erebind.example".as_slice(),
        &[high, low],
        get.as_bytes(),
    ];
    for request in [
        format!("CONNECT {name} HTTP/1.1\r\nHost: x\r\n\r\n{get}").into_bytes(),
        format!("GET http://{name}/ HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
        socks.concat(),
    ] {
        let resolver = Arc::new(Rebinding::default());
        let allow = format!("rebind.example, {server}");
        let dialing = Arc::clone(&resolver);
        let egress = egress_of(&allow, dialing, no_upstream(), Limits::default());
        one_lookup_each(&resolver, &egress, [request.clone(), request]).await;
        assert_eq!(egress.audit().records()[0].address, Some(server));
    }
}

#[tokio::test]
async fn gains_nothing_by_the_mirror() {
    let server = good_server().await;
    let name = format!("rebind.example:{}", server.port());
    let (resolver, dir) = (Arc::new(Rebinding::default()), tempfile::tempdir());
    let dialing = Arc::clone(&resolver);
    let dir = dir.expect("a folder");
    let egress = mirrored(&name, &server.to_string(), dialing, dir.path());
    let get = |project: &str| {
        format!("GET /pypi/simple/{project}/ HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
    };
    one_lookup_each(&resolver, &egress, [get("a"), get("b")]).await;
}
