// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! MCP by hand: what the server says of itself in both eras, what it refuses, and whom it lets in.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use waggle_tests::http::Connection;
use waggle_tests::{Server, Settings};

const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

async fn connect(server: &Server) -> Connection {
    let connection = Connection::open(server.authority()).await;
    connection.expect("it listens")
}

#[tokio::test]
async fn the_stateless_revision_has_its_marks_on_every_result() {
    let server = Server::start(Settings::default()).await;
    let mut connection = connect(&server).await;

    let (status, discovered) = connection
        .ask("server/discover", json!({}))
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{discovered}");
    let discovered = &discovered["result"];
    let versions = discovered["supportedVersions"].to_string();
    assert!(
        versions.contains("2026-07-28") && versions.contains("2025-11-25"),
        "{versions}"
    );
    assert_eq!(discovered["capabilities"], json!({"tools": {}}));

    let (_, listed) = connection
        .ask("tools/list", json!({}))
        .await
        .expect("an answer");
    let listed = &listed["result"];
    let list = json!({"name": "list_environments", "arguments": {}});
    let (_, called) = connection.ask("tools/call", list).await.expect("an answer");
    let called = &called["result"];
    assert_eq!(called["structuredContent"]["count"], 0, "{called}");
    for result in [discovered, listed, called] {
        assert_eq!(result["resultType"], "complete", "{result}");
        assert_eq!(result["_meta"][SERVER_INFO]["name"], "waggle", "{result}");
    }
    for result in [discovered, listed] {
        assert!(result["ttlMs"].as_u64() > Some(0), "{result}");
        assert_eq!(result["cacheScope"], "public", "{result}");
    }
    server.stop(Signal::SIGTERM).await;
}

#[tokio::test]
async fn older_revisions_have_none_of_these_marks() {
    let server = Server::start(Settings::default()).await;
    let mut connection = connect(&server).await;
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "waggle-tests", "version": "0"},
    }});
    let (_, headers, opened) = connection
        .post(&[], initialize.to_string())
        .await
        .expect("an answer");
    assert_eq!(opened["result"]["serverInfo"]["name"], "waggle", "{opened}");
    let session = headers["mcp-session-id"].to_str().expect("text").to_owned();
    let headers = [
        ("mcp-session-id", session.as_str()),
        ("mcp-protocol-version", "2025-11-25"),
    ];
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let (status, _, _) = connection
        .post(&headers, initialized.to_string())
        .await
        .expect("an answer");
    assert_eq!(status, 202);
    let mut ask = async |method: &str, params: Value| {
        let body = json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params});
        let answer = connection.post(&headers, body.to_string()).await;
        answer.expect("an answer").2
    };

    let listed = ask("tools/list", json!({})).await;
    let list = json!({"name": "list_environments", "arguments": {}});
    let called = ask("tools/call", list).await;
    for result in [&listed["result"], &called["result"]] {
        assert!(result.is_object());
        for mark in ["resultType", "ttlMs", "cacheScope", "_meta"] {
            assert!(result.get(mark).is_none(), "{mark}: {result}");
        }
    }
    assert_eq!(ask("ping", json!({})).await["result"], json!({}));
    for method in UNKNOWN {
        let answer = ask(method, params_of(method)).await;
        assert_eq!(answer["error"]["code"], -32601, "{method}: {answer}");
    }
    server.stop(Signal::SIGTERM).await;
}

/// Features that are not there; some that rmcp would answer with an empty success.
const UNKNOWN: [&str; 13] = [
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
    "tasks/get",
    "tasks/cancel",
    "no/such/method",
];

/// Parameters that fit: the method is what is wrong.
fn params_of(method: &str) -> Value {
    match method {
        "prompts/get" => json!({"name": "x"}),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            json!({"uri": "test://x"})
        }
        "completion/complete" => json!({
            "ref": {"type": "ref/prompt", "name": "x"},
            "argument": {"name": "x", "value": ""},
        }),
        "logging/setLevel" => json!({"level": "info"}),
        "subscriptions/listen" => json!({"notifications": {"toolsListChanged": true}}),
        "tasks/get" | "tasks/cancel" => json!({"taskId": "x"}),
        _ => json!({}),
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_right_is_said() {
    let server = Server::start(Settings::default()).await;
    let mut connection = connect(&server).await;
    for method in UNKNOWN {
        let (status, answer) = connection
            .ask(method, params_of(method))
            .await
            .expect("an answer");
        assert_eq!(answer["error"]["code"], -32601, "{method}: {answer}");
        assert_eq!(status, 404, "{method}");
    }
    // What this revision removed.
    for method in ["initialize", "ping"] {
        let (status, answer) = connection.ask(method, json!({})).await.expect("an answer");
        assert_eq!(answer["error"]["code"], -32601, "{method}: {answer}");
        assert_eq!(status, 404, "{method}");
    }
    for (method, params) in [
        (
            "tools/call",
            json!({"name": "execute", "arguments": "none"}),
        ),
        (
            "tools/call",
            json!({"name": "no_such_tool", "arguments": {}}),
        ),
        ("tools/list", json!({"cursor": "further"})),
    ] {
        let (_, answer) = connection
            .ask(method, params.clone())
            .await
            .expect("an answer");
        assert_eq!(answer["error"]["code"], -32602, "{params}: {answer}");
        assert_eq!(answer["id"], 1, "{answer}");
    }
    for (body, code) in [("{", -32700), ("[1, 2]", -32600)] {
        let (status, _, answer) = connection.post(&[], body).await.expect("an answer");
        assert_eq!(status, 400, "{answer}");
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    server.stop(Signal::SIGTERM).await;
}

#[tokio::test]
async fn a_token_is_asked_for_and_stays_out_of_the_log() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("token");
    let secret = "an-uncommon-secret-of-enough-length";
    fs::write(&file, format!("{secret}\n")).expect("written");
    let settings = || Settings::default().with("WAGGLE_AUTH_TOKEN_FILE", &file);

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    let (status, stderr) = settings().serve_in_vain().await;
    assert!(!status.success(), "{stderr}");
    assert!(stderr.contains("chmod 600"), "{stderr}");
    assert!(!stderr.contains(secret), "{stderr}");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    let server = Server::start(settings().with("WAGGLE_LOG", "trace")).await;
    let mut connection = connect(&server).await;
    let (status, _) = connection.get("/health").await.expect("an answer");
    assert_eq!(status, 200);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let mut post = async |headers: &[(&str, &str)]| {
        let (status, headers, _) = connection.post(headers, ping).await.expect("an answer");
        let challenge = headers.get("www-authenticate").cloned();
        let challenge = challenge.map(|text| text.to_str().expect("text").to_owned());
        (status.as_u16(), challenge.unwrap_or_default())
    };
    let (status, challenge) = post(&[]).await;
    assert_eq!(status, 401);
    assert!(
        challenge.starts_with("Bearer ") && !challenge.contains("error"),
        "{challenge}"
    );
    let (status, challenge) = post(&[("authorization", "Bearer guess")]).await;
    assert_eq!(status, 401);
    assert!(challenge.contains("invalid_token"), "{challenge}");
    let right = format!("Bearer {secret}");
    // Let in, and told that it needs a session.
    let (status, _) = post(&[("authorization", &right)]).await;
    assert_eq!(status, 400);
    // The token does not make up for a foreign page.
    let foreign = [
        ("authorization", right.as_str()),
        ("origin", "http://evil.example"),
    ];
    assert_eq!(post(&foreign).await.0, 403);
    assert!(!server.log().contains(secret), "the token is in the log");
    server.stop(Signal::SIGTERM).await;
}

#[tokio::test]
async fn only_a_token_opens_the_port_beyond_loopback() {
    let settings = Settings::default().with("WAGGLE_LISTEN_ADDR", "0.0.0.0:0");
    let (status, stderr) = settings.serve_in_vain().await;
    assert!(!status.success(), "{stderr}");
    assert!(stderr.contains("WAGGLE_AUTH_TOKEN_FILE"), "{stderr}");
}
