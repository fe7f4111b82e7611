// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a root takes of memory while it is made: the ceiling of memory (`WAGGLE_IMAGE_MAX_MEMORY_MB`) counts what the
//! kernel says that the process takes more than before.

use std::process::Command;

use waggle_images::layer::{Entry, Extent, Kind};
use waggle_images::{Digest, Limits, root};

use crate::child;

/// The test which is the process that makes a root.
const TEST: &str = "memory::a_process_that_makes_a_root";
const VARIABLE: &str = "WAGGLE_TEST_ROOT";

/// A layer's name, and what makes its entries by their numbers.
type Shape = (&'static str, fn(u32) -> Entry);

/// Each of them has much of one thing.
const SHAPES: [Shape; 5] = [
    ("long names", |number| entry(long(number), Kind::Fifo)),
    ("folders of one", |number| {
        entry(format!("{number}/a"), Kind::Fifo)
    }),
    ("targets", |number| {
        entry(number.to_string(), Kind::Symlink(long(number).into_bytes()))
    }),
    ("attributes", |number| Entry {
        xattrs: vec![(b"user.a".to_vec(), long(number).into_bytes())],
        ..entry(number.to_string(), Kind::Fifo)
    }),
    ("holes", |number| {
        let extents = (0..8).map(|at| Extent {
            file_block: at * 2,
            data_block: at,
            blocks: 1,
        });
        let extents = extents.collect();
        let size = 16 * 4096;
        entry(number.to_string(), Kind::File { size, extents })
    }),
];

/// Entries of a layer.
const ENTRIES: u32 = 200_000;

fn long(number: u32) -> String {
    let mut text = format!("{number:0>200}");
    // As what is read from an index.
    text.shrink_to_fit();
    text
}

fn entry(path: String, kind: Kind) -> Entry {
    Entry {
        path: path.into_bytes(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        mtime_nanos: 0,
        xattrs: Vec::new(),
        kind,
    }
}

/// What the ceiling does not count, beside an eighth for the allocator: the arena of inodes is there twice while it grows,
/// until it is so large that glibc moves its pages instead (`M_MMAP_THRESHOLD`, 32 MiB at most).
const SLACK: u64 = 32 << 20;

/// In a process of its own, whose peak is the root's.
#[test]
#[allow(
    clippy::print_stdout,
    reason = "it speaks to the process that started it"
)]
fn a_process_that_makes_a_root() {
    let Ok(shape) = std::env::var(VARIABLE) else {
        return;
    };
    let (_, make) = SHAPES.into_iter().find(|(name, _)| *name == shape).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let before = child::peak_now();
    let mut tree = root::Tree::new(&Limits::default());
    let entries = (0..ENTRIES).map(|number| Ok(make(number)));
    tree.add_layer(entries, 8, None, &|| false).unwrap();
    let names = ["data".to_owned()];
    let key = root::key(&[Digest::of(b"")]);
    root::write(&tree, key, &names, dir.path(), &|| false).unwrap();
    let taken = child::peak_now() - before;
    println!("{COUNTED}{} {taken}", tree.memory());
}

const COUNTED: &str = "waggle: counted and taken: ";

#[test]
fn the_ceiling_counts_what_a_root_takes() {
    for (shape, _) in SHAPES {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(VARIABLE, shape)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{shape}: {said}");
        let numbers = said.lines().find_map(|line| line.split_once(COUNTED));
        let (counted, taken) = numbers.unwrap().1.split_once(' ').unwrap();
        eprintln!("{shape}: {counted} bytes were counted, {taken} were taken");
        let (counted, taken): (u64, u64) = (counted.parse().unwrap(), taken.parse().unwrap());
        assert!(taken < counted + counted / 8 + SLACK, "{shape}: {taken}");
    }
}
