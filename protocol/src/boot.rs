// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a machine and its host say to each other while it boots.
//!
//! Two calls, both dialled by the guest (host CID 2), both opened by a
//! [`Hello`](crate::handshake::Hello) from each side, guest first (as are those to [`PROXY_PORT`],
//! which come whenever the guest's programs want out):
//!
//! 1. `waggle-init` dials [`CONFIG_PORT`] and receives one [`BootConfig`]. The host accepts a single
//!    such call a machine: nothing that runs later in the guest can ask for it again.
//! 2. `waggle-guest` dials [`READY_PORT`] once its own port accepts, and sends one [`Ready`].

use serde::{Deserialize, Serialize};

use crate::message::Capabilities;

/// Guest port of the agent's operations. Below 1024, which Linux reserves for privileged processes
/// on vsock as on TCP: sandboxed code cannot pose as the agent.
pub const AGENT_PORT: u32 = 700;
/// Host port where init asks for its configuration.
pub const CONFIG_PORT: u32 = 701;
/// Host port where the agent reports itself ready.
pub const READY_PORT: u32 = 702;
/// Version 3. Host port of the way out: each connection that a program of the guest makes to
/// [`PROXY_LOOPBACK_PORT`] is carried over a call of its own to here, as a
/// [stream](crate#streams).
pub const PROXY_PORT: u32 = 703;

/// Version 3. TCP port on 127.0.0.1 in the guest where its programs find the way out. Below 1024, as
/// [`AGENT_PORT`]: sandboxed code cannot stand in for it.
pub const PROXY_LOOPBACK_PORT: u16 = 703;

/// Virtio serial of the boot disk (`/init`, and an agent for injection).
pub const BOOT_DISK: &str = "waggle-boot";
/// Virtio serial of the image's read-only root.
pub const IMAGE_DISK: &str = "waggle-image";
/// Virtio serial of the scratch disk: ext4, the upper layer of the root's overlay.
pub const SCRATCH_DISK: &str = "waggle-scratch";

/// Where the agent stands, both in an image (baked in) and on the boot disk (for injection).
pub const AGENT_PATH: &str = "/usr/libexec/waggle/waggle-guest";

/// Where an image and the boot disk have the program of [`Tool`](crate::message::Tool)s: beside the
/// agent, who looks for it there.
pub const TOOL_PATH: &str = "/usr/libexec/waggle/waggle-tool";

/// Environment variable through which init hands [`BootConfig::ready_token`] to the agent, in
/// lower-case hexadecimal.
pub const READY_TOKEN_VARIABLE: &str = "WAGGLE_READY_TOKEN";

/// Kernel command-line word that turns init into a probe: it prints [`PROBE_ANSWER`] on the console
/// and restarts the machine. The host uses it to learn whether an accelerator runs this kernel.
pub const PROBE_WORD: &str = "waggle.probe";
/// What a probing init prints.
pub const PROBE_ANSWER: &str = "waggle-probe-ok";

/// What differs from machine to machine, host to init.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// The guest's host name: a valid DNS label.
    pub hostname: String,
    /// Host's wall clock, in nanoseconds since the Unix epoch.
    pub unix_time_ns: u64,
    /// Seed for the guest's random number generator, credited as full entropy.
    pub entropy: [u8; 32],
    /// Proves to the host that [`Ready`] comes from this boot's agent, not from sandboxed code.
    pub ready_token: [u8; 16],
    /// Run the boot disk's agent even if the image carries one.
    pub inject_agent: bool,
}

// Neither the seed nor the token may reach a log.
impl std::fmt::Debug for BootConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BootConfig")
            .field("hostname", &self.hostname)
            .field("unix_time_ns", &self.unix_time_ns)
            .field("inject_agent", &self.inject_agent)
            .finish_non_exhaustive()
    }
}

/// The agent is up, agent to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// [`BootConfig::ready_token`].
    pub token: [u8; 16],
    /// The kernel's boot id: tells one boot from the next.
    pub boot_id: [u8; 16],
    /// The agent's own version, for diagnosis.
    pub agent_version: String,
    /// Microseconds between the start of PID 1 and this message.
    pub since_init_us: u64,
    /// What the agent found in the image.
    pub capabilities: Capabilities,
}
