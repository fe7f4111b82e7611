// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What layers come to, told as plainly as it can be: all paths in one map, each change by looking at all of them.

use std::collections::BTreeMap;

use waggle_images::layer::{BLOCK, Entry, Kind};

use super::reader::{Seen, Snapshot, What};
use super::support::Layer;

#[derive(Debug, Clone)]
struct Node {
    layer: usize,
    /// Names with the same number are one inode.
    inode: usize,
    seen: Seen,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    nodes: BTreeMap<Vec<u8>, Node>,
    inodes: usize,
}

/// The entry cannot be applied.
#[derive(Debug)]
pub(crate) struct Refused;

impl Model {
    pub(crate) fn new() -> Self {
        let mut model = Self {
            nodes: BTreeMap::new(),
            inodes: 0,
        };
        model.put(b"".to_vec(), 0, implicit());
        model
    }

    /// Applies an entry, or says that it cannot be and changes nothing.
    pub(crate) fn apply(
        &mut self,
        number: usize,
        layer: &Layer,
        entry: &Entry,
    ) -> Result<(), Refused> {
        let mut changed = self.clone();
        changed.try_apply(number, layer, entry)?;
        *self = changed;
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::new();
        for (path, node) in &self.nodes {
            let mut seen = node.seen.clone();
            let others = || {
                self.nodes
                    .iter()
                    .filter(|(_, other)| other.inode == node.inode)
            };
            seen.first_name = others().next().unwrap().0.clone();
            let links = match seen.what {
                What::Folder => {
                    2 + self
                        .children(path)
                        .filter(|child| self.nodes[*child].seen.what == What::Folder)
                        .count()
                }
                _ => others().count(),
            };
            seen.links = u32::try_from(links).unwrap();
            all.insert(path.clone(), seen);
        }
        all
    }

    fn try_apply(&mut self, number: usize, layer: &Layer, entry: &Entry) -> Result<(), Refused> {
        if entry.kind == Kind::Opaque {
            if let Some(folder) = self.enter(b"".to_vec(), &entry.path, None, &mut 0)? {
                self.hide(&folder, number, false);
            }
            return Ok(());
        }
        if entry.path.is_empty() {
            let root = self.nodes.get_mut(&b""[..]).unwrap();
            if entry.kind != Kind::Folder {
                return Err(Refused);
            }
            root.seen = seen(layer, entry);
            return Ok(());
        }
        if entry.kind == Kind::Whiteout {
            if let Some(path) = self.place(&entry.path, None)? {
                self.hide(&path, number, true);
            }
            return Ok(());
        }
        let linked = match &entry.kind {
            Kind::Hardlink(target) => {
                let node = self
                    .place(target, None)?
                    .and_then(|target| self.nodes.get(&target))
                    .ok_or(Refused)?;
                if node.seen.what == What::Folder {
                    return Err(Refused);
                }
                Some(node.clone())
            }
            _ => None,
        };
        let path = self.place(&entry.path, Some(number))?.ok_or(Refused)?;
        let is_folder = |node: &Node| node.seen.what == What::Folder;
        if !(entry.kind == Kind::Folder && self.nodes.get(&path).is_some_and(is_folder)) {
            self.nodes
                .retain(|other, _| *other != path && !is_below(other, &path));
        }
        match linked {
            Some(node) => {
                self.nodes.insert(
                    path,
                    Node {
                        layer: number,
                        ..node
                    },
                );
            }
            None => self.put(path, number, seen(layer, entry)),
        }
        Ok(())
    }

    fn put(&mut self, path: Vec<u8>, layer: usize, seen: Seen) {
        self.inodes += 1;
        let inode = self.inodes;
        self.nodes.insert(path, Node { layer, inode, seen });
    }

    /// Where an entry's path really is.
    fn place(&mut self, path: &[u8], make: Option<usize>) -> Result<Option<Vec<u8>>, Refused> {
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (folder, name) = cut.map_or((&b""[..], path), |cut| (&path[..cut], &path[cut + 1..]));
        Ok(self
            .enter(b"".to_vec(), folder, make, &mut 0)?
            .map(|folder| join(&folder, name)))
    }

    fn enter(
        &mut self,
        from: Vec<u8>,
        path: &[u8],
        make: Option<usize>,
        hops: &mut usize,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let mut here = from;
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => {
                    here.truncate(here.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = join(&here, part);
            match (
                self.nodes.get(&next).map(|node| node.seen.what.clone()),
                make,
            ) {
                (Some(What::Folder), _) => here = next,
                (Some(What::Symlink(target)), _) => {
                    *hops += 1;
                    if *hops > 40 {
                        return Err(Refused);
                    }
                    let from = if target.starts_with(b"/") {
                        Vec::new()
                    } else {
                        here
                    };
                    let Some(there) = self.enter(from, &target, make, hops)? else {
                        return Ok(None);
                    };
                    here = there;
                }
                (Some(_), Some(_)) => return Err(Refused),
                (None, Some(layer)) => {
                    self.put(next.clone(), layer, implicit());
                    here = next;
                }
                (_, None) => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// Removes what lower layers have below a path, and at it if `itself`.
    fn hide(&mut self, path: &[u8], layer: usize, itself: bool) {
        let concerned = |other: &[u8]| is_below(other, path) || itself && other == path;
        let own: Vec<_> = self
            .nodes
            .iter()
            .filter(|(other, node)| concerned(other) && node.layer == layer)
            .map(|(path, _)| path.clone())
            .collect();
        self.nodes
            .retain(|other, node| !concerned(other) || node.layer == layer);
        for mut path in own {
            while let Some(cut) = path.iter().rposition(|byte| *byte == b'/') {
                path.truncate(cut);
                if !self.nodes.contains_key(&path) {
                    self.put(path.clone(), layer, implicit());
                }
            }
        }
    }

    fn children<'m>(&'m self, folder: &'m [u8]) -> impl Iterator<Item = &'m Vec<u8>> {
        let is_child = |path: &[u8]| {
            is_below(path, folder) && !path[folder.len() + 1.min(folder.len())..].contains(&b'/')
        };
        self.nodes.keys().filter(move |path| is_child(path))
    }
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    path != folder
        && (folder.is_empty()
            || path
                .strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with(b"/")))
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
    [folder, slash, name].concat()
}

fn implicit() -> Seen {
    Seen {
        what: What::Folder,
        mode: 0o755,
        owner: (0, 0),
        mtime: (0, 0),
        links: 0,
        xattrs: BTreeMap::new(),
        first_name: Vec::new(),
    }
}

fn seen(layer: &Layer, entry: &Entry) -> Seen {
    let what = match &entry.kind {
        Kind::File { size, extents } => {
            let mut content = vec![0; usize::try_from(size.next_multiple_of(BLOCK)).unwrap()];
            for extent in extents {
                let at = |block: u64| usize::try_from(block * BLOCK).unwrap();
                let data = &layer.data[at(extent.data_block)..][..at(extent.blocks)];
                content[at(extent.file_block)..][..data.len()].copy_from_slice(data);
            }
            content.truncate(usize::try_from(*size).unwrap());
            What::File(content)
        }
        Kind::Symlink(target) => What::Symlink(target.clone()),
        Kind::CharDevice(major, minor) => What::Device(false, *major, *minor),
        Kind::BlockDevice(major, minor) => What::Device(true, *major, *minor),
        Kind::Fifo => What::Fifo,
        Kind::Folder | Kind::Hardlink(_) | Kind::Whiteout | Kind::Opaque => What::Folder,
    };
    Seen {
        what,
        mode: entry.mode,
        owner: (entry.uid, entry.gid),
        mtime: (entry.mtime, entry.mtime_nanos),
        xattrs: entry.xattrs.iter().cloned().collect(),
        ..implicit()
    }
}
