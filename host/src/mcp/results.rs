// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The tools' results, under the original's field names.

mod files;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    environment::{Environment, EnvironmentId, Runtime, Status},
    service::{self, Ended},
};
pub(super) use files::{Edited, Files, Matches, Read, Written};

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Created {
    /// Pass this to the other tools.
    environment_id: String,
    name: String,
    runtime: Runtime,
    status: Status,
    /// RFC 3339.
    created_at: String,
    /// Idle minutes until it is destroyed.
    timeout: u64,
}

impl From<Environment> for Created {
    fn from(environment: Environment) -> Self {
        Self {
            environment_id: environment.id.to_string(),
            name: environment.name,
            runtime: environment.runtime,
            status: environment.status,
            created_at: environment.created_at.to_string(),
            timeout: environment.idle_timeout.as_secs() / 60,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Destroyed {
    status: Status,
    message: String,
}

impl Destroyed {
    pub(super) fn new(id: &EnvironmentId) -> Self {
        let message = format!("environment {id} is destroyed; nothing of it is left");
        Self {
            status: Status::Destroyed,
            message,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Environments {
    environments: Vec<Listed>,
    count: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    environment_id: String,
    name: String,
    runtime: Runtime,
    status: Status,
    /// RFC 3339.
    created_at: String,
}

impl From<Vec<Environment>> for Environments {
    fn from(all: Vec<Environment>) -> Self {
        let listed = |environment: Environment| Listed {
            environment_id: environment.id.to_string(),
            name: environment.name,
            runtime: environment.runtime,
            status: environment.status,
            created_at: environment.created_at.to_string(),
        };
        Self {
            count: all.len(),
            environments: all.into_iter().map(listed).collect(),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Executed {
    stdout: String,
    stderr: String,
    /// 128 plus the signal's number if a signal ended the program.
    exit_code: i32,
    duration_ms: u64,
    /// Why the program ended.
    ended: Ended,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    /// Bytes of output that are left out above, in the middle of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_left_out: Option<u64>,
}

impl From<service::Executed> for Executed {
    fn from(executed: service::Executed) -> Self {
        Self {
            stdout: executed.stdout,
            stderr: executed.stderr,
            exit_code: executed.exit_code,
            duration_ms: u64::try_from(executed.duration.as_millis()).unwrap_or(u64::MAX),
            ended: executed.ended,
            signal: executed.signal,
            bytes_left_out: (executed.left_out > 0).then_some(executed.left_out),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Installed {
    stdout: String,
    stderr: String,
    /// The installer's exit code: 0 when all packages are installed.
    exit_code: i32,
}

impl From<service::Executed> for Installed {
    fn from(executed: service::Executed) -> Self {
        let service::Executed {
            stdout,
            stderr,
            exit_code,
            ..
        } = executed;
        Self {
            stdout,
            stderr,
            exit_code,
        }
    }
}
