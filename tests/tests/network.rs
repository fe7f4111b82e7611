// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What real machines may reach, and what they may not, by every way of asking; and that the audit list
//! tells all of it.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use waggle_tests::{Scene, Settings, machines};

/// An address that is nobody's business, and where a cloud's metadata would be.
const METADATA: &str = "169.254.169.254";

/// A server on this host that sends whoever asks for `/away` to the metadata, and greets others.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..count]).into_owned();
                let answer = if request.starts_with("GET /away ") {
                    format!(
                        "HTTP/1.1 302 Found\r\nLocation: http://{METADATA}/\r\nContent-Length: 0\r\n\r\n"
                    )
                } else {
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
                        .to_owned()
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

/// A scene whose environments may reach `allow` only.
async fn scene(allow: &str) -> Scene {
    let settings = Settings::default()
        .with("WAGGLE_NETWORK", "none")
        .with("WAGGLE_NETWORK_ALLOW", allow);
    Scene::with(settings.without_proxies()).await
}

/// The kinds and targets of what a result says was refused.
fn refused(result: &Value) -> Vec<(String, String)> {
    let list = result["network_refused"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let pair = |denial: &Value| {
        let word = |name: &str| denial[name].as_str().expect(name).to_owned();
        assert!(
            word("rule").len() > 10 && word("remedy").contains("WAGGLE_NETWORK_ALLOW="),
            "{denial}"
        );
        (word("kind"), word("asked"))
    };
    list.iter().map(pair).collect()
}

#[tokio::test]
async fn what_is_not_permitted_is_refused_whichever_way_it_is_asked() {
    let _permit = machines(1).await;
    let server = server().await;
    let scene = scene(&format!("{server}, localhost")).await;
    let id = scene.create("shell").await;
    let curl = "curl -sS --max-time 30 --noproxy ''";

    let reached = scene.output(&id, &format!("{curl} http://{server}/")).await;
    assert_eq!(reached, "hello");
    let reached = scene
        .output(&id, &format!("{curl} -p http://{server}/"))
        .await;
    assert_eq!(reached, "hello", "by a tunnel");
    let socks = "curl -sS --max-time 30 --noproxy '' -x socks5h://127.0.0.1:703";
    assert_eq!(
        scene
            .output(&id, &format!("{socks} http://{server}/"))
            .await,
        "hello"
    );

    let (no, special) = ("not_permitted", "special_address");
    for (code, kind, asked) in [
        // By name: a tunnel, and a plain request.
        (
            format!("{curl} https://refused.example/"),
            no,
            "refused.example:443",
        ),
        (
            format!("{curl} http://refused.example/"),
            no,
            "refused.example:80",
        ),
        // By address.
        (
            format!("{curl} http://{METADATA}/latest"),
            no,
            "169.254.169.254:80",
        ),
        (format!("{curl} http://127.0.0.1:1/"), no, "127.0.0.1:1"),
        (format!("{curl} 'https://[::1]/'"), no, "[::1]:443"),
        (
            format!("{curl} -p 'http://[::ffff:10.0.0.1]/'"),
            no,
            "10.0.0.1:80",
        ),
        // By redirect.
        (
            format!("{curl} -L http://{server}/away"),
            no,
            "169.254.169.254:80",
        ),
        // By a name that is permitted and resolves to this host.
        (
            format!("{curl} http://localhost:1/"),
            special,
            "localhost:1",
        ),
        // By SOCKS, with a name and with an address.
        (
            format!("{socks} http://refused.example/"),
            no,
            "refused.example:80",
        ),
        (
            format!("{socks} http://{METADATA}/"),
            no,
            "169.254.169.254:80",
        ),
    ] {
        let result = scene.execute(&id, &code).await;
        assert_eq!(
            refused(&result),
            [(kind.to_owned(), asked.to_owned())],
            "{code}: {result}"
        );
        let told = format!("{}{}", result["stdout"], result["stderr"]);
        let says_why = told.contains("is refused")
            || told.contains("refused\\\"")
            || told.contains("403")
            || told.contains("(2)");
        assert!(says_why, "{code}: {told}");
    }
    // Not by the proxy: there is no way at all.
    let direct = scene
        .execute(
            &id,
            &format!("curl -sS --max-time 5 --noproxy '*' http://{METADATA}/"),
        )
        .await;
    assert_ne!(direct["exit_code"], 0, "{direct}");
    assert!(refused(&direct).is_empty());

    // The audit list tells all of it, by the route and by the command.
    let report = scene.network(&id).await;
    assert_eq!(report["policy"], format!("{server}, localhost"));
    let records = report["records"].as_array().expect("a list");
    let count = |decision: &str, via: &str| {
        let fits = |record: &&Value| record["decision"] == decision && record["via"] == via;
        records.iter().filter(fits).count()
    };
    assert_eq!(
        (
            count("allowed", "http"),
            count("allowed", "connect"),
            count("allowed", "socks")
        ),
        (2, 1, 1),
        "{report}"
    );
    // The same by a redirect and without is one record.
    assert_eq!(
        (
            count("refused", "http"),
            count("refused", "connect"),
            count("refused", "socks")
        ),
        (4, 3, 2),
        "{report}"
    );
    let output = scene.waggle(&["network", &id]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().count(), records.len() + 1, "{text}");
    assert!(
        text.contains("refused socks   refused.example:80: "),
        "{text}"
    );
    // And so does the server's log.
    let log = scene.server.log();
    let logged = |words: [&str; 3]| {
        let mut lines = log.lines().filter(|line| line.contains(&id));
        lines.any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(logged([
        "network: allowed",
        "via=socks",
        &server.to_string()
    ]));
    assert!(logged([
        "network: refused",
        "via=socks",
        "refused.example:80"
    ]));
    scene.close().await;
}

#[tokio::test]
async fn an_environment_may_have_less_than_the_server_permits_and_not_more() {
    let _permit = machines(1).await;
    let server = server().await;
    let scene = scene(&server.to_string()).await;
    for (network, named) in [
        ("all", "all"),
        ("other.example:443", "other.example:443"),
        ("pakages", "none, packages, all"),
        ("a b.example", "a b.example"),
    ] {
        let arguments = json!({"runtime": "shell", "network": network});
        let error = scene
            .client
            .call("create_environment", arguments)
            .await
            .refused();
        assert!(error.contains(named), "{error}");
    }
    let arguments = json!({"runtime": "shell", "network": "none"});
    let created = scene
        .client
        .call("create_environment", arguments)
        .await
        .done();
    assert_eq!(created["network"], "none");
    let id = created["environment_id"].as_str().expect("an id");
    let result = scene
        .execute(id, &format!("curl -sS --noproxy '' http://{server}/"))
        .await;
    let denial = &result["network_refused"][0];
    assert_eq!(denial["asked"], server.to_string(), "{result}");
    assert!(
        denial["remedy"]
            .as_str()
            .expect("text")
            .contains("create an environment"),
        "{denial}"
    );
    scene.close().await;
}

/// What the server permits if its owner says nothing; and a program in the background is told what was
/// refused since it began, no more.
#[tokio::test]
async fn by_default_nothing_but_registries_is_permitted_and_programs_in_the_background_are_told() {
    let _permit = machines(1).await;
    let scene = Scene::with(Settings::default().without_proxies()).await;
    let id = scene.create("shell").await;
    let curl = |host: &str| format!("curl -sS --max-time 30 https://{host}/");
    let result = scene.execute(&id, &curl("refused.example")).await;
    assert_ne!(result["exit_code"], 0, "{result}");
    assert_eq!(
        refused(&result),
        [("not_permitted".to_owned(), "refused.example:443".to_owned())]
    );
    let rule = &result["network_refused"][0]["rule"];
    assert_eq!(*rule, "the server's network policy is packages");

    let arguments = json!({"code": curl("later.example"), "background": true});
    let started = scene.call(&id, "execute", arguments).await.done();
    let process = &started["process_id"];
    let arguments = json!({"action": "wait", "process_id": process, "timeout_seconds": 60});
    let ended = scene.call(&id, "process", arguments).await.done();
    assert_eq!(ended["status"], "ended", "{ended}");
    let later = [("not_permitted".to_owned(), "later.example:443".to_owned())];
    assert_eq!(refused(&ended), later);
    let arguments = json!({"action": "read", "process_id": process, "cursor": 0});
    let read = scene.call(&id, "process", arguments).await.done();
    assert_eq!(refused(&read), later);
    scene.close().await;
}

/// Opens connections as fast as it can for some seconds: some ask, some say nothing.
const FLOOD: &str = r#"
import socket, time
end = time.monotonic() + 12
held, made = [], 0
while time.monotonic() < end:
    try:
        one = socket.create_connection(("127.0.0.1", 703), timeout=1)
        if made % 2:
            one.sendall(b"CONNECT flood-%d.example:1 HTTP/1.1\r\nHost: x\r\n\r\n" % made)
        held.append(one)
        made += 1
        if len(held) > 300:
            held.pop(0).close()
    except OSError:
        time.sleep(0.01)
print(made)
"#;

#[tokio::test]
async fn a_flood_from_one_machine_is_not_noticed_by_another() {
    let _permit = machines(2).await;
    let server = server().await;
    let scene = scene(&server.to_string()).await;
    let flooder = scene.create("python").await;
    let other = scene.create("shell").await;
    let arguments = json!({"code": FLOOD, "timeout_seconds": 90});
    let flood = scene.call(&flooder, "execute", arguments);
    let work = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(8) {
            // Who is starved gets nothing at all; how fast it is says more of this host's load.
            let code = format!("curl -sS --max-time 60 --noproxy '' http://{server}/");
            let arguments = json!({"code": code, "timeout_seconds": 90});
            let result = scene.call(&other, "execute", arguments).await.done();
            assert_eq!(result["stdout"], "hello", "{result}");
        }
    };
    let (flood, ()) = tokio::join!(flood, work);
    let flood = flood.done();
    assert_eq!(flood["exit_code"], 0, "{flood}");
    assert!(flood["network_refused"].as_array().expect("a list").len() <= 8);
    // What it asked for is in a list of bounded length, and it works on.
    let report = scene.network(&flooder).await;
    assert!(report["records"].as_array().expect("a list").len() <= 512);
    assert_eq!(scene.output(&flooder, "print(1)").await, "1\n");
    scene.close().await;
}
