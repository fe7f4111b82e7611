// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What runs inside a Waggle guest, shared by its three programs.
//!
//! `waggle-init` ([`init`]) is PID 1: it builds the root, starts the agent and reaps. `waggle-guest`
//! ([`agent`]) is the agent: it answers the host's requests over vsock, one connection an operation.
//! `waggle-tool` ([`tool`]) is what the agent runs, as the user, for searches and archives.
//!
//! All are single-threaded, so a raw per-thread system call such as `setfsuid` says what the whole
//! program does, and a fork copies the whole program. The exceptions are two waits that would hold up
//! everything else, each on a thread that knows one descriptor or path: an upload's final fsync
//! (`files`), and, once after the boot, a remount (`exec::Cgroups::favour_changes`).
//!
//! `unsafe` stands in [`sys`] alone.

#![deny(unsafe_code)]

pub mod agent;
pub mod connection;
pub mod exec;
pub mod failure;
pub mod files;
pub mod glob;
pub mod guest_path;
pub mod identity;
pub mod init;
pub mod probe;
pub mod proxy;
pub mod serve;
pub mod stream;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod tool;
