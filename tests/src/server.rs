// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle serve`, started as a user would start it, on a free port and with a fresh data folder.
//!
//! Owns the process and the folder. [`Server::stop`] ends it and checks that it left nothing;
//! dropping it kills it with all its machines, and shows its log if the test is failing.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::poll::{PATIENCE, until};
use crate::processes::{self, Process};
use crate::settings;

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    variables: Vec<(String, Option<OsString>)>,
    choose_accelerator: bool,
}

impl Settings {
    /// Adds an environment variable.
    #[must_use]
    pub fn with(mut self, variable: &str, value: impl Into<OsString>) -> Self {
        self.variables
            .push((variable.to_owned(), Some(value.into())));
        self
    }

    /// Takes an environment variable away.
    #[must_use]
    pub fn without(mut self, variable: &str) -> Self {
        self.variables.push((variable.to_owned(), None));
        self
    }

    /// Without this host's own proxy, which would be asked for what a test serves on loopback.
    #[must_use]
    pub fn without_proxies(self) -> Self {
        let proxies = [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ];
        proxies.into_iter().fold(self, Self::without)
    }

    /// Lets the server find out by itself whether KVM works. Otherwise it is told not to try, unless
    /// the outside said something else: a fresh data folder remembers no earlier answer, and the
    /// question may take long.
    #[must_use]
    pub fn choosing_accelerator(mut self) -> Self {
        self.choose_accelerator = true;
        self
    }

    /// The product with `arguments`, its state in `data`.
    pub fn command(&self, arguments: &[&str], data: &Path) -> Command {
        let mut command = Command::new(settings::path(settings::BIN));
        command
            .args(arguments)
            .env(settings::LIB_DIR, settings::path(settings::LIB_DIR))
            .env(
                settings::IMAGE_CACHE_DIR,
                settings::path(settings::IMAGE_CACHE_DIR),
            )
            .env(settings::DATA_DIR, data)
            .env("WAGGLE_LISTEN_ADDR", "127.0.0.1:0");
        if self.choose_accelerator {
            command.env_remove(settings::ACCELERATOR);
        } else if std::env::var_os(settings::ACCELERATOR).is_none() {
            command.env(settings::ACCELERATOR, "tcg");
        }
        for (variable, value) in &self.variables {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        command
    }

    /// Runs `waggle serve` that is expected to give up by itself: its exit status and stderr.
    pub async fn serve_in_vain(&self) -> (ExitStatus, String) {
        let data = TempDir::new().expect("a temporary folder");
        let mut command = self.command(&["serve"], data.path());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await;
        let output = output
            .expect("the server gives up in time")
            .expect("the server starts");
        let left = processes::of_folder(data.path());
        assert!(left.is_empty(), "the server left processes: {left:#?}");
        (
            output.status,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

/// A running server.
pub struct Server {
    child: Child,
    /// `host:port`.
    authority: String,
    data: TempDir,
    log: PathBuf,
    // Keeps the pipe open: a server must not die of its closed stdout.
    _output: BufReader<tokio::process::ChildStdout>,
}

impl Server {
    /// Starts a server and waits until it listens.
    pub async fn start(settings: Settings) -> Self {
        Self::start_on(TempDir::new().expect("a temporary folder"), settings).await
    }

    /// Starts a server on a data folder that an earlier one may have used.
    pub async fn start_on(data: TempDir, settings: Settings) -> Self {
        let log = data.path().with_extension("log");
        let mut child = settings
            .command(&["serve"], data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("the log opens"))
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        let read = timeout(PATIENCE, output.read_line(&mut line)).await;
        let authority = line
            .trim_end()
            .strip_prefix("waggle listening on http://")
            .and_then(|rest| rest.strip_suffix("/mcp"))
            .map(str::to_owned);
        let Some(authority) = authority else {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            panic!(
                "expected the line that names the address, got {line:?} ({read:?}); log:\n{log}"
            );
        };
        Self {
            child,
            authority,
            data,
            log,
            _output: output,
        }
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Its MCP endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.authority)
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// Its machines' processes and whatever else it started.
    #[must_use]
    pub fn descendants(&self) -> Vec<Process> {
        self.pid().map(processes::descendants).unwrap_or_default()
    }

    /// The VMM process of an environment: it works in the machine's folder, which is named after the
    /// environment.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn vmm_of(&self, environment: &str) -> Process {
        let family = self.descendants();
        let found = family.iter().find(|process| {
            process.command.contains("qemu-system")
                && process
                    .directory
                    .as_ref()
                    .is_some_and(|path| path.ends_with(environment))
        });
        let Some(found) = found else {
            panic!("no VMM of {environment} among {family:#?}")
        };
        found.clone()
    }

    /// Waits until it has no process but itself.
    pub async fn until_childless(&self) {
        until("the server has no child left", async || {
            self.descendants().is_empty().then_some(())
        })
        .await;
    }

    /// Its resident memory now, without its machines', in KiB.
    ///
    /// # Panics
    /// If the kernel does not tell.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// The most resident memory that it had so far, in KiB.
    ///
    /// # Panics
    /// If the kernel does not tell.
    #[must_use]
    pub fn peak_resident_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, field: &str) -> u64 {
        let pid = self.pid().expect("the server runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.expect("a number of KiB")
    }

    /// What it wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What its machines keep on disk.
    #[must_use]
    pub fn run_files(&self) -> Vec<PathBuf> {
        run_files(self.data.path())
    }

    /// Asks it to end, waits until it did, and checks that no process, socket or scratch disk of it
    /// is left.
    pub async fn stop(self, signal: Signal) {
        let family = self.descendants();
        self.signal(signal);
        self.ended(&family).await;
    }

    /// Waits until it ended after a [`signal`](Self::signal), and checks that nothing is left:
    /// neither of its `family`, nor of anything else that works in its folder.
    pub async fn ended(mut self, family: &[Process]) {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let status = status
            .expect("the server ends in time")
            .expect("the server's status");
        assert_eq!(status.code(), Some(0), "the server ended with {status}");
        // It may not end before its machines did, so there is nothing to wait for.
        let left: Vec<_> = family.iter().filter(|process| process.is_alive()).collect();
        assert!(left.is_empty(), "the server left processes: {left:#?}");
        let left = processes::of_folder(self.data.path());
        assert!(left.is_empty(), "the server left processes: {left:#?}");
        let files = self.run_files();
        assert!(files.is_empty(), "the server left files: {files:#?}");
    }

    /// Kills it as a crash would, and gives what is left: its processes from before, and its data
    /// folder.
    pub async fn crash(mut self) -> (Vec<Process>, TempDir) {
        let family = self.descendants();
        self.child.kill().await.expect("the server can be killed");
        let data = TempDir::new().expect("a temporary folder");
        (family, std::mem::replace(&mut self.data, data))
    }

    /// Sends it a signal. A server that already ended is no matter.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a failing test gets here with anything alive.
        let mut family = self.descendants();
        family.extend(processes::of_folder(self.data.path()));
        if self.child.start_kill().is_ok() {
            for process in family {
                process.signal(Signal::SIGKILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log\n{}--- end of the log", self.log());
        }
        // The log lies beside the data folder; nothing reads it any more.
        let _ = std::fs::remove_file(&self.log);
    }
}

/// What machines keep on disk below a data folder: sockets, scratch disks, logs. Lock files are not
/// among them: they are empty, and outlive their use by design.
#[must_use]
pub fn run_files(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![data.join("run")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ if entry.file_name() == "lock" => {}
                _ => found.push(entry.path()),
            }
        }
    }
    found
}

/// How long shutting down may take before it counts as hanging.
pub const PROMPT: Duration = Duration::from_secs(20);
