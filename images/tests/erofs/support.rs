// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Layers made by hand, roots of them on the disk, and what the tree itself says that is in these.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use waggle_images::{
    Digest, Limits,
    layer::{BLOCK, Entry, Extent, Kind},
    root::{self, Built, FoundKind, Tree},
};

use super::reader::{Seen, Snapshot, What, lossy};

/// A layer: entries and data.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    pub(crate) entries: Vec<Entry>,
    pub(crate) data: Vec<u8>,
}

impl Layer {
    pub(crate) fn add(&mut self, path: impl AsRef<[u8]>, kind: Kind) -> &mut Entry {
        // Attributes that differ from entry to entry.
        let number = u32::try_from(self.entries.len()).unwrap();
        self.entries.push(Entry {
            path: path.as_ref().to_vec(),
            mode: 0o644 + (number % 8) as u16 * 0o10,
            uid: number * 7919,
            gid: 100_000 - number % 1000,
            mtime: 1_600_000_000 + i64::from(number),
            mtime_nanos: number % 1000 * 1_000_001 % 1_000_000_000,
            xattrs: Vec::new(),
            kind,
        });
        self.entries.last_mut().unwrap()
    }

    pub(crate) fn file(&mut self, path: impl AsRef<[u8]>, content: &[u8]) -> &mut Entry {
        self.sparse(path, content.len() as u64, &[(0, content)])
    }

    /// A file with these contents from these blocks on, and holes elsewhere.
    pub(crate) fn sparse(
        &mut self,
        path: impl AsRef<[u8]>,
        size: u64,
        pieces: &[(u64, &[u8])],
    ) -> &mut Entry {
        let mut extents = Vec::new();
        for (file_block, content) in pieces.iter().filter(|(_, content)| !content.is_empty()) {
            let data_block = self.data.len() as u64 / BLOCK;
            self.data.extend(*content);
            self.data.resize(self.data.len().next_multiple_of(4096), 0);
            extents.push(Extent {
                file_block: *file_block,
                data_block,
                blocks: self.data.len() as u64 / BLOCK - data_block,
            });
        }
        self.add(path, Kind::File { size, extents })
    }

    pub(crate) fn symlink(
        &mut self,
        path: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
    ) -> &mut Entry {
        self.add(path, Kind::Symlink(target.as_ref().to_vec()))
    }

    pub(crate) fn link(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &mut Entry {
        self.add(path, Kind::Hardlink(target.as_ref().to_vec()))
    }
}

/// A root on the disk.
pub(crate) struct Root {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) tree: Tree,
    pub(crate) built: Built,
    /// The whole disk, its pieces one after the other.
    pub(crate) image: Vec<u8>,
}

impl Root {
    pub(crate) fn of(layers: &[Layer]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut tree, mut names, mut ids) =
            (Tree::new(&Limits::default()), Vec::new(), Vec::new());
        for (number, layer) in layers.iter().enumerate() {
            let name = format!("{number}.data");
            let path = dir.path().join(&name);
            fs::write(&path, &layer.data).unwrap();
            let blocks = layer.data.len() as u64 / BLOCK;
            tree.add_layer(
                layer.entries.iter().cloned().map(Ok),
                blocks,
                Some(path),
                &|| false,
            )
            .unwrap();
            names.push(format!("../{name}"));
            ids.push(Digest::of(name.as_bytes()));
        }
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let built = root::write(&tree, root::key(&ids), &names, &root, &|| false).unwrap();
        let mut image = fs::read(root.join(root::METADATA)).unwrap();
        for layer in layers {
            image.extend(&layer.data);
        }
        assert_eq!(image.len() as u64, built.blocks * BLOCK);
        Self {
            dir,
            tree,
            built,
            image,
        }
    }

    pub(crate) fn descriptor(&self) -> PathBuf {
        self.dir.path().join("root").join(root::DESCRIPTOR)
    }

    pub(crate) fn image_file(&self) -> PathBuf {
        let path = self.dir.path().join("whole.erofs");
        fs::write(&path, &self.image).unwrap();
        path
    }
}

/// What the tree says that a root is made of.
pub(crate) fn by_lookup(tree: &Tree) -> Snapshot {
    let mut all = Snapshot::new();
    let mut names: Vec<(Vec<u8>, root::Found<'_>)> = Vec::new();
    let mut folders = vec![(Vec::new(), tree.lookup(b"", false).unwrap())];
    names.extend(folders.clone());
    while let Some((path, folder)) = folders.pop() {
        for (name, found) in folder.list() {
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let path = [&path, slash, name].concat();
            if found.kind() == FoundKind::Folder {
                folders.push((path.clone(), found));
            }
            names.push((path, found));
        }
    }
    names.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (path, found) in &names {
        let what = match found.kind() {
            FoundKind::Folder => What::Folder,
            FoundKind::File(_) => What::File(found.read(usize::MAX).unwrap()),
            FoundKind::Symlink(target) => What::Symlink(target.to_vec()),
            FoundKind::CharDevice(major, minor) => What::Device(false, major, minor),
            FoundKind::BlockDevice(major, minor) => What::Device(true, major, minor),
            FoundKind::Fifo => What::Fifo,
        };
        let folders = found
            .list()
            .filter(|(_, child)| child.kind() == FoundKind::Folder)
            .count();
        let links = match what {
            What::Folder => 2 + u32::try_from(folders).unwrap(),
            _ => found.names(),
        };
        // Looked for among few, but by its own word for it.
        let same = |(_, other): &&(Vec<u8>, root::Found<'_>)| found.is(other);
        let first_name = match found.names() {
            1 => path.clone(),
            _ => names.iter().find(same).unwrap().0.clone(),
        };
        let seen = Seen {
            what,
            mode: found.mode(),
            owner: found.owner(),
            mtime: found.mtime(),
            links,
            xattrs: found
                .xattrs()
                .map(|(name, value)| (name.to_vec(), value.to_vec()))
                .collect(),
            first_name,
        };
        all.insert(path.clone(), seen);
    }
    all
}

/// Compares without printing whole contents.
#[track_caller]
pub(crate) fn assert_same(one: &Snapshot, other: &Snapshot) {
    let names = |snapshot: &Snapshot| snapshot.keys().map(|name| lossy(name)).collect::<Vec<_>>();
    if one.len() != other.len() {
        assert_eq!(names(one), names(other));
    }
    for ((path, one), (other_path, other)) in one.iter().zip(other) {
        assert_eq!(lossy(path), lossy(other_path));
        assert!(
            one == other,
            "{}: {one:.300?} is not {other:.300?}",
            lossy(path)
        );
    }
}

/// Has `fsck.erofs` check a root, and read all of its content. Says so and does nothing where it is missing.
pub(crate) fn fsck(image: &Path, more: &[&str]) -> bool {
    let Some(output) = run(Command::new("fsck.erofs").args(more).arg(image)) else {
        return false;
    };
    assert!(output.0, "fsck.erofs: {}", output.1);
    true
}

/// Runs a program of others; `None`, and a line that says so, if this machine does not have it.
///
/// # Panics
/// In CI (the variable `CI` is set), if it is not there: what is left out there is seen by nobody.
pub(crate) fn run(command: &mut Command) -> Option<(bool, String)> {
    match command.output() {
        Ok(output) => Some((
            output.status.success(),
            lossy(&[output.stdout, output.stderr].concat()),
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let program = command.get_program().display();
            assert!(
                std::env::var_os("CI").is_none(),
                "nothing is skipped in CI: {program} is not installed"
            );
            println!("skipped: {program} is not installed (./dev deps)");
            None
        }
        Err(error) => panic!("{}: {error}", command.get_program().display()),
    }
}
