// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Why layers do not merge into a root, or a root is not written.

use std::{io, path::PathBuf};

use crate::limits::{SETTING_ENTRIES, SETTING_LAYERS, SETTING_MEMORY};

/// Why there is no root. Layers are numbered from 1, the lowest.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// More layers than the ceiling.
    #[error(
        "the image has {layers} layers, over the ceiling of {limit}: raise {SETTING_LAYERS} to allow it"
    )]
    Layers {
        /// How many there are.
        layers: usize,
        /// How many there may be.
        limit: usize,
    },
    /// More entries than the ceiling, in all layers together.
    #[error(
        "the image has {entries} or more files, folders and other entries, over the ceiling of {limit}: raise {SETTING_ENTRIES} to allow it"
    )]
    Entries {
        /// How many were met.
        entries: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Names, targets and attributes that take more memory than the ceiling.
    #[error(
        "the image's file names and attributes take {bytes} or more bytes of memory, over the ceiling of {limit}: raise {SETTING_MEMORY} to allow it"
    )]
    Memory {
        /// What was needed.
        bytes: u64,
        /// What there may be.
        limit: u64,
    },
    /// Entries behind so many folders and symlinks that finding their places takes too long.
    #[error(
        "the ways to the image's entries have {limit} or more folders and symlinks: raise {SETTING_ENTRIES} to allow it"
    )]
    Steps {
        /// How many there may be.
        limit: u64,
    },
    /// A path that no Linux program could open.
    #[error("layer {layer}: path {path:?} has {bytes} bytes, over Linux' limit of {limit}")]
    PathLong {
        /// Whose entry.
        layer: u16,
        /// Its beginning.
        path: String,
        /// Its length.
        bytes: usize,
        /// What it may be.
        limit: usize,
    },
    /// A name in a folder that is too long for any file system of Linux.
    #[error("layer {layer}: a name in {path:?} has {bytes} bytes, over Linux' limit of {limit}")]
    NameLong {
        /// Whose entry.
        layer: u16,
        /// Its path.
        path: String,
        /// The name's length.
        bytes: usize,
        /// What it may be.
        limit: usize,
    },
    /// The folder of an entry is behind symlinks that lead on and on.
    #[error("layer {layer}: {path:?} is behind more than {limit} symlinks")]
    Loop {
        /// Whose entry.
        layer: u16,
        /// Its path.
        path: String,
        /// How many there may be.
        limit: u32,
    },
    /// An entry is below something that is no folder.
    #[error("layer {layer}: {path:?} is below something that is not a folder")]
    NotFolder {
        /// Whose entry.
        layer: u16,
        /// Its path.
        path: String,
    },
    /// The root would be removed, or be something else than a folder.
    #[error("layer {layer} removes the root folder or puts something else in its place")]
    RootReplaced {
        /// Whose entry.
        layer: u16,
    },
    /// A hard link to nothing.
    #[error(
        "layer {layer}: hard link {path:?} leads to {target:?}, which neither this layer nor one below has"
    )]
    LinkMissing {
        /// Whose entry.
        layer: u16,
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A hard link to a folder.
    #[error("layer {layer}: hard link {path:?} leads to {target:?}, which is a folder")]
    LinkFolder {
        /// Whose entry.
        layer: u16,
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A symlink's target that is empty or too long.
    #[error(
        "layer {layer}: the target of symlink {path:?} has {bytes} bytes; Linux takes 1 to {limit}"
    )]
    Target {
        /// Whose entry.
        layer: u16,
        /// The symlink.
        path: String,
        /// The target's length.
        bytes: usize,
        /// What it may be.
        limit: usize,
    },
    /// A device number that Linux does not have.
    #[error(
        "layer {layer}: device {path:?} has number {major}:{minor}; Linux takes up to 4095:1048575"
    )]
    Device {
        /// Whose entry.
        layer: u16,
        /// The device node.
        path: String,
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// Extended attributes that do not fit.
    #[error(
        "layer {layer}: the extended attributes of {path:?} take {bytes} bytes, over the limit of {limit}"
    )]
    Xattrs {
        /// Whose entry.
        layer: u16,
        /// Its path.
        path: String,
        /// The length of a name, of a value, or of all together.
        bytes: usize,
        /// What that may be.
        limit: usize,
    },
    /// A layer's index says what the converter never writes.
    #[error(
        "layer {layer}: the index is damaged at {path:?}: {what}; remove the image and pull it again"
    )]
    Damaged {
        /// The layer.
        layer: u16,
        /// The entry's path.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A layer's index cannot be read.
    #[error("layer {layer}: its index cannot be read; remove the image and pull it again")]
    Index {
        /// The layer.
        layer: u16,
        /// What is wrong.
        source: crate::layer::LayerError,
    },
    /// A layer's data has another size than its index says.
    #[error("{} has {found} bytes instead of {expected}; remove the image and pull it again", path.display())]
    DataSize {
        /// The data.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// What the index says.
        expected: u64,
    },
    /// Sparse files whose holes lie so that their maps take too much room.
    #[error("the maps of sparse files take {bytes} or more bytes, over the limit of {limit}")]
    Maps {
        /// What they take.
        bytes: u64,
        /// What they may take.
        limit: u64,
    },
    /// More blocks than EROFS can address.
    #[error("the root has {blocks} blocks of 4096 bytes, over the limit of {limit}")]
    Blocks {
        /// How many there are.
        blocks: u64,
        /// How many there may be.
        limit: u64,
    },
    /// A file name that a disk's descriptor cannot hold.
    #[error("file name {name:?} cannot be written into a disk's descriptor")]
    ExtentName {
        /// The name.
        name: String,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
    /// A file's content is longer than the caller takes, or its layer's data is damaged.
    #[error(transparent)]
    Content(#[from] crate::layer::LayerError),
    /// Not a regular file, so it has no content.
    #[error("not a regular file")]
    NotFile,
    /// A file of the store cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A path as error texts carry it: printable, and its beginning only.
pub(super) fn text(path: &[u8]) -> String {
    const SHOWN: usize = 256;
    let cut = path.get(..SHOWN).unwrap_or(path);
    let dots = if cut.len() < path.len() { "..." } else { "" };
    format!("{}{dots}", String::from_utf8_lossy(cut))
}
