// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Where everything goes: sizes first, then places.
//!
//! ```text
//! block 0      1 ...                      ...               metadata ends, data begins
//! ┌───────────┬──────────────────────────┬─────────────────┬───
//! │superblock │ inodes, each followed by │ blocks of large │ layer 1's
//! │           │ attributes and content   │ folders         │ data
//! └───────────┴──────────────────────────┴─────────────────┴───
//! ```
//!
//! The root comes first, and then a folder's inodes side by side, folder by folder from the top: listing a folder with
//! its files' attributes reads few blocks. All inodes are extended ones (64 bytes): compact ones have no time of
//! their own in Linux 6.12.

use std::num::NonZeroU32;

use super::{BLOCK_BYTES, directory, xattr};
use crate::{
    layer::{BLOCK, Extent},
    root::{
        RootError,
        tree::{Content, Data, Id, Inode, Tree},
    },
};

/// An extended inode.
pub(super) const INODE_BYTES: u64 = 64;
/// Inodes are numbered by their place in units of a compact one.
const SLOT_BYTES: u64 = 32;
/// Bytes of all maps of sparse files together. This holds some 64 GiB of files with holes anywhere, and Linux' usual ones
/// (`/var/log/lastlog`) take a few bytes each.
const MAPS_BYTES: u64 = 64 << 20;
/// An entry of a file's map: a block's address.
pub(super) const MAP_ENTRY_BYTES: usize = 4;
/// The largest chunk: 2^31 blocks (`EROFS_CHUNK_FORMAT_BLKBITS_MASK`).
const CHUNK_BITS_MAX: u32 = 31;

/// The numbers (nid) of inodes.
#[derive(Debug)]
pub(super) struct Numbers(Vec<Option<NonZeroU32>>);

impl Numbers {
    /// An inode's number; 0 if it has none, which no inode in a tree's folders is.
    pub(super) fn of(&self, id: Id) -> u64 {
        self.0
            .get(id.index())
            .copied()
            .flatten()
            .map_or(0, |number| u64::from(number.get()))
    }

    fn set(&mut self, id: Id, number: NonZeroU32) {
        if let Some(place) = self.0.get_mut(id.index()) {
            *place = Some(number);
        }
    }
}

/// How an inode's content is stored (`EROFS_INODE_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// In consecutive blocks.
    Plain = 0,
    /// The same, but for what is left of the last block: that is behind the inode.
    Inline = 2,
    /// By a map of chunks, behind the inode.
    Chunks = 4,
}

/// An inode's measures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) format: Format,
    /// Its content's size.
    pub(super) size: u64,
    /// Content behind the inode and its attributes.
    pub(super) inline: u64,
    /// Content in blocks of the metadata.
    pub(super) blocks: u64,
    /// The file's map, in bytes.
    pub(super) map: u64,
    attributes: u64,
}

impl Shape {
    pub(super) fn of(tree: &Tree, id: Id) -> Self {
        let inode = tree.inode(id);
        let attributes = xattr::size(&inode.attributes.xattrs) as u64;
        let shape = Self {
            format: Format::Plain,
            size: 0,
            inline: 0,
            blocks: 0,
            map: 0,
            attributes,
        };
        match &inode.content {
            Content::Folder(_) => shape.filled(directory::size(tree, id)),
            Content::Symlink(target) => shape.filled(target.len() as u64),
            Content::File { size, data, .. } => match data {
                Data::Empty | Data::Plain(_) => Self {
                    size: *size,
                    ..shape
                },
                Data::Mapped(extents) => Self {
                    format: Format::Chunks,
                    size: *size,
                    map: MAP_ENTRY_BYTES as u64 * chunks(*size, extents),
                    ..shape
                },
            },
            Content::CharDevice(..) | Content::BlockDevice(..) | Content::Fifo | Content::Free => {
                shape
            }
        }
    }

    /// With content in the metadata. The rest of the last block goes behind the inode if both fit into one block,
    /// which it must not cross.
    fn filled(self, size: u64) -> Self {
        let rest = size % BLOCK;
        if rest > 0 && INODE_BYTES + self.attributes + rest <= BLOCK {
            return Self {
                format: Format::Inline,
                size,
                inline: rest,
                blocks: size / BLOCK,
                ..self
            };
        }
        Self {
            size,
            blocks: size.div_ceil(BLOCK),
            ..self
        }
    }

    fn bytes(&self) -> u64 {
        INODE_BYTES + self.attributes + self.inline + self.map
    }
}

/// The binary logarithm of a file's chunks, in blocks: as large as they can be with no chunk partly data, partly
/// something else, which makes the map as small as it can be.
pub(super) fn chunk_bits(size: u64, extents: &[Extent]) -> u32 {
    let blocks = size.div_ceil(BLOCK);
    // No larger than it takes for the whole file.
    let whole = blocks
        .next_power_of_two()
        .trailing_zeros()
        .min(CHUNK_BITS_MAX);
    let ends = extents
        .iter()
        .flat_map(|extent| [extent.file_block, extent.file_block + extent.blocks]);
    // The file's beginning and end bound nothing.
    let bounds = ends.filter(|block| *block != 0 && *block != blocks);
    bounds.map(u64::trailing_zeros).fold(whole, u32::min)
}

/// How many chunks a file has that is not empty.
fn chunks(size: u64, extents: &[Extent]) -> u64 {
    size.div_ceil(BLOCK)
        .div_ceil(1 << chunk_bits(size, extents))
}

/// All places.
#[derive(Debug)]
pub(super) struct Layout {
    /// Inodes in the order that they are written in.
    pub(super) order: Vec<Id>,
    pub(super) numbers: Numbers,
    /// Where blocks of folders begin.
    pub(super) folder_blocks: u32,
    /// How many blocks of metadata there are.
    pub(super) metadata_blocks: u32,
    /// How many blocks the disk has.
    pub(super) blocks: u32,
    /// Where each layer's data begins.
    pub(super) layers: Vec<u32>,
    /// Whether any file has a map.
    pub(super) maps: bool,
}

impl Layout {
    pub(super) fn of(tree: &Tree, stop: &dyn Fn() -> bool) -> Result<Self, RootError> {
        let mut places = Places {
            tree,
            numbers: Numbers(vec![None; tree.places()]),
            order: Vec::new(),
            // Block 0 is the superblock's.
            end: BLOCK,
            blocks: 0,
            maps: 0,
        };
        places.put(Id::ROOT)?;
        let mut next = 0;
        while let Some(id) = places.order.get(next).copied() {
            if next % 1024 == 0 && stop() {
                return Err(RootError::Stopped);
            }
            next += 1;
            let Some(folder) = tree.folder(id) else {
                continue;
            };
            for child in folder.children.values() {
                places.put(child.id)?;
            }
        }
        let folder_blocks = places.end.div_ceil(BLOCK);
        let metadata_blocks = folder_blocks + places.blocks;
        let mut blocks = metadata_blocks;
        let mut layers = Vec::with_capacity(tree.layers.len());
        for layer in &tree.layers {
            layers.push(address(blocks)?);
            blocks = blocks.saturating_add(layer.blocks);
        }
        Ok(Self {
            blocks: address(blocks)?,
            folder_blocks: address(folder_blocks)?,
            metadata_blocks: address(metadata_blocks)?,
            maps: places.maps > 0,
            order: places.order,
            numbers: places.numbers,
            layers,
        })
    }
}

/// A block's address, or a number of blocks. The highest of 32 bits stands for a hole.
pub(super) fn address(block: u64) -> Result<u32, RootError> {
    match u32::try_from(block) {
        Ok(address) => Ok(address),
        Err(_) => Err(RootError::Blocks {
            blocks: block,
            limit: u64::from(u32::MAX),
        }),
    }
}

/// Where an inode's bytes begin.
pub(super) fn offset(number: u64) -> u64 {
    number * SLOT_BYTES
}

struct Places<'t> {
    tree: &'t Tree,
    numbers: Numbers,
    order: Vec<Id>,
    /// Where the last inode's bytes end.
    end: u64,
    blocks: u64,
    maps: u64,
}

impl Places<'_> {
    fn put(&mut self, id: Id) -> Result<(), RootError> {
        // Another name of what is in place already.
        if self.numbers.of(id) != 0 {
            return Ok(());
        }
        let shape = Shape::of(self.tree, id);
        // Whole inodes in a block, so that readers need one.
        let mut at = self.end.next_multiple_of(INODE_BYTES);
        if shape.inline > 0 && at % BLOCK + shape.bytes() > BLOCK {
            at = at.next_multiple_of(BLOCK);
        }
        let number = u32::try_from(at / SLOT_BYTES)
            .ok()
            .and_then(NonZeroU32::new);
        let number = number.ok_or(RootError::Blocks {
            blocks: at / BLOCK,
            limit: u64::from(u32::MAX) * SLOT_BYTES / BLOCK,
        })?;
        self.numbers.set(id, number);
        self.order.push(id);
        self.end = at + shape.bytes();
        self.blocks += shape.blocks;
        self.maps += shape.map;
        if self.maps > MAPS_BYTES {
            return Err(RootError::Maps {
                bytes: self.maps,
                limit: MAPS_BYTES,
            });
        }
        Ok(())
    }
}

/// Whether an inode can be inline at all is decided by a block's size.
const _: () = assert!(BLOCK_BYTES as u64 == BLOCK);

impl Inode {
    /// `i_mode`: the type with the permissions.
    pub(super) fn mode(&self) -> u16 {
        let kind = match self.content {
            Content::Folder(_) => 0o040_000,
            Content::File { .. } => 0o100_000,
            Content::Symlink(_) => 0o120_000,
            Content::CharDevice(..) => 0o020_000,
            Content::BlockDevice(..) => 0o060_000,
            Content::Fifo => 0o010_000,
            Content::Free => 0,
        };
        kind | self.attributes.mode
    }
}
