// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An environment's way out, and its ways in: what its programs may reach, and how.
//!
//! A machine has no network card. Its programs talk to a proxy on the guest's loopback, each of whose
//! connections comes here over vsock. [`registries`] are the package registries that `./dev images`
//! recorded, [`policy`] what may be reached (never an [`address`] of ours), [`dial`] and [`resolver`] how it
//! is, [`mirror`] what of it is kept. [`proxy`] puts them together for one environment, [`gate`] for the
//! server, and [`audit`] remembers what was decided. [`guest`] and [`trust`] are what the guest's programs need for it. [`ports`]
//! leads the other way: from ports of this host to ports of a guest.

pub mod address;
pub mod audit;
pub mod dial;
pub mod gate;
pub mod guest;
pub mod mirror;
pub mod policy;
pub mod ports;
pub mod proxy;
pub mod registries;
pub mod resolver;
mod target;
pub mod trust;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// The body of an answer that a guest gets.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
