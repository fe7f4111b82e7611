// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Installing packages by the environment's own package manager, with what it takes to make that work:
//! lists brought up to date first, a virtual environment where the system's Python refuses (PEP 668).
//!
//! Invariants: all of a call happens within one deadline, but for looking at the guest: that may take five
//! seconds more. In one environment one call installs at a
//! time; others wait, since package managers do not run side by side.

mod npm;
mod report;

use std::time::{Duration, Instant, SystemTime};

use serde_bytes::ByteBuf;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waggle_protocol::message::{
    Capabilities, EnvVar, FailureCode, FileKind, ListFiles, PackageManager, Program, ReadFile, User,
};

use super::{
    Call, Live, Service, ServiceError, packages,
    run::{End, Ended, Executed, Job},
    validate,
};
use crate::{
    environment::{Runtime, store::Lease},
    resolve::{self, Dialect, Installer, Purpose, VENV},
    session::{LinkError, capture::lossy},
};
pub use report::Package;
use report::Trouble;

/// After how long apt's lists are brought up to date again.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How young they are if newer ones would have no other packages: a name that is not in them is wrong.
const LISTS_CURRENT: Duration = Duration::from_secs(10 * 60);

/// Where apt keeps them.
const LISTS: &str = "/var/lib/apt/lists";

/// Most entries of that folder that are looked at.
const LISTS_MAX: u32 = 1000;

/// Most bytes of a manager's output that are searched for what it installed.
const OUTPUT_READ_MAX: u64 = 4 * 1024 * 1024;

/// The least time that a step gets, so that it ends as one that took too long and not as none.
const STEP_MIN: Duration = Duration::from_millis(100);

/// How long after its deadline a call may still look at the guest, for what a manager did until then.
const GRACE: Duration = Duration::from_secs(5);

/// What became of a call.
#[derive(Debug)]
pub struct Installation {
    /// What the package manager said last, and how it ended.
    pub executed: Executed,
    /// What it installed, as far as it tells; empty if nothing changed.
    pub installed: Vec<Package>,
    /// What went wrong and what to do about it, if anything did.
    pub guidance: Option<String>,
}

/// What an environment remembers from one installation to the next.
#[derive(Debug, Default)]
pub(super) struct Installs {
    /// When apt's lists were brought up to date here.
    lists_at: Option<Instant>,
}

impl Service {
    /// Installs packages by the environment's own package manager.
    ///
    /// Where the image's Python refuses (PEP 668), a virtual environment is used from then on, also by
    /// [`Service::execute`]. Dropping the future kills the manager.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] if the manager was not run, or if its outcome is not known.
    pub async fn install_packages(
        &self,
        environment_id: &str,
        packages: &str,
        timeout_seconds: Option<u64>,
        call: &Call,
    ) -> Result<Installation, ServiceError> {
        let lease = self.lease(environment_id)?;
        let names = packages::packages(packages, lease.environment.runtime)?;
        let limit = match timeout_seconds {
            Some(given) => validate::timeout_seconds(given, self.settings.install_timeout)?,
            None => self.settings.install_timeout,
        };
        let deadline = Instant::now() + limit;
        call.stage("waiting for another installation");
        let installing = timeout(limit, lease.live.installing.lock());
        let mut installs = installing
            .await
            .map_err(|_| ServiceError::InstallerBusy(limit))?;
        let mark = lease.live.network_mark();
        let mut work = Work {
            service: self,
            lease: &lease,
            call,
            names: &names,
            deadline,
            installs: &mut installs,
        };
        let (mut executed, dialect) = work.install().await?;
        // Of all its steps, not only of the last.
        executed.network_refused = lease.live.refused_since(mark);
        // What was installed may be an interpreter, or a package manager.
        lease.live.session.forget_capabilities();
        let installed = work.installed(&mut executed, dialect).await;
        let guidance = guidance(&executed, lease.live.failed_since(mark));
        Ok(Installation {
            executed,
            installed,
            guidance,
        })
    }
}

/// One call.
struct Work<'a> {
    service: &'a Service,
    lease: &'a Lease<Live>,
    call: &'a Call,
    names: &'a [ByteBuf],
    deadline: Instant,
    installs: &'a mut Installs,
}

impl Work<'_> {
    /// The outcome of the step that decided, and who speaks in it.
    async fn install(&mut self) -> Result<(Executed, Dialect), ServiceError> {
        let runtime = self.lease.environment.runtime;
        let chosen = self.service.overrides.has(runtime, Purpose::Install);
        let mut found = self.lease.live.session.capabilities().await;
        let python = runtime == Runtime::Python && !chosen;
        // A Python without pip may still make a virtual environment that has one.
        if python
            && found.pip.is_none()
            && resolve::may_make_venv(&found)
            && !self.lease.live.uses_venv()
            && let Some(failed) = self.prepare_venv(&found).await?
        {
            return Ok((failed, Dialect::Unknown));
        }
        let mut installer = self.installer(&found);
        let dialect = installer.dialect;
        let mut updated = false;
        if dialect == Dialect::Apt
            && let Some(lists) = self.old_lists().await?
        {
            let update = self.update_lists().await?;
            // With old lists a package may still be found.
            if !succeeded(&update) && lists == OldLists::None {
                return Ok((update, dialect));
            }
            updated = true;
        }
        let first = match self.run_installer(&installer).await {
            // It may have gone since the image was looked at.
            Err(error) if !chosen && is_missing(&error) => {
                self.lease.live.session.forget_capabilities();
                found = self.lease.live.session.capabilities().await;
                installer = self.installer(&found);
                self.run_installer(&installer).await
            }
            outcome => outcome,
        };
        let first = first.map_err(|error| match error {
            error if is_missing(&error) => ServiceError::NoInstaller {
                runtime,
                program: installer
                    .command
                    .first()
                    .map_or_else(String::new, |word| lossy(word)),
            },
            error => error,
        })?;
        if succeeded(&first) {
            return Ok((first, dialect));
        }
        let current = self.lists_are_younger_than(LISTS_CURRENT);
        if dialect == Dialect::Apt && !updated && !current && report::lists_are_stale(&said(&first))
        {
            let update = self.update_lists().await?;
            if succeeded(&update) {
                return Ok((self.run_installer(&installer).await?, dialect));
            }
        }
        // An installer that the operator chose is the operator's to mend.
        if python && !self.lease.live.uses_venv() && report::is_externally_managed(&said(&first)) {
            if let Some(failed) = self.prepare_venv(&found).await? {
                return Ok((failed, Dialect::Unknown));
            }
            let installer = self.installer(&found);
            return Ok((self.run_installer(&installer).await?, dialect));
        }
        Ok((first, dialect))
    }

    fn installer(&self, found: &Capabilities) -> Installer {
        resolve::installer(
            self.lease.environment.runtime,
            &self.service.overrides,
            found,
            self.lease.live.uses_venv(),
        )
    }

    async fn run_installer(&self, installer: &Installer) -> Result<Executed, ServiceError> {
        self.call.stage("installing");
        let command = [installer.command.as_slice(), self.names].concat();
        self.run(command, installer.user).await
    }

    /// Makes [`VENV`], if it is not there or half made, and has it used from now on. What failed, if anything did.
    async fn prepare_venv(
        &mut self,
        found: &Capabilities,
    ) -> Result<Option<Executed>, ServiceError> {
        if !self.has_venv().await? {
            self.call.stage("making a virtual environment");
            let mut made = self.run(resolve::make_venv(found), User::Sandbox).await?;
            let apt = found.package_managers.contains(&PackageManager::AptGet);
            if !succeeded(&made) && apt && report::lacks_venv(&said(&made)) {
                let added = self.add_venv_package().await?;
                if !succeeded(&added) {
                    return Ok(Some(added));
                }
                self.call.stage("making a virtual environment");
                made = self.run(resolve::make_venv(found), User::Sandbox).await?;
            }
            if !succeeded(&made) {
                return Ok(Some(made));
            }
        }
        self.lease.live.use_venv();
        Ok(None)
    }

    /// One that was not finished has no pip, which comes last.
    async fn has_venv(&self) -> Result<bool, ServiceError> {
        for file in ["pyvenv.cfg", "bin/pip"] {
            let request = ReadFile {
                path: ByteBuf::from(format!("{VENV}/{file}")),
                offset: 0,
                length: Some(1),
                user: User::Sandbox,
            };
            let question = self.lease.live.session.read_file(request, 1);
            match answered(self.deadline, question).await {
                Ok(_) => {}
                Err(LinkError::Failed(_)) => return Ok(false),
                Err(error) => return Err(self.service.explain(self.lease, error).await),
            }
        }
        Ok(true)
    }

    /// Debian packs what makes virtual environments apart.
    async fn add_venv_package(&mut self) -> Result<Executed, ServiceError> {
        if self.old_lists().await?.is_some() {
            let update = self.update_lists().await?;
            if !succeeded(&update) {
                return Ok(update);
            }
        }
        self.call.stage("installing python3-venv");
        let installer = resolve::system_installer(&[PackageManager::AptGet]);
        let name = ByteBuf::from(*b"python3-venv");
        let command = [installer.command, vec![name]].concat();
        self.run(command, installer.user).await
    }

    /// Whether apt's lists have to be brought up to date, and why.
    async fn old_lists(&self) -> Result<Option<OldLists>, ServiceError> {
        if self.lists_are_younger_than(LISTS_AGE_MAX) {
            return Ok(None);
        }
        let request = ListFiles {
            path: ByteBuf::from(LISTS),
            depth: 1,
            limit: LISTS_MAX,
            user: User::Root,
        };
        let question = self.lease.live.session.list_files(request);
        let listing = match answered(self.deadline, question).await {
            Ok(listing) => listing,
            Err(LinkError::Failed(_)) => return Ok(Some(OldLists::None)),
            Err(error) => return Err(self.service.explain(self.lease, error).await),
        };
        let is_list = |name: &str| name.contains("_Packages");
        let mut entries = listing.entries.iter();
        if !entries.any(|entry| entry.kind == FileKind::File && is_list(&lossy(&entry.name))) {
            return Ok(Some(OldLists::None));
        }
        // The lists have the registry's times; what came in since came through this folder.
        let mut entries = listing.entries.iter();
        let through = entries.find(|entry| entry.name.as_ref() == b"partial");
        let fresh = through.is_some_and(|entry| is_recent(entry.modified_ns));
        Ok((!fresh).then_some(OldLists::Old))
    }

    /// Whether they were brought up to date here, and not longer ago than that.
    fn lists_are_younger_than(&self, age: Duration) -> bool {
        let known = self.installs.lists_at;
        known.is_some_and(|at| at.elapsed() < age)
    }

    async fn update_lists(&mut self) -> Result<Executed, ServiceError> {
        self.call.stage("updating package lists");
        let updated = self.run(resolve::update_lists(), User::Root).await?;
        if succeeded(&updated) {
            self.installs.lists_at = Some(Instant::now());
        }
        Ok(updated)
    }

    /// What was installed, as far as the manager tells. Its output says so if that is not all.
    async fn installed(&self, executed: &mut Executed, dialect: Dialect) -> Vec<Package> {
        if dialect == Dialect::Npm {
            if !succeeded(executed) || !npm::changed(&executed.stdout) {
                return Vec::new();
            }
            let (installed, whole) = self.npm_installed().await;
            if !whole {
                executed.stdout.push_str(npm::NOT_ALL);
            }
            return installed;
        }
        let log = executed.end.stdout_log.as_ref();
        let whole = match log.filter(|_| executed.left_out > 0) {
            Some(log) => self.read(&log.path, OUTPUT_READ_MAX).await.ok(),
            None => None,
        };
        let whole = whole.map(|bytes| lossy(&bytes));
        report::installed(dialect, whole.as_deref().unwrap_or(&executed.stdout))
    }

    /// The first bytes of a file. If it cannot be read, the packages are installed all the same.
    async fn read(&self, path: &str, max: u64) -> Result<Vec<u8>, LinkError> {
        let request = ReadFile {
            path: ByteBuf::from(path.as_bytes()),
            offset: 0,
            length: Some(max),
            user: User::Sandbox,
        };
        let question = self.lease.live.session.read_file(request, max);
        let (_, bytes) = answered(self.deadline, question).await?;
        Ok(bytes)
    }

    async fn run(&self, command: Vec<ByteBuf>, user: User) -> Result<Executed, ServiceError> {
        let variable = |(name, value): (&str, &str)| EnvVar {
            name: ByteBuf::from(name.as_bytes()),
            value: ByteBuf::from(value.as_bytes()),
        };
        // A manager that asks a question would wait until its deadline. What is asked of a registry
        // beside the packages only costs time.
        let env = [
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("PIP_NO_INPUT", "1"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
            ("PIP_ROOT_USER_ACTION", "ignore"),
            ("NPM_CONFIG_AUDIT", "false"),
            ("NPM_CONFIG_FUND", "false"),
            ("NPM_CONFIG_UPDATE_NOTIFIER", "false"),
        ];
        let env = self.lease.live.variables(&env.map(variable));
        let left = self.deadline.saturating_duration_since(Instant::now());
        let job = Job::new(Program::Command(command), user, env, left.max(STEP_MIN));
        let (id, live) = (&self.lease.environment.id, &self.lease.live);
        let never = CancellationToken::new();
        self.service.run(id, live, job, self.call, &never).await
    }
}

/// Why apt's lists have to be brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OldLists {
    /// There are none.
    None,
    /// They are too old.
    Old,
}

fn is_recent(modified_ns: i64) -> bool {
    let modified = u64::try_from(modified_ns).map(Duration::from_nanos);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let (Ok(modified), Ok(now)) = (modified, now) else {
        return false;
    };
    now.saturating_sub(modified) < LISTS_AGE_MAX
}

/// What the agent answers, but not long after `deadline`.
async fn answered<T>(
    deadline: Instant,
    question: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    let left = deadline.saturating_duration_since(Instant::now()) + GRACE;
    timeout(left, question).await.unwrap_or_else(|_| {
        Err(LinkError::Unanswered {
            seconds: left.as_secs(),
        })
    })
}

/// Whether the program to run is not there.
fn is_missing(error: &ServiceError) -> bool {
    let ServiceError::Guest(failure) = error else {
        return false;
    };
    matches!(
        failure.code,
        FailureCode::SpawnFailed | FailureCode::NotFound
    )
}

fn succeeded(executed: &Executed) -> bool {
    executed.end.exit_code == Some(0)
}

/// Both streams: managers differ in where they complain.
fn said(executed: &Executed) -> String {
    [executed.stdout.as_str(), executed.stderr.as_str()].join("\n")
}

/// What went wrong, in our words: the manager's own are in the result. `failed` is what could not be
/// reached, of which managers say little.
fn guidance(executed: &Executed, failed: Option<(String, String)>) -> Option<String> {
    let End {
        ended, exit_code, ..
    } = executed.end;
    match (ended, exit_code) {
        (Ended::Exited, Some(0)) => None,
        (Ended::Exited, Some(code)) => {
            let words = Trouble::of(&said(executed));
            let (trouble, why) = match (executed.network_refused.first(), failed) {
                _ if words == Trouble::DiskFull => (words, String::new()),
                (Some(denial), _) => (Trouble::Refused, format!("{denial}; ")),
                (None, Some((_, why))) if words.may_be_unreachable() => {
                    (Trouble::of_failure(&why), format!("{why}; "))
                }
                _ => (words, String::new()),
            };
            Some(format!(
                "the package manager failed with exit code {code}: {why}{}.",
                trouble.advice()
            ))
        }
        (Ended::Deadline, _) => Some(format!(
            "the installation was killed at its deadline, {} ms after its last step began; what it had finished is \
             installed. Call again to go on, with fewer packages or a higher timeout_seconds (the owner of this \
             server sets the most by WAGGLE_INSTALL_TIMEOUT).",
            executed.end.duration.as_millis()
        )),
        (Ended::Signal, _) => Some(
            "a signal ended the package manager; look at the environment with execute, and call again."
                .to_owned(),
        ),
        _ => executed.end.guidance(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_answer_holds_a_call_only_to_its_deadline() {
        let start = tokio::time::Instant::now();
        let limit = Duration::from_secs(20);
        let silent = std::future::pending::<Result<(), LinkError>>();
        let outcome = answered(Instant::now() + limit, silent).await;
        assert!(
            matches!(outcome, Err(LinkError::Unanswered { .. })),
            "{outcome:?}"
        );
        let waited = start.elapsed();
        assert!(
            waited > limit && waited <= limit + GRACE + STEP_MIN,
            "{waited:?}"
        );
        let over = Instant::now();
        let answer = answered(over, async { Ok(1) }).await;
        assert_eq!(answer.ok(), Some(1));
    }
}
