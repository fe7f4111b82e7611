// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Running a caller's program: to its end, in the background, or once for a key.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use waggle_protocol::message::{Exec, Program};

use super::{
    Call, Live, Service, ServiceError, User,
    keyed::{Claim, Fingerprint, Joined},
    process::ProcessSummary,
    run::{Executed, Job, OUTPUT_DEFAULT, milliseconds},
    validate,
};
use crate::{
    environment::{Runtime, store::Lease},
    resolve,
};

/// A program to run.
#[derive(Debug, Serialize)]
pub struct ExecuteRequest {
    /// Where.
    pub environment_id: String,
    /// Its text.
    pub code: String,
    /// Its language; the environment's runtime if absent.
    pub language: Option<Runtime>,
    /// Seconds it may take; the operator's default if absent, none for one in the background.
    pub timeout_seconds: Option<u64>,
    /// What it reads; nothing if absent.
    pub stdin: Option<String>,
    /// Variables on top of the clean environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts; the image's working folder if absent, or the user's home.
    pub working_directory: Option<String>,
    /// Whom it runs as.
    pub user: User,
    /// Most bytes of output in the result.
    pub max_output_bytes: Option<u64>,
    /// Whether to return as soon as it runs.
    pub background: bool,
    /// A repeated call with the same key joins the first one.
    #[serde(skip)]
    pub idempotency_key: Option<String>,
}

/// What a call of `execute` came to.
#[derive(Debug, Clone)]
pub enum Execution {
    /// The program ended.
    Ended(Executed),
    /// The program runs in the background.
    Started(ProcessSummary),
}

impl Service {
    /// Runs a program and returns what it printed, or where to follow it if it is to run in the background.
    ///
    /// A program that fails is a success here; so is one killed at its deadline, whose output so far
    /// is returned. Dropping the future kills the program, unless it runs in the background or has an
    /// idempotency key: then it goes on, and the same call made again joins it. To end a keyed one
    /// as well, cancel [`Call::cancelled`].
    ///
    /// # Errors
    ///
    /// [`ServiceError`] if it was not run, or if its outcome is not known.
    pub async fn execute(
        self: &Arc<Self>,
        mut request: ExecuteRequest,
        call: &Arc<Call>,
    ) -> Result<Execution, ServiceError> {
        let lease = self.lease(&request.environment_id)?;
        match request.idempotency_key.take() {
            None => {
                self.execute_once(&lease, request, call, &CancellationToken::new())
                    .await
            }
            Some(key) => self.execute_keyed(lease, &key, request, call).await,
        }
    }

    async fn execute_keyed(
        self: &Arc<Self>,
        lease: Lease<Live>,
        key: &str,
        request: ExecuteRequest,
        call: &Arc<Call>,
    ) -> Result<Execution, ServiceError> {
        validate::idempotency_key(key)?;
        let live = Arc::clone(&lease.live);
        let mut joined = match live.keyed.claim(key, fingerprint(&request)?, call)? {
            Claim::Joined(joined) => {
                call.follow(&joined.call);
                joined
            }
            Claim::First(promise, joined) => {
                let (service, call) = (Arc::clone(self), Arc::clone(call));
                let (key, cancel) = (key.to_owned(), joined.cancel.clone());
                self.tasks.spawn(async move {
                    let outcome = service.execute_once(&lease, request, &call, &cancel).await;
                    if outcome.as_ref().is_err_and(ServiceError::nothing_ran) {
                        lease.live.keyed.release(&key);
                    }
                    promise.keep(outcome.map_err(Arc::new));
                });
                joined
            }
        };
        let _taken_back = EndIfCancelled {
            call,
            joined: joined.clone(),
        };
        match joined.outcome().await {
            Some(outcome) => outcome.map_err(ServiceError::Shared),
            None => Err(ServiceError::Internal(anyhow::anyhow!(
                "the program's task was lost"
            ))),
        }
    }

    async fn execute_once(
        self: &Arc<Self>,
        lease: &Lease<Live>,
        request: ExecuteRequest,
        call: &Call,
        cancel: &CancellationToken,
    ) -> Result<Execution, ServiceError> {
        let budget = match request.max_output_bytes {
            Some(given) => validate::output_bytes(given)?,
            None => OUTPUT_DEFAULT,
        };
        let limit = self.time_limit(request.timeout_seconds, request.background)?;
        let language = request.language.unwrap_or(lease.environment.runtime);
        let interpreter = resolve::interpreter(
            language,
            &self.overrides,
            &lease.live.session.capabilities().await,
            lease.live.uses_venv(),
        );
        let title = title(&request.code);
        let directory = request.working_directory.as_deref();
        let exec = Exec {
            program: Program::Code {
                interpreter,
                extension: resolve::extension(language).to_owned(),
                code: validate::code(request.code)?,
            },
            env: lease.live.variables(&validate::env(request.env)?),
            directory: match directory {
                Some(given) => Some(validate::path(given)?),
                None => lease.live.surroundings.directory().cloned(),
            },
            user: request.user.into(),
            deadline_ms: limit.map(milliseconds),
            output_limit: None,
            stdin: false,
        };
        let stdin = request.stdin.map(validate::stdin).transpose()?;
        if request.background {
            let started = self.start_process(lease, exec, stdin, title).await?;
            return Ok(Execution::Started(started));
        }
        let job = Job {
            exec,
            stdin,
            budget,
        };
        let (id, live) = (&lease.environment.id, &lease.live);
        let executed = self.run(id, live, job, call, cancel).await?;
        Ok(Execution::Ended(executed))
    }

    fn time_limit(
        &self,
        given: Option<u64>,
        background: bool,
    ) -> Result<Option<Duration>, ServiceError> {
        match (given, background) {
            (Some(given), true) => Ok(Some(validate::background_seconds(given)?)),
            (Some(given), false) => Ok(Some(validate::timeout_seconds(
                given,
                self.settings.max_exec_timeout,
            )?)),
            (None, true) => Ok(None),
            (None, false) => Ok(Some(self.settings.default_exec_timeout)),
        }
    }
}

/// Ends a keyed run when its caller took the call back, and lets it go on when the caller is merely
/// gone.
struct EndIfCancelled<'a> {
    call: &'a Call,
    joined: Joined,
}

impl Drop for EndIfCancelled<'_> {
    fn drop(&mut self) {
        if self.call.cancelled.is_cancelled() {
            self.joined.cancel.cancel();
        }
    }
}

/// Tells whether a repeated call asks for the same. The key itself is not part of it.
fn fingerprint(request: &ExecuteRequest) -> Result<Fingerprint, ServiceError> {
    let bytes =
        serde_json::to_vec(request).map_err(|error| ServiceError::Internal(error.into()))?;
    Ok(Sha256::digest(bytes).into())
}

/// The program's first line that says something, to recognise it by in a list.
fn title(code: &str) -> String {
    let line = code.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().chars().take(80).collect()
}
