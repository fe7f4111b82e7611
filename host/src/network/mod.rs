// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An environment's way out, and its ways in: what its programs may reach, and how.
//!
//! A machine has no network card. Its programs talk to a proxy on the guest's loopback, each of whose
//! connections comes here over vsock. [`registries`] are the package registries that `./dev images`
//! recorded; [`mirror`] keeps what was fetched from them.

pub mod guest;
pub mod mirror;
pub mod registries;
pub mod trust;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// The body of an answer that a guest gets.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
