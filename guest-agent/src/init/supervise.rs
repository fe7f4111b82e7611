// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! PID 1's life after the boot: the agent, the orphans, the end.
//!
//! Owns: starting the agent and starting it again, reaping, ending the machine.
//!
//! **The end.** The agent asks for it by exiting with [`SHUTDOWN_STATUS`]. Then, and after a fatal
//! error, init kills every process, syncs, makes the root read-only as far as it goes, and restarts
//! the machine: the VMM, which runs it once, exits.
//!
//! Invariants: every child is reaped. When the agent crashes, everything it ran dies with it, since
//! for the host its connections, and with them their operations, are gone.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sync};
use waggle_protocol::boot::{BootConfig, READY_TOKEN_VARIABLE};

use super::{InitError, console};
use crate::agent::{INIT_STARTED_VARIABLE, SHUTDOWN_STATUS};
use crate::probe::DEFAULT_PATH;

/// More crashes than this within [`CRASH_WINDOW`] end the machine: it will not get better, and the
/// host must learn of it.
const CRASHES_MAX: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(10);
/// Pause before the agent is started again, for each crash within the window.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long the dead may take to disappear before the disks are synced without them.
const DEATH_TIMEOUT: Duration = Duration::from_secs(2);

/// The agent and its starter.
#[derive(Debug)]
pub(super) struct Supervisor {
    agent: PathBuf,
    env: Vec<(&'static str, OsString)>,
    crashes: VecDeque<Instant>,
}

impl Supervisor {
    pub(super) fn new(agent: PathBuf, config: &BootConfig, started_us: u64) -> Self {
        let token = u128::from_be_bytes(config.ready_token);
        let env = vec![
            ("PATH", DEFAULT_PATH.into()),
            (READY_TOKEN_VARIABLE, format!("{token:032x}").into()),
            (INIT_STARTED_VARIABLE, started_us.to_string().into()),
        ];
        Self {
            agent,
            env,
            crashes: VecDeque::new(),
        }
    }

    /// Keeps the agent running until it asks for the end of the machine.
    ///
    /// # Errors
    ///
    /// [`InitError`] if it cannot be kept running.
    pub(super) fn run(mut self) -> Result<(), InitError> {
        loop {
            let agent = self.start()?;
            let end = reap_until(agent)?;
            if end == AgentEnd::Shutdown {
                return Ok(());
            }
            kill_everyone();
            self.crashed(&end)?;
        }
    }

    fn start(&self) -> Result<Pid, InitError> {
        let failed = |source| InitError::Agent {
            path: self.agent.clone(),
            source,
        };
        let mut command = Command::new(&self.agent);
        command.env_clear().envs(self.env.iter().cloned());
        command.current_dir("/").stdin(Stdio::null());
        let child = command.spawn().map_err(failed)?;
        let pid =
            i32::try_from(child.id()).map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
        // The child is reaped by `waitpid` below, with everyone else.
        Ok(Pid::from_raw(pid))
    }

    fn crashed(&mut self, end: &AgentEnd) -> Result<(), InitError> {
        let now = Instant::now();
        self.crashes.push_back(now);
        while let Some(first) = self.crashes.front()
            && now.duration_since(*first) > CRASH_WINDOW
        {
            self.crashes.pop_front();
        }
        let crashes = self.crashes.len();
        let last = end.to_string();
        if crashes > CRASHES_MAX {
            return Err(InitError::AgentCrashes {
                crashes,
                seconds: CRASH_WINDOW.as_secs(),
                last,
            });
        }
        console::say(&format!("the agent ended by {last}; starting it again"));
        sleep(BACK_OFF.saturating_mul(u32::try_from(crashes).unwrap_or(1)));
        Ok(())
    }
}

/// How the agent ended.
#[derive(Debug, PartialEq, Eq)]
enum AgentEnd {
    Shutdown,
    Status(i32),
    Signal(Signal),
}

impl std::fmt::Display for AgentEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shutdown => write!(f, "request"),
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Reaps whoever dies until the agent does.
fn reap_until(agent: Pid) -> Result<AgentEnd, InitError> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == agent => {
                return Ok(if status == i32::from(SHUTDOWN_STATUS) {
                    AgentEnd::Shutdown
                } else {
                    AgentEnd::Status(status)
                });
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == agent => {
                return Ok(AgentEnd::Signal(signal));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(InitError::Wait(errno)),
        }
    }
}

/// Kills every process but this one, and reaps them.
fn kill_everyone() {
    let until = Instant::now() + DEATH_TIMEOUT;
    while Instant::now() < until {
        // From PID 1, -1 means everyone else, `kill(2)`. It fails if there is no one.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
        sleep(Duration::from_millis(1));
    }
}

/// Ends the machine.
pub(super) fn end_machine() -> ! {
    kill_everyone();
    sync();
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    // What is synced is safe; this only spares the disk a journal replay.
    let _ = mount(None::<&str>, "/", None::<&str>, remount, None::<&str>);
    loop {
        // It returns only to say why it failed.
        let Err(errno) = reboot(RebootMode::RB_AUTOBOOT);
        console::say(&format!("cannot restart the machine: {errno}"));
        sleep(Duration::from_secs(1));
    }
}
