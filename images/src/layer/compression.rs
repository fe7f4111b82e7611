// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How a layer is compressed: what its media type says, and what its first bytes say.

use std::fmt;

use super::error::LayerError;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip (RFC 1952), of one or more members.
    Gzip,
    /// zstd (RFC 8878), of one or more frames.
    Zstd,
}

/// How many of the first bytes tell.
pub(super) const MAGIC: usize = 10;

impl Compression {
    /// What the media type of a layer says; `None` if it is no layer's. OCI's and Docker's names, those for layers
    /// that are not to be distributed among them (image-spec, layer.md and media-types.md).
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let rest = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ]
        .iter()
        .find_map(|base| media_type.strip_prefix(base))?;
        match rest {
            "" => Some(Self::Plain),
            "+gzip" | ".gzip" => Some(Self::Gzip),
            "+zstd" | ".zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What these first bytes say, at most [`MAGIC`] of them.
    pub(super) fn of_content(head: &[u8]) -> Result<Self, LayerError> {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Ok(Self::Gzip),
            // A frame, or one that is to be skipped: zstd:chunked and seekable streams may begin with one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(LayerError::Unsupported { name: "xz" }),
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x31,
                0x41,
                0x59,
                0x26,
                0x53,
                0x59,
            ] => Err(LayerError::Unsupported { name: "bzip2" }),
            _ => Ok(Self::Plain),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}
