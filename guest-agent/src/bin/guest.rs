// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle-guest`: the agent. Everything it does is in `waggle_guest_agent::agent`.

use std::process::ExitCode;

use waggle_guest_agent::agent::{self, AgentError, SHUTDOWN_STATUS};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match agent::run().await {
        Ok(()) => ExitCode::from(SHUTDOWN_STATUS),
        Err(error) => {
            let source = match &error {
                AgentError::Listen(source) => format!(": {source}"),
                _ => String::new(),
            };
            eprintln!("waggle-guest: {error}{source}");
            ExitCode::FAILURE
        }
    }
}
