// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The agent as a program: what `waggle-guest` does.
//!
//! Owns: the host's listener, the cap on connections, the report that the agent is ready, the end of the
//! machine. Does not own: what a connection says (`serve`).
//!
//! Invariants: only the host (CID 2) is served; the ready token leaves the environment before the
//! first connection is accepted, and no child ever inherits the agent's environment.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore};
use tokio_vsock::{VsockAddr, VsockListener, VsockStream};
use waggle_protocol::boot::{
    AGENT_PATH, AGENT_PORT, PROXY_LOOPBACK_PORT, READY_PORT, READY_TOKEN_VARIABLE, Ready,
};
use waggle_protocol::message::{Capabilities, User};

use crate::connection::{Connection, ConnectionError};
use crate::files::OPEN_FOLDERS_MAX;
use crate::identity::Identity;
use crate::probe::{ImagePath, PATH_FILE};
use crate::proxy::{OUTBOUND_DESCRIPTORS, OUTBOUND_MAX};
use crate::stream::INBOUND_MAX;
use crate::sys::DescriptorLimit;
use crate::{exec, probe, proxy, serve, sys};

/// Environment variable through which init tells the agent when PID 1 started: microseconds of the
/// monotonic clock.
pub const INIT_STARTED_VARIABLE: &str = "WAGGLE_INIT_STARTED_US";

/// Exit status by which the agent asks init to end the machine. From `sysexits.h`'s range upwards
/// nothing of Rust's or the kernel's uses it: a panic is SIGABRT, an error of `main` is 1.
pub const SHUTDOWN_STATUS: u8 = 86;

/// Name of Waggle's own program.
const TOOL: &str = "waggle-tool";

/// The host's context id, `VMADDR_CID_HOST`.
pub(crate) const HOST_CID: u32 = 2;
/// Any of the guest's own, `VMADDR_CID_ANY`.
const ANY_CID: u32 = u32::MAX;

/// Most connections served at once: each may hold a request of 1 MiB, and a host needs no more than
/// one an operation. Further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 128;
/// Most descriptors of one connection: its socket twice, and of a program its pidfd, three pipes and
/// the kernel's log, and two logs of its output. (A file operation has fewer, but for the folders
/// counted below.)
const CONNECTION_DESCRIPTORS: usize = 9;
/// The agent's own: standard streams, listeners, event loop, the report, and what is open for a
/// moment only, such as the far ends of the pipes and the way into the control group while a program
/// starts.
const OWN_DESCRIPTORS: usize = 33;
/// What the agent needs of them. The kernel gives a process 1024 (`INR_OPEN_CUR`), and lets it take
/// 4096.
const DESCRIPTORS: usize = CONNECTIONS_MAX * CONNECTION_DESCRIPTORS
    + OUTBOUND_MAX * OUTBOUND_DESCRIPTORS
    + OPEN_FOLDERS_MAX
    + OWN_DESCRIPTORS;
const _: () = assert!(DESCRIPTORS <= 4096);

/// How long to try to report; the agent serves meanwhile. As long as a host may wait for a machine
/// that boots on a busy computer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two tries.
const READY_PAUSE: Duration = Duration::from_millis(50);
/// How long the host may take to close the connection that brought the report.
const READY_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a host may take to close its connection after `ShuttingDown`. Leaving earlier could
/// reset the connection while the reply is still in a queue.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// How long to wait after `accept` failed: out of descriptors, most likely.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its port cannot be bound.
    #[error("cannot listen on vsock port {AGENT_PORT}")]
    Listen(#[source] io::Error),
    /// The host was not told that the agent is ready.
    #[error("cannot report to host port {READY_PORT}")]
    Dial(#[source] io::Error),
    /// The call to the host failed.
    #[error("the report to host port {READY_PORT} failed")]
    Report(#[from] ConnectionError),
    /// A try did not end.
    #[error("host port {READY_PORT} took no report within {READY_TIMEOUT:?}")]
    ReportTimeout,
}

/// What every operation needs to know.
#[derive(Debug)]
pub struct Agent {
    /// Whom [`User::Sandbox`] stands for.
    pub sandbox: Identity,
    /// Whom [`User::Root`] stands for.
    pub root: Identity,
    /// `PATH` that programs get.
    pub path: ImagePath,
    /// Where program texts go.
    pub temp_dir: PathBuf,
    /// What its programs share.
    pub exec: exec::Shared,
    /// Set off when the machine is to end.
    pub machine_ends: Notify,
    /// A place for each folder that a walk holds open.
    pub open_folders: Semaphore,
    /// A place for each connection of the host's to a program.
    pub inbound: Semaphore,
}

impl Agent {
    /// The agent of the image it runs in. Ends what a crashed one left running, and takes over its logs.
    #[must_use]
    pub fn of_image() -> Self {
        let temp_dir = PathBuf::from("/tmp");
        let cgroups = exec::Cgroups::open(exec::HIERARCHY.as_ref());
        let exec = exec::Shared::new(cgroups, &tool_path());
        exec::remove_stale_code_files(&temp_dir);
        exec.logs.adopt(&temp_dir);
        Self {
            sandbox: Identity::sandbox(),
            root: Identity::root(),
            path: ImagePath::of_file(PATH_FILE.as_ref()),
            temp_dir,
            exec,
            machine_ends: Notify::new(),
            open_folders: Semaphore::new(OPEN_FOLDERS_MAX),
            inbound: Semaphore::new(INBOUND_MAX),
        }
    }

    /// The identity that a request's `user` stands for.
    #[must_use]
    pub fn identity(&self, user: User) -> &Identity {
        match user {
            User::Sandbox => &self.sandbox,
            User::Root => &self.root,
        }
    }

    /// Lets the host close `connection` first, then ends the program.
    pub async fn end_machine<T>(&self, connection: &mut Connection<T>)
    where
        T: AsyncRead + AsyncWrite + AsFd + Unpin,
    {
        // Whatever comes, or nothing within the time: the machine goes down.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, connection.reader.next()).await;
        self.machine_ends.notify_one();
    }
}

/// Serves the host until it asks for the end of the machine.
///
/// # Errors
///
/// [`AgentError::Listen`].
pub async fn run() -> Result<(), AgentError> {
    let report = Report::from_environment();
    let _ = umask(Mode::S_IWGRP | Mode::S_IWOTH);
    if let Err(error) = sys::set_thread_groups(&[]) {
        eprintln!("waggle-guest: cannot drop supplementary groups: {error}");
    }
    let mut agent = Agent::of_image();
    match raise_descriptor_limit() {
        Ok(usual) => agent.exec.descriptors = usual,
        Err(errno) => eprintln!("waggle-guest: cannot have {DESCRIPTORS} descriptors: {errno}"),
    }
    let agent = Arc::new(agent);

    let listener = VsockListener::bind(VsockAddr::new(ANY_CID, AGENT_PORT));
    let listener = listener.map_err(AgentError::Listen)?;
    // Before the report: programs that the host runs find it.
    match proxy::listen().await {
        Ok(listener) => drop(tokio::spawn(proxy::run(listener))),
        // Without a loopback, say. All else works.
        Err(error) => eprintln!("waggle-guest: no way out: port {PROXY_LOOPBACK_PORT}: {error}"),
    }
    let reporting = Arc::clone(&agent);
    tokio::spawn(async move {
        if let Err(error) = report.send(&reporting).await {
            say("not reported as ready", &error);
        }
        // Only now: the boot does not wait for it, nor do the first programs.
        tokio::task::spawn_blocking(move || reporting.exec.cgroups.favour_changes());
    });

    tokio::select! {
        () = accept(&listener, &agent) => {}
        () = agent.machine_ends.notified() => {}
    }
    Ok(())
}

/// Lets this process have as many descriptors as it needs. Returns the usual limit, for its children,
/// if that is another one.
fn raise_descriptor_limit() -> nix::Result<Option<DescriptorLimit>> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = DESCRIPTORS as rlim_t;
    if soft >= needed {
        return Ok(None);
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))?;
    Ok(Some(DescriptorLimit { soft, hard }))
}

/// Waggle's own program, which lies beside the agent.
fn tool_path() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|_| AGENT_PATH.into());
    own.with_file_name(TOOL)
}

/// Accepts for ever.
async fn accept(listener: &VsockListener, agent: &Arc<Agent>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("waggle-guest: accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        if peer.cid() != HOST_CID {
            continue;
        }
        let agent = Arc::clone(agent);
        tokio::spawn(async move {
            if let Err(error) = serve::serve(socket, &agent).await
                && !error.is_hang_up()
            {
                say("connection closed", &error);
            }
            drop(place);
        });
    }
}

/// Prints `error` with its sources on the console.
fn say(what: &str, error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    eprintln!("waggle-guest: {what}: {text}");
}

/// What init handed over for the report.
struct Report {
    token: [u8; 16],
    init_started_us: u64,
}

impl Report {
    /// Takes it out of the environment. Without init's variables the token is all zeroes, which no
    /// host expects.
    fn from_environment() -> Self {
        let token = sys::take_variable(READY_TOKEN_VARIABLE);
        let token = token.and_then(|text| parse_hex(text.to_str()?.as_bytes()));
        let started = sys::take_variable(INIT_STARTED_VARIABLE);
        Self {
            token: token.unwrap_or_default(),
            init_started_us: started
                .and_then(|text| text.to_str()?.parse().ok())
                .unwrap_or_else(monotonic_us),
        }
    }

    /// Tries until the report is sent.
    ///
    /// # Errors
    ///
    /// What went wrong last, if the time is over.
    async fn send(self, agent: &Agent) -> Result<(), AgentError> {
        let capabilities = probe::probe(&agent.path.get(), &agent.sandbox);
        let until = Instant::now() + READY_TIMEOUT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let outcome = tokio::time::timeout(left, self.try_send(&capabilities)).await;
            match outcome.unwrap_or(Err(AgentError::ReportTimeout)) {
                Ok(mut connection) => {
                    // The host closes; leaving first could take the message along. It is sent, so
                    // whatever comes of this is no failure.
                    let close = connection.reader.next();
                    let _ = tokio::time::timeout(READY_CLOSE_TIMEOUT, close).await;
                    return Ok(());
                }
                Err(error) if Instant::now() + READY_PAUSE >= until => return Err(error),
                Err(_) => tokio::time::sleep(READY_PAUSE).await,
            }
        }
    }

    async fn try_send(
        &self,
        capabilities: &Capabilities,
    ) -> Result<Connection<VsockStream>, AgentError> {
        let socket = VsockStream::connect(VsockAddr::new(HOST_CID, READY_PORT)).await;
        let mut connection = Connection::new(socket.map_err(AgentError::Dial)?)?;
        connection.open_handshake().await?;
        let ready = Ready {
            token: self.token,
            boot_id: boot_id(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: capabilities.clone(),
            since_init_us: monotonic_us().saturating_sub(self.init_started_us),
        };
        connection.send(&ready).await?;
        Ok(connection)
    }
}

/// Microseconds of the monotonic clock.
#[must_use]
pub fn monotonic_us() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|time| u64::try_from(Duration::from(time).as_micros()).ok())
        .unwrap_or_default()
}

/// The kernel's boot id, or zeroes where there is none.
fn boot_id() -> [u8; 16] {
    let text = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.into_iter().filter(u8::is_ascii_hexdigit).collect();
    parse_hex(&digits).unwrap_or_default()
}

/// 32 hexadecimal digits as bytes.
fn parse_hex(digits: &[u8]) -> Option<[u8; 16]> {
    let text = std::str::from_utf8(digits).ok()?;
    let valid = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| valid)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_boot_ids_are_thirty_two_digits() {
        let bytes = parse_hex(b"000102030405060708090a0b0c0d0eff").unwrap();
        assert_eq!(
            bytes,
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]
        );
        assert_eq!(parse_hex(b"+00102030405060708090a0b0c0d0eff"), None);
        assert_eq!(parse_hex(b"00"), None);
        assert_ne!(boot_id(), [0; 16]);
    }
}
