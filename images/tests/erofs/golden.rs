// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The bytes of a root, as every store has them: the same layers must go on giving the same ones.

use std::fs;

use waggle_images::{Digest, layer::Kind, root};

use super::support::{Layer, Root};

/// A few layers with something of everything, made of nothing that other tests change.
fn layers() -> Vec<Layer> {
    let mut lower = Layer::default();
    lower.add("", Kind::Folder).mode = 0o755;
    lower.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n");
    lower.file("etc/gone", b"gone");
    lower.file("usr/bin/su", &[7; 5000]).mode = 0o4755;
    lower.symlink("bin", "usr/bin");
    lower.file("empty", b"");
    lower.add("dev/null", Kind::CharDevice(1, 3)).mode = 0o666;
    lower.add("dev/disk", Kind::BlockDevice(259, 70_000));
    let mut upper = Layer::default();
    upper.add("etc/gone", Kind::Whiteout);
    upper.link("bin/sudo", "usr/bin/su");
    upper.sparse("sparse", 40_000, &[(1, &[1; 4096]), (5, &[2; 8192])]);
    upper.add("pipe", Kind::Fifo);
    let past = upper.file("past", b"before 1970");
    (past.mtime, past.mtime_nanos) = (-1, 999_999_999);
    let pair = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    upper.file("attributes", b"x").xattrs = vec![
        pair("security.capability", &[1; 20]),
        pair("user.name", b"value"),
    ];
    // A folder of several blocks.
    for number in 0..300 {
        upper.file(format!("many/{number:0>30}"), b"");
    }
    vec![lower, upper]
}

#[test]
fn the_format_is_what_it_was() {
    let root = Root::of(&layers());
    let meta = fs::read(root.dir.path().join("root").join(root::METADATA)).unwrap();
    let descriptor = fs::read(root.descriptor()).unwrap();
    let found = [meta, descriptor].map(|bytes| Digest::of(&bytes).hex());
    assert!(
        found == GOLDEN,
        "roots are made of other bytes than before. Stores have old ones under the same keys, so if that is meant: \
         raise the number in FORMAT (src/root/mod.rs), and bless the new bytes by writing these digests into GOLDEN: \
         {found:?}"
    );
}

/// Of the metadata, and of the descriptor.
const GOLDEN: [&str; 2] = [
    "e90839433b383c46e23fef407bb879399440b6a7f8805d07450ea53c704010c5",
    "f851c15c7c9f765df6ad0096438ce8692d6a888d8b968c27a11d3c1864589954",
];
