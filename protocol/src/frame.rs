// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The frame: `u32` little-endian payload length, `u8` kind, payload.
//!
//! The header never changes, in any version. The length is checked against the receiver's ceiling
//! as soon as the header is there, before anything is reserved for the payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::{DATA_PAYLOAD_MAX, HEADER_BYTES};

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One postcard-encoded message.
    Control = 0,
    /// Raw bytes for the program's standard input. An empty payload is its end.
    Stdin = 1,
    /// Raw bytes of the program's standard output.
    Stdout = 2,
    /// Raw bytes of the program's standard error.
    Stderr = 3,
    /// Raw bytes of a file, either way. An empty payload ends an upload. Version 3: also those of a
    /// [stream](crate#streams), where an empty payload is the end of its direction.
    File = 4,
}

impl TryFrom<u8> for Kind {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            0 => Self::Control,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::File,
            unknown => return Err(FrameError::UnknownKind(unknown)),
        })
    }
}

/// One frame. Its payload shares the receive buffer; nothing is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: Kind,
    /// The payload, within the limits of its kind.
    pub payload: Bytes,
}

/// The peer broke the rules of framing. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header's kind is none of [`Kind`].
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// The header announces more than the receiver accepts.
    #[error("frame length {length} exceeds limit {limit}")]
    TooLong {
        /// Announced payload length in bytes.
        length: usize,
        /// The receiver's ceiling in bytes.
        limit: usize,
    },
}

/// Takes one frame off the front of `buffer`, or returns `None` if it is not all there yet.
///
/// `control_max` is this side's ceiling for control payloads: `REQUEST_PAYLOAD_MAX` in the guest,
/// `REPLY_PAYLOAD_MAX` on the host. On `None`, `buffer` has room reserved for the rest of the frame.
///
/// # Errors
///
/// [`FrameError`] if the header is not acceptable. `buffer` is left as it was.
pub fn decode(buffer: &mut BytesMut, control_max: usize) -> Result<Option<Frame>, FrameError> {
    let Some((&[a, b, c, d, kind], body)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let kind = Kind::try_from(kind)?;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let limit = match kind {
        Kind::Control => control_max,
        Kind::Stdin | Kind::Stdout | Kind::Stderr | Kind::File => DATA_PAYLOAD_MAX,
    };
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    if let Some(missing) = length
        .checked_sub(body.len())
        .filter(|missing| *missing > 0)
    {
        buffer.reserve(missing);
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    Ok(Some(Frame {
        kind,
        payload: buffer.split_to(length).freeze(),
    }))
}

/// Appends one frame to `buffer`.
///
/// # Panics
///
/// If `payload` is longer than `u32::MAX` bytes; callers keep to the limits, which are far lower.
pub fn encode(kind: Kind, payload: &[u8], buffer: &mut BytesMut) {
    buffer.reserve(HEADER_BYTES + payload.len());
    buffer.put_slice(&header(kind, payload.len()));
    buffer.put_slice(payload);
}

/// The header of a frame whose payload of `length` bytes is sent separately.
///
/// # Panics
///
/// If `length` is above `u32::MAX`.
#[must_use]
pub fn header(kind: Kind, length: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(length).expect("payloads are bounded far below 4 GiB");
    let [a, b, c, d] = length.to_le_bytes();
    [a, b, c, d, kind as u8]
}
