// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Why a use case refused or failed, in words for the agent that called: what was wrong, with the
//! values, and what to call next.

use std::sync::Arc;

use waggle_images::Reference;
use waggle_protocol::{
    handshake::{VERSION_MAX, VERSION_MIN},
    message::FailureCode,
};

use super::{
    keyed::KeyError,
    process::{self, ProcessId},
    validate::ArgumentError,
};
use crate::{
    environment::{Environment, EnvironmentId, Runtime, Status, store::StoreError},
    network::{policy::PolicyError, ports::PortError},
    session::{BootError, LinkError},
};

/// Why a use case refused or failed. All of these are for the caller to act on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// An argument is not acceptable.
    #[error("{0}")]
    Argument(#[from] ArgumentError),
    /// No environment has this id.
    #[error(
        "no environment {0} exists: it may have been destroyed, or idle for too long; call list_environments to see those that exist, or create_environment for a new one"
    )]
    Unknown(EnvironmentId),
    /// The capacity is reached.
    #[error(
        "all {0} environments that this server allows exist already; call destroy_environment on one that is no longer needed (list_environments shows them), then create again"
    )]
    Full(usize),
    /// The environment exists but takes no work.
    #[error("{}", not_running(.0))]
    NotRunning(Box<Environment>),
    /// The machine of this environment ended during the operation.
    #[error(
        "the machine of environment {0} ended during this call, and what was in it is lost; call destroy_environment on it, then create_environment for a new one"
    )]
    MachineLost(EnvironmentId),
    /// The environment was destroyed during the operation.
    #[error(
        "environment {0} was destroyed during this call, by another call or because it was idle; call create_environment for a new one"
    )]
    Destroyed(EnvironmentId),
    /// The image's agent is too old for the operation.
    #[error(
        "this image carries an older agent (protocol version {spoken}, this call needs {needed}); create the environment from a newer image, or start the server with WAGGLE_AGENT_INJECT=1"
    )]
    TooOld {
        /// What it speaks.
        spoken: u16,
        /// What the operation needs.
        needed: u16,
    },
    /// An idempotency key that cannot be used.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// What the call that had the same idempotency key came to.
    #[error("{0}")]
    Shared(Arc<ServiceError>),
    /// The environment has no such process.
    #[error("{}", process::unknown(.environment, *.process))]
    UnknownProcess {
        /// Which environment.
        environment: EnvironmentId,
        /// Which process.
        process: ProcessId,
    },
    /// As many processes run as may.
    #[error(
        "{0} programs run in the background of this environment, which is the limit; call process with action signal and signal KILL on one that is no longer needed (action list shows them)"
    )]
    ProcessesFull(usize),
    /// The process has ended.
    #[error("{0} has ended; call process with action read to see how")]
    ProcessEnded(ProcessId),
    /// The process takes no more input.
    #[error(
        "the input of {0} is closed, or it has ended; call process with action read to see how it is"
    )]
    InputClosed(ProcessId),
    /// The process does not read its input.
    #[error(
        "{0} does not read its input, and enough waits for it already; nothing was added: call process with action read to see what it does"
    )]
    InputFull(ProcessId),
    /// A port that is not forwarded, or not closed.
    #[error("{0}")]
    Port(#[from] PortError),
    /// A network policy that is malformed, or beyond the server's.
    #[error("argument network: {0}")]
    Network(#[from] PolicyError),
    /// The image has nothing to install packages with.
    #[error(
        "this image has no {program} to install packages for {runtime} with; create an environment of another runtime, or have the owner of this server choose an image that has it (WAGGLE_IMAGE_*) or a command (WAGGLE_RUNTIME_*_INSTALL_COMMAND)"
    )]
    NoInstaller {
        /// For which runtime.
        runtime: Runtime,
        /// What was looked for.
        program: String,
    },
    /// Another call installs packages there.
    #[error(
        "another call installs packages in this environment and did not end within {} seconds, so nothing was done; call again later", .0.as_secs()
    )]
    InstallerBusy(std::time::Duration),
    /// Something of the server's own broke.
    #[error("the server failed: {0}; this is a defect of Waggle, please report it")]
    Internal(anyhow::Error),
    /// The operation did not begin.
    #[error(
        "environment {id} could not be reached ({}), so nothing was done: call again, and if that does not help, destroy_environment and create_environment", chain(.source)
    )]
    NotRun {
        /// Which environment.
        id: EnvironmentId,
        /// Why.
        source: LinkError,
    },
    /// The image is not permitted, or cannot be had.
    #[error("{0}")]
    Image(Box<ImageError>),
    /// The machine did not boot.
    #[error("cannot create the environment: {}; nothing is left of it, so create_environment may simply be called again", chain(.0))]
    Boot(#[from] BootError),
    /// The server is going down.
    #[error(
        "the server is shutting down; connect again once it is back, and create a new environment"
    )]
    ShuttingDown,
    /// The agent in the guest refused or failed.
    #[error("{}", guest_failure(.0))]
    Guest(waggle_protocol::message::Failure),
    /// The file is larger than one answer may be.
    #[error(
        "the file has more than {limit} bytes, which is the most that one call returns; call read_file with offset and length to read it in parts"
    )]
    FileTooLarge {
        /// Most bytes in one answer.
        limit: u64,
    },
    /// The folder has more or longer names than one answer may hold.
    #[error(
        "the folder has more names than one call returns ({0}); call list_files on a folder below it, or with a smaller depth"
    )]
    ListTooLarge(LinkError),
    /// The content is not UTF-8, and the caller wants text.
    #[error("{path} is not UTF-8 text; call read_file with encoding \"base64\"")]
    NotText {
        /// Which file.
        path: String,
    },
    /// What the caller sends broke off.
    #[error("what was sent broke off ({0}); a part of it may be in the environment: send it again")]
    Upload(String),
    /// The connection to the guest broke after the operation was sent.
    #[error(
        "the connection to environment {id} broke during this call ({}), so its outcome is unknown: look at the environment (list_files, read_file) before you repeat it", chain(.source)
    )]
    OutcomeUnknown {
        /// Which environment.
        id: EnvironmentId,
        /// What broke.
        source: LinkError,
    },
    /// As [`Self::OutcomeUnknown`], of an operation that only reads.
    #[error(
        "environment {id} could not be read ({}), and nothing in it was changed: call again, and if that does not help, ask for less at a time", chain(.source)
    )]
    NotRead {
        /// Which environment.
        id: EnvironmentId,
        /// What broke.
        source: LinkError,
    },
}

/// Why there is no image to make an environment of.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is not there, and cannot be fetched or used.
    #[error(
        "cannot create an environment from image {reference}: {}",
        chain(source)
    )]
    Unusable {
        /// Which image.
        reference: Reference,
        /// What is wrong.
        source: waggle_images::ImagesError,
    },
    /// It was not there in time.
    #[error(
        "image {reference} could not be fetched and prepared within {} seconds; what has arrived is kept, so call create_environment again to go on, or have the owner of this server raise WAGGLE_IMAGE_PULL_TIMEOUT", limit.as_secs()
    )]
    Timeout {
        /// Which image.
        reference: Reference,
        /// How long it had.
        limit: std::time::Duration,
    },
    /// The owner does not permit it.
    #[error(
        "image {reference} is not permitted here: leave the argument image out, name one of {owners}, or have the owner of this server permit it by WAGGLE_IMAGE_ALLOW={reference}"
    )]
    NotAllowed {
        /// Which image.
        reference: Reference,
        /// Those of the runtimes.
        owners: String,
    },
    /// Its agent and this server have no protocol in common.
    #[error(
        "image {reference} carries an agent of protocol version {} to {}, and this server speaks {VERSION_MIN} to {VERSION_MAX}: name another image, or have the owner of this server build it on a base of this release, or set WAGGLE_AGENT_INJECT=1", spoken.0, spoken.1
    )]
    Agent {
        /// Which image.
        reference: Reference,
        /// First and last version, as its label says.
        spoken: (u16, u16),
    },
}

impl From<ImageError> for ServiceError {
    fn from(error: ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl ServiceError {
    /// What this is if the operation only reads: one whose outcome does not matter.
    pub(super) fn of_a_read(self) -> Self {
        match self {
            Self::OutcomeUnknown { id, source } => Self::NotRead { id, source },
            error => error,
        }
    }

    /// Whether a program that this is the outcome of surely did not run, so that the call may be made again.
    #[must_use]
    pub fn nothing_ran(&self) -> bool {
        matches!(
            self,
            Self::Argument(_)
                | Self::Unknown(_)
                | Self::NotRunning(_)
                | Self::TooOld { .. }
                | Self::NotRun { .. }
                | Self::Guest(_)
                | Self::ProcessesFull(_)
                | Self::InstallerBusy(_)
                | Self::NoInstaller { .. }
        )
    }
}

fn not_running(environment: &Environment) -> String {
    let Environment {
        id,
        status,
        failure,
        ..
    } = environment;
    match status {
        Status::Creating => {
            format!("environment {id} is still being created; call again in a few seconds")
        }
        Status::Error => format!(
            "the machine of environment {id} is gone ({}), and what was in it is lost; call destroy_environment on it, then create_environment for a new one",
            failure.as_deref().unwrap_or("it failed")
        ),
        Status::Running | Status::Destroying | Status::Destroyed => {
            format!("environment {id} is being destroyed; call create_environment for a new one")
        }
    }
}

fn guest_failure(failure: &waggle_protocol::message::Failure) -> String {
    let next = match failure.code {
        FailureCode::NotFound => "call list_files on its folder to see what exists",
        FailureCode::IsDirectory => "call list_files to see what is in it",
        FailureCode::NotDirectory => "call read_file to read a file, or name a folder",
        FailureCode::NotRegular => "use execute to work with devices, sockets and pipes",
        FailureCode::PermissionDenied => {
            "work below /home/sandbox or /tmp, where the user sandbox may write"
        }
        FailureCode::InvalidPath => "give an absolute path without NUL bytes",
        FailureCode::NoSpace => "remove files with execute, or create a new environment",
        FailureCode::SpawnFailed => {
            "create an environment with the runtime of that language, or name another language"
        }
        FailureCode::InvalidRequest => "correct the arguments and call again",
        FailureCode::Unsupported => {
            "this image carries an older agent: have the operator build newer images or set \
             WAGGLE_AGENT_INJECT=1"
        }
        FailureCode::Io => "look at the environment with execute",
        FailureCode::NoMatch => {
            "call read_file to see the text as it is; give old_text exactly, white space included, \
             with enough around it to occur once, or set expected_replacements or replace_all"
        }
        FailureCode::Changed => "call read_file to see the file as it is now, then edit that",
        FailureCode::NoProcess => "call process with action list to see those that run",
        FailureCode::TooLarge => "use execute to work on it with a program",
        FailureCode::Refused => {
            "start a program that listens there (execute with background), or name another port"
        }
    };
    // The text comes from the guest: it is shown as it is, but bounded and on one line.
    let text: String = failure
        .message
        .chars()
        .filter(|c| !c.is_control())
        .take(1024)
        .collect();
    format!("{text}; {next}")
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::ShuttingDown,
            StoreError::Full { capacity } => Self::Full(capacity),
            StoreError::Unknown(id) => Self::Unknown(id),
            StoreError::NotRunning(environment) => Self::NotRunning(environment),
        }
    }
}
