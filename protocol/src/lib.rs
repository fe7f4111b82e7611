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

//! # Streams
//!
//! Version 3. After [`message::Reply::Connected`], and after the two `Hello`s on a call to
//! [`boot::PROXY_PORT`], the connection carries one stream of bytes each way, as
//! [`frame::Kind::File`] frames of at most what the other side accepts. An empty one is the end of its
//! direction; the other goes on. The host closes the connection once it has sent and received an end,
//! and carries nothing else on it. (The guest leaves that to the host: what it has sent could still be
//! on its way, and would be lost.)
//!
//! A control frame without a payload gives the stream up, both directions at once: who receives it
//! closes the connection, who has sent it reads on until then. A bare close would not reach a guest
//! while there is something on its way from there. The end of the connection before the end of a
//! direction says that what came is not all.

#![forbid(unsafe_code)]

pub mod boot;
pub mod codec;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod message;
