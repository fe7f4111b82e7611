// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Looking at a merged tree: what is at a path, and what is in it.

use std::{fs::File, path::Path};

use super::{
    RootError, Tree,
    merge::HOPS,
    tree::{Content, Data, Id},
};
use crate::layer::{BLOCK, Extent, read_content};

/// Something in a tree.
#[derive(Clone, Copy)]
pub struct Found<'t> {
    tree: &'t Tree,
    id: Id,
}

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundKind<'t> {
    /// A folder.
    Folder,
    /// A regular file of this size in bytes.
    File(u64),
    /// A symbolic link with this target.
    Symlink(&'t [u8]),
    /// A character device, major and minor.
    CharDevice(u32, u32),
    /// A block device, major and minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

impl Tree {
    /// What is at a path, from the root whether it begins with `/` or not. Symlinks on the way are followed inside the
    /// root; one at the path's end only if `follow`. `None` if nothing is there, or symlinks lead in circles.
    #[must_use]
    pub fn lookup(&self, path: &[u8], follow: bool) -> Option<Found<'_>> {
        let mut here = Id::ROOT;
        let mut rest = path.to_vec();
        let mut done = 0;
        let mut hops = 0;
        while let Some(left) = rest.get(done..).filter(|left| !left.is_empty()) {
            let part = left.split(|byte| *byte == b'/').next().unwrap_or(left);
            let is_last = part.len() == left.len();
            done += part.len() + 1;
            let folder = self.folder(here)?;
            match part {
                b"" | b"." => {}
                b".." => here = folder.parent,
                _ => match &self.inode(folder.children.get(part)?.id).content {
                    Content::Symlink(target) if follow || !is_last => {
                        hops += 1;
                        if hops > HOPS {
                            return None;
                        }
                        if target.starts_with(b"/") {
                            here = Id::ROOT;
                        }
                        // What follows the last part is nothing, so that it is the last one still.
                        let behind = rest.get(done..).unwrap_or_default();
                        let slash: &[u8] = if is_last { b"" } else { b"/" };
                        rest = [target, slash, behind].concat();
                        done = 0;
                    }
                    _ => here = folder.children.get(part)?.id,
                },
            }
        }
        Some(Found {
            tree: self,
            id: here,
        })
    }
}

impl<'t> Found<'t> {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FoundKind<'t> {
        match &self.tree.inode(self.id).content {
            // A tree's folders have no freed inodes in them.
            Content::Folder(_) | Content::Free => FoundKind::Folder,
            Content::File { size, .. } => FoundKind::File(*size),
            Content::Symlink(target) => FoundKind::Symlink(target),
            Content::CharDevice(major, minor) => FoundKind::CharDevice(*major, *minor),
            Content::BlockDevice(major, minor) => FoundKind::BlockDevice(*major, *minor),
            Content::Fifo => FoundKind::Fifo,
        }
    }

    /// Permission bits with set-id and sticky bits.
    #[must_use]
    pub fn mode(&self) -> u16 {
        self.tree.inode(self.id).attributes.mode
    }

    /// Owner and group.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        let attributes = &self.tree.inode(self.id).attributes;
        (attributes.uid, attributes.gid)
    }

    /// When it was changed: seconds since 1970, and nanoseconds.
    #[must_use]
    pub fn mtime(&self) -> (i64, u32) {
        let attributes = &self.tree.inode(self.id).attributes;
        (attributes.mtime, attributes.mtime_nanos)
    }

    /// How many names it has; 1 for a folder.
    #[must_use]
    pub fn names(&self) -> u32 {
        self.tree.inode(self.id).names
    }

    /// Extended attributes, sorted by their whole names.
    pub fn xattrs(&self) -> impl Iterator<Item = (&'t [u8], &'t [u8])> + use<'t> {
        let xattrs = &self.tree.inode(self.id).attributes.xattrs;
        xattrs.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether both are one inode: names of one file.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.tree, other.tree) && self.id == other.id
    }

    /// A folder's names, sorted by their bytes, without `.` and `..`. Nothing if it is no folder.
    pub fn list(&self) -> impl Iterator<Item = (&'t [u8], Found<'t>)> + use<'t> {
        let tree = self.tree;
        let children = tree.folder(self.id).map(|folder| folder.children.iter());
        let children = children.into_iter().flatten();
        children.map(move |(name, child)| (&**name, Found { tree, id: child.id }))
    }

    /// A regular file's content, of up to `limit` bytes.
    ///
    /// # Errors
    /// [`RootError::NotFile`]; [`RootError::Content`] if it is longer or its layer's data is damaged.
    pub fn read(&self, limit: usize) -> Result<Vec<u8>, RootError> {
        let Content::File { size, layer, data } = &self.tree.inode(self.id).content else {
            return Err(RootError::NotFile);
        };
        let plain;
        let extents = match data {
            Data::Empty => return Ok(Vec::new()),
            Data::Plain(block) => {
                plain = [Extent {
                    file_block: 0,
                    data_block: *block,
                    blocks: size.div_ceil(BLOCK),
                }];
                &plain[..]
            }
            Data::Mapped(extents) => extents,
        };
        let path = self
            .tree
            .layers
            .get(usize::from(*layer))
            .and_then(|layer| layer.path.as_deref());
        let path = path.unwrap_or(Path::new(""));
        let file = File::open(path).map_err(|source| RootError::Io {
            action: "read",
            path: path.to_path_buf(),
            source,
        })?;
        Ok(read_content(&file, *size, extents, limit)?)
    }
}

impl std::fmt::Debug for Found<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Found")
            .field("kind", &self.kind())
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}
