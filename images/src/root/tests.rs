// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What layers do to each other, in a notation of one line an entry:
//! `a/` folder, `a` file, `a -> t` symlink, `a = t` hard link, `!a` whiteout, `*a` opaque folder.
//!
//! Each entry's time is its layer's number, so that listings tell whose a thing is: `a@2`. 0 is a folder without entry.

use super::tree::INODE_BYTES;
use super::*;
use crate::layer::{Entry, Extent, Kind};

fn entry(line: &str, layer: i64) -> Entry {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let (path, kind) = if let Some(path) = line.strip_prefix('!') {
        (path, Kind::Whiteout)
    } else if let Some(path) = line.strip_prefix('*') {
        (path, Kind::Opaque)
    } else if let Some((path, target)) = line.split_once(" -> ") {
        (path, Kind::Symlink(bytes(target)))
    } else if let Some((path, target)) = line.split_once(" = ") {
        (path, Kind::Hardlink(bytes(target)))
    } else if let Some(path) = line.strip_suffix('/') {
        (path, Kind::Folder)
    } else {
        (line, file(0, &[]))
    };
    Entry {
        path: bytes(path),
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: layer,
        mtime_nanos: 0,
        xattrs: Vec::new(),
        kind,
    }
}

fn file(size: u64, extents: &[(u64, u64, u64)]) -> Kind {
    let extents = extents
        .iter()
        .map(|(file_block, data_block, blocks)| Extent {
            file_block: *file_block,
            data_block: *data_block,
            blocks: *blocks,
        });
    Kind::File {
        size,
        extents: extents.collect(),
    }
}

fn merge_within(layers: &[&[&str]], limits: &Limits) -> Result<Tree, RootError> {
    let mut tree = Tree::new(limits);
    for (lines, layer) in layers.iter().zip(1..) {
        let entries = lines.iter().map(|line| Ok(entry(line, layer)));
        tree.add_layer(entries, 0, None, &|| false)?;
    }
    Ok(tree)
}

fn merge(layers: &[&[&str]]) -> Result<Tree, RootError> {
    merge_within(layers, &Limits::default())
}

/// Merges one entry of a kind that the notation does not have.
fn merge_kind(kind: Kind, data_blocks: u64) -> Result<Tree, RootError> {
    let mut tree = Tree::new(&Limits::default());
    let entry = Entry {
        kind,
        ..entry("a", 1)
    };
    tree.add_layer([Ok(entry)], data_blocks, None, &|| false)?;
    Ok(tree)
}

fn list(tree: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut folders = vec![(String::new(), tree.lookup(b"", false).unwrap())];
    while let Some((path, folder)) = folders.pop() {
        for (name, found) in folder.list() {
            let name = format!("{path}{}", String::from_utf8_lossy(name));
            let time = found.mtime().0;
            match found.kind() {
                FoundKind::Folder => {
                    lines.push(format!("{name}/@{time}"));
                    folders.push((format!("{name}/"), found));
                }
                FoundKind::Symlink(target) => {
                    lines.push(format!(
                        "{name}@{time} -> {}",
                        String::from_utf8_lossy(target)
                    ));
                }
                _ => lines.push(format!("{name}@{time}")),
            }
        }
    }
    lines.sort();
    lines
}

#[track_caller]
fn gives(layers: &[&[&str]], expected: &[&str]) {
    let tree = merge(layers).unwrap();
    assert_eq!(list(&tree), expected);
    // The count of what is held survives all removals.
    let again = merge(&[&list_as_layer(&tree)
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()])
    .unwrap();
    // Places of inodes that are gone stay.
    let free = tree.places() as u64 - tree.inodes();
    assert_eq!(
        again.memory() + free * INODE_BYTES,
        tree.memory(),
        "as much as a tree that was made in one layer"
    );
}

/// What one layer would say that gives the same names.
fn list_as_layer(tree: &Tree) -> Vec<String> {
    let plain = |line: String| {
        let (name, rest) = line.split_once('@').unwrap();
        let target = rest
            .split_once(" -> ")
            .map_or(String::new(), |(_, target)| format!(" -> {target}"));
        format!("{name}{target}")
    };
    list(tree).into_iter().map(plain).collect()
}

#[test]
fn upper_layers_add_and_replace() {
    gives(
        &[&["a", "d/", "d/x"], &["d/y", "a"]],
        &["a@2", "d/@1", "d/x@1", "d/y@2"],
    );
    gives(&[&["d/", "d/x"], &["d/"]], &["d/@2", "d/x@1"]);
    gives(&[&["d/", "d/x"], &["d"]], &["d@2"]);
    gives(&[&["d"], &["d/", "d/x"]], &["d/@2", "d/x@2"]);
    gives(&[&["a -> b", "b"], &["a"]], &["a@2", "b@1"]);
    gives(&[&["a", "b"], &["a -> b"]], &["a@2 -> b", "b@1"]);
    gives(
        &[&["l -> d", "d/", "d/x"], &["l/", "l/y"]],
        &["d/@1", "d/x@1", "l/@2", "l/y@2"],
    );
    // Twice in one layer: the later one.
    gives(&[&["a", "a -> b", "a/", "a/x"]], &["a/@1", "a/x@1"]);
}

#[test]
fn missing_folders_are_made() {
    gives(&[&["a/b/c"]], &["a/@0", "a/b/@0", "a/b/c@1"]);
    gives(&[&["a/b/c", "a/"]], &["a/@1", "a/b/@0", "a/b/c@1"]);
    let tree = merge(&[&["a/b"]]).unwrap();
    let made = tree.lookup(b"a", false).unwrap();
    assert_eq!(
        (made.mode(), made.owner(), made.mtime()),
        (0o755, (0, 0), (0, 0))
    );
}

#[test]
fn whiteouts_hide_lower_layers_wherever_they_stand() {
    for upper in [["!a", "!d", "!gone/x"], ["!gone/x", "!d", "!a"]] {
        gives(
            &[&["a", "b", "d/", "d/x", "d/e/", "d/e/y"], &upper],
            &["b@1"],
        );
    }
    // The layer's own stays, whether it comes before or behind.
    for upper in [["!a", "a"], ["a", "!a"]] {
        gives(&[&["a"], &upper], &["a@2"]);
    }
    for upper in [
        ["!d", "d/", "d/y"],
        ["d/", "!d", "d/y"],
        ["d/", "d/y", "!d"],
        ["d/y", "d/", "!d"],
    ] {
        gives(
            &[&["d/", "d/x", "d/e/", "d/e/z"], &upper],
            &["d/@2", "d/y@2"],
        );
    }
    // With no entry of its own the folder is a new one, not the lower one with its attributes.
    for upper in [["!d", "d/e/y"], ["d/e/y", "!d"]] {
        gives(
            &[&["d/", "d/x", "d/e/", "d/e/z"], &upper],
            &["d/@0", "d/e/@0", "d/e/y@2"],
        );
    }
    // A third layer is no concern of the second one's.
    gives(&[&["a"], &["!a"], &["a"]], &["a@3"]);
}

#[test]
fn opaque_folders_hide_what_lower_layers_have_in_them() {
    for upper in [["*d", "d/y", "d/e/"], ["d/y", "d/e/", "*d"]] {
        gives(
            &[&["d/", "d/x", "d/e/", "d/e/z", "b"], &upper],
            &["b@1", "d/@1", "d/e/@2", "d/y@2"],
        );
    }
    gives(&[&["a", "d/", "d/x"], &["*", "b"]], &["b@2"]);
    gives(&[&["a"], &["*", "*a", "*gone"]], &[]);
    gives(
        &[
            &["d/", "d/e/", "d/e/f/", "d/e/f/x"],
            &["d/e/f/y", "*d/e", "*d"],
        ],
        &["d/@1", "d/e/@0", "d/e/f/@0", "d/e/f/y@2"],
    );
}

#[test]
fn a_layer_is_pruned_once_however_often_it_asks() {
    // Each marker looking at each file would be 4 * 10^8 looks.
    let count = 20_000;
    let lower: Vec<String> = (0..count).map(|n| format!("d/{n}")).collect();
    let upper: Vec<String> = (0..count)
        .flat_map(|n| [format!("d/{n}"), "*d".to_owned(), "*".to_owned()])
        .collect();
    let lines = |layer: &[String]| {
        layer
            .iter()
            .map(|line| Ok(entry(line, 1)))
            .collect::<Vec<_>>()
    };
    let mut tree = Tree::new(&Limits::default());
    tree.add_layer(lines(&lower), 0, None, &|| false).unwrap();
    tree.add_layer(lines(&upper), 0, None, &|| false).unwrap();
    assert_eq!(tree.inodes(), count + 2);
}

#[test]
fn folders_behind_symlinks_are_those_in_the_root() {
    let usr: &[&str] = &["usr/", "usr/lib/", "lib -> usr/lib"];
    let with =
        |more: &[&'static str]| [&["lib@1 -> usr/lib", "usr/@1", "usr/lib/@1"], more].concat();
    gives(&[usr, &["lib/x"]], &with(&["usr/lib/x@2"]));
    gives(&[usr, &["lib/x"], &["!lib/x"]], &with(&[]));
    gives(&[usr, &["lib/x"], &["*lib"]], &with(&[]));
    let linked = merge(&[usr, &["lib/x", "y = lib/x"]]).unwrap();
    assert_eq!(list(&linked), with(&["usr/lib/x@2", "y@2"]));
    // Out of the root there is no way, by a path or upwards.
    gives(
        &[&["e -> /etc", "e/x"]],
        &["e@1 -> /etc", "etc/@0", "etc/x@1"],
    );
    gives(
        &[&["u -> ../../../..", "u/etc/x"]],
        &["etc/@0", "etc/x@1", "u@1 -> ../../../.."],
    );
    gives(
        &[&["d/", "d/l -> ..//./b/../c", "d/l/x"]],
        &["b/@0", "c/@0", "c/x@1", "d/@1", "d/l@1 -> ..//./b/../c"],
    );
    // The last name is never followed.
    gives(&[&["a", "l -> a"], &["l"]], &["a@1", "l@2"]);
    gives(&[&["a", "l -> a"], &["!l"]], &["a@1"]);
}

#[test]
fn hard_links_share_an_inode_through_layers() {
    let tree = merge(&[&["a", "d/", "d/b = a"], &["c = d/b", "a"]]).unwrap();
    let at = |path: &[u8]| tree.lookup(path, false).unwrap();
    assert!(at(b"d/b").is(&at(b"c")) && !at(b"a").is(&at(b"c")));
    assert_eq!((at(b"c").names(), at(b"a").names()), (2, 1));
    assert_eq!(at(b"c").mtime().0, 1, "the target's attributes");

    // Onto itself, and out of a folder into that folder's place.
    let tree = merge(&[&["a", "a = a", "d/x", "d = d/x"]]).unwrap();
    assert_eq!(list(&tree), ["a@1", "d@1"]);
    assert_eq!(tree.lookup(b"d", false).unwrap().names(), 1);
    // A symlink may have two names too.
    let tree = merge(&[&["l -> nowhere", "m = l"]]).unwrap();
    assert_eq!(list(&tree), ["l@1 -> nowhere", "m@1 -> nowhere"]);
}

#[test]
fn lookups_follow_symlinks_inside_the_root() {
    let tree = merge(&[&[
        "usr/lib/x",
        "lib -> /usr/lib",
        "l -> lib/x",
        "o -> l",
        "loop -> loop",
        "up -> ../../usr",
    ]])
    .unwrap();
    let time = |path: &str, follow| {
        tree.lookup(path.as_bytes(), follow)
            .map(|found| found.kind())
    };
    for path in [
        "lib/x",
        "/lib//x",
        "l",
        "o",
        "up/lib/x",
        "usr/../lib/./x",
        "lib/../lib/x",
    ] {
        assert_eq!(time(path, true), Some(FoundKind::File(0)), "{path}");
    }
    assert_eq!(time("l", false), Some(FoundKind::Symlink(b"lib/x")));
    assert_eq!(time("/", true), Some(FoundKind::Folder));
    for path in ["loop", "loop/x", "nothing", "usr/lib/x/y", "lib/y"] {
        assert_eq!(time(path, true), None, "{path}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    type Expected = fn(&RootError) -> bool;
    let cases: [(&[&[&str]], Expected); 12] = [
        (&[&["a"], &["a/b"]], |e| {
            matches!(e, RootError::NotFolder { layer: 2, .. })
        }),
        (&[&["a", "l -> a", "l/b"]], |e| {
            matches!(e, RootError::NotFolder { .. })
        }),
        (&[&["b = a"]], |e| {
            matches!(e, RootError::LinkMissing { .. })
        }),
        (&[&["a"], &["!a", "b = a"]], |e| {
            matches!(e, RootError::LinkMissing { layer: 2, .. })
        }),
        (&[&["b = a/b/c"]], |e| {
            matches!(e, RootError::LinkMissing { .. })
        }),
        (&[&["d/", "b = d"]], |e| {
            matches!(e, RootError::LinkFolder { .. })
        }),
        (&[&["a -> b", "b -> a", "a/x"]], |e| {
            matches!(e, RootError::Loop { limit: 40, .. })
        }),
        (&[&["!"]], |e| {
            matches!(e, RootError::RootReplaced { layer: 1 })
        }),
        (&[&[" -> a"]], |e| {
            matches!(e, RootError::RootReplaced { .. })
        }),
        (&[&["a", " = a"]], |e| {
            matches!(e, RootError::RootReplaced { .. })
        }),
        (&[&["a/../b"]], |e| matches!(e, RootError::Damaged { .. })),
        (&[&["a = ../b"]], |e| matches!(e, RootError::Damaged { .. })),
    ];
    for (layers, expected) in cases {
        let error = merge(layers).unwrap_err();
        assert!(expected(&error), "{layers:?}: {error}");
    }
    let long = "n".repeat(256);
    assert!(matches!(
        merge(&[&[&long]]),
        Err(RootError::NameLong { bytes: 256, .. })
    ));
    let through = format!("l -> {long}");
    assert!(matches!(
        merge(&[&[&through, "l/x"]]),
        Err(RootError::NameLong { .. })
    ));
    let deep = "d/".repeat(2049);
    assert!(matches!(
        merge(&[&[&deep]]),
        Err(RootError::PathLong { .. })
    ));
}

#[test]
fn kinds_that_linux_does_not_have_are_refused() {
    for target in [Vec::new(), vec![b'a'; 4096]] {
        let refused = merge_kind(Kind::Symlink(target), 0);
        assert!(matches!(
            refused,
            Err(RootError::Target { limit: 4095, .. })
        ));
    }
    assert!(merge_kind(Kind::CharDevice(4095, 1_048_575), 0).is_ok());
    for (major, minor) in [(4096, 0), (0, 1 << 20)] {
        for kind in [
            Kind::CharDevice(major, minor),
            Kind::BlockDevice(major, minor),
        ] {
            assert!(matches!(merge_kind(kind, 0), Err(RootError::Device { .. })));
        }
    }
}

#[test]
fn extents_are_held_against_file_and_data() {
    for good in [
        file(4096, &[(0, 2, 1)]),
        file(1 << 40, &[]),
        file(20000, &[(1, 0, 1), (4, 1, 1)]),
    ] {
        assert!(merge_kind(good, 3).is_ok());
    }
    const MAX: u64 = u64::MAX;
    type Extents = &'static [(u64, u64, u64)];
    let bad: [(u64, Extents); 8] = [
        (4096, &[(0, 3, 1)]),
        (4096, &[(0, 0, 2)]),
        (4096, &[(0, 0, 0)]),
        (0, &[(0, 0, 1)]),
        (8192, &[(1, 0, 1), (0, 1, 1)]),
        (8192, &[(0, 0, 1), (0, 1, 1)]),
        (8192, &[(MAX, MAX, MAX)]),
        (1 << 63, &[]),
    ];
    for (size, extents) in bad {
        assert!(
            matches!(
                merge_kind(file(size, extents), 3),
                Err(RootError::Damaged { .. })
            ),
            "{size} {extents:?}"
        );
    }
}

#[test]
fn ceilings_hold() {
    let limits = Limits {
        entries: 3,
        ..Limits::default()
    };
    assert!(merge_within(&[&["a", "b"], &["!a"]], &limits).is_ok());
    for layers in [
        &[&["a", "b", "c", "d"][..]][..],
        &[&["a", "b", "c"], &["!a"]],
        &[&["a/b/c/d"]],
    ] {
        let error = merge_within(layers, &limits).unwrap_err();
        assert!(
            matches!(
                error,
                RootError::Entries {
                    entries: 4,
                    limit: 3
                }
            ),
            "{error}"
        );
    }
    let used = merge(&[&["a", "b"]]).unwrap().memory();
    let limits = Limits {
        memory_bytes: used,
        ..Limits::default()
    };
    assert!(merge_within(&[&["a", "b"]], &limits).is_ok());
    // What is removed is no longer held.
    assert!(merge_within(&[&["a"], &["!a", "b", "c"]], &limits).is_ok());
    let error = merge_within(&[&["a", "b", "c"]], &limits).unwrap_err();
    assert!(
        matches!(error, RootError::Memory { bytes, limit } if bytes > limit && limit == used),
        "{error}"
    );
}

/// A folder with one name in it has room for eleven, and places of inodes are never given back: both count.
#[test]
fn folders_and_free_places_are_counted_as_what_they_take() {
    let memory = |layers: &[&[&str]]| merge(layers).unwrap().memory();
    let (file, folder) = (memory(&[&["d/a"]]), memory(&[&["d/a/"]]));
    let leaf = 11 * size_of::<(Box<[u8]>, u64)>() as u64;
    assert!(folder - file >= leaf, "{file} {folder}");
    let lines: Vec<_> = (0..100).map(|n| format!("d/{n}")).collect();
    let many: Vec<_> = lines.iter().map(String::as_str).collect();
    assert_eq!(
        memory(&[&many, &["!d"]]),
        memory(&[]) + 101 * INODE_BYTES,
        "the arena is as long as ever"
    );
}

/// Forty symlinks of four kilobytes lead to each of a few entries.
#[test]
fn the_way_to_entries_is_bounded() {
    let limits = Limits {
        entries: 2000,
        ..Limits::default()
    };
    let through = |filler: &str, name: &str| {
        let link = |n: usize| format!("s{n} -> s{}/{}", n + 1, filler.repeat(2000));
        let mut lines: Vec<_> = (0..39).map(link).collect();
        lines.push("s39 -> d".to_owned());
        lines.extend((0..1000).map(|n| name.replace('N', &n.to_string())));
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        merge_within(&[&["d/"], &lines], &limits)
    };
    // Parts that are walked, and targets that are copied and lead to nothing.
    for (filler, name) in [("./", "s0/N"), ("x/", "!s0/N")] {
        let outcome = through(filler, name);
        let Err(RootError::Steps { limit: 128_000 }) = outcome else {
            panic!("{filler}: {:?}", outcome.map(|tree| tree.inodes()))
        };
    }
    // As long a way as a path can be, for each of very many.
    let deep = "d/".repeat(60);
    let lines: Vec<_> = (0..1900).map(|n| format!("{deep}{n}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    assert!(merge_within(&[&lines], &limits).is_ok());
}

/// What is written is looked at while it is written, even within one inode.
#[test]
fn a_root_is_stopped_within_a_file_system_object() {
    let tree = merge_kind(file(1 << 35, &[(1, 0, 1)]), 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let meta = dir.path().join(METADATA);
    let written = || std::fs::metadata(&meta).map_or(0, |status| status.len());
    let names = ["d".to_owned()];
    let stopped = write(&tree, key(&[]), &names, dir.path(), &|| written() > 1 << 20);
    assert!(matches!(stopped, Err(RootError::Stopped)), "{stopped:?}");
    // All of it would be 32 MiB.
    assert!(written() < 2 << 20, "{}", written());
}

#[test]
fn a_caller_may_stop_it() {
    let mut tree = Tree::new(&Limits::default());
    let stopped = tree.add_layer([Ok(entry("a", 1))], 0, None, &|| true);
    assert!(matches!(stopped, Err(RootError::Stopped)));
    let dir = tempfile::tempdir().unwrap();
    let stopped = write(
        &Tree::new(&Limits::default()),
        key(&[]),
        &[],
        dir.path(),
        &|| true,
    );
    assert!(matches!(stopped, Err(RootError::Stopped)));
}

#[test]
fn a_key_depends_on_layers_and_their_order() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let keys = [key(&[]), key(&[a]), key(&[b]), key(&[a, b]), key(&[b, a])];
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
    assert_eq!(key(&[a, b]), key(&[a, b]));
}

#[test]
fn maps_of_sparse_files_are_bounded() {
    // A hole at an odd place of a huge file: a map of one entry a block.
    let kind = || file(1 << 38, &[(1, 0, 1)]);
    let tree = merge_kind(kind(), 1).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let refused = write(&tree, key(&[]), &["d".to_owned()], dir.path(), &|| false);
    assert!(
        matches!(refused, Err(RootError::Maps { bytes, limit }) if bytes > limit),
        "{refused:?}"
    );
}

#[test]
fn more_blocks_than_addresses_are_refused() {
    let mut tree = Tree::new(&Limits::default());
    for _ in 0..2 {
        tree.add_layer([], 1 << 31, None, &|| false).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let names = ["a".to_owned(), "b".to_owned()];
    let refused = write(&tree, key(&[]), &names, dir.path(), &|| false);
    assert!(
        matches!(refused, Err(RootError::Blocks { .. })),
        "{refused:?}"
    );
}
