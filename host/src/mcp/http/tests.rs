// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The whole stack over real connections, with a small handler behind it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorCode,
        ProgressNotificationParam,
    },
    service::RequestContext,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use super::*;

/// Long enough for anything that should happen.
const SOON: Duration = Duration::from_secs(10);

/// So short that tests see it pass; the tools take several times as long.
const SHORT: Patience = Patience {
    silence: Duration::from_millis(100),
    comments: Duration::from_millis(100),
};
const SLOW: Duration = Duration::from_millis(450);

#[derive(Debug, Clone, Default)]
struct Fixture {
    running: Arc<AtomicUsize>,
    cancelled: Arc<AtomicUsize>,
}

impl ServerHandler for Fixture {
    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let done = || Ok(CallToolResult::success(vec![ContentBlock::text("done")]).into());
        match request.name.as_ref() {
            "quick" => done(),
            "slow" => {
                sleep(SLOW).await;
                done()
            }
            "talks_late" => {
                sleep(SLOW).await;
                let token = context.meta.get_progress_token().expect("a token");
                let progress = ProgressNotificationParam::new(token, 1.0);
                let _ = context.peer.notify_progress(progress).await;
                sleep(SLOW).await;
                done()
            }
            "fails_late" => {
                sleep(SLOW).await;
                Err(ErrorData::new(
                    ErrorCode::METHOD_NOT_FOUND,
                    "too\nlate",
                    None,
                ))
            }
            _ => {
                context.ct.cancelled().await;
                self.cancelled.fetch_add(1, Ordering::SeqCst);
                Err(ErrorData::internal_error("cancelled", None))
            }
        }
    }
}

struct Stack {
    server: HttpServer,
    address: std::net::SocketAddr,
    fixture: Fixture,
}

async fn start(options: Options) -> Stack {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fixture = Fixture::default();
    let server = serve(fixture.clone(), listener, options);
    Stack {
        server,
        address,
        fixture,
    }
}

async fn start_patient(patience: Patience) -> Stack {
    start(Options {
        patience,
        ..Options::default()
    })
    .await
}

/// One request on a connection of its own, and what came back so far.
struct Exchange {
    stream: TcpStream,
    text: String,
}

impl Exchange {
    async fn until(&mut self, part: &str) -> &mut Self {
        let reading = async {
            let mut buffer = [0; 4096];
            while !self.text.contains(part) {
                let count = self.stream.read(&mut buffer).await.unwrap();
                assert!(count > 0, "ended before {part:?}: {}", self.text);
                self.text
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        };
        let read = timeout(SOON, reading).await;
        assert!(read.is_ok(), "no {part:?} in {}", self.text);
        self
    }

    /// The whole answer; the connection must end by itself.
    async fn all(mut self) -> String {
        let mut rest = Vec::new();
        let read = timeout(SOON, self.stream.read_to_end(&mut rest)).await;
        read.unwrap_or_else(|_| panic!("no end after {}", self.text))
            .unwrap();
        self.text + &String::from_utf8_lossy(&rest)
    }

    fn header(&self, name: &str) -> String {
        let head = self.text.split("\r\n\r\n").next().unwrap();
        head.lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")))
            .unwrap_or_else(|| panic!("no header {name} in {head}"))
            .to_owned()
    }
}

impl Stack {
    async fn send(&self, method: &str, headers: &[(&str, &str)], body: &str) -> Exchange {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut head = format!(
            "{method} /mcp HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        let usual = [
            ("host", "localhost"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        for (name, value) in usual.iter().chain(headers) {
            // Said again, a header replaces the usual one.
            let usual_only = headers.iter().all(|(other, _)| other != name);
            if usual_only || headers.contains(&(name, value)) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        let request = format!("{head}\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        Exchange {
            stream,
            text: String::new(),
        }
    }

    /// A call in the revision without sessions.
    async fn call(&self, tool: &str) -> Exchange {
        let body = json!({
            "jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": {"name": tool, "arguments": {}, "_meta": {
                "progressToken": "token",
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
                "io.modelcontextprotocol/clientCapabilities": {},
            }},
        });
        let headers = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", tool),
        ];
        self.send("POST", &headers, &body.to_string()).await
    }

    /// Opens a session of an older revision: its id.
    async fn open(&self) -> String {
        let mut opened = self.initialize().await;
        opened.until("protocolVersion").await;
        let session = opened.header("mcp-session-id");
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let answer = self.in_session(&session, &initialized).await.all().await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        session
    }

    async fn initialize(&self) -> Exchange {
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {"protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": {"name": "test", "version": "0"}},
        });
        self.send("POST", &[], &body.to_string()).await
    }

    async fn in_session(&self, session: &str, message: &Value) -> Exchange {
        let headers = [
            ("mcp-session-id", session),
            ("mcp-protocol-version", "2025-11-25"),
        ];
        self.send("POST", &headers, &message.to_string()).await
    }

    async fn legacy_call(&self, session: &str, tool: &str) -> Exchange {
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": {"name": tool, "arguments": {}}});
        self.in_session(session, &call).await
    }

    async fn running(&self, count: usize) {
        reaches(&self.fixture.running, count).await;
    }

    async fn cancelled(&self, count: usize) {
        reaches(&self.fixture.cancelled, count).await;
    }
}

async fn reaches(counter: &AtomicUsize, wanted: usize) {
    let started = Instant::now();
    while counter.load(Ordering::SeqCst) != wanted {
        assert!(started.elapsed() < SOON, "{counter:?} is not {wanted}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_quick_call_is_not_held() {
    let stack = start_patient(SHORT).await;
    let answer = stack.call("quick").await.all().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""text":"done""#), "{answer}");
    assert!(!answer.contains(": waiting"), "{answer}");
}

#[tokio::test]
async fn a_silent_call_is_held_open_by_comments() {
    let stack = start_patient(SHORT).await;
    let answer = stack.call("slow").await.all().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("content-type: text/event-stream\r\n"),
        "{answer}"
    );
    let (comments, result) = answer.split_once("data: ").unwrap();
    assert!(comments.matches(": waiting\n\n").count() >= 3, "{answer}");
    assert!(result.contains(r#""text":"done""#), "{answer}");
    // The chunk that ends the body: the stream is complete, not broken off.
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_held_stream_goes_on_with_the_inner_one() {
    let stack = start_patient(SHORT).await;
    let answer = stack.call("talks_late").await.all().await;
    let progress = answer.find("notifications/progress").expect(&answer);
    let result = answer.find(r#""text":"done""#).expect(&answer);
    assert!(progress < result, "{answer}");
}

/// An error that would have had a status of its own, as one JSON body.
#[tokio::test]
async fn a_late_error_is_an_event() {
    let stack = start_patient(SHORT).await;
    let answer = stack.call("fails_late").await.all().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, event) = answer.split_once("data: ").expect(&answer);
    let event: Value = serde_json::from_str(event.lines().next().unwrap()).unwrap();
    assert_eq!(event["id"], 7);
    assert_eq!(event["error"]["code"], -32601);
    let prompt = start_patient(Patience::default()).await;
    let answer = prompt.call("fails_late").await.all().await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn closing_the_response_cancels_the_call_held_or_not() {
    for patience in [SHORT, Patience::default()] {
        let stack = start_patient(patience).await;
        let mut call = stack.call("endless").await;
        stack.running(1).await;
        if patience.silence < SOON / 20 {
            call.until(": waiting").await;
        }
        drop(call);
        stack.cancelled(1).await;
    }
}

/// The wait begins when the request is there: what is wrong with a slow upload has its own status.
#[tokio::test]
async fn a_slow_upload_is_not_answered_before_it_is_over() {
    let stack = start_patient(SHORT).await;
    let mut upload = TcpStream::connect(stack.address).await.unwrap();
    let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         mcp-protocol-version: 2026-07-28\r\ncontent-length: 2\r\n\r\n{";
    upload.write_all(head.as_bytes()).await.unwrap();
    sleep(SLOW).await;
    upload.write_all(b"!").await.unwrap();
    let text = String::new();
    let answer = Exchange {
        stream: upload,
        text,
    }
    .all()
    .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn what_is_no_message_gets_a_json_rpc_error() {
    let stack = start(Options::default()).await;
    for (body, code) in [
        ("{", -32700),
        ("", -32700),
        ("{\"jsonrpc\":\"2.0\",", -32700),
        ("7", -32600),
        ("[]", -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
    ] {
        let answer = stack.send("POST", &[], body).await.all().await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
        let (_, json) = answer.split_once("\r\n\r\n").unwrap();
        let json: Value = serde_json::from_str(json).expect(&answer);
        assert_eq!(json["error"]["code"], code, "{body:?}: {answer}");
    }
    let form = [("content-type", "text/plain")];
    let answer = stack.send("POST", &form, "{}").await.all().await;
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let stack = start(Options::default()).await;
    let mut stream = TcpStream::connect(stack.address).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
        REQUEST_MAX + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b' '; 1024 * 1024];
    for _ in 0..=REQUEST_MAX / chunk.len() {
        // The server need not read all of it.
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let text = String::new();
    let mut exchange = Exchange { stream, text };
    exchange.until("\r\n\r\n").await;
    assert!(
        exchange.text.starts_with("HTTP/1.1 413"),
        "{}",
        exchange.text
    );
}

#[tokio::test]
async fn every_route_but_health_is_behind_the_checks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let secret = "s".repeat(32);
    std::fs::write(&path, &secret).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, private).unwrap();
    let authorization = |headers: HeaderMap| async move {
        // The token goes no further than the check.
        headers.contains_key("authorization").to_string()
    };
    let stack = start(Options {
        access: Access {
            token: Some(Token::read(&path).unwrap()),
            hosts: Vec::new(),
        },
        routes: Router::new().route("/other", get(authorization)),
        ..Options::default()
    })
    .await;
    let ask = async |path: &str, headers: &str| {
        let mut stream = TcpStream::connect(stack.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = String::new();
        Exchange { stream, text }.all().await
    };
    let answer = ask("/health", "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for path in ["/mcp", "/other", "/nothing"] {
        let answer = ask(path, "host: localhost\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
        let challenge = "www-authenticate: Bearer realm=\"waggle\"\r\n";
        assert!(answer.contains(challenge), "{path}: {answer}");
        let wrong = "host: localhost\r\nauthorization: Bearer wrong\r\n";
        let answer = ask(path, wrong).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
        assert!(
            answer.contains("error=\"invalid_token\""),
            "{path}: {answer}"
        );
        let foreign = format!("host: evil.example\r\nauthorization: Bearer {secret}\r\n");
        let answer = ask(path, &foreign).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{path}: {answer}");
    }
    let right = format!("host: localhost\r\nauthorization: Bearer {secret}\r\n");
    let answer = ask("/other", &right).await;
    assert!(answer.ends_with("\r\n\r\nfalse"), "{answer}");
    let answer = ask("/nothing", &right).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

/// Older clients cancel by a notification; closing their response is no cancellation.
#[tokio::test]
async fn a_cancellation_in_a_session_reaches_the_call() {
    let stack = start(Options::default()).await;
    let session = stack.open().await;
    let call = stack.legacy_call(&session, "endless").await;
    stack.running(1).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": 7, "reason": "the user left"}});
    let answer = stack.in_session(&session, &cancel).await.all().await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    stack.cancelled(1).await;
    drop(call);
}

async fn is_known(stack: &Stack, session: &str) -> bool {
    let ping = json!({"jsonrpc": "2.0", "id": 9, "method": "ping"});
    let answer = stack.in_session(session, &ping).await.all().await;
    assert!(
        answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 404"),
        "{answer}"
    );
    answer.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn the_session_that_is_idle_the_longest_makes_room() {
    let stack = start(Options {
        max_sessions: 2,
        ..Options::default()
    })
    .await;
    let first = stack.open().await;
    let second = stack.open().await;
    assert!(is_known(&stack, &first).await);
    let third = stack.open().await;
    assert!(!is_known(&stack, &second).await);
    assert!(is_known(&stack, &first).await && is_known(&stack, &third).await);

    // Calls under way keep theirs.
    let one = stack.legacy_call(&first, "endless").await;
    stack.running(1).await;
    let fourth = stack.open().await;
    assert!(!is_known(&stack, &third).await);
    let two = stack.legacy_call(&fourth, "endless").await;
    stack.running(2).await;
    let refused = stack.initialize().await.all().await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    drop((one, two));
}

#[tokio::test]
async fn a_closed_session_makes_room() {
    let stack = start(Options {
        max_sessions: 1,
        ..Options::default()
    })
    .await;
    let session = stack.open().await;
    let closed = stack
        .send("DELETE", &[("mcp-session-id", &session)], "")
        .await;
    let closed = closed.all().await;
    assert!(closed.starts_with("HTTP/1.1 204"), "{closed}");
    assert!(!is_known(&stack, &session).await);
    let next = stack.open().await;
    assert!(is_known(&stack, &next).await);
}

/// First no new connections, then the answers, last the sessions; an event stream without a call
/// holds nothing up.
#[tokio::test]
async fn calls_under_way_are_answered_before_the_end() {
    let stack = start_patient(SHORT).await;
    let session = stack.open().await;
    let mut events = stack.send("GET", &[("mcp-session-id", &session)], "").await;
    events.until("\r\n\r\n").await;
    let modern = stack.call("slow").await;
    let legacy = stack.legacy_call(&session, "slow").await;
    stack.running(2).await;
    let started = Instant::now();
    let ((), modern, legacy) = tokio::join!(stack.server.finish(), modern.all(), legacy.all());
    assert!(
        started.elapsed() < SLOW + DRAIN / 2,
        "{:?}",
        started.elapsed()
    );
    for answer in [modern, legacy] {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(r#""text":"done""#), "{answer}");
    }
    let refused = TcpStream::connect(stack.address).await;
    assert!(refused.is_err(), "still listening");
}

/// A call that does not end does not hold the server up.
#[tokio::test]
async fn an_endless_call_is_cancelled_at_the_end() {
    let stack = start(Options::default()).await;
    let call = stack.call("endless").await;
    stack.running(1).await;
    let started = Instant::now();
    let (fixture, ()) = (stack.fixture, stack.server.finish().await);
    assert!(started.elapsed() < 3 * DRAIN, "{:?}", started.elapsed());
    drop(call);
    reaches(&fixture.cancelled, 1).await;
}

#[tokio::test]
async fn clients_that_send_nothing_make_room_for_others() {
    let stack = start(Options {
        limits: Limits {
            connections: 2,
            headers: Duration::from_millis(300),
        },
        ..Options::default()
    })
    .await;
    let mut silent = TcpStream::connect(stack.address).await.unwrap();
    let mut slow = TcpStream::connect(stack.address).await.unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nx: ")
        .await
        .unwrap();
    let begun = Instant::now();
    let answer = stack.call("quick").await.all().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(200), "{begun:?}");
    for idle in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let ended = timeout(SOON, idle.read_to_end(&mut rest)).await;
        ended.expect("it is closed").unwrap();
    }
    timeout(SOON, stack.server.finish()).await.expect("it ends");
}

#[tokio::test]
async fn a_session_whose_call_is_resumed_is_not_given_up() {
    let stack = start(Options {
        max_sessions: 1,
        ..Options::default()
    })
    .await;
    let session = stack.open().await;
    let mut call = stack.legacy_call(&session, "endless").await;
    stack.running(1).await;
    call.until("\nid: ").await;
    let id = call.text.split("\nid: ").nth(1).unwrap();
    let id = id.lines().next().unwrap().to_owned();
    drop(call);
    let headers = [
        ("mcp-session-id", session.as_str()),
        ("mcp-protocol-version", "2025-11-25"),
        ("last-event-id", &id),
    ];
    let mut resumed = stack.send("GET", &headers, "").await;
    resumed.until("HTTP/1.1 200").await;
    let refused = stack.initialize().await.all().await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
}
