// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The conformance suite's tools on the product's HTTP stack, to be tested by hand: says its URL, and
//! serves until its input ends.

use std::io::Write as _;

use tokio::{io::AsyncReadExt as _, net::TcpListener};
use waggle::mcp::http;
use waggle_tests::Fixture;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = http::serve(Fixture::default(), listener, http::Options::default());
    writeln!(std::io::stdout(), "http://{address}/mcp")?;
    let mut input = Vec::new();
    tokio::io::stdin().read_to_end(&mut input).await?;
    server.finish().await;
    Ok(())
}
