// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The host side of Waggle: everything behind the binary `waggle`.
//!
//! From the outside in: [`mcp`] speaks the Model Context Protocol and calls [`service`], which holds
//! the use cases. A use case finds its environment in [`environment`] and works in it through a
//! [`session`], the live link to one guest's agent. [`settings`] is what the operator chose,
//! [`resolve`] how a language becomes a command, [`boot_disk`] the guest programs that this binary
//! carries. [`archive`] and [`cp`] are the two ends of `waggle cp`: routes of the server, and the command;
//! [`port`] has both of `waggle port`, [`journal`] of `waggle network`. [`network`] is what an environment may reach, and what of it can be
//! reached. Commands talk to a server through [`client`]; [`image`] is the command that needs none.

#![forbid(unsafe_code)]

pub mod archive;
pub mod boot_disk;
pub mod client;
pub mod cp;
pub mod environment;
pub mod image;
pub mod journal;
mod lock;
pub mod mcp;
pub mod network;
pub mod port;
mod refusal;
pub mod resolve;
pub mod service;
pub mod session;
pub mod settings;
