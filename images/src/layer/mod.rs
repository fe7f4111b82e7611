// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One layer of an image, from the bytes that a registry has to what roots are made of.
//!
//! A layer is a tar archive, plain or compressed. It is read once, as a stream, and becomes two files; nothing
//! of it is ever unpacked onto the host's file system:
//!
//! - its **data**: the content of its regular files, each from a block's beginning, one after the other;
//! - its **index**: what else the archive says ([`Entry`]), in the archive's order.
//!
//! Both depend on nothing but the archive: the same layer gives the same bytes. A root ([`crate::root`]) refers to
//! the data, so that all images that have a layer share it on the disk and in the page cache.
//!
//! ```text
//! blob ──decompress──> tar ──┬─ contents ──> data
//!                            └─ all else ──> index ──[Entries]──> root
//! ```

mod attributes;
mod blob;
mod compression;
mod convert;
mod data;
mod error;
mod index;
mod member;
mod path;
mod stream;

pub use attributes::AttributeFault;
pub use compression::Compression;
pub use convert::{Budget, Converted, convert};
pub(crate) use convert::{Tally, convert_counted};
pub use data::read_content;
pub use error::LayerError;
pub use index::Index;
pub use path::PathFault;

/// Bytes of a block, which content is laid out by: EROFS' block size, and the guest's page size.
pub const BLOCK: u64 = 4096;

/// Something in a layer. What it says has been checked: paths and link targets of hard links are normal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Where, relative to the root: parts joined by `/`, none of them empty, `.` or `..`. Empty for the root itself.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
    /// Permission bits with set-id and sticky bits, `0o7777`.
    pub mode: u16,
    /// Its owner.
    pub uid: u32,
    /// Its owner's group.
    pub gid: u32,
    /// When it was changed: seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds, below a thousand million.
    pub mtime_nanos: u32,
    /// Extended attributes by their whole name, sorted, no name twice.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What it is.
    pub kind: Kind,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// A folder. One that is there already only takes on these attributes.
    Folder,
    /// A regular file.
    File {
        /// Its size in bytes, holes included.
        size: u64,
        /// Where its content is, in the file's order, without overlap. What no extent covers is zeros.
        extents: Vec<Extent>,
    },
    /// A symbolic link with this target, which is never followed here.
    Symlink(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Another name of what is at this path, of this layer or one below.
    Hardlink(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A character device, major and minor.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// What lower layers have at this path is gone (`.wh.NAME`).
    Whiteout,
    /// What lower layers have below this folder is gone (`.wh..wh..opq`). The folder stays.
    Opaque,
}

/// Consecutive blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// The first of them in the file.
    pub file_block: u64,
    /// The first of them in the layer's data.
    pub data_block: u64,
    /// How many. The last of a file is filled up with zeros.
    pub blocks: u64,
}

#[cfg(test)]
mod tests;
