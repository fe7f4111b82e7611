// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the entries of a layer do to the tree below it (OCI image-spec, layer.md, "Applying Changesets").
//!
//! - Entries apply in the archive's order, and a later one of the same path wins: a file takes the place of a folder
//!   with all that is in it, and the reverse. Only a folder over a folder leaves what is in it, and changes its attributes.
//! - Whiteouts and opaque markers remove what *lower* layers have, wherever in their layer's archive they stand.
//! - A folder on the way to an entry may be a symlink: many images have `/lib` lead to `/usr/lib`, and layers with
//!   `lib/x` in them. It is followed inside the tree, whose root nothing leads out of. The entry's own name never is.
//! - A folder on the way that is not there is made.
//! - A hard link shares its target's inode, attributes included: what the link's own entry says of them is left out.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    RootError, Tree,
    erofs::xattr,
    error::text,
    tree::{Attributes, Content, Data, Folder, Id, LayerData, Name},
};
use crate::layer::{BLOCK, Entry, Extent, Kind};

/// The longest path that there is a use for (`PATH_MAX`).
const PATH_BYTES: usize = 4096;
/// The longest name (`NAME_MAX`, and EROFS').
const NAME_BYTES: usize = 255;
/// The longest target of a symlink: Linux reads one page of it, less the zero at its end.
const TARGET_BYTES: usize = 4095;
/// Symlinks on the way to an entry, as Linux has it (`MAXSYMLINKS`).
pub(super) const HOPS: u32 = 40;
/// After so many entries the caller is asked whether to stop.
const STOP_EVERY: u64 = 1024;
/// Also after so many parts of ways, of which one entry may have as many.
const STOP_EVERY_STEPS: u64 = 64 * STOP_EVERY;
/// Copying so many bytes of a symlink takes as long as one part.
const BYTES_PER_STEP: u64 = 64;
/// Linux' device numbers: 12 bits and 20.
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

/// Which entry of which layer is being applied: for errors.
#[derive(Clone, Copy)]
struct At<'e> {
    layer: u16,
    path: &'e [u8],
}

/// Where to go on the way to a path's folder when there is nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    GiveUp,
}

impl Tree {
    /// Applies a layer on top of those so far: `entries` in the archive's order, whose extents lie in the `blocks`
    /// blocks of its data (the file `data`, which only reading contents needs). `stop` is asked now and then.
    ///
    /// # Errors
    /// What is wrong with the entries, or over a ceiling. The tree is of no use, then.
    pub fn add_layer(
        &mut self,
        entries: impl IntoIterator<Item = Result<Entry, RootError>>,
        blocks: u64,
        data: Option<PathBuf>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), RootError> {
        // The ceiling of layers is far below 2^16; whoever raised it past that is told so by this one.
        let layer = u16::try_from(self.layers.len() + 1).map_err(|_| RootError::Layers {
            layers: self.layers.len() + 1,
            limit: usize::from(u16::MAX),
        })?;
        self.layers.push(LayerData { blocks, path: data });
        let mut asked = None;
        for (entry, number) in entries.into_iter().zip(0_u64..) {
            let now = (number / STOP_EVERY, self.steps() / STOP_EVERY_STEPS);
            if asked.replace(now) != Some(now) && stop() {
                return Err(RootError::Stopped);
            }
            self.count()?;
            self.apply(layer, entry?)?;
        }
        Ok(())
    }

    fn apply(&mut self, layer: u16, entry: Entry) -> Result<(), RootError> {
        let path = entry.path;
        let at = At { layer, path: &path };
        at.check()?;
        let attributes = (
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime,
            entry.mtime_nanos,
        );
        match entry.kind {
            Kind::Whiteout => self.white_out(at),
            Kind::Opaque => self.make_opaque(at),
            Kind::Hardlink(target) => self.hard_link(at, &target),
            Kind::Folder => {
                let attributes = at.attributes(attributes, entry.xattrs)?;
                self.put_folder(at, attributes)
            }
            kind => {
                let attributes = at.attributes(attributes, entry.xattrs)?;
                let content = self.content(at, kind)?;
                let (folder, name) = self.place(at)?;
                let id = self.add(attributes, content)?;
                self.link(folder, name, id, layer)
            }
        }
    }

    fn put_folder(&mut self, at: At<'_>, attributes: Attributes) -> Result<(), RootError> {
        if at.path.is_empty() {
            return self.set_attributes(Id::ROOT, attributes);
        }
        let (parent, name) = self.place(at)?;
        if let Some(there) = self.child(parent, name)
            && self.folder(there.id).is_some()
        {
            self.set_attributes(there.id, attributes)?;
            self.claim(parent, name, at.layer);
            return Ok(());
        }
        self.make_folder(at, parent, name, attributes)?;
        Ok(())
    }

    fn hard_link(&mut self, at: At<'_>, target: &[u8]) -> Result<(), RootError> {
        let missing = || RootError::LinkMissing {
            layer: at.layer,
            path: text(at.path),
            target: text(target),
        };
        let end = At { path: target, ..at };
        end.check()?;
        let (target_folder, target_name) = self.find_place(end)?.ok_or_else(missing)?;
        let id = self
            .child(target_folder, target_name)
            .ok_or_else(missing)?
            .id;
        if self.folder(id).is_some() {
            return Err(RootError::LinkFolder {
                layer: at.layer,
                path: text(at.path),
                target: text(target),
            });
        }
        let (folder, name) = self.place(at)?;
        self.link(folder, name, id, at.layer)
    }

    fn white_out(&mut self, at: At<'_>) -> Result<(), RootError> {
        let Some((parent, name)) = self.find_place(at)? else {
            return Ok(());
        };
        let Some(there) = self.child(parent, name) else {
            return Ok(());
        };
        if self.folder(there.id).is_none() {
            if there.layer < at.layer {
                self.unlink(parent, name);
            }
            return Ok(());
        }
        self.prune(there.id, at.layer);
        if there.layer == at.layer {
            return Ok(());
        }
        if self
            .folder(there.id)
            .is_some_and(|folder| folder.children.is_empty())
        {
            self.unlink(parent, name);
            return Ok(());
        }
        // This layer has things below it, so that it is there again: as a folder that no layer has an entry for.
        self.set_attributes(there.id, Attributes::implicit())?;
        self.claim(parent, name, at.layer);
        Ok(())
    }

    fn make_opaque(&mut self, at: At<'_>) -> Result<(), RootError> {
        if let Some(folder) = self.walk(at, at.path, Missing::GiveUp)? {
            self.prune(folder, at.layer);
        }
        Ok(())
    }

    /// Removes what layers below `layer` have in a folder, at any depth. Folders that only lead to what is left
    /// become folders without an entry.
    fn prune(&mut self, folder: Id, layer: u16) {
        let mut folders = Vec::new();
        let mut found = vec![folder];
        while let Some(id) = found.pop() {
            // What a layer has pruned holds only its own from then on: once a layer is enough, however many ask for it.
            let Some(folder) = self.folder_mut(id).filter(|folder| folder.pruned != layer) else {
                continue;
            };
            folder.pruned = layer;
            found.extend(folder.children.values().map(|child| child.id));
            folders.push(id);
        }
        // Children stand behind their parents: from the end, each folder is met when what is below it is done.
        for id in folders.into_iter().rev() {
            let Some(folder) = self.folder_mut(id) else {
                continue;
            };
            let children = std::mem::take(&mut folder.children);
            let mut left = BTreeMap::new();
            for (name, mut child) in children {
                if child.layer < layer {
                    let leads_on = self
                        .folder(child.id)
                        .is_some_and(|folder| !folder.children.is_empty());
                    if !leads_on {
                        self.forget(&name);
                        self.release(child.id);
                        continue;
                    }
                    child.layer = layer;
                    // Fewer attributes than before take no more memory than there was.
                    let _ = self.set_attributes(child.id, Attributes::implicit());
                }
                left.insert(name, child);
            }
            if let Some(folder) = self.folder_mut(id) {
                folder.children = left;
            }
        }
    }

    /// What an entry holds, checked. The kinds that hold nothing of their own are the caller's.
    fn content(&self, at: At<'_>, kind: Kind) -> Result<Content, RootError> {
        match kind {
            Kind::File { size, extents } => self.file(at, size, extents),
            Kind::Symlink(target) => {
                if target.is_empty() || target.len() > TARGET_BYTES {
                    return Err(RootError::Target {
                        layer: at.layer,
                        path: text(at.path),
                        bytes: target.len(),
                        limit: TARGET_BYTES,
                    });
                }
                if target.contains(&0) {
                    return Err(at.damaged("a target with a zero byte"));
                }
                Ok(Content::Symlink(target.into()))
            }
            Kind::CharDevice(major, minor) => at
                .device(major, minor)
                .map(|()| Content::CharDevice(major, minor)),
            Kind::BlockDevice(major, minor) => at
                .device(major, minor)
                .map(|()| Content::BlockDevice(major, minor)),
            Kind::Fifo => Ok(Content::Fifo),
            Kind::Folder | Kind::Hardlink(_) | Kind::Whiteout | Kind::Opaque => {
                Err(at.damaged("an entry that holds nothing where one that does is due"))
            }
        }
    }

    fn file(&self, at: At<'_>, size: u64, extents: Vec<Extent>) -> Result<Content, RootError> {
        if i64::try_from(size).is_err() {
            return Err(at.damaged("a file larger than any can be"));
        }
        let blocks = size.div_ceil(BLOCK);
        let available = self.layers.last().map_or(0, |layer| layer.blocks);
        let extents = joined(extents);
        let mut end = 0;
        for extent in &extents {
            let ends = |from: u64| from.checked_add(extent.blocks);
            let inside = ends(extent.file_block).is_some_and(|end| end <= blocks)
                && ends(extent.data_block).is_some_and(|end| end <= available);
            if extent.blocks == 0 || extent.file_block < end || !inside {
                return Err(at.damaged("an extent outside of its file or of the layer's data"));
            }
            end = extent.file_block + extent.blocks;
        }
        let data = match &*extents {
            _ if size == 0 => Data::Empty,
            [one] if one.blocks == blocks => Data::Plain(one.data_block),
            _ => Data::Mapped(extents.into_boxed_slice()),
        };
        Ok(Content::File {
            size,
            layer: at.layer - 1,
            data,
        })
    }

    /// The folder that an entry belongs into, which is made if need be, and the entry's name in it.
    fn place<'e>(&mut self, at: At<'e>) -> Result<(Id, &'e [u8]), RootError> {
        let (folder, name) = split(at)?;
        match self.walk(at, folder, Missing::Make)? {
            Some(folder) => Ok((folder, name)),
            None => Err(at.not_folder()),
        }
    }

    /// The same, if it is there.
    fn find_place<'e>(&mut self, at: At<'e>) -> Result<Option<(Id, &'e [u8])>, RootError> {
        let (folder, name) = split(at)?;
        Ok(self
            .walk(at, folder, Missing::GiveUp)?
            .map(|folder| (folder, name)))
    }

    /// Goes to the folder `path`, through symlinks, without ever leaving the root.
    fn walk(&mut self, at: At<'_>, path: &[u8], missing: Missing) -> Result<Option<Id>, RootError> {
        let mut here = Id::ROOT;
        let mut rest = path.to_vec();
        let mut done = 0;
        let mut hops = 0;
        while let Some(left) = rest.get(done..).filter(|left| !left.is_empty()) {
            let part = left.split(|byte| *byte == b'/').next().unwrap_or(left);
            done += part.len() + 1;
            self.step(1)?;
            if part.is_empty() || part == b"." {
                continue;
            }
            if part == b".." {
                here = self.folder(here).map_or(Id::ROOT, |folder| folder.parent);
                continue;
            }
            let Some(Name { id, .. }) = self.child(here, part) else {
                if missing == Missing::GiveUp {
                    return Ok(None);
                }
                self.count()?;
                here = self.make_folder(at, here, part, Attributes::implicit())?;
                continue;
            };
            match &self.inode(id).content {
                Content::Folder(_) => here = id,
                Content::Symlink(target) => {
                    hops += 1;
                    if hops > HOPS {
                        return Err(RootError::Loop {
                            layer: at.layer,
                            path: text(at.path),
                            limit: HOPS,
                        });
                    }
                    if target.starts_with(b"/") {
                        here = Id::ROOT;
                    }
                    rest = [
                        target,
                        b"/".as_slice(),
                        rest.get(done..).unwrap_or_default(),
                    ]
                    .concat();
                    done = 0;
                    self.step(rest.len() as u64 / BYTES_PER_STEP)?;
                }
                _ if missing == Missing::GiveUp => return Ok(None),
                _ => return Err(at.not_folder()),
            }
        }
        Ok(Some(here))
    }

    fn make_folder(
        &mut self,
        at: At<'_>,
        parent: Id,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<Id, RootError> {
        // Symlinks lead to names that no entry was checked for.
        at.check_name(name)?;
        let folder = Folder {
            children: BTreeMap::new(),
            parent,
            pruned: at.layer,
        };
        let id = self.add(attributes, Content::Folder(folder))?;
        self.link(parent, name, id, at.layer)?;
        Ok(id)
    }

    /// Notes that `layer` has this name too.
    fn claim(&mut self, folder: Id, name: &[u8], layer: u16) {
        if let Some(name) = self
            .folder_mut(folder)
            .and_then(|folder| folder.children.get_mut(name))
        {
            name.layer = layer;
        }
    }
}

impl At<'_> {
    fn damaged(self, what: &'static str) -> RootError {
        RootError::Damaged {
            layer: self.layer,
            path: text(self.path),
            what,
        }
    }

    fn not_folder(self) -> RootError {
        RootError::NotFolder {
            layer: self.layer,
            path: text(self.path),
        }
    }

    /// Whether the path is what an index may have.
    fn check(self) -> Result<(), RootError> {
        if self.path.len() > PATH_BYTES {
            return Err(RootError::PathLong {
                layer: self.layer,
                path: text(self.path),
                bytes: self.path.len(),
                limit: PATH_BYTES,
            });
        }
        if self.path.contains(&0) {
            return Err(self.damaged("a path with a zero byte"));
        }
        if self.path.is_empty() {
            return Ok(());
        }
        for part in self.path.split(|byte| *byte == b'/') {
            if matches!(part, b"" | b"." | b"..") {
                return Err(self.damaged("a path with an empty part, `.` or `..`"));
            }
            self.check_name(part)?;
        }
        Ok(())
    }

    fn check_name(self, name: &[u8]) -> Result<(), RootError> {
        if name.len() <= NAME_BYTES {
            return Ok(());
        }
        Err(RootError::NameLong {
            layer: self.layer,
            path: text(self.path),
            bytes: name.len(),
            limit: NAME_BYTES,
        })
    }

    fn device(self, major: u32, minor: u32) -> Result<(), RootError> {
        if major <= MAJOR_MAX && minor <= MINOR_MAX {
            return Ok(());
        }
        Err(RootError::Device {
            layer: self.layer,
            path: text(self.path),
            major,
            minor,
        })
    }

    fn attributes(
        self,
        (mode, uid, gid, mtime, mtime_nanos): (u16, u32, u32, i64, u32),
        mut xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Attributes, RootError> {
        if mode > 0o7777 || mtime_nanos >= 1_000_000_000 {
            return Err(self.damaged("a mode or a time out of range"));
        }
        if !xattrs.is_sorted_by(|(one, _), (next, _)| one < next) {
            return Err(self.damaged("extended attributes out of order"));
        }
        xattrs.retain(|(name, _)| xattr::is_kept(name));
        xattr::check(&xattrs).map_err(|(bytes, limit)| RootError::Xattrs {
            layer: self.layer,
            path: text(self.path),
            bytes,
            limit,
        })?;
        Ok(Attributes {
            mode,
            uid,
            gid,
            mtime,
            mtime_nanos,
            xattrs: xattrs.into_boxed_slice(),
        })
    }
}

/// A path's folder and its last name. Only the root has none, and nothing but a folder may be there.
fn split<'e>(at: At<'e>) -> Result<(&'e [u8], &'e [u8]), RootError> {
    let mut parts = at.path.rsplitn(2, |byte| *byte == b'/');
    match (parts.next(), parts.next()) {
        (None | Some(b""), _) => Err(RootError::RootReplaced { layer: at.layer }),
        (Some(name), folder) => Ok((folder.unwrap_or_default(), name)),
    }
}

/// Extents that follow each other in the file and in the data are one.
fn joined(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        let next = |from: u64, blocks: u64, to: u64| from.checked_add(blocks) == Some(to);
        match joined.last_mut() {
            Some(last)
                if next(last.file_block, last.blocks, extent.file_block)
                    && next(last.data_block, last.blocks, extent.data_block) =>
            {
                last.blocks = last.blocks.saturating_add(extent.blocks);
            }
            _ => joined.push(extent),
        }
    }
    joined
}
