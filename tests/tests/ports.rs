// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Ports that lead into real machines, and that nothing else does: a machine has no network.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;
use waggle_tests::poll::{PATIENCE, until};
use waggle_tests::{Scene, Settings, machines};

/// What curl makes of a URL: its exit status and what it prints. No proxy of this host's takes part.
async fn curl(arguments: &[&str]) -> (Option<i32>, Vec<u8>) {
    let output = Command::new("curl")
        .args(["--silent", "--noproxy", "*", "--max-time", "60"])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, output).await;
    let output = output.expect("it ends").expect("curl is installed");
    (output.status.code(), output.stdout)
}

/// Starts a program in the background that prints a line once it listens.
async fn listening(scene: &Scene, id: &str, code: &str) -> String {
    let arguments = json!({"code": code, "background": true});
    let started = scene.call(id, "execute", arguments).await.done();
    let process = started["process_id"].as_str().expect("an id").to_owned();
    until("the program listens", async || {
        let arguments =
            json!({"action": "read", "process_id": process, "timeout_seconds": 5, "cursor": 0});
        let read = scene.call(id, "process", arguments).await.done();
        assert_eq!(read["status"], "running", "{read}");
        read["stdout"]
            .as_str()
            .filter(|text| text.contains('\n'))
            .map(drop)
    })
    .await;
    process
}

/// Processor time that a process has taken, in hundredths of a second.
fn processor_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // Behind the name, which may hold anything: fields 14 and 15 of proc(5).
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || -> u64 { fields.next().expect("a field").parse().expect("a number") };
    next() + next()
}

async fn forward(scene: &Scene, id: &str, arguments: Value) -> String {
    let forwarded = scene.call(id, "forward_port", arguments).await.done();
    assert_eq!(forwarded["status"], "open", "{forwarded}");
    let address = forwarded["address"].as_str().expect("an address");
    assert_eq!(forwarded["url"], format!("http://{address}"));
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    address.to_owned()
}

const HTTP_SERVER: &str = "
import functools, http.server, os
os.makedirs('www', exist_ok=True)
open('www/small', 'w').write('from inside\\n')
open('www/large', 'wb').write(bytes(range(256)) * 65536)
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory='www')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8000), handler)
print('ready')
server.serve_forever()";

#[tokio::test]
async fn a_server_in_the_guest_is_reached_through_the_forwarded_port() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;

    // Before anybody listens: the connection is closed, the log says why.
    let address = forward(&scene, &id, json!({"port": 8000})).await;
    let url = |path: &str| format!("http://{address}/{path}");
    let (status, _) = curl(&[&url("small")]).await;
    // "Empty reply", or a reset.
    assert!(matches!(status, Some(52 | 56)), "{status:?}");
    assert!(scene.server.log().contains("nobody listens on port 8000"));

    listening(&scene, &id, HTTP_SERVER).await;
    let (status, body) = curl(&[&url("small")]).await;
    assert_eq!((status, body.as_slice()), (Some(0), &b"from inside\n"[..]));
    let (status, body) = curl(&[&url("large")]).await;
    assert_eq!(status, Some(0));
    let expected: Vec<u8> = (0..=255_u8).cycle().take(256 * 65_536).collect();
    assert!(body == expected, "{} bytes", body.len());

    // Several at once, one of which is left in the middle.
    let abandoned = async {
        let mut socket = TcpStream::connect(&address).await.expect("connected");
        let request = b"GET /large HTTP/1.0\r\n\r\n";
        socket.write_all(request).await.expect("sent");
        socket.read_exact(&mut [0; 1000]).await.expect("begun");
    };
    let (small, large) = (url("small"), url("large"));
    let arguments = [large.as_str()];
    let small = [small.as_str()];
    let ((), first, second, third) =
        tokio::join!(abandoned, curl(&arguments), curl(&small), curl(&small));
    for (status, _) in [first, second, third] {
        assert_eq!(status, Some(0));
    }
    // The same again leads to the same place.
    assert_eq!(forward(&scene, &id, json!({"port": 8000})).await, address);

    let arguments = json!({"port": 8000, "close": true});
    let closed = scene.call(&id, "forward_port", arguments).await.done();
    assert_eq!(closed, json!({"status": "closed"}));
    let (status, _) = curl(&[&url("small")]).await;
    assert_eq!(status, Some(7), "nothing there");
    let arguments = json!({"port": 8000, "close": true});
    let text = scene.call(&id, "forward_port", arguments).await.refused();
    assert!(text.contains("is not forwarded"), "{text}");
    scene.close().await;
}

#[tokio::test]
async fn a_forward_ends_with_its_environment_and_the_command_works_as_the_tool() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    listening(&scene, &id, HTTP_SERVER).await;

    // A port of the test's own choice, which was free a moment ago.
    let chosen = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = chosen.local_addr().expect("an address").port().to_string();
    let taken = scene
        .waggle(&["port", &id, "8000", "--host-port", &port])
        .await;
    let told = String::from_utf8_lossy(&taken.stderr);
    assert!(!taken.status.success());
    assert!(
        told.contains(&format!("port {port} of this host")),
        "{told}"
    );
    drop(chosen);
    let opened = scene
        .waggle(&["port", &id, "8000", "--host-port", &port])
        .await;
    assert!(opened.status.success(), "{opened:?}");
    let address = String::from_utf8_lossy(&opened.stdout).trim().to_owned();
    assert_eq!(address, format!("127.0.0.1:{port}"));
    let (status, body) = curl(&[&format!("http://{address}/small")]).await;
    assert_eq!((status, body.as_slice()), (Some(0), &b"from inside\n"[..]));
    let closed = scene.waggle(&["port", &id, "8000", "--close"]).await;
    assert!(
        closed.status.success() && closed.stdout.is_empty(),
        "{closed:?}"
    );
    TcpStream::connect(&address).await.expect_err("closed");
    let both = ["port", &id, "8000", "--close", "--host-port", &port];
    let both = scene.waggle(&both).await;
    let told = String::from_utf8_lossy(&both.stderr);
    assert!(told.contains("exclude each other"), "{told}");
    let again = scene.waggle(&["port", &id, "8000", "--close"]).await;
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(told.contains("is not forwarded"), "{told}");

    let host_port: u16 = port.parse().expect("a port");
    let arguments = json!({"port": 8000, "host_port": host_port});
    assert_eq!(forward(&scene, &id, arguments).await, address);
    scene.destroy(&id).await;
    TcpListener::bind(&address).await.expect("free again");

    let gone = scene.waggle(&["port", &id, "8000"]).await;
    let told = String::from_utf8_lossy(&gone.stderr);
    assert!(
        told.contains(&format!("no environment {id} exists")),
        "{told}"
    );
    scene.close().await;
}

#[tokio::test]
async fn what_is_no_port_is_refused_with_what_to_do() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("shell").await;
    for (arguments, expected) in [
        (json!({"port": 0}), "port 0 is no TCP port; give 1 to 65535"),
        (json!({"port": 70_000}), "port 70000 is no TCP port"),
        (json!({"port": -1}), "argument port: "),
        (
            json!({"port": 80, "host_port": 0}),
            "leave it out to get a free one",
        ),
        (json!({"port": 80, "host_port": 65_536}), "host_port 65536"),
        (
            json!({"port": 80, "host_port": 8080, "close": true}),
            "host_port and close exclude each other",
        ),
        (json!({}), "missing field `port`"),
    ] {
        let text = scene.call(&id, "forward_port", arguments).await.refused();
        assert!(text.contains(expected), "{text}");
    }
    for port in 1..=16 {
        forward(&scene, &id, json!({"port": port})).await;
    }
    let text = scene.call(&id, "forward_port", json!({"port": 17})).await;
    let text = text.refused();
    assert!(text.contains("16 ports of this environment"), "{text}");
    scene.close().await;
}

#[tokio::test]
async fn what_hangs_or_floods_holds_up_nothing_else() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    // One port that accepts and never reads, one that sends without end.
    let code = "
import socket, threading, time
def listen(port):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('127.0.0.1', port)); s.listen(100); return s
def flood(s):
    while True:
        c, _ = s.accept()
        threading.Thread(target=pour, args=(c,), daemon=True).start()
def pour(c):
    try:
        while True: c.sendall(b'x' * 65536)
    except OSError: pass
threading.Thread(target=flood, args=(listen(8002),), daemon=True).start()
deaf = listen(8001); held = []
print('ready')
while True: held.append(deaf.accept())";
    listening(&scene, &id, code).await;
    let deaf = forward(&scene, &id, json!({"port": 8001})).await;
    let flood = forward(&scene, &id, json!({"port": 8002})).await;
    let piece = vec![7; 64 * 1024];
    // Who does not read costs no processor, neither here nor there.
    let mut waiting = TcpStream::connect(&deaf).await.expect("connected");
    let write = async { while waiting.write_all(&piece).await.is_ok() {} };
    let _ = timeout(Duration::from_secs(2), write).await;
    let family: Vec<_> = scene.server.descendants().iter().map(|p| p.pid).collect();
    let family: Vec<_> = family.into_iter().chain(scene.server.pid()).collect();
    let spent = || family.iter().map(|pid| processor_ticks(*pid)).sum::<u64>();
    let before = spent();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let ticks = spent() - before;
    assert!(ticks < 150, "{ticks} of 300 ticks of a processor");
    drop(waiting);
    for _ in 0..3 {
        let mut to_deaf = TcpStream::connect(&deaf).await.expect("connected");
        let write = async { while to_deaf.write_all(&piece).await.is_ok() {} };
        let _ = timeout(Duration::from_secs(1), write).await;
        let mut from_flood = TcpStream::connect(&flood).await.expect("connected");
        from_flood
            .read_exact(&mut [0; 100_000])
            .await
            .expect("some");
        // Both are dropped in the middle.
    }
    let before = scene.server.resident_kib();
    for _ in 0..40 {
        let mut client = TcpStream::connect(&flood).await.expect("connected");
        client.read_exact(&mut [0; 1000]).await.expect("some");
    }
    let grown = scene.server.resident_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
    // A flood of connections to the way out, which nobody answers for now, is no one's business either.
    let code = "
import socket
held = []
for _ in range(300):
    s = socket.socket(); s.setblocking(False)
    try: s.connect(('127.0.0.1', 703))
    except BlockingIOError: pass
    held.append(s)
print(len(held))";
    assert_eq!(scene.output(&id, code).await, "300\n");
    assert_eq!(scene.output(&id, "print(1 + 1)").await, "2\n");
    scene.destroy(&id).await;
    scene.close().await;
}

#[tokio::test]
async fn a_forward_that_is_used_keeps_its_environment() {
    let _permit = machines(1).await;
    let settings = Settings::default().with("WAGGLE_REAPER_INTERVAL", "1s");
    let scene = Scene::with(settings).await;
    let arguments = json!({"runtime": "python", "timeout_minutes": 1});
    let created = scene.client.call("create_environment", arguments).await;
    let id = created.done()["environment_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let code = "
import socket
s = socket.socket(); s.bind(('127.0.0.1', 8003)); s.listen(5)
print('ready')
while True:
    c, _ = s.accept()
    while True:
        b = c.recv(100)
        if not b: break
        c.sendall(b)";
    listening(&scene, &id, code).await;
    let address = forward(&scene, &id, json!({"port": 8003})).await;
    let mut socket = TcpStream::connect(&address).await.expect("connected");
    // Longer than the idle timeout, without any call.
    for _ in 0..18 {
        socket.write_all(b"ping").await.expect("sent");
        let mut echo = [0; 4];
        let read = timeout(PATIENCE, socket.read_exact(&mut echo)).await;
        read.expect("in time").expect("an echo");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(scene.status(&id).await.as_deref(), Some("running"));
    scene.close().await;
}

#[tokio::test]
async fn a_machine_has_no_other_way_in_or_out() {
    let _permit = machines(1).await;
    let scene = Scene::open().await;
    let id = scene.create("python").await;
    let arguments = json!({"user": "root", "code": "
import errno, os, socket
# The kernel makes a dummy by itself: what goes there is gone.
print([name for name in sorted(os.listdir('/sys/class/net')) if name != 'dummy0'])
def outcome(family, kind, address, protocol=0):
    try:
        s = socket.socket(family, kind, protocol)
        s.settimeout(5)
        s.connect(address) if kind != socket.SOCK_RAW else s.sendto(b'x' * 8, address)
        return 'connected'
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))
print(outcome(socket.AF_INET, socket.SOCK_STREAM, ('192.0.2.1', 80)))
print(outcome(socket.AF_INET, socket.SOCK_DGRAM, ('192.0.2.1', 53)))
print(outcome(socket.AF_INET6, socket.SOCK_STREAM, ('2001:db8::1', 80)))
print(outcome(socket.AF_INET, socket.SOCK_RAW, ('192.0.2.1', 0), socket.IPPROTO_ICMP))
print(outcome(socket.AF_INET, socket.SOCK_STREAM, ('169.254.169.254', 80)))
try:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    names = [name for _, name in socket.if_nameindex() if name != 'dummy0']
    print(names)
except OSError as error:
    print(['lo'] if error.errno == errno.EAFNOSUPPORT else repr(error))
print(open('/proc/net/route').read().count('\\n') - 1)"});
    let ran = scene.call(&id, "execute", arguments).await.done();
    let lines: Vec<_> = ran["stdout"].as_str().expect("text").lines().collect();
    let no_route = |line: &str| matches!(line, "ENETUNREACH" | "EAFNOSUPPORT" | "EADDRNOTAVAIL");
    let [devices, tcp, udp, six, raw, metadata, packet, routes] = lines.as_slice() else {
        panic!("{ran}")
    };
    assert_eq!(*devices, "['lo']");
    for line in [tcp, udp, raw, metadata] {
        assert_eq!(*line, "ENETUNREACH", "{ran}");
    }
    assert!(no_route(six), "{ran}");
    assert_eq!(*packet, "['lo']");
    assert_eq!(*routes, "0", "{ran}");
    // vsock reaches the host's listeners and nothing else of it.
    let code = "
import errno, socket
for cid, port in [(2, 22), (2, 701), (2, 702), (1, 700), (4, 700)]:
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); s.settimeout(5)
    try:
        s.connect((cid, port)); s.settimeout(5)
        print('closed' if not s.recv(1) else 'answered')
    except OSError as error: print('refused')";
    let told = scene.output(&id, code).await;
    assert!(!told.contains("answered"), "{told}");
    scene.close().await;
}
