// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What MCP costs by itself: a tool that does nothing, against a bare handler of the same server.
//!
//! The server is the product's HTTP stack around a handler of the bench's own, in this process. Both
//! are asked by the same client code over one kept connection each, with the same JSON.

use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use axum::{Json, Router, routing::post};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use waggle::mcp::http::{Options, serve};
use waggle_tests::http::Connection;
use waggle_tests::report::Row;

/// Calls of each.
const CALLS: u32 = 2000;
/// Calls before measuring.
const WARM_UP: u32 = 200;

/// A server of one tool, which does nothing.
#[derive(Debug, Clone)]
struct Noop {
    tool: Tool,
}

impl Noop {
    fn new() -> Self {
        let schema = rmcp::model::JsonObject::from_iter([("type".to_owned(), json!("object"))]);
        Self {
            tool: Tool::new("noop", "Does nothing", Arc::new(schema)),
        }
    }
}

impl ServerHandler for Noop {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(vec![self.tool.clone()]))
    }

    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        Ok(CallToolResult::success(vec![ContentBlock::text("nothing")]).into())
    }
}

/// The rows of this file.
pub(crate) async fn floor() -> anyhow::Result<[Row; 2]> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let authority = listener.local_addr()?.to_string();
    let options = Options {
        routes: Router::new().route("/raw", post(raw)),
        ..Options::default()
    };
    let server = serve(Noop::new(), listener, options);
    let mut mcp = Connection::open(&authority).await?;
    let mut plain = Connection::open(&authority).await?;
    let mut noop = Row::new("mcp_noop");
    let mut bare = Row::new("http_raw");
    let arguments = json!({});
    for round in 0..WARM_UP + CALLS {
        let start = Instant::now();
        let result = mcp.call("noop", &arguments).await?;
        let called = start.elapsed();
        let text = result.pointer("/content/0/text");
        ensure!(text == Some(&json!("nothing")), "the tool said {result}");

        let start = Instant::now();
        let answer = plain.call_at("/raw", "noop", &arguments).await?;
        let asked = start.elapsed();
        ensure!(answer == result, "the handler said {answer}");
        if round >= WARM_UP {
            noop.add(called);
            bare.add(asked);
        }
    }
    drop((mcp, plain));
    server.finish().await;
    Ok([noop, bare])
}

/// Reads the same request and gives the same answer, and knows nothing of MCP.
async fn raw(Json(request): Json<Value>) -> Json<Value> {
    Json(json!({
        "jsonrpc": "2.0",
        "id": request.get("id"),
        "result": {
            "resultType": "complete",
            "content": [{"type": "text", "text": "nothing"}],
            "isError": false,
        },
    }))
}
