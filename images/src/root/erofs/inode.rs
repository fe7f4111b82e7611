// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Extended inodes (`erofs_inode_extended` in Linux' `erofs_fs.h`) and the maps of sparse files.

use super::{
    directory,
    layout::{Layout, MAP_ENTRY_BYTES, Shape, chunk_bits},
    xattr,
};
use crate::{
    layer::{BLOCK, Extent},
    root::tree::{Content, Data, Id, Tree},
};

/// `i_format`: the extended form.
const EXTENDED: u16 = 1;
/// A chunk of a map that is a hole.
const HOLE: u32 = u32::MAX;

/// Appends an inode with its attributes, but not its content. `number` counts inodes; `blocks` is where its
/// blocks in the metadata begin, if it has any.
pub(super) fn write(
    tree: &Tree,
    layout: &Layout,
    id: Id,
    shape: &Shape,
    number: u32,
    blocks: u32,
    out: &mut Vec<u8>,
) {
    let inode = tree.inode(id);
    let attributes = &inode.attributes;
    let place = match &inode.content {
        Content::Folder(_) | Content::Symlink(_) => blocks,
        Content::File { size, layer, data } => match data {
            Data::Empty => 0,
            Data::Plain(block) => data_address(layout, *layer, *block),
            Data::Mapped(extents) => chunk_bits(*size, extents),
        },
        Content::CharDevice(major, minor) | Content::BlockDevice(major, minor) => {
            device(*major, *minor)
        }
        Content::Fifo | Content::Free => 0,
    };
    let names = match &inode.content {
        // Its own name, its `.`, and the `..` of each folder in it.
        Content::Folder(_) => directory::folders(tree, id).saturating_add(2),
        _ => inode.names,
    };
    out.extend((EXTENDED | (shape.format as u16) << 1).to_le_bytes());
    out.extend(xattr::count(&attributes.xattrs).to_le_bytes());
    out.extend(inode.mode().to_le_bytes());
    out.extend([0; 2]);
    out.extend(shape.size.to_le_bytes());
    out.extend(place.to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend(attributes.uid.to_le_bytes());
    out.extend(attributes.gid.to_le_bytes());
    out.extend(attributes.mtime.to_le_bytes());
    out.extend(attributes.mtime_nanos.to_le_bytes());
    out.extend(names.to_le_bytes());
    out.extend([0; 16]);
    xattr::write(&attributes.xattrs, out);
}

/// A file's map: the address of each chunk.
pub(super) fn map<'t>(
    layout: &'t Layout,
    layer: u16,
    size: u64,
    extents: &'t [Extent],
) -> impl Iterator<Item = [u8; MAP_ENTRY_BYTES]> + 't {
    let bits = chunk_bits(size, extents);
    let mut extents = extents.iter().peekable();
    let chunks = (0..size.div_ceil(BLOCK)).step_by(1 << bits);
    chunks.map(move |block| {
        while extents
            .next_if(|extent| extent.file_block + extent.blocks <= block)
            .is_some()
        {}
        let address = match extents.peek() {
            Some(extent) if extent.file_block <= block => data_address(
                layout,
                layer,
                extent.data_block + (block - extent.file_block),
            ),
            _ => HOLE,
        };
        address.to_le_bytes()
    })
}

/// A block's address on the disk. The layout has made sure that all of them fit.
fn data_address(layout: &Layout, layer: u16, block: u64) -> u32 {
    let base = layout
        .layers
        .get(usize::from(layer))
        .copied()
        .unwrap_or(HOLE);
    u32::try_from(u64::from(base) + block).unwrap_or(HOLE)
}

/// Linux' `new_encode_dev`: the minor number's upper bits above the major one.
fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}
