// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A tree's metadata, written as EROFS (Linux' `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`).
//!
//! It knows uncompressed files, in one piece or with a map of chunks; folders and symlinks behind their inodes where they
//! fit; and attributes, none of them shared. That is what Linux has read since 5.15 and `fsck.erofs` since 1.4.
//!
//! Written from front to back in one go, with a block in memory. Nothing depends on the clock or the machine.

mod directory;
mod inode;
mod layout;
mod superblock;
pub(super) mod xattr;

use std::io::{self, Write};

use layout::{Layout, Shape, offset};

use super::{
    RootError,
    tree::{Content, Data, Id, Tree},
};
use crate::{Digest, layer::BLOCK};

/// [`BLOCK`], for lengths in memory.
const BLOCK_BYTES: usize = 4096;
/// After so many inodes the caller is asked whether to stop.
const STOP_EVERY: u32 = 1024;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Blocks of the metadata itself.
    pub metadata_blocks: u64,
    /// Blocks of the disk: these and all layers' data.
    pub blocks: u64,
    /// Files, folders and all else.
    pub inodes: u64,
}

/// Why metadata was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The tree does not fit.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The file cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Tree {
    /// Writes the metadata of a root with this key.
    pub(super) fn write(
        &self,
        key: Digest,
        out: impl Write,
        stop: &dyn Fn() -> bool,
    ) -> Result<Metadata, WriteError> {
        let layout = Layout::of(self, stop)?;
        let inodes = layout.order.len() as u64;
        let mut writer = Writer {
            tree: self,
            layout: &layout,
            stop,
            out,
            at: 0,
        };
        writer.superblock(key, inodes)?;
        writer.inodes()?;
        writer.folder_blocks()?;
        writer.out.flush()?;
        Ok(Metadata {
            metadata_blocks: u64::from(layout.metadata_blocks),
            blocks: u64::from(layout.blocks),
            inodes,
        })
    }
}

struct Writer<'t, W> {
    tree: &'t Tree,
    layout: &'t Layout,
    stop: &'t dyn Fn() -> bool,
    out: W,
    /// Bytes written.
    at: u64,
}

impl<W: Write> Writer<'_, W> {
    fn superblock(&mut self, key: Digest, inodes: u64) -> io::Result<()> {
        let root = self.layout.numbers.of(Id::ROOT);
        let superblock = superblock::Superblock {
            key,
            // The first inode behind block 0.
            root: u16::try_from(root).map_err(io::Error::other)?,
            inodes,
            blocks: self.layout.blocks,
            maps: self.layout.maps,
        };
        self.put(&superblock.block())
    }

    fn inodes(&mut self) -> Result<(), WriteError> {
        let mut blocks = self.layout.folder_blocks;
        let mut head = Vec::new();
        for (id, number) in self.layout.order.iter().copied().zip(1_u32..) {
            self.ask(number)?;
            let shape = Shape::of(self.tree, id);
            self.fill(offset(self.layout.numbers.of(id)))?;
            head.clear();
            inode::write(
                self.tree,
                self.layout,
                id,
                &shape,
                number,
                blocks,
                &mut head,
            );
            self.put(&head)?;
            if shape.inline > 0 {
                self.inline(id)?;
            }
            self.map(id)?;
            // The layout has counted them all.
            blocks = blocks.saturating_add(u32::try_from(shape.blocks).unwrap_or(u32::MAX));
        }
        self.fill(u64::from(self.layout.folder_blocks) * BLOCK)?;
        Ok(())
    }

    /// What is behind an inode: the rest of its last block.
    fn inline(&mut self, id: Id) -> io::Result<()> {
        match &self.tree.inode(id).content {
            Content::Symlink(target) => self.put(target),
            Content::Folder(_) => directory::blocks(self.tree, &self.layout.numbers, id, |block| {
                if block.len() < BLOCK_BYTES {
                    self.put(block)?;
                }
                Ok(())
            }),
            _ => Ok(()),
        }
    }

    fn map(&mut self, id: Id) -> io::Result<()> {
        if let Content::File {
            size,
            layer,
            data: Data::Mapped(extents),
        } = &self.tree.inode(id).content
        {
            for address in inode::map(self.layout, *layer, *size, extents) {
                self.put(&address)?;
            }
        }
        Ok(())
    }

    fn folder_blocks(&mut self) -> Result<(), WriteError> {
        for (id, number) in self.layout.order.iter().copied().zip(1_u32..) {
            self.ask(number)?;
            let content = &self.tree.inode(id).content;
            if !matches!(content, Content::Folder(_) | Content::Symlink(_)) {
                continue;
            }
            let shape = Shape::of(self.tree, id);
            if shape.blocks == 0 {
                continue;
            }
            match content {
                Content::Symlink(target) => self.put(target)?,
                _ => directory::blocks(self.tree, &self.layout.numbers, id, |block| {
                    if shape.inline == 0 || block.len() == BLOCK_BYTES {
                        self.put(block)?;
                    }
                    Ok(())
                })?,
            }
            self.fill(self.at.next_multiple_of(BLOCK))?;
        }
        Ok(())
    }

    fn ask(&self, number: u32) -> Result<(), RootError> {
        if number.is_multiple_of(STOP_EVERY) && (self.stop)() {
            return Err(RootError::Stopped);
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Writes zeros up to an offset.
    fn fill(&mut self, to: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        while let Some(missing) = to.checked_sub(self.at).filter(|missing| *missing > 0) {
            let part = usize::try_from(missing)
                .unwrap_or(BLOCK_BYTES)
                .min(BLOCK_BYTES);
            self.put(ZEROS.get(..part).unwrap_or_default())?;
        }
        Ok(())
    }
}
