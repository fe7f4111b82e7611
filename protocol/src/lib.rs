// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What crosses the wire between Waggle's host and its guest.
//!
//! Owns: the frame ([`frame`]), the messages ([`message`], [`boot`]), their encoding ([`codec`]),
//! the handshake ([`handshake`]), and the limits both sides keep ([`limits`]).
//!
//! Does not own: sockets, clocks, tasks. Everything here is a function of bytes, so that it can be
//! tested, fuzzed and shared without a machine.
//!
//! # Versioning
//!
//! postcard has no field evolution: a field appended to a shipped struct makes old peers fail or,
//! inside a list, decode to wrong values. So a shipped type is frozen. What is new becomes an enum
//! variant at the *end* of its enum, together with a higher [`handshake::VERSION_MAX`], and is sent
//! only to peers that agreed on that version. The golden vectors in `testdata/` pin this.
//!
//! # One connection, one operation
//!
//! Host and guest exchange a [`handshake::Hello`] each; then the host sends one
//! [`message::Request`] and reads [`message::Reply`] frames until one that
//! [is terminal](message::Reply::is_terminal). After a clean end the connection may carry the next
//! request. Closing it at any other moment cancels the operation.
//!
//! A control frame that is due to hold a request and does not decode as one is answered with
//! [`FailureCode::Unsupported`](message::FailureCode::Unsupported), and the connection goes on: the
//! frames are still in step. Bytes that are no frame, or no frame that is due, end it.

#![forbid(unsafe_code)]

pub mod boot;
pub mod codec;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod message;
