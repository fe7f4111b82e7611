// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Control messages as bytes: postcard, with every byte accounted for.

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};

use crate::frame::{Frame, Kind, encode};

/// A control payload is not the message it should be. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A data frame came where a message was due.
    #[error("expected a control frame, got {0:?}")]
    NotControl(Kind),
    /// The payload does not decode.
    #[error("malformed message")]
    Malformed(#[source] postcard::Error),
    /// The payload decodes, and then goes on: a peer of another version, or a hostile one.
    #[error("message is followed by {0} surplus bytes")]
    Surplus(usize),
}

/// Decodes the message that `frame` carries.
///
/// # Errors
///
/// [`CodecError`] if the frame is no control frame or its payload is not exactly one `M`.
pub fn message<M: DeserializeOwned>(frame: &Frame) -> Result<M, CodecError> {
    if frame.kind != Kind::Control {
        return Err(CodecError::NotControl(frame.kind));
    }
    // `from_bytes` would silently accept a remainder.
    let (message, rest) =
        postcard::take_from_bytes(&frame.payload).map_err(CodecError::Malformed)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(CodecError::Surplus(rest.len()))
    }
}

/// Appends `message` to `buffer` as one control frame.
///
/// # Panics
///
/// Never for this crate's types: they hold nothing that postcard cannot encode.
pub fn put<M: Serialize>(message: &M, buffer: &mut BytesMut) {
    encode(Kind::Control, &to_payload(message), buffer);
}

/// `message` as the payload of a control frame.
///
/// # Panics
///
/// As [`put`].
#[must_use]
pub fn to_payload<M: Serialize>(message: &M) -> Vec<u8> {
    postcard::to_allocvec(message).expect("protocol types are encodable")
}
