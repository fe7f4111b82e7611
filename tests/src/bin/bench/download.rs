// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A download of 256 MiB from a server on this host: by curl on the host itself, and by curl in an
//! environment, through the egress proxy.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use axum::routing::get;
use axum::{Router, response::IntoResponse};
use bytes::Bytes;
use futures_util::stream;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use waggle_tests::http::Connection;
use waggle_tests::report::Row;

use super::calls::create;
use super::host::Host;

/// Bytes of the download.
const BYTES: usize = 256 << 20;
/// What the server sends at a time.
const BLOCK_BYTES: usize = 64 << 10;
/// A download is as fast as the median of so many.
const ROUNDS: u32 = 5;
/// What curl prints: the seconds that it took, and the bytes that came.
const WRITE_OUT: &str = "%{time_total} %{size_download}";

/// The host's own download, and those through the proxy: as a plain request, and through a tunnel.
pub(crate) async fn download(host: &Host) -> anyhow::Result<[Row; 3]> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        let routes = Router::new().route("/bytes", get(content));
        axum::serve(listener, routes).await
    });
    let server = host
        .serve_with("WAGGLE_NETWORK_ALLOW", &origin.to_string())
        .await;
    let mut mcp = Connection::open(server.authority()).await?;
    let environment = create(&mut mcp).await?;
    let url = format!("http://{origin}/bytes");

    let bytes = BYTES as u64;
    let mut alone = Row::stream("download_256m_host", bytes);
    let mut plain = Row::stream("download_256m_proxy", bytes);
    let mut tunnel = Row::stream("download_256m_tunnel", bytes);
    for _ in 0..ROUNDS {
        alone.add(on_host(&url).await?);
        for (row, flag) in [(&mut plain, ""), (&mut tunnel, "--proxytunnel")] {
            // The address is this host's loopback, which programs take for the guest's own.
            let code = format!(
                "curl -sS {flag} --noproxy '' -x \"$http_proxy\" -o /dev/null -w '{WRITE_OUT}' {url}"
            );
            let arguments =
                json!({"environment_id": environment, "code": code, "timeout_seconds": 120});
            let result = mcp.call("execute", &arguments).await?;
            let printed = result.pointer("/structuredContent/stdout");
            let printed = printed.and_then(Value::as_str);
            row.add(took(printed.with_context(|| result.to_string())?)?);
        }
    }
    serving.abort();
    server.stop(Signal::SIGTERM).await;
    Ok([alone, plain, tunnel])
}

async fn content() -> impl IntoResponse {
    let block = Bytes::from_static(&[0x5a; BLOCK_BYTES]);
    let blocks = std::iter::repeat_n(block, BYTES / BLOCK_BYTES);
    let body = Body::from_stream(stream::iter(blocks.map(Ok::<_, std::io::Error>)));
    ([(CONTENT_LENGTH, BYTES.to_string())], body)
}

async fn on_host(url: &str) -> anyhow::Result<Duration> {
    let arguments = ["-sS", "--noproxy", "*", "-o", "/dev/null", "-w", WRITE_OUT];
    let mut curl = Command::new("curl");
    curl.args(arguments).arg(url).stdin(Stdio::null());
    let output = curl.kill_on_drop(true).output().await?;
    took(&String::from_utf8(output.stdout)?)
}

/// Reads what curl printed.
fn took(printed: &str) -> anyhow::Result<Duration> {
    let (seconds, bytes) = printed.split_once(' ').context(printed.to_owned())?;
    ensure!(
        bytes.trim() == BYTES.to_string(),
        "{bytes} of {BYTES} bytes came"
    );
    Ok(Duration::from_secs_f64(seconds.parse()?))
}
