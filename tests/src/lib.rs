// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What Waggle's end-to-end tests stand on: the product started as its users start it
//! ([`server`]), official MCP clients ([`client`]), a plain HTTP connection ([`http`]), and the
//! process table as the judge of what was left behind ([`processes`]).
//!
//! Nothing here stands in for a part of the product: every machine is real. Only the conformance suite
//! meets tools of its own ([`fixture`]), on the product's HTTP stack.
//!
//! These are tests, so their tools panic, with a text that says what was expected.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

pub mod client;
pub mod fixture;
pub mod http;
pub mod image_registry;
pub mod package_registry;
pub mod permits;
pub mod poll;
pub mod processes;
pub mod registries;
pub mod report;
pub mod scene;
pub mod server;
pub mod settings;

pub use client::{Call, Client, Sdk, ToolResult};
pub use fixture::Fixture;
pub use package_registry::PackageRegistry;
pub use permits::machines;
pub use scene::Scene;
pub use server::{Server, Settings};
