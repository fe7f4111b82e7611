// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Installing packages by the environment's own installer.

use std::sync::atomic::Ordering;

use serde_bytes::ByteBuf;
use tokio_util::sync::CancellationToken;
use waggle_protocol::message::{EnvVar, Program, User};

use super::{
    Call, Live, Service, ServiceError,
    run::{Executed, Job},
    validate,
};
use crate::{
    environment::{Runtime, store::Lease},
    resolve::{self, Purpose, VENV},
};

impl Service {
    /// Installs packages by the environment's own installer.
    ///
    /// Where the image's Python refuses (PEP 668), a virtual environment is made and used from then
    /// on, also by [`Service::execute`]. Dropping the future kills the installer.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] if the installer was not run, or if its outcome is not known.
    pub async fn install_packages(
        &self,
        environment_id: &str,
        packages: &str,
        call: &Call,
    ) -> Result<Executed, ServiceError> {
        let lease = self.lease(environment_id)?;
        let runtime = lease.environment.runtime;
        let names = validate::packages(packages, runtime)?;
        let used_venv = lease.live.uses_venv();
        let first = self.install(&lease, &names, used_venv, call).await?;
        // What was installed may be an interpreter, or an installer.
        lease.live.session.forget_capabilities();
        let refused = runtime == Runtime::Python
            && first.end.exit_code != Some(0)
            && first.stderr.contains("externally-managed-environment");
        // An installer that the operator chose is the operator's to mend.
        if !refused || used_venv || self.overrides.has(runtime, Purpose::Install) {
            return Ok(first);
        }
        let make = [b"python3".as_slice(), b"-m", b"venv", VENV.as_bytes()];
        let make = Program::Command(make.into_iter().map(ByteBuf::from).collect());
        let made = self
            .run_installer(&lease, make, User::Sandbox, Vec::new(), call)
            .await?;
        if made.end.exit_code != Some(0) {
            return Ok(made);
        }
        lease.live.venv.store(true, Ordering::Release);
        self.install(&lease, &names, true, call).await
    }

    async fn install(
        &self,
        lease: &Lease<Live>,
        names: &[ByteBuf],
        venv: bool,
        call: &Call,
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
        self.run_installer(lease, Program::Command(command), user, env, call)
            .await
    }

    async fn run_installer(
        &self,
        lease: &Lease<Live>,
        program: Program,
        user: User,
        env: Vec<EnvVar>,
        call: &Call,
    ) -> Result<Executed, ServiceError> {
        let job = Job::new(program, user, env, self.settings.max_exec_timeout);
        let (id, live) = (&lease.environment.id, &lease.live);
        self.run(id, live, job, call, &CancellationToken::new())
            .await
    }
}
