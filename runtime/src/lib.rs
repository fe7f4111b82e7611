// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One microVM as one process tree: launch it, reach it, watch it, stop it.
//!
//! Owns: the contract of a machine ([`Vmm`], [`Machine`]), its processes (QEMU and
//! `vhost-device-vsock`), its folder of sockets and scratch disks, the guest kernel's file, and the
//! preflight checks. Does not own: what is said over a connection, what is on the disks, or how
//! many machines there may be.
//!
//! # The contract
//!
//! - A launch that fails, or whose future is dropped, leaves no process, socket, file or folder.
//! - [`Machine::stop`] is idempotent; dropping a [`Machine`] kills its whole process tree.
//! - When the machine dies, [`Machine::died`] resolves and every pending or later call on it fails.
//! - When the host process dies, however it dies, the kernel kills the machines; their folders are
//!   removed by the next [`Vmm::open`] on the same data folder.
//!
//! # Threads
//!
//! All child processes are spawned, supervised and reaped by one thread, the warden (`warden.rs`
//! says why it must be so). Byte streams belong to the runtime of whoever asked for them.
//!
//! `unsafe` is fenced into `krunfw.rs` (the C symbols of libkrunfw) and `spawn.rs` (the code
//! between fork and exec).

#![deny(unsafe_code)]

mod accelerator;
mod command;
mod console;
mod elf;
mod instance;
mod kernel;
mod krunfw;
mod launch;
mod link;
mod machine;
mod options;
mod parts;
mod preflight;
mod qmp;
mod scratch;
mod spawn;
mod spec;
mod supervise;
mod text;
mod vmm;
mod warden;

pub use kernel::{KernelError, write_atomically};
pub use krunfw::KrunfwError;
pub use launch::LaunchError;
pub use link::{AcceptError, ConnectError, MachineStream};
pub use machine::Machine;
pub use options::{Accelerator, AcceleratorChoice, Options, Probe};
pub use preflight::{MissingPart, PreflightError};
pub use spec::{Disk, DiskSource, MachineSpec, SpecError};
pub use supervise::Death;
pub use vmm::Vmm;
