// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Running code and installing packages in an environment.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_bytes::ByteBuf;
use tokio::time::timeout;
use waggle_protocol::message::{EndReason, EnvVar, Exec, ExitStatus, Program, User};

use super::{Live, Service, ServiceError, validate};
use crate::{
    environment::{Runtime, Status, store::Lease},
    resolve::{self, Purpose, VENV},
    session::{LinkError, Run, capture::Captured},
};

/// Most bytes kept of each output stream: the first and the last half of it. Bounds what a call
/// costs the host and a model's context, whatever the program prints; more belongs into a file.
///
/// Twice two streams fit into a result even if every byte needs six or seven in JSON.
const OUTPUT_MAX: usize = 32 * 1024;

/// How long the host waits to learn whether a broken connection was in fact a dead machine.
const DEATH_WAIT: Duration = Duration::from_secs(2);

/// How long an agent that let a deadline pass may take to show that it works at all.
const PING_WAIT: Duration = Duration::from_secs(15);

/// The signal that ends a program at its deadline, and the exit code that shells give it.
const SIGKILL: i32 = 9;
const SIGNAL_BASE: i32 = 128;

/// A program to run.
#[derive(Debug)]
pub struct ExecuteRequest {
    /// Where.
    pub environment_id: String,
    /// Its text.
    pub code: String,
    /// Its language; the environment's runtime if absent.
    pub language: Option<Runtime>,
    /// Seconds it may take; the operator's default if absent.
    pub timeout_seconds: Option<u64>,
}

/// Why a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By itself.
    Exited,
    /// By a signal.
    Signal,
    /// Killed at its deadline.
    Deadline,
    /// Killed because of too much output.
    OutputLimit,
    /// Killed because the environment's memory ran out.
    OutOfMemory,
}

/// What a program did.
#[derive(Debug)]
pub struct Executed {
    /// Its standard output, cut in the middle if long.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// Its exit code; 128 plus the signal's number if a signal ended it.
    pub exit_code: i32,
    /// How long it ran.
    pub duration: Duration,
    /// Why it ended.
    pub ended: Ended,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Bytes of output that are left out of `stdout` and `stderr`.
    pub left_out: u64,
}

impl Executed {
    /// What the caller should know and do if the program did not end by itself.
    #[must_use]
    pub fn guidance(&self) -> Option<String> {
        let (what, next) = match self.ended {
            Ended::Exited | Ended::Signal => return None,
            Ended::Deadline => (
                "at its deadline, with all processes of its session",
                "call again with less work, or with a higher timeout_seconds where the tool has one",
            ),
            Ended::OutputLimit => (
                "because it printed too much",
                "call again with the output redirected to a file, then use read_file",
            ),
            Ended::OutOfMemory => (
                "because the environment's memory ran out",
                "call again with less data at a time",
            ),
        };
        Some(format!(
            "the program was killed {what}, after {} ms; its output so far is in the result. The \
             environment is still usable: {next}.",
            self.duration.as_millis()
        ))
    }
}

impl Service {
    /// Runs a program and returns what it printed.
    ///
    /// A program that fails is a success here; so is one killed at its deadline, whose output so far
    /// is returned. Dropping the future kills the program.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] if it was not run, or if its outcome is not known.
    pub async fn execute(&self, request: ExecuteRequest) -> Result<Executed, ServiceError> {
        let lease = self.lease(&request.environment_id)?;
        let limit = match request.timeout_seconds {
            Some(given) => validate::timeout_seconds(given, self.settings.max_exec_timeout)?,
            None => self.settings.default_exec_timeout,
        };
        let language = request.language.unwrap_or(lease.environment.runtime);
        let interpreter = resolve::interpreter(
            language,
            &self.overrides,
            &lease.live.session.capabilities().await,
            lease.live.uses_venv(),
        );
        let program = Program::Code {
            interpreter,
            extension: resolve::extension(language).to_owned(),
            code: validate::code(request.code)?,
        };
        self.run(&lease, program, User::Sandbox, Vec::new(), limit)
            .await
    }

    async fn run(
        &self,
        lease: &Lease<Live>,
        program: Program,
        user: User,
        env: Vec<EnvVar>,
        limit: Duration,
    ) -> Result<Executed, ServiceError> {
        let exec = Exec {
            program,
            env,
            directory: None,
            user,
            deadline_ms: Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            output_limit: None,
            stdin: false,
        };
        let session = &lease.live.session;
        let start = Instant::now();
        let mut captured = Captured::new(OUTPUT_MAX);
        let run = Run {
            exec,
            log: None,
            stdin: None,
        };
        let (ended, status, duration) =
            match session.run(run, &mut captured).await.map(|run| run.end) {
                Ok(end) => (end.reason, end.status, Duration::from_micros(end.wall_us)),
                // The agent did not report the end. If it works, closing the connection has cancelled the
                // program; if not, nothing but the machine's end does.
                Err(LinkError::Unanswered { .. }) => {
                    if !matches!(timeout(PING_WAIT, session.ping()).await, Ok(Ok(()))) {
                        session.close().await;
                        return Err(ServiceError::Stopped(lease.environment.id.clone()));
                    }
                    (
                        EndReason::Deadline,
                        ExitStatus::Signal(SIGKILL),
                        start.elapsed(),
                    )
                }
                Err(error) => return Err(self.explain(lease, error).await),
            };
        let stdout = captured.stdout.text(OUTPUT_MAX, "");
        let stderr = captured.stderr.text(OUTPUT_MAX, "");
        let left_out = stdout.left_out + stderr.left_out;
        let (stdout, stderr) = (stdout.text, stderr.text);
        let (exit_code, signal) = match status {
            ExitStatus::Code(code) => (code, None),
            ExitStatus::Signal(signal) => (SIGNAL_BASE.saturating_add(signal), Some(signal)),
        };
        let ended = match (ended, signal) {
            (EndReason::Exited, None) => Ended::Exited,
            (EndReason::Exited, Some(_)) => Ended::Signal,
            (EndReason::Deadline, _) => Ended::Deadline,
            (EndReason::OutputLimit, _) => Ended::OutputLimit,
            (EndReason::OutOfMemory, _) => Ended::OutOfMemory,
        };
        Ok(Executed {
            stdout,
            stderr,
            exit_code,
            duration,
            ended,
            signal,
            left_out,
        })
    }

    /// What a failed operation means for the caller: a refusal, an environment that is gone, a dead
    /// machine, an operation that was never begun, or an outcome that nobody knows.
    pub(super) async fn explain(&self, lease: &Lease<Live>, error: LinkError) -> ServiceError {
        let error = match error {
            LinkError::Failed(failure) => return ServiceError::Guest(failure),
            error @ LinkError::TooOld { .. } => {
                let id = lease.environment.id.clone();
                return ServiceError::AgentTooOld { id, source: error };
            }
            error => error,
        };
        let id = lease.environment.id.clone();
        let died = timeout(DEATH_WAIT, lease.live.session.machine().died())
            .await
            .is_ok();
        if self.closing.is_cancelled() {
            return ServiceError::ShuttingDown;
        }
        match self.store.get(&id).map(|environment| environment.status) {
            None | Some(Status::Destroying | Status::Destroyed) => ServiceError::Destroyed(id),
            _ if died => ServiceError::MachineLost(id),
            _ if matches!(
                error,
                LinkError::Unreachable(_) | LinkError::TooLarge { .. }
            ) =>
            {
                ServiceError::NotRun { id, source: error }
            }
            _ => ServiceError::OutcomeUnknown { id, source: error },
        }
    }

    /// Installs packages by the environment's own installer.
    ///
    /// Where the image's Python refuses (PEP 668), a virtual environment is made and used from then
    /// on, also by [`Service::execute`].
    ///
    /// # Errors
    ///
    /// [`ServiceError`] if the installer was not run, or if its outcome is not known.
    pub async fn install_packages(
        &self,
        environment_id: &str,
        packages: &str,
    ) -> Result<Executed, ServiceError> {
        let lease = self.lease(environment_id)?;
        let runtime = lease.environment.runtime;
        let names = validate::packages(packages, runtime)?;
        let used_venv = lease.live.uses_venv();
        let first = self.install(&lease, &names, used_venv).await?;
        // What was installed may be an interpreter, or an installer.
        lease.live.session.forget_capabilities();
        let refused = runtime == Runtime::Python
            && first.exit_code != 0
            && first.stderr.contains("externally-managed-environment");
        // An installer that the operator chose is the operator's to mend.
        if !refused || used_venv || self.overrides.has(runtime, Purpose::Install) {
            return Ok(first);
        }
        let make = [b"python3".as_slice(), b"-m", b"venv", VENV.as_bytes()];
        let make = Program::Command(make.into_iter().map(ByteBuf::from).collect());
        let limit = self.settings.max_exec_timeout;
        let made = self
            .run(&lease, make, User::Sandbox, Vec::new(), limit)
            .await?;
        if made.exit_code != 0 {
            return Ok(made);
        }
        lease.live.venv.store(true, Ordering::Release);
        self.install(&lease, &names, true).await
    }

    async fn install(
        &self,
        lease: &Lease<Live>,
        names: &[ByteBuf],
        venv: bool,
    ) -> Result<Executed, ServiceError> {
        let (mut command, user) = resolve::installer(
            lease.environment.runtime,
            &self.overrides,
            &lease.live.session.capabilities().await,
            venv,
        );
        command.extend_from_slice(names);
        let variable = |name: &str, value: &str| EnvVar {
            name: ByteBuf::from(name.as_bytes()),
            value: ByteBuf::from(value.as_bytes()),
        };
        // An installer that asks a question would wait until its deadline.
        let env = vec![
            variable("DEBIAN_FRONTEND", "noninteractive"),
            variable("PIP_NO_INPUT", "1"),
            variable("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ];
        let limit = self.settings.max_exec_timeout;
        self.run(lease, Program::Command(command), user, env, limit)
            .await
    }
}
