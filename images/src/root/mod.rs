// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Layers merged into one root that boots.
//!
//! A root is an EROFS file system in two kinds of pieces: its own **metadata** (superblock, inodes, folders,
//! extended attributes), and the data of its layers ([`crate::layer`]), one after the other, as it is. A
//! descriptor in VMDK's text format names the pieces, and makes them one read-only disk: QEMU and libkrun both
//! read it. So whiteouts are resolved here, the guest mounts one file system, an image of any number of layers
//! is one disk, and images share every layer that they have in common.
//!
//! ```text
//!            ┌───────────┬─────────────┬─────────────┬───
//!  the disk: │ metadata  │ layer 1's   │ layer 2's   │ ...
//!            │ of a root │ data        │ data        │
//!            └───────────┴─────────────┴─────────────┴───
//! ```
//!
//! The same layers in the same order give the same bytes.

mod erofs;
mod error;
mod lookup;
mod merge;
mod tree;
mod vmdk;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

pub use erofs::Metadata;
pub use error::RootError;
pub use lookup::{Found, FoundKind};
use sha2::{Digest as _, Sha256};
pub use tree::Tree;

use crate::{
    Digest, Limits,
    layer::{BLOCK, Index},
};

/// What a root's key begins with. Another number for whatever makes other bytes of the same layers.
const FORMAT: &[u8] = b"waggle root 1\n";
/// The metadata's file name in a root's folder.
pub const METADATA: &str = "meta";
/// The descriptor's.
pub const DESCRIPTOR: &str = "root.vmdk";
/// Metadata is written in pieces of this size: large enough that the system call costs nothing.
const WRITE_BYTES: usize = 256 * 1024;

/// A converted layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFiles {
    /// Its index.
    pub index: PathBuf,
    /// Its data.
    pub data: PathBuf,
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
}

/// What a root has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Blocks of the disk, of 4096 bytes.
    pub blocks: u64,
    /// Files, folders and all else.
    pub inodes: u64,
}

/// What names a root: these layers in this order, in the present format.
#[must_use]
pub fn key(diff_ids: &[Digest]) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(FORMAT);
    for diff_id in diff_ids {
        hasher.update(diff_id.bytes());
    }
    Digest::finish(hasher)
}

/// Merges layers, the lowest first.
///
/// # Errors
/// A layer that cannot be read or breaks the rules, an image over a ceiling, or [`RootError::Stopped`].
pub fn tree(
    layers: &[LayerFiles],
    limits: &Limits,
    stop: &dyn Fn() -> bool,
) -> Result<Tree, RootError> {
    if layers.len() > limits.layers {
        return Err(RootError::Layers {
            layers: layers.len(),
            limit: limits.layers,
        });
    }
    let mut tree = Tree::new(limits);
    for (layer, files) in (1..).zip(layers) {
        let failed = |source| RootError::Index { layer, source };
        let index = Index::open(&files.index).map_err(failed)?;
        let blocks = index.data_blocks();
        check_size(&files.data, blocks)?;
        tree.add_layer(
            index.map(|entry| entry.map_err(failed)),
            blocks,
            Some(files.data.clone()),
            stop,
        )?;
    }
    Ok(tree)
}

/// Merges layers, the lowest first, and writes [`METADATA`] and [`DESCRIPTOR`] into `dir`, a folder that has neither.
/// Both are on the disk when this returns. `data_name` says what the descriptor calls a layer's data: a path
/// relative to the folder that `dir` is going to be.
///
/// # Errors
/// As of [`tree`](fn@tree); also if it has too many blocks, or a file cannot be written. What was written is left, then.
pub fn build(
    layers: &[LayerFiles],
    dir: &Path,
    data_name: &dyn Fn(&LayerFiles) -> String,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
) -> Result<Built, RootError> {
    let tree = tree(layers, limits, stop)?;
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    let names: Vec<String> = layers.iter().map(data_name).collect();
    write(&tree, key(&diff_ids), &names, dir, stop)
}

/// Writes a tree's [`METADATA`] and [`DESCRIPTOR`] into `dir`, as [`build`] does. `names` are its layers' data.
///
/// # Errors
/// As of [`build`].
pub fn write(
    tree: &Tree,
    key: Digest,
    names: &[String],
    dir: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<Built, RootError> {
    let path = dir.join(METADATA);
    let failed = |source| unwritten(&path, source);
    let mut file = Asking {
        file: File::create_new(&path).map_err(failed)?,
        stop,
        stopped: false,
    };
    let mut out = BufWriter::with_capacity(WRITE_BYTES, &mut file);
    let written = tree.write(key, &mut out, stop);
    drop(out);
    let metadata = written.map_err(|error| match error {
        erofs::WriteError::Root(error) => error,
        erofs::WriteError::Io(_) if file.stopped => RootError::Stopped,
        erofs::WriteError::Io(source) => failed(source),
    })?;
    file.file.sync_all().map_err(failed)?;

    let own = vmdk::Piece {
        name: METADATA.to_owned(),
        blocks: metadata.metadata_blocks,
    };
    let data = names
        .iter()
        .zip(&tree.layers)
        .map(|(name, layer)| vmdk::Piece {
            name: name.clone(),
            blocks: layer.blocks,
        });
    let text = vmdk::descriptor(&std::iter::once(own).chain(data).collect::<Vec<_>>())?;
    let path = dir.join(DESCRIPTOR);
    let failed = |source| unwritten(&path, source);
    let mut file = File::create_new(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(Built {
        blocks: metadata.blocks,
        inodes: metadata.inodes,
    })
}

/// A file that asks before each write whether to go on: one inode alone may have megabytes of a map.
struct Asking<'s> {
    file: File,
    stop: &'s dyn Fn() -> bool,
    stopped: bool,
}

impl Write for Asking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stopped |= (self.stop)();
        if self.stopped {
            return Err(io::ErrorKind::Other.into());
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn unwritten(path: &Path, source: io::Error) -> RootError {
    RootError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    }
}

/// A disk with a piece of another size would have all that follows in the wrong place.
fn check_size(path: &Path, blocks: u64) -> Result<(), RootError> {
    let metadata = std::fs::metadata(path).map_err(|source| RootError::Io {
        action: "read",
        path: path.to_path_buf(),
        source,
    })?;
    let expected = blocks.saturating_mul(BLOCK);
    if metadata.len() == expected {
        return Ok(());
    }
    Err(RootError::DataSize {
        path: path.to_path_buf(),
        found: metadata.len(),
        expected,
    })
}

#[cfg(test)]
mod tests;
