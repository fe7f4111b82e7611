// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Roots as others read them: the crate erofs-rs, Debian's `fsck.erofs`, and `qemu-img` for the descriptor. The
//! third party, the guest's kernel, has its tests where machines are.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "this whole program is tests, which is where these are allowed"
)]

mod golden;
mod model;
mod reader;
mod support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    process::Command,
};

use erofs_rs::{EroFS, backend::SliceImage};
use model::Model;
use proptest::prelude::*;
use reader::{Seen, Snapshot, What, by_erofs_rs, lossy};
use support::{Layer, Root, assert_same, by_lookup, fsck, run};
use waggle_images::{
    Limits,
    layer::{BLOCK, Budget, Kind, convert},
    root,
};

/// The model of layers none of whose entries is refused.
fn model(layers: &[Layer]) -> Snapshot {
    let mut model = Model::new();
    for (number, layer) in (1..).zip(layers) {
        for entry in &layer.entries {
            model.apply(number, layer, entry).unwrap();
        }
    }
    model.snapshot()
}

/// Has everybody read a root of these layers.
#[track_caller]
fn check(layers: &[Layer]) -> Root {
    let root = Root::of(layers);
    let expected = model(layers);
    assert_same(&by_lookup(&root.tree), &expected);
    assert_same(&by_erofs_rs(&root.image), &expected);
    fsck(&root.image_file(), &["--extract"]);
    root
}

/// All that a layer can have, but for device nodes, which not every root may make.
fn all_kinds() -> Vec<Layer> {
    let mut base = Layer::default();
    base.add("", Kind::Folder).mode = 0o755;
    base.add("etc", Kind::Folder);
    base.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n");
    base.file("etc/empty", b"");
    base.file("etc/block", &[1; 4096]);
    base.file("etc/more", &[2; 4097]).mode = 0o6755;
    base.file("etc/gone", b"gone");
    base.symlink("bin", "usr/bin");
    base.file("bin/sh", b"shell");
    base.link("bin/bash", "usr/bin/sh");
    base.add("tmp", Kind::Folder).mode = 0o1777;
    let past = base.file("etc/past", b"before 1970");
    (past.mtime, past.mtime_nanos) = (-1, 999_999_999);
    let future = base.file("etc/future", b"after 2038 and 2106");
    (future.mtime, future.uid, future.gid) = (1 << 33, u32::MAX - 1, 65_536);

    let mut upper = Layer::default();
    upper.add("etc/gone", Kind::Whiteout);
    upper.link("etc/passwd.old", "etc/passwd");
    upper.file("etc/passwd", b"");
    for length in [1, 3900, 4000, 4031, 4032, 4033, 4095] {
        upper.symlink(format!("tmp/link{length}"), "t".repeat(length));
    }
    upper.add("tmp/fifo", Kind::Fifo);
    upper.add(
        [b"tmp/".as_slice(), &[0xff, 0xfe, b' ', b'"', 1, b'\\']].concat(),
        Kind::Folder,
    );
    upper.file(format!("tmp/{}", "n".repeat(255)), b"long name");
    upper.file("tmp/.-before-dots", b"");
    upper.file("tmp/...", b"");
    upper.file("tmp/!", b"");
    let deep = (0..100).map(|_| "deep").collect::<Vec<_>>().join("/");
    upper.file(&deep, b"deep down");

    let xattr = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    upper.file("tmp/xattrs", b"attributes").xattrs = vec![
        xattr("security.capability", &[1; 20]),
        xattr("system.posix_acl_access", &[2; 28]),
        xattr("trusted.t", b""),
        xattr("user.a", b"1"),
        xattr("user.large", &[3; 10_000]),
    ];
    upper.add("tmp/xattrs.d", Kind::Folder).xattrs =
        vec![xattr("system.posix_acl_default", &[4; 28])];
    // Attributes so long that the target does not fit behind them.
    upper.symlink("tmp/xattrs.l", "target").xattrs = vec![xattr("trusted.x", &[5; 4020])];
    vec![base, upper]
}

fn sparse() -> Layer {
    let mut layer = Layer::default();
    let (a, b, tail) = (vec![0xa; 4096], vec![0xb; 3 * 4096], vec![0xc; 100]);
    layer.sparse("hole", 5 * BLOCK + 7, &[]);
    layer.sparse("front", 3 * BLOCK, &[(2, &a)]);
    layer.sparse("end", 9 * BLOCK + 1, &[(0, &b)]);
    layer.sparse("middle", 16 * BLOCK, &[(0, &a), (8, &b), (15, &a)]);
    layer.sparse("odd", 100 * BLOCK + 100, &[(1, &a), (3, &b), (100, &tail)]);
    // No holes, but in two pieces that are apart in the data.
    layer.sparse("pieces", 4 * BLOCK, &[(1, &b)]);
    let Some(Kind::File { extents, .. }) = layer.entries.last().map(|entry| entry.kind.clone())
    else {
        panic!("no file");
    };
    layer.file("between", b"between");
    layer.sparse("whole", 4 * BLOCK, &[(0, &a)]);
    let Some(Kind::File { extents: first, .. }) =
        layer.entries.last_mut().map(|entry| &mut entry.kind)
    else {
        panic!("no file");
    };
    first.extend(extents);
    layer
}

#[test]
fn everything_that_a_layer_can_have_is_read_back() {
    let mut layers = all_kinds();
    let mut third = sparse();
    third.add("dev/null", Kind::CharDevice(1, 3)).mode = 0o666;
    third.add("dev/large", Kind::BlockDevice(4095, 1_048_575));
    third.add("dev/disk", Kind::BlockDevice(259, 70_000));
    layers.push(third);
    let root = check(&layers);
    assert_eq!(root.built.inodes, root.tree.inodes());
}

#[test]
fn fsck_extracts_what_was_put_in() {
    // It leaves holes out instead of extracting them (erofs-utils 1.5), so there are none here.
    let root = check(&all_kinds());
    let target = root.dir.path().join("extracted");
    let image = root.image_file();
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("left out: only root can give files to others");
        return;
    }
    if !fsck(
        &image,
        &[&format!("--extract={}", target.display()), "--preserve"],
    ) {
        return;
    }
    for (path, seen) in by_erofs_rs(&root.image) {
        use std::os::unix::ffi::OsStrExt;
        let file = target.join(std::ffi::OsStr::from_bytes(&path));
        compare(&file, &seen);
    }
}

fn compare(file: &Path, seen: &Seen) {
    let metadata = fs::symlink_metadata(file).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid()),
        seen.owner,
        "{}",
        file.display()
    );
    match &seen.what {
        What::Folder => assert!(metadata.is_dir()),
        What::File(content) => assert!(*content == fs::read(file).unwrap(), "{}", file.display()),
        What::Symlink(target) => {
            assert_eq!(
                fs::read_link(file).unwrap().as_os_str().as_encoded_bytes(),
                target
            );
            return;
        }
        What::Device(..) => panic!("not extracted here"),
        What::Fifo => assert!(metadata.file_type().is_fifo()),
    }
    // fsck.erofs sets the owner last, at which Linux takes set-id bits away.
    let kept = |mode: u32| mode & 0o1777;
    assert_eq!(
        kept(metadata.mode()),
        kept(seen.mode.into()),
        "{}",
        file.display()
    );
    let mtime = (
        metadata.mtime(),
        u32::try_from(metadata.mtime_nsec()).unwrap(),
    );
    assert_eq!(mtime, seen.mtime, "{}", file.display());
}

#[test]
fn holes_take_no_room_whatever_a_file_claims() {
    const TIB: u64 = 1 << 40;
    let mut layer = Layer::default();
    layer.sparse("nothing", TIB, &[]);
    layer.sparse("halves", 2 << 20, &[(256, &[7; 1 << 20])]);
    let root = Root::of(&[layer]);
    let metadata = root.built.blocks - 256;
    assert_eq!(
        metadata, 2,
        "the superblock, and one block of inodes with their maps"
    );
    let fs = EroFS::new(SliceImage::new(&root.image)).unwrap();
    let nothing = fs.open("/nothing").unwrap();
    assert_eq!(nothing.size(), TIB);
    for at in [0, TIB / 3, TIB - 10] {
        let mut bytes = [1; 10];
        assert_eq!(nothing.read_at(&mut bytes, at).unwrap(), 10);
        assert_eq!(bytes, [0; 10]);
    }
    fsck(&root.image_file(), &["--extract"]);
}

#[test]
fn large_folders_are_found_by_name() {
    let mut layer = Layer::default();
    layer.add("d", Kind::Folder);
    let count = 100_000;
    for number in 0..count {
        // In no order, of many lengths.
        let number = number * 7919_u64 % count;
        layer.add(
            format!("d/{number:06}{}", "x".repeat((number % 200) as usize)),
            Kind::Fifo,
        );
    }
    let root = Root::of(&[layer]);
    let fs = EroFS::new(SliceImage::new(&root.image)).unwrap();
    let folder = fs.walk_dir("/").unwrap().next().unwrap().unwrap().inode;
    assert!(folder.data_size() > 1000 * BLOCK, "many blocks");
    let names: Vec<_> = fs
        .read_dir("/d")
        .unwrap()
        .map(|entry| entry.unwrap().dir_entry.file_name().to_vec())
        .collect();
    assert_eq!(names.len() as u64, count);
    assert!(names.is_sorted());
    assert!(
        fs.xattrs("/d/012345").is_err()
            && fs.xattrs(format!("/d/012345{}", "x".repeat(145))).is_ok()
    );
    fsck(&root.image_file(), &["--extract"]);
}

#[test]
fn sixty_layers_are_one_root() {
    let layers: Vec<Layer> = (0_u8..60)
        .map(|number| {
            let mut layer = Layer::default();
            layer.file("same", &[number; 5000]);
            layer.file(format!("own/{number}"), &[number; 1]);
            if number > 0 && number % 2 == 0 {
                layer.add(format!("own/{}", number - 1), Kind::Whiteout);
            }
            layer
        })
        .collect();
    let root = check(&layers);
    assert_eq!(
        root.tree
            .lookup(b"same", false)
            .unwrap()
            .read(5000)
            .unwrap(),
        [59; 5000]
    );
    assert_eq!(root.tree.lookup(b"own", false).unwrap().list().count(), 31);
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let layers = [all_kinds(), vec![sparse()]].concat();
    let (one, other) = (Root::of(&layers), Root::of(&layers));
    assert!(one.image == other.image);
    assert_eq!(
        fs::read(one.descriptor()).unwrap(),
        fs::read(other.descriptor()).unwrap()
    );
    // And other layers others, if only in the file system's own name.
    let more = [layers, vec![Layer::default()]].concat();
    assert!(Root::of(&more).image != one.image);
}

#[test]
fn qemu_reads_the_pieces_as_one_disk() {
    let layers = [all_kinds(), vec![Layer::default(), sparse()]].concat();
    let root = Root::of(&layers);
    let whole = root.image_file();
    let mut compare = Command::new("qemu-img");
    compare
        .args(["compare", "-f", "vmdk", "-F", "raw"])
        .arg(root.descriptor())
        .arg(whole);
    let Some((same, said)) = run(&mut compare) else {
        return;
    };
    assert!(same, "{said}");
}

#[test]
fn archives_become_a_root() {
    let dir = tempfile::tempdir().unwrap();
    let archive = |files: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, *content).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let archives = [
        archive(&[("a", b"lower a"), ("d/b", b"lower b")]),
        archive(&[("d/.wh.b", b""), ("d/c", &[3; 9000])]),
    ];
    let budget = Budget {
        unpacked_bytes: 1 << 20,
        file_bytes: 1 << 20,
        entries: 100,
    };
    let layers: Vec<_> = (0..)
        .zip(archives)
        .map(|(number, archive)| {
            let (index, data) = (
                dir.path().join(format!("{number}.index")),
                dir.path().join(format!("{number}.data")),
            );
            let (mut index_file, mut data_file) = (
                fs::File::create(&index).unwrap(),
                fs::File::create(&data).unwrap(),
            );
            let converted = convert(
                &archive[..],
                None,
                &mut data_file,
                &mut index_file,
                &budget,
                &|| false,
            )
            .unwrap();
            root::LayerFiles {
                index,
                data,
                diff_id: converted.diff_id,
            }
        })
        .collect();
    let target = dir.path().join("root");
    fs::create_dir(&target).unwrap();
    let name =
        |layer: &root::LayerFiles| format!("../{}", layer.data.file_name().unwrap().display());
    let built = root::build(&layers, &target, &name, &Limits::default(), &|| false).unwrap();
    let mut image = fs::read(target.join(root::METADATA)).unwrap();
    for layer in &layers {
        image.extend(fs::read(&layer.data).unwrap());
    }
    assert_eq!(image.len() as u64, built.blocks * BLOCK);
    let all = by_erofs_rs(&image);
    let names: Vec<_> = all.keys().map(|path| lossy(path)).collect();
    assert_eq!(names, ["", "a", "d", "d/c"]);
    assert!(
        all[&b"a"[..]].what == What::File(b"lower a".to_vec())
            && all[&b"d/c"[..]].what == What::File(vec![3; 9000])
    );

    // Data that is not what its index says moves all that follows it.
    fs::OpenOptions::new()
        .write(true)
        .open(&layers[0].data)
        .unwrap()
        .set_len(BLOCK)
        .unwrap();
    let damaged = root::tree(&layers, &Limits::default(), &|| false);
    assert!(matches!(
        damaged,
        Err(root::RootError::DataSize {
            found: 4096,
            expected: 8192,
            ..
        })
    ));
    let few = Limits {
        layers: 1,
        ..Limits::default()
    };
    assert!(matches!(
        root::tree(&layers, &few, &|| false),
        Err(root::RootError::Layers {
            layers: 2,
            limit: 1
        })
    ));
}

fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![Just("a"), Just("b"), Just("c"), Just("dd")];
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

#[derive(Debug, Clone)]
enum Op {
    Folder,
    File(Vec<u8>),
    Sparse(u64, u64),
    Symlink(String),
    Hardlink(String),
    Device,
    Fifo,
    Whiteout,
    Opaque,
    Attributes(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let target = prop_oneof![
        3 => path(),
        2 => path().prop_map(|path| format!("../{path}")),
        1 => path().prop_map(|path| format!("/{path}")),
        1 => Just("..".to_owned()),
    ];
    prop_oneof![
        5 => Just(Op::Folder),
        6 => (any::<u8>(), 0_usize..9000).prop_map(|(byte, size)| Op::File(vec![byte; size])),
        2 => (0_u64..9, 0_u64..9).prop_map(|(before, behind)| Op::Sparse(before, behind)),
        3 => target.prop_map(Op::Symlink),
        3 => path().prop_map(Op::Hardlink),
        1 => Just(Op::Device),
        1 => Just(Op::Fifo),
        3 => Just(Op::Whiteout),
        2 => Just(Op::Opaque),
        2 => (0_usize..5000).prop_map(Op::Attributes),
    ]
}

fn add(layer: &mut Layer, path: &str, op: Op) {
    match op {
        Op::Folder => layer.add(path, Kind::Folder),
        Op::File(content) => layer.file(path, &content),
        Op::Sparse(before, behind) => {
            layer.sparse(path, (before + 1 + behind) * BLOCK, &[(before, &[1; 4096])])
        }
        Op::Symlink(target) => layer.symlink(path, target),
        Op::Hardlink(target) => layer.link(path, target),
        Op::Device => layer.add(path, Kind::CharDevice(5, 1)),
        Op::Fifo => layer.add(path, Kind::Fifo),
        Op::Whiteout => layer.add(path, Kind::Whiteout),
        Op::Opaque => layer.add(path, Kind::Opaque),
        Op::Attributes(size) => {
            let folder = layer.add(path, Kind::Folder);
            folder.xattrs = vec![(b"user.x".to_vec(), vec![9; size])];
            folder
        }
    };
}

fn is_refused<'l>(mut layers: impl Iterator<Item = &'l Layer>) -> bool {
    let mut tree = root::Tree::new(&Limits::default());
    layers.any(|layer| {
        let entries = layer.entries.iter().cloned().map(Ok);
        tree.add_layer(entries, layer.data.len() as u64 / BLOCK, None, &|| false)
            .is_err()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_are_what_a_plain_model_says(ops in prop::collection::vec(prop::collection::vec((path(), op()), 0..25), 1..5)) {
        let mut model = Model::new();
        let mut layers: Vec<Layer> = Vec::new();
        for (number, ops) in (1..).zip(ops) {
            let mut layer = Layer::default();
            for (path, op) in ops {
                add(&mut layer, &path, op);
                let entry = layer.entries.last().unwrap();
                if model.apply(number, &layer, entry).is_err() {
                    // What the model refuses the tree does too.
                    prop_assert!(is_refused(layers.iter().chain([&layer])), "{entry:?}");
                    layer.entries.pop();
                }
            }
            layers.push(layer);
        }
        let root = Root::of(&layers);
        let expected = model.snapshot();
        assert_same(&by_lookup(&root.tree), &expected);
        assert_same(&by_erofs_rs(&root.image), &expected);
        fsck(&root.image_file(), &["--extract"]);
    }
}
