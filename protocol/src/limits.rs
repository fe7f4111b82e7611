// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Every ceiling that both sides of the wire keep, each with its reason.

/// Bytes of one frame's header: a little-endian `u32` payload length and a `u8` kind.
pub const HEADER_BYTES: usize = 5;

/// Largest payload of a data frame, in bytes. 64 KiB keeps a frame within one or two of vsock's own
/// packets: larger ones gain no throughput and make the receiver hold more.
pub const DATA_PAYLOAD_MAX: usize = 64 * 1024;

/// Largest control payload that the guest accepts, in bytes. A request carries a whole program of up
/// to [`CODE_MAX`] bytes plus its environment; twice that leaves room.
pub const REQUEST_PAYLOAD_MAX: usize = 1024 * 1024;

/// Largest control payload that the host accepts, in bytes. The guest is hostile until proven
/// otherwise, and decoding may need about twenty times the encoded size (a list of short names):
/// 64 KiB bounds that to about 1.3 MiB a connection. `tests/allocation.rs` holds it to that.
pub const REPLY_PAYLOAD_MAX: usize = 64 * 1024;

/// Version 3. Most bytes of a [stream](crate#streams) that are sent ahead of what the receiver has handed
/// on, and so that it holds. As much as Linux holds for a vsock connection (`VIRTIO_VSOCK_DEFAULT_BUF_SIZE`),
/// and at a round trip of two milliseconds still 128 MB/s.
pub const STREAM_WINDOW: usize = 256 * 1024;

/// Version 3. How much of it a receiver has handed on when it says so: seldom enough that nobody notices, soon
/// enough that the sender does not run out.
pub const STREAM_GRANT: usize = STREAM_WINDOW / 4;

/// Smallest payload ceiling, in bytes, that a peer may announce in its
/// [`Hello`](crate::handshake::Hello): every reply of fixed size and the longest failure fit, with
/// room to spare. Below it a connection would be all headers, or could not carry an answer at all.
pub const PAYLOAD_MAX_MIN: usize = 4096;

/// Largest program text, in bytes: the limit of the `execute` tool.
pub const CODE_MAX: usize = 512_000;

/// Longest text to replace, and longest to put in its place, in bytes: both fit into a request.
pub const EDIT_TEXT_MAX: usize = 256 * 1024;

/// Largest file that can be edited, in bytes: the agent holds it and its new content in memory.
pub const EDIT_FILE_MAX: u64 = 8 * 1024 * 1024;

/// Longest line that a search tells, in bytes: a record of it fits into any reply.
pub const SEARCH_LINE_MAX: u32 = 2048;

/// Longest pattern of a search, in bytes: far more than anyone writes, and a
/// [`Tool`](crate::message::Tool) of it still fits into one argument of a program.
pub const PATTERN_MAX: usize = 16 * 1024;

/// Longest pattern for names, in bytes: nobody's is near it, and matching takes longer with a pattern's
/// length.
pub const GLOB_MAX: usize = 1024;

/// Largest [`Tool`](crate::message::Tool), encoded, in bytes: its program takes it as one argument in
/// hexadecimal, and Linux takes 128 KiB for one (`MAX_ARG_STRLEN`, which counts the final NUL).
pub const TOOL_BYTES_MAX: usize = 48 * 1024;

/// Longest guest path, in bytes: Linux's `PATH_MAX`, which counts the final NUL.
pub const PATH_MAX: usize = 4095;

/// Longest path of a file that keeps a program's output, in bytes: the agent chooses them, and two fit
/// into any reply.
pub const LOG_PATH_MAX: usize = 1024;

/// Longest error text that the guest sends, in bytes. A text is for a person; a longer one is cut.
pub const FAILURE_TEXT_MAX: usize = 1024;

/// Most bytes of encoded entries in one [`Reply::Entries`](crate::message::Reply::Entries): half of
/// a reply, so that the entry that crosses the line (a name of 255 bytes and a path) still fits.
pub const ENTRIES_BATCH_BYTES: usize = REPLY_PAYLOAD_MAX / 2;

// Cross-side invariants, checked when this crate is compiled.
const _: () = assert!(STREAM_GRANT + DATA_PAYLOAD_MAX <= STREAM_WINDOW);
const _: () = assert!(CODE_MAX * 2 <= REQUEST_PAYLOAD_MAX);
const _: () = assert!(EDIT_TEXT_MAX * 2 + 2 * PATH_MAX <= REQUEST_PAYLOAD_MAX);
const _: () = assert!(SEARCH_LINE_MAX as usize * 2 <= PAYLOAD_MAX_MIN);
const _: () = assert!(PATTERN_MAX + GLOB_MAX + PATH_MAX + 64 <= TOOL_BYTES_MAX);
const _: () = assert!(2 * TOOL_BYTES_MAX < 128 * 1024);
const _: () = assert!(2 * LOG_PATH_MAX + 64 <= PAYLOAD_MAX_MIN);
const _: () = assert!(DATA_PAYLOAD_MAX <= REPLY_PAYLOAD_MAX);
const _: () = assert!(ENTRIES_BATCH_BYTES + 2 * PATH_MAX < REPLY_PAYLOAD_MAX);
const _: () = assert!(FAILURE_TEXT_MAX < REPLY_PAYLOAD_MAX);
const _: () = assert!(FAILURE_TEXT_MAX * 2 <= PAYLOAD_MAX_MIN);
const _: () = assert!(PAYLOAD_MAX_MIN <= DATA_PAYLOAD_MAX);
