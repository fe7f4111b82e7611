// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The merged tree in memory: inodes in an arena, names in sorted maps.
//!
//! It owns the structure and its cost: who is whose parent, how many names an inode has, what all of it takes. What
//! layers mean is [`super::merge`]'s affair.
//!
//! Invariants:
//! - Every inode but the root has as many names as it says; one that loses its last is freed. A folder has one name.
//! - What is held is counted, and never exceeds `memory_bytes` by more than one entry.
//! - Nothing here recurses: paths may be as deep as their makers like.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    path::PathBuf,
};

use super::RootError;
use crate::{Limits, layer::Extent};

/// An extended attribute's whole name, and its value.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// An inode, by its place in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u32);

impl Id {
    pub(super) const ROOT: Self = Self(0);

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What all inodes have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nanos: u32,
    /// Only of namespaces that EROFS knows, within its bounds.
    pub(super) xattrs: Box<[Xattr]>,
}

impl Attributes {
    /// Of a folder that no layer has an entry for: as tools make them, but for the time, which must not vary.
    pub(super) fn implicit() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanos: 0,
            xattrs: Box::default(),
        }
    }
}

/// One file system object.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) attributes: Attributes,
    /// How many names it has.
    pub(super) names: u32,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Folder(Folder),
    File {
        size: u64,
        /// Whose data it is in: an index into [`Tree::layers`].
        layer: u16,
        data: Data,
    },
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    /// No inode any more: its place is free.
    Free,
}

/// Where a regular file's content is.
#[derive(Debug)]
pub(super) enum Data {
    /// Nowhere: the file is empty.
    Empty,
    /// In consecutive blocks from this one of its layer's data, without holes.
    Plain(u64),
    /// In these extents; elsewhere it is zeros.
    Mapped(Box<[Extent]>),
}

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) children: BTreeMap<Box<[u8]>, Name>,
    pub(super) parent: Id,
    /// The last layer whose whiteouts were applied to all that is below: nothing in it is of a lower one, then.
    pub(super) pruned: u16,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) id: Id,
    /// The layer that has it: 1 is the lowest.
    pub(super) layer: u16,
}

/// A layer's data, as far as the tree refers to it.
#[derive(Debug)]
pub(super) struct LayerData {
    pub(super) blocks: u64,
    pub(super) path: Option<PathBuf>,
}

/// Layers merged.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    free: Vec<Id>,
    pub(super) layers: Vec<LayerData>,
    /// Entries met so far, and folders made for want of one.
    entries: u64,
    memory: u64,
    /// How far the ways of all entries were, see [`Self::step`].
    steps: u64,
    limits: Limits,
}

/// What an inode's place takes, with its two numbers in the layout. The arena never gives one back.
pub(super) const INODE_BYTES: u64 = (size_of::<Inode>() + 8) as u64;
/// A name with what it stands for, in a folder's map.
const PAIR_BYTES: usize = size_of::<(Box<[u8]>, Name)>();
/// What a name takes besides its bytes: in its map, which is two thirds full, and as an allocation.
const NAME_BYTES: u64 = (PAIR_BYTES * 3 / 2 + 24) as u64;
/// What a folder takes besides its names: one name makes its map allocate room for eleven.
const FOLDER_BYTES: u64 = (PAIR_BYTES * 11) as u64 + ALLOCATION_BYTES;
/// What an allocation takes besides its bytes.
const ALLOCATION_BYTES: u64 = 16;
/// Folders and symlinks on the way to an entry, on average over as many entries as an image may have. Real images have
/// about ten.
const STEPS_PER_ENTRY: u64 = 64;

impl Tree {
    /// A root folder without anything in it.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let root = Inode {
            attributes: Attributes::implicit(),
            names: 1,
            content: Content::Folder(Folder {
                children: BTreeMap::new(),
                parent: Id::ROOT,
                pruned: 0,
            }),
        };
        Self {
            memory: INODE_BYTES + FOLDER_BYTES,
            inodes: vec![root],
            free: Vec::new(),
            layers: Vec::new(),
            entries: 0,
            steps: 0,
            limits: limits.clone(),
        }
    }

    /// Estimated bytes of memory that the tree takes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Places in the arena, free ones included.
    pub(super) fn places(&self) -> usize {
        self.inodes.len()
    }

    /// Files, folders and all else that the tree has.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        (self.inodes.len() - self.free.len()) as u64
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "ids are made by `add` alone, and the arena never shrinks"
    )]
    pub(super) fn inode(&self, id: Id) -> &Inode {
        &self.inodes[id.index()]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "ids are made by `add` alone, and the arena never shrinks"
    )]
    pub(super) fn inode_mut(&mut self, id: Id) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    pub(super) fn folder(&self, id: Id) -> Option<&Folder> {
        match &self.inode(id).content {
            Content::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    pub(super) fn folder_mut(&mut self, id: Id) -> Option<&mut Folder> {
        match &mut self.inode_mut(id).content {
            Content::Folder(folder) => Some(folder),
            _ => None,
        }
    }

    pub(super) fn child(&self, folder: Id, name: &[u8]) -> Option<Name> {
        self.folder(folder)?.children.get(name).copied()
    }

    /// A folder's names as EROFS lists them: sorted by their bytes, with `.` and `..` in their places.
    pub(super) fn listing(&self, id: Id) -> impl Iterator<Item = (&[u8], Id)> {
        const HERE: &[u8] = b".";
        const ABOVE: &[u8] = b"..";
        let folder = self.folder(id);
        let range = move |from, to| {
            let children = folder.map(|folder| folder.children.range::<[u8], _>((from, to)));
            children
                .into_iter()
                .flatten()
                .map(|(name, child)| (&**name, child.id))
        };
        let parent = folder.map_or(id, |folder| folder.parent);
        range(Unbounded, Excluded(HERE))
            .chain([(HERE, id)])
            .chain(range(Excluded(HERE), Excluded(ABOVE)))
            .chain([(ABOVE, parent)])
            .chain(range(Excluded(ABOVE), Unbounded))
    }

    /// Counts an entry of a layer, or a folder made for want of one.
    pub(super) fn count(&mut self) -> Result<(), RootError> {
        self.entries += 1;
        if self.entries <= self.limits.entries {
            return Ok(());
        }
        Err(RootError::Entries {
            entries: self.entries,
            limit: self.limits.entries,
        })
    }

    /// Counts parts of the way to an entry. Ways lead through symlinks, each of which may be long: without a bound of
    /// their own, two million entries of four kilobytes of symlinks would take hours.
    pub(super) fn step(&mut self, parts: u64) -> Result<(), RootError> {
        self.steps = self.steps.saturating_add(parts);
        let limit = self.limits.entries.saturating_mul(STEPS_PER_ENTRY);
        if self.steps <= limit {
            return Ok(());
        }
        Err(RootError::Steps { limit })
    }

    /// How many parts were counted.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// Puts an inode without names into the arena.
    pub(super) fn add(
        &mut self,
        attributes: Attributes,
        content: Content,
    ) -> Result<Id, RootError> {
        let inode = Inode {
            attributes,
            names: 0,
            content,
        };
        self.charge(cost(&inode))?;
        if let Some(id) = self.free.pop() {
            *self.inode_mut(id) = inode;
            return Ok(id);
        }
        // Far below the ceiling of entries, unless somebody raised that to where ids end.
        let id = u32::try_from(self.inodes.len()).map_err(|_| RootError::Entries {
            entries: self.entries,
            limit: u64::from(u32::MAX),
        })?;
        self.charge(INODE_BYTES)?;
        self.inodes.push(inode);
        Ok(Id(id))
    }

    pub(super) fn set_attributes(
        &mut self,
        id: Id,
        attributes: Attributes,
    ) -> Result<(), RootError> {
        let before = xattr_cost(&self.inode(id).attributes);
        self.charge(xattr_cost(&attributes))?;
        self.memory -= before;
        self.inode_mut(id).attributes = attributes;
        Ok(())
    }

    /// Gives `id` a name, in place of whatever had it.
    pub(super) fn link(
        &mut self,
        folder: Id,
        name: &[u8],
        id: Id,
        layer: u16,
    ) -> Result<(), RootError> {
        // First, so that an inode is not freed between losing its old name and getting the new one.
        self.inode_mut(id).names += 1;
        if let Some(child) = self.folder_mut(id) {
            child.parent = folder;
        }
        self.charge(NAME_BYTES + name.len() as u64)?;
        self.unlink(folder, name);
        if let Some(folder) = self.folder_mut(folder) {
            folder.children.insert(name.into(), Name { id, layer });
        }
        Ok(())
    }

    /// Removes a name and, if it was the last, all that it stands for.
    pub(super) fn unlink(&mut self, folder: Id, name: &[u8]) {
        let removed = self
            .folder_mut(folder)
            .and_then(|folder| folder.children.remove(name));
        let Some(removed) = removed else { return };
        self.memory -= NAME_BYTES + name.len() as u64;
        self.release(removed.id);
    }

    /// Takes one name from an inode that is in no folder under it any more.
    pub(super) fn release(&mut self, id: Id) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            let inode = self.inode_mut(id);
            inode.names = inode.names.saturating_sub(1);
            if inode.names > 0 {
                continue;
            }
            let freed = cost(inode);
            let content = std::mem::replace(&mut inode.content, Content::Free);
            inode.attributes.xattrs = Box::default();
            self.memory -= freed;
            self.free.push(id);
            if let Content::Folder(folder) = content {
                for (name, child) in folder.children {
                    self.forget(&name);
                    gone.push(child.id);
                }
            }
        }
    }

    /// Uncounts a name that a caller took out of its folder.
    pub(super) fn forget(&mut self, name: &[u8]) {
        self.memory -= NAME_BYTES + name.len() as u64;
    }

    fn charge(&mut self, bytes: u64) -> Result<(), RootError> {
        self.memory += bytes;
        if self.memory <= self.limits.memory_bytes {
            return Ok(());
        }
        Err(RootError::Memory {
            bytes: self.memory,
            limit: self.limits.memory_bytes,
        })
    }
}

/// What an inode takes besides its place.
fn cost(inode: &Inode) -> u64 {
    let content = match &inode.content {
        Content::Folder(_) => FOLDER_BYTES,
        Content::Symlink(target) => target.len() as u64 + ALLOCATION_BYTES,
        Content::File {
            data: Data::Mapped(extents),
            ..
        } => size_of_val(&**extents) as u64 + ALLOCATION_BYTES,
        _ => 0,
    };
    xattr_cost(&inode.attributes) + content
}

fn xattr_cost(attributes: &Attributes) -> u64 {
    let each = |(name, value): &Xattr| {
        (name.len() + value.len() + size_of::<Xattr>()) as u64 + 2 * ALLOCATION_BYTES
    };
    attributes.xattrs.iter().map(each).sum()
}
