// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What others read out of a root: all that is in it, by the crate erofs-rs, and the disk's bytes by its descriptor.
//!
//! Test programs that have roots of their own share this with the one that is about the format.

// Each test program has the whole of it and uses its part.
#![allow(dead_code, reason = "every test program compiles all of it")]

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use erofs_rs::{EroFS, backend::SliceImage, types::Inode};

/// What something in a root is, whoever says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    /// `st_nlink`.
    pub(crate) links: u32,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first of all names of this inode.
    pub(crate) first_name: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Folder,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Device(bool, u32, u32),
    Fifo,
}

pub(crate) type Snapshot = BTreeMap<Vec<u8>, Seen>;

/// What the crate erofs-rs reads.
pub(crate) fn by_erofs_rs(image: &[u8]) -> Snapshot {
    let fs = EroFS::new(SliceImage::new(image)).unwrap();
    let root = fs.get_inode(fs.super_block().root_inode_id()).unwrap();
    let mut inodes = vec![(Vec::new(), root)];
    for entry in fs.walk_dir("/").unwrap() {
        let entry = entry.unwrap();
        let path = entry
            .dir_entry
            .path()
            .as_bytes()
            .strip_prefix(b"/")
            .unwrap()
            .to_vec();
        inodes.push((path, entry.inode));
    }
    let mut first_names: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, inode) in &inodes {
        let first = first_names
            .entry(inode.id())
            .or_insert_with(|| path.clone());
        if path < first {
            first.clone_from(path);
        }
    }
    let seen = |inode: Inode| {
        let kind = inode.file_type();
        let what = if kind.is_dir() {
            What::Folder
        } else if kind.is_symlink() {
            What::Symlink(fs.read_link_inode(inode).unwrap().into_vec())
        } else if kind.is_fifo() {
            What::Fifo
        } else if let Some((major, minor)) = inode.device() {
            What::Device(kind.is_block_device(), major, minor)
        } else {
            let mut content = Vec::new();
            fs.open_inode_file(inode)
                .unwrap()
                .read_to_end(&mut content)
                .unwrap();
            What::File(content)
        };
        use std::os::unix::fs::PermissionsExt as _;
        Seen {
            what,
            mode: inode.permissions().mode() as u16,
            owner: (inode.uid(), inode.gid()),
            mtime: inode.modified_unix(),
            links: inode.nlink(),
            xattrs: fs.xattrs_inode(inode).unwrap(),
            first_name: first_names[&inode.id()].clone(),
        }
    };
    inodes
        .into_iter()
        .map(|(path, inode)| (path, seen(inode)))
        .collect()
}

/// The bytes of a disk, which is all that the pieces hold that its descriptor names.
pub(crate) fn disk(descriptor: &Path) -> Vec<u8> {
    const SECTOR: usize = 512;
    let text = fs::read_to_string(descriptor).unwrap();
    let mut all = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("RW ")) {
        let (count, rest) = line.split_once(" FLAT \"").unwrap();
        let (name, from) = rest.split_once("\" ").unwrap();
        let bytes = |sectors: &str| sectors.parse::<usize>().unwrap() * SECTOR;
        let piece = fs::read(descriptor.parent().unwrap().join(name)).unwrap();
        all.extend(&piece[bytes(from)..bytes(from) + bytes(count)]);
    }
    all
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
