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
//! on its way, and would be lost.) The end of the connection before the end of a direction says that what
//! came is not all.
//!
//! Between them go [`message::StreamMessage`]s. Each side sends at most
//! [`STREAM_WINDOW`](limits::STREAM_WINDOW) bytes ahead of what the other says it has handed on, and each
//! always receives: else a message would wait behind data that nobody takes. (And a guest that does not
//! receive keeps the host's vsock device asking it for room, which costs both a processor.) A stream is
//! given up by a message, because a bare close does not reach a guest while there is something on its
//! way from there: who receives it closes the connection, who has sent it receives on until then. After the
//! end of its sender's direction it means that the sender wants no more; what it has sent is delivered.

#![forbid(unsafe_code)]

pub mod boot;
pub mod codec;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod message;
