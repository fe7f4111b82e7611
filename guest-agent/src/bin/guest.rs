// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle-guest`: the agent. Everything it does is in `waggle_guest_agent::agent`.

use std::process::ExitCode;

use waggle_guest_agent::agent::{self, AgentError, SHUTDOWN_STATUS};

/// Threads for the fsync of uploads, beside the only one that does anything else.
const SYNC_THREADS_MAX: usize = 2;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(SYNC_THREADS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("waggle-guest: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(agent::run());
    // An fsync that is still under way does not keep the machine from ending; init syncs.
    runtime.shutdown_background();
    match outcome {
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
