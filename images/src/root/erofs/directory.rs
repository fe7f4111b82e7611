// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Folders as EROFS has them: blocks that stand for themselves, each a table of `erofs_dirent` and then the names.
//!
//! Names are sorted by their bytes through all blocks, so that Linux finds one by halving. A block is filled with
//! zeros behind its last name, but for a folder's last block, which ends there.

use std::io;

use super::{BLOCK_BYTES, layout::Numbers};
use crate::root::tree::{Content, Id, Inode, Tree};

/// `erofs_dirent`: number, where the name begins, the type, and a spare byte.
const ENTRY_BYTES: usize = 12;

/// A folder's size in bytes.
pub(super) fn size(tree: &Tree, folder: Id) -> u64 {
    let (mut full, mut used) = (0, 0);
    for (name, _) in tree.listing(folder) {
        let bytes = ENTRY_BYTES + name.len();
        if used + bytes > BLOCK_BYTES {
            full += BLOCK_BYTES as u64;
            used = 0;
        }
        used += bytes;
    }
    full + used as u64
}

/// How many folders a folder has in it.
pub(super) fn folders(tree: &Tree, folder: Id) -> u32 {
    let children = tree.folder(folder).map(|folder| folder.children.values());
    let is_folder = |id| tree.folder(id).is_some();
    // Each is an entry or was made for one, so their number fits wherever ids do.
    children.map_or(0, |children| {
        u32::try_from(children.filter(|child| is_folder(child.id)).count()).unwrap_or(u32::MAX)
    })
}

/// Hands out a folder's blocks in order; all but the last are full.
pub(super) fn blocks(
    tree: &Tree,
    numbers: &Numbers,
    folder: Id,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut pending: Vec<(&[u8], Id)> = Vec::new();
    let mut used = 0;
    for (name, id) in tree.listing(folder) {
        let bytes = ENTRY_BYTES + name.len();
        if used + bytes > BLOCK_BYTES {
            encode(tree, numbers, &pending, &mut block);
            block.resize(BLOCK_BYTES, 0);
            each(&block)?;
            pending.clear();
            used = 0;
        }
        used += bytes;
        pending.push((name, id));
    }
    encode(tree, numbers, &pending, &mut block);
    each(&block)
}

fn encode(tree: &Tree, numbers: &Numbers, entries: &[(&[u8], Id)], block: &mut Vec<u8>) {
    block.clear();
    let mut name_at = ENTRY_BYTES * entries.len();
    for (name, id) in entries {
        block.extend(numbers.of(*id).to_le_bytes());
        // Below the block's size.
        block.extend(u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
        block.extend([file_type(tree.inode(*id)), 0]);
        name_at += name.len();
    }
    for (name, _) in entries {
        block.extend(*name);
    }
}

/// `EROFS_FT_*`.
fn file_type(inode: &Inode) -> u8 {
    match inode.content {
        Content::Free => 0,
        Content::File { .. } => 1,
        Content::Folder(_) => 2,
        Content::CharDevice(..) => 3,
        Content::BlockDevice(..) => 4,
        Content::Fifo => 5,
        Content::Symlink(_) => 7,
    }
}
