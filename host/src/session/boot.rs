// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From a machine's description to a live session: launch, configure, wait for ready.
//!
//! A boot that fails leaves nothing behind: the machine is stopped before the error is returned, and
//! dropping the future drops the machine.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::Rng as _;
use tokio::time::timeout;
use waggle_protocol::boot::{
    BOOT_DISK, BootConfig, CONFIG_PORT, IMAGE_DISK, PROXY_PORT, READY_PORT, Ready, SCRATCH_DISK,
};
use waggle_runtime::{
    AcceptError, Death, Disk, DiskSource, LaunchError, Machine, MachineSpec, Vmm,
};

use super::{LinkError, Session, connection::Connection};

/// What to boot.
#[derive(Debug, Clone)]
pub struct BootOptions {
    /// The machine's name and the guest's host name: a DNS label.
    pub name: String,
    /// The boot disk.
    pub boot_disk: PathBuf,
    /// The image: the VMDK descriptor of a read-only EROFS root.
    pub image: PathBuf,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of the scratch disk in MiB; it occupies only what is written.
    pub scratch_mib: u32,
    /// Run the boot disk's agent instead of the image's.
    pub inject_agent: bool,
    /// The kernel's console log level, 0 (nothing but panics) to 7.
    pub kernel_log_level: u8,
    /// How long the whole boot may take.
    pub timeout: Duration,
}

/// When the stages of a boot were reached, from the launch on.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootTimes {
    /// PID 1 called the host.
    pub init: Duration,
    /// The agent reported ready.
    pub ready: Duration,
}

/// Why a machine did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The machine did not start.
    #[error("the machine did not start")]
    Launch(#[from] LaunchError),
    /// The machine ended while it booted.
    #[error("the machine ended while it booted ({status}); its console ended with: {console}")]
    Died {
        /// What ended it.
        status: String,
        /// The end of its console log.
        console: String,
    },
    /// It did not become ready in time.
    #[error("the machine was not ready after {} seconds; its console ended with: {console}", limit.as_secs())]
    Timeout {
        /// How long it had.
        limit: Duration,
        /// The end of its console log.
        console: String,
    },
    /// The guest's call to the host failed.
    #[error("the guest's first call failed")]
    Accept(#[from] AcceptError),
    /// The guest's call broke the protocol.
    #[error("the guest's first call failed")]
    Link(#[from] LinkError),
    /// The guest could not be told its way out.
    #[error("the configuration of the network could not be written into the machine")]
    Prepare(#[source] LinkError),
}

/// How long a launch that is over its time may take to come to an end: processes start in less.
const LAUNCH_GRACE: Duration = Duration::from_secs(10);

/// Characters of a console's end that go into an error.
const CONSOLE_TAIL: usize = 600;

impl BootError {
    fn timeout(options: &BootOptions, console: &str) -> Self {
        Self::Timeout {
            limit: options.timeout,
            console: tail(console),
        }
    }
    fn died(death: &Death) -> Self {
        Self::Died {
            status: death.status.clone(),
            console: tail(&death.console_tail),
        }
    }
}

impl Session {
    /// Boots a machine and waits until its agent takes work.
    ///
    /// # Errors
    ///
    /// [`BootError`]; nothing is left of the machine then.
    pub async fn boot(vmm: &Vmm, options: &BootOptions) -> Result<Self, BootError> {
        let start = Instant::now();
        let launch = vmm.launch(specification(options));
        tokio::pin!(launch);
        let Ok(machine) = timeout(options.timeout, &mut launch).await else {
            // Dropping the launch undoes it in its own time; ended in order, nothing is left when the
            // caller learns of it.
            if let Ok(Ok(machine)) = timeout(LAUNCH_GRACE, launch).await {
                machine.stop().await;
            }
            return Err(BootError::timeout(options, ""));
        };
        let machine = machine?;
        let died = machine.died();
        let outcome = tokio::select! {
            biased;
            outcome = timeout(options.timeout.saturating_sub(start.elapsed()), converse(&machine, options, start)) => outcome,
            death = died => Ok(Err(BootError::died(&death))),
        };
        let error = match outcome {
            Ok(Ok((ready, times))) => return Ok(Self::new(machine, ready, times)),
            Ok(Err(BootError::Accept(_) | BootError::Link(_))) if is_dead(&machine).await => {
                BootError::died(&machine.died().await)
            }
            Ok(Err(error)) => error,
            Err(_) => BootError::timeout(options, &machine.console()),
        };
        machine.stop().await;
        Err(error)
    }
}

/// Whether a broken call is in fact a machine that just ended.
async fn is_dead(machine: &Machine) -> bool {
    timeout(Duration::from_secs(1), machine.died())
        .await
        .is_ok()
}

fn tail(console: &str) -> String {
    let text = console.trim_end();
    let skipped = text.chars().count().saturating_sub(CONSOLE_TAIL);
    if text.is_empty() {
        "(nothing)".to_owned()
    } else {
        text.chars().skip(skipped).collect()
    }
}

fn specification(options: &BootOptions) -> MachineSpec {
    let disk = |serial: &str, source: DiskSource| Disk {
        serial: serial.to_owned(),
        source,
    };
    MachineSpec {
        name: options.name.clone(),
        vcpus: options.vcpus,
        memory_mib: options.memory_mib,
        disks: vec![
            disk(BOOT_DISK, DiskSource::ReadOnly(options.boot_disk.clone())),
            disk(IMAGE_DISK, DiskSource::Extents(options.image.clone())),
            disk(
                SCRATCH_DISK,
                DiskSource::Scratch {
                    mib: options.scratch_mib,
                },
            ),
        ],
        kernel_args: match options.kernel_log_level {
            0 => String::new(),
            level => format!("loglevel={level}"),
        },
        listen: vec![CONFIG_PORT, READY_PORT, PROXY_PORT],
    }
}

/// Answers the guest's two calls.
async fn converse(
    machine: &Machine,
    options: &BootOptions,
    start: Instant,
) -> Result<(Ready, BootTimes), BootError> {
    let call = machine.accept(CONFIG_PORT).await?;
    // Nothing that runs later in the guest may ask for the configuration again.
    machine.close_listener(CONFIG_PORT);
    let init = start.elapsed();
    let config = configuration(options);
    let token = config.ready_token;
    Connection::welcome(call).await?.send(&config).await?;

    loop {
        let call = machine.accept(READY_PORT).await?;
        // Sandboxed code may dial here as well; only the agent has the token.
        match report(call).await {
            Ok(ready) if ready.token == token => {
                machine.close_listener(READY_PORT);
                return Ok((
                    ready,
                    BootTimes {
                        init,
                        ready: start.elapsed(),
                    },
                ));
            }
            Ok(_) => tracing::warn!("ignored a ready message with a wrong token"),
            Err(error) => tracing::warn!(%error, "ignored a broken ready message"),
        }
    }
}

async fn report(call: waggle_runtime::MachineStream) -> Result<Ready, LinkError> {
    Connection::welcome(call).await?.receive().await
}

fn configuration(options: &BootOptions) -> BootConfig {
    let mut config = BootConfig {
        hostname: options.name.clone(),
        unix_time_ns: 0,
        entropy: [0; 32],
        ready_token: [0; 16],
        inject_agent: options.inject_agent,
    };
    let mut random = rand::rng();
    random.fill_bytes(&mut config.entropy);
    random.fill_bytes(&mut config.ready_token);
    // As late as possible: it sets the guest's clock.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    config.unix_time_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    config
}
