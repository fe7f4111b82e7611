// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Why a layer is refused, in terms of what was read and what to do about it.
//!
//! Names out of an archive are shown escaped and cut: they are as hostile as the rest of it.

use std::io;

use super::{attributes::AttributeFault, compression::Compression, path::PathFault};
use crate::limits::{SETTING_ENTRIES, SETTING_FILE, SETTING_UNPACKED};

/// Why a layer did not become data and index, or why these cannot be read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The caller asked for an end.
    #[error("the layer's conversion was stopped")]
    Stopped,
    /// The reader of the blob failed.
    #[error("cannot read the layer's blob")]
    Read(#[source] io::Error),
    /// The layer's data or index could not be written.
    #[error("cannot write the layer's {what}: check the image cache's free space and permissions")]
    Write {
        /// Which of the two.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The media type says one thing and the first bytes another.
    #[error(
        "the layer's media type says {expected}, its content is {found}: the image's manifest is wrong"
    )]
    Contradiction {
        /// What the media type says.
        expected: Compression,
        /// What the content is.
        found: Compression,
    },
    /// A compression that no OCI layer has.
    #[error("the layer is compressed with {name}: layers are plain, gzip or zstd")]
    Unsupported {
        /// What it was recognised as.
        name: &'static str,
    },
    /// The compressed stream is damaged, or something else follows it, or it needs more memory than it may have.
    #[error("the layer's {compression} stream cannot be uncompressed: fetch the image again")]
    Corrupt {
        /// How it is compressed.
        compression: Compression,
        /// What the decoder met.
        source: io::Error,
    },
    /// The compressed stream ends too early.
    #[error("the layer's {compression} stream is cut: fetch the image again")]
    Cut {
        /// How it is compressed.
        compression: Compression,
    },
    /// The archive ends in the middle of something.
    #[error(
        "the layer ends at byte {at} of its archive, in the middle of {what}: fetch the image again"
    )]
    Truncated {
        /// How many bytes of the archive there were.
        at: u64,
        /// What is cut.
        what: &'static str,
    },
    /// No tar archive, or a damaged one.
    #[error("the layer's archive is malformed near byte {at}")]
    Malformed {
        /// Where the header begins.
        at: u64,
        /// What the parser met.
        source: tar_core::parse::ParseError,
    },
    /// The parser met what its makers did not think of.
    #[error("the layer's archive has a header near byte {at} that makes no sense")]
    Parser {
        /// Where the header begins.
        at: u64,
    },
    /// A header with its extensions is longer than any real one.
    #[error("a header of the layer's archive, near byte {at}, is longer than {limit} bytes")]
    HeaderTooLong {
        /// Where it begins.
        at: u64,
        /// The ceiling, in bytes.
        limit: usize,
    },
    /// More follows the archive's end than any tool pads with.
    #[error("more than {limit} bytes follow the end of the layer's archive")]
    Trailer {
        /// The ceiling, in bytes.
        limit: u64,
    },
    /// A path that leads out of the root, or that no file system takes.
    #[error("the layer has the path {}: {fault}", show(path))]
    Path {
        /// The path as the archive has it.
        path: Vec<u8>,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// A link with a target that cannot be.
    #[error("{} links to {}: {fault}", show(path), show(target))]
    Target {
        /// The link.
        path: Vec<u8>,
        /// Its target as the archive has it.
        target: Vec<u8>,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// The root as something other than a folder.
    #[error("the layer makes the root of the file system something other than a folder")]
    Root,
    /// A type that layers do not have.
    #[error("{} has the unknown type {:?}", show(path), char::from(*kind))]
    Type {
        /// The entry.
        path: Vec<u8>,
        /// The type's byte.
        kind: u8,
    },
    /// A device number beyond what Linux has: 12 bits major, 20 bits minor.
    #[error("{} is device {major}:{minor}, which Linux cannot have", show(path))]
    Device {
        /// The entry.
        path: Vec<u8>,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// An owner or group beyond 32 bits, or the number that stands for none.
    #[error("{} belongs to user or group {id}, the highest is {}", show(path), u32::MAX - 1)]
    Owner {
        /// The entry.
        path: Vec<u8>,
        /// The number.
        id: u64,
    },
    /// Something else that the entry says of itself is wrong.
    #[error("{}: {fault}", show(path))]
    Attribute {
        /// The entry.
        path: Vec<u8>,
        /// What is wrong.
        fault: AttributeFault,
    },
    /// One file is too large.
    #[error(
        "{} has {size} bytes, the limit is {limit}: raise {SETTING_FILE} to allow it",
        show(path)
    )]
    FileTooLarge {
        /// The file.
        path: Vec<u8>,
        /// Its size in bytes, holes included.
        size: u64,
        /// The ceiling, in bytes.
        limit: u64,
    },
    /// What the layer would take on the disk, or its archive, is too large.
    #[error(
        "the layer needs at least {needed} bytes unpacked, the image may have {limit}: raise {SETTING_UNPACKED} to allow it"
    )]
    TooLarge {
        /// What it had come to when it was refused, in bytes.
        needed: u64,
        /// The ceiling, in bytes.
        limit: u64,
    },
    /// Too many entries.
    #[error(
        "the layer has more entries than the {limit} that the image may have: raise {SETTING_ENTRIES} to allow it"
    )]
    TooManyEntries {
        /// The ceiling.
        limit: u64,
    },
    /// A layer's data or index in the store could not be read.
    #[error("cannot read the layer's {what}")]
    Stored {
        /// Which of the two.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The index is of another version than this build reads.
    #[error(
        "the layer's index has version {found}, this build reads version {expected}: remove the image and pull it again"
    )]
    Version {
        /// The version it states.
        found: u32,
        /// The version this build reads.
        expected: u32,
    },
    /// The data or the index in the store is not what was written.
    #[error("the layer's {what} is damaged ({how}): remove the image and pull it again")]
    Damaged {
        /// Which of the two.
        what: &'static str,
        /// What does not fit.
        how: &'static str,
    },
    /// A file is longer than the reader wants to hold.
    #[error("the file has {size} bytes, more than the {limit} that were asked for")]
    ContentTooLong {
        /// Its size, in bytes.
        size: u64,
        /// The ceiling, in bytes.
        limit: u64,
    },
}

/// A name for people: quoted, escaped, and no longer than a line.
fn show(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    match name.get(..LONGEST) {
        Some(head) if name.len() > LONGEST => {
            format!(
                "{:?}... ({} bytes)",
                String::from_utf8_lossy(head),
                name.len()
            )
        }
        _ => format!("{:?}", String::from_utf8_lossy(name)),
    }
}
