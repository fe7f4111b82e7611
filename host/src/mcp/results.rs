// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The tools' results, under the original's field names.

mod files;

use schemars::JsonSchema;
use serde::Serialize;

pub(super) use crate::port::Answer as Forwarded;
use crate::{
    environment::{Environment, EnvironmentId, Runtime, Status},
    network::policy::Denial,
    service::{self, End, Ended, GuestLog, ProcessSummary, Progressed},
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
    /// What its programs may reach.
    network: String,
    /// What it is made of.
    #[serde(flatten)]
    image: OfImage,
    /// The image's user, if it is neither root nor sandbox. Programs run as sandbox all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_user: Option<String>,
    /// Where execute starts programs, if not in the user's home.
    #[serde(skip_serializing_if = "Option::is_none")]
    working_directory: Option<String>,
    /// What of the image's configuration is not followed, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// Which image an environment is made of.
#[derive(Debug, Serialize, JsonSchema)]
struct OfImage {
    /// The image's name.
    image: String,
    /// The digest of its manifest, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_digest: Option<String>,
}

impl OfImage {
    fn of(environment: &Environment) -> Self {
        let made = environment.made.as_ref();
        Self {
            image: environment.image.to_string(),
            image_digest: made.map(|made| made.digest.to_string()),
        }
    }
}

impl From<Environment> for Created {
    fn from(environment: Environment) -> Self {
        let image = OfImage::of(&environment);
        let (image_user, working_directory, notes) = match environment.made {
            Some(made) => (made.image_user, made.working_directory, made.notes),
            None => (None, None, Vec::new()),
        };
        Self {
            image,
            image_user,
            working_directory,
            notes,
            environment_id: environment.id.to_string(),
            name: environment.name,
            runtime: environment.runtime,
            status: environment.status,
            created_at: environment.created_at.to_string(),
            timeout: environment.idle_timeout.as_secs() / 60,
            network: environment.network,
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
    /// What its programs may reach.
    network: String,
    #[serde(flatten)]
    image: OfImage,
}

impl From<Vec<Environment>> for Environments {
    fn from(all: Vec<Environment>) -> Self {
        let listed = |environment: Environment| Listed {
            image: OfImage::of(&environment),
            environment_id: environment.id.to_string(),
            name: environment.name,
            runtime: environment.runtime,
            status: environment.status,
            created_at: environment.created_at.to_string(),
            network: environment.network,
        };
        Self {
            count: all.len(),
            environments: all.into_iter().map(listed).collect(),
        }
    }
}

/// How a program ended.
#[derive(Debug, Serialize, JsonSchema)]
struct Ending {
    /// 128 plus the signal's number if a signal ended the program; missing if its machine was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// Why the program ended; missing while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// File in the environment with all of stdout, up to 64 MiB; for read_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_log: Option<String>,
    /// File in the environment with all of stderr, up to 64 MiB; for read_file.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_log: Option<String>,
}

impl From<Option<End>> for Ending {
    fn from(end: Option<End>) -> Self {
        let end = end.as_ref();
        let log = |log: Option<&GuestLog>| log.map(|log| log.path.clone());
        Self {
            exit_code: end.and_then(|end| end.exit_code),
            ended: end.map(|end| end.ended),
            signal: end.and_then(|end| end.signal),
            duration_ms: end.map(|end| u64::try_from(end.duration.as_millis()).unwrap_or(u64::MAX)),
            stdout_log: log(end.and_then(|end| end.stdout_log.as_ref())),
            stderr_log: log(end.and_then(|end| end.stderr_log.as_ref())),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Executed {
    stdout: String,
    stderr: String,
    #[serde(flatten)]
    ending: Ending,
    /// Bytes of output that are left out above, in the middle of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_left_out: Option<u64>,
    /// The program runs in the background under this id: follow it with the tool process.
    #[serde(skip_serializing_if = "Option::is_none")]
    process_id: Option<String>,
    /// What the network policy refused the environment while the program ran, and how it is allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    network_refused: Vec<Denial>,
}

impl From<service::Executed> for Executed {
    fn from(executed: service::Executed) -> Self {
        Self {
            stdout: executed.stdout,
            stderr: executed.stderr,
            ending: Some(executed.end).into(),
            bytes_left_out: (executed.left_out > 0).then_some(executed.left_out),
            process_id: None,
            network_refused: executed.network_refused,
        }
    }
}

impl From<ProcessSummary> for Executed {
    fn from(process: ProcessSummary) -> Self {
        Self {
            stdout: String::new(),
            stderr: String::new(),
            ending: process.end.into(),
            bytes_left_out: None,
            process_id: Some(process.id.to_string()),
            network_refused: Vec::new(),
        }
    }
}

/// How a background program is.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ProcessStatus {
    Running,
    Ended,
}

impl ProcessStatus {
    fn of(end: Option<&End>) -> Self {
        if end.is_some() {
            Self::Ended
        } else {
            Self::Running
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Process {
    /// list: the environment's processes, the oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<ListedProcess>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ProcessStatus>,
    /// read, wait: standard output since the cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    /// read, wait: standard error since the cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    /// read, wait: pass this to the next read.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<u64>,
    /// read, wait: whether there is more to read already.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<bool>,
    /// read, wait: bytes after the given cursor that are no longer kept: too much came before they were
    /// read, or somebody has read them. The output above begins behind them.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_lost: Option<u64>,
    #[serde(flatten)]
    ending: Ending,
    /// read, wait: what the network policy has refused the environment since the start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    network_refused: Vec<Denial>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ListedProcess {
    process_id: String,
    /// The first line of its program.
    title: String,
    status: ProcessStatus,
    /// RFC 3339.
    started_at: String,
    /// Bytes of output so far.
    cursor: u64,
    #[serde(flatten)]
    ending: Ending,
}

impl From<ProcessSummary> for ListedProcess {
    fn from(process: ProcessSummary) -> Self {
        Self {
            process_id: process.id.to_string(),
            title: process.title,
            status: ProcessStatus::of(process.end.as_ref()),
            started_at: process.started_at.to_string(),
            cursor: process.cursor,
            ending: process.end.into(),
        }
    }
}

impl From<Vec<ProcessSummary>> for Process {
    fn from(all: Vec<ProcessSummary>) -> Self {
        Self {
            processes: Some(all.into_iter().map(ListedProcess::from).collect()),
            process_id: None,
            status: None,
            stdout: None,
            stderr: None,
            cursor: None,
            more: None,
            bytes_lost: None,
            ending: None.into(),
            network_refused: Vec::new(),
        }
    }
}

impl From<ProcessSummary> for Process {
    fn from(process: ProcessSummary) -> Self {
        Self {
            processes: None,
            process_id: Some(process.id.to_string()),
            status: Some(ProcessStatus::of(process.end.as_ref())),
            ending: process.end.into(),
            ..Vec::<ProcessSummary>::new().into()
        }
    }
}

impl From<Progressed> for Process {
    fn from(process: Progressed) -> Self {
        Self {
            processes: None,
            process_id: Some(process.id.to_string()),
            status: Some(ProcessStatus::of(process.end.as_ref())),
            stdout: Some(process.stdout),
            stderr: Some(process.stderr),
            cursor: Some(process.cursor),
            more: Some(process.more),
            bytes_lost: (process.lost > 0).then_some(process.lost),
            ending: process.end.into(),
            network_refused: process.network_refused,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Installed {
    /// What the package manager printed.
    stdout: String,
    stderr: String,
    /// The package manager's exit code: 0 when all packages are installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// What was installed, with what came along where the manager tells; empty if nothing changed.
    installed: Vec<InstalledPackage>,
    /// What the network policy refused the environment meanwhile, and how it is allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    network_refused: Vec<Denial>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct InstalledPackage {
    name: String,
    version: String,
}

impl Installed {
    pub(super) fn new(executed: service::Executed, installed: Vec<service::Package>) -> Self {
        let package = |package: service::Package| InstalledPackage {
            name: package.name,
            version: package.version,
        };
        Self {
            stdout: executed.stdout,
            stderr: executed.stderr,
            exit_code: executed.end.exit_code,
            installed: installed.into_iter().map(package).collect(),
            network_refused: executed.network_refused,
        }
    }
}
