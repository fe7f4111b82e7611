// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One kept HTTP/1.1 connection and MCP by hand over it: for the health endpoint, for what no SDK
//! would send, and for measuring the server rather than a client.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// The revision that [`Connection::call`] speaks: the stateless one, one request a call.
const REVISION: &str = "2026-07-28";

/// One connection to a server.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    next_id: u64,
}

impl Connection {
    /// Connects to `authority`, written `host:port`.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn open(authority: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; what went wrong shows at the request.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            authority: authority.to_owned(),
            next_id: 0,
        })
    }

    /// Fetches `path`.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::get(path)
            .header(HOST, &self.authority)
            .body(Full::default())?;
        self.send(request).await
    }

    /// Calls a tool over MCP and gives its result.
    ///
    /// # Errors
    /// If the connection breaks, or the answer is not a result.
    pub async fn call(&mut self, tool: &str, arguments: &Value) -> anyhow::Result<Value> {
        self.call_at("/mcp", tool, arguments).await
    }

    /// Sends a call to another path, which answers as MCP would.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_at(
        &mut self,
        path: &str,
        tool: &str,
        arguments: &Value,
    ) -> anyhow::Result<Value> {
        self.next_id += 1;
        let body = json!({
            "jsonrpc": "2.0", "id": self.next_id, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments, "_meta": meta()},
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .header("mcp-protocol-version", REVISION)
            .header("mcp-method", "tools/call")
            .header("mcp-name", tool)
            .body(Full::from(body.to_string()))?;
        let (status, body) = self.send(request).await?;
        let text = String::from_utf8_lossy(&body);
        anyhow::ensure!(status.is_success(), "the server answered {status}: {text}");
        let answer = response_in(&text)
            .ok_or_else(|| anyhow::anyhow!("no JSON-RPC response in the answer: {text}"))?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => anyhow::bail!("the call failed: {answer}"),
        }
    }

    /// Posts a message to the MCP endpoint, with headers beside the usual ones: the status, the
    /// headers, and the JSON-RPC response if there is one.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn post(
        &mut self,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<(StatusCode, HeaderMap, Value)> {
        let mut request = Request::post("/mcp")
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await?;
        let request = request.body(Full::from(body.into()))?;
        let response = self.sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let answer = response_in(&String::from_utf8_lossy(&body)).unwrap_or_default();
        Ok((parts.status, parts.headers, answer))
    }

    /// Asks for a method in the stateless revision: the status and the response.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn ask(
        &mut self,
        method: &str,
        mut params: Value,
    ) -> anyhow::Result<(StatusCode, Value)> {
        params["_meta"] = meta();
        // What the request is about, which is also said in a header.
        let name = ["name", "uri", "taskId"]
            .iter()
            .find_map(|key| params[key].as_str())
            .unwrap_or_default()
            .to_owned();
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let mut headers = vec![("mcp-protocol-version", REVISION), ("mcp-method", method)];
        if !name.is_empty() {
            headers.push(("mcp-name", &name));
        }
        let (status, _, answer) = self.post(&headers, body.to_string()).await?;
        Ok((status, answer))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

/// What a request of the stateless revision says of itself.
fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientInfo": {"name": "waggle-tests", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

/// The response in a body that is either plain JSON or a stream of server-sent events.
fn response_in(body: &str) -> Option<Value> {
    let is_response = |value: &Value| value.get("result").or_else(|| value.get("error")).is_some();
    if let Ok(value) = serde_json::from_str::<Value>(body) {
        return Some(value).filter(is_response);
    }
    body.lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .find(is_response)
}
