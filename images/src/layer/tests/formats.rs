// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What tools make: every form of an archive that is in use.

use super::*;
use crate::{
    Digest,
    layer::{BLOCK, Extent},
};

fn ordinary() -> Vec<u8> {
    Archive::default()
        .folder("./")
        .folder("bin/")
        .member("bin/su", b'0', &noise(5000), |header| {
            header.set_mode(0o104_755);
            header.set_uid(0);
            header.set_gid(42);
            header.set_mtime(1_700_000_000);
        })
        .file("empty", b"")
        .link("bin/sh", b'2', b"/usr/../bin/dash")
        .link("bin/sudo", b'1', b"./bin/su")
        .device("null", b'3', 1, 3)
        .device("disk", b'4', 4095, (1 << 20) - 1)
        .member("pipe", b'6', b"", |_| {})
        .file("last", &noise(4096))
        .end()
}

#[test]
fn an_ordinary_layer_is_all_there() {
    let tar = ordinary();
    let made = sound(&tar);
    let kinds: Vec<_> = made
        .entries
        .iter()
        .map(|entry| {
            (
                String::from_utf8_lossy(&entry.path).into_owned(),
                entry.kind.clone(),
            )
        })
        .collect();
    let extent = |data_block, blocks| {
        vec![Extent {
            file_block: 0,
            data_block,
            blocks,
        }]
    };
    let expected = [
        ("", Kind::Folder),
        ("bin", Kind::Folder),
        (
            "bin/su",
            Kind::File {
                size: 5000,
                extents: extent(0, 2),
            },
        ),
        (
            "empty",
            Kind::File {
                size: 0,
                extents: vec![],
            },
        ),
        ("bin/sh", Kind::Symlink(b"/usr/../bin/dash".to_vec())),
        ("bin/sudo", Kind::Hardlink(b"bin/su".to_vec())),
        ("null", Kind::CharDevice(1, 3)),
        ("disk", Kind::BlockDevice(4095, (1 << 20) - 1)),
        ("pipe", Kind::Fifo),
        (
            "last",
            Kind::File {
                size: 4096,
                extents: extent(2, 1),
            },
        ),
    ]
    .map(|(path, kind)| (path.to_owned(), kind));
    assert_eq!(kinds, expected);
    let su = made.at("bin/su");
    assert_eq!(
        (su.mode, su.uid, su.gid, su.mtime),
        (0o4755, 0, 42, 1_700_000_000)
    );
    assert_eq!(made.content("bin/su"), noise(5000));
    assert_eq!(made.content("last"), noise(4096));
    assert_eq!(made.converted.diff_id, Digest::of(&tar));
    let [data, _] = made.bytes();
    assert!(
        data[5000..8192].iter().all(|byte| *byte == 0),
        "the tail is filled up with zeros"
    );
}

/// The files' bytes are in the store of every user: another version of them must be another version of the format.
#[test]
fn the_same_layer_gives_the_same_bytes() {
    let tar = ordinary();
    let made = sound(&tar);
    let twice = sound(&tar);
    assert_eq!(made.bytes(), twice.bytes());
    let digests = made.bytes().map(|bytes| Digest::of(&bytes).hex());
    assert_eq!(digests, GOLDEN);
}

const GOLDEN: [&str; 2] = [
    "b5a1c3a09ffe33ba321789d214fa502e6049544792f6f0f7f964e474fcc69f7a",
    "d31407cbf4134710d3425c141f6dfb4bb955191622872d18a30577962fa96e82",
];

#[test]
fn compressions_are_told_by_content_and_give_the_same_layer() {
    let tar = ordinary();
    let plain = sound(&tar);
    let (first, second) = tar.split_at(3000);
    let members = [gzip(first), gzip(b""), gzip(second)].concat();
    let skippable = [0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let frames = [
        &skippable,
        zstd(first).as_slice(),
        &skippable,
        &zstd(second),
        &skippable,
    ]
    .concat();
    for (blob, compression) in [
        (tar.clone(), Compression::Plain),
        (gzip(&tar), Compression::Gzip),
        (members, Compression::Gzip),
        (zstd(&tar), Compression::Zstd),
        (frames, Compression::Zstd),
    ] {
        for expect in [None, Some(compression)] {
            let made = make(&blob, expect).unwrap();
            assert_eq!(made.converted, plain.converted, "{compression}");
            assert_eq!(made.bytes(), plain.bytes(), "{compression}");
        }
    }
}

#[test]
fn media_types_say_the_compression() {
    for (media_type, compression) in [
        (
            "application/vnd.oci.image.layer.v1.tar",
            Some(Compression::Plain),
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip",
            Some(Compression::Gzip),
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+zstd",
            Some(Compression::Zstd),
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            Some(Compression::Gzip),
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar",
            Some(Compression::Plain),
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Some(Compression::Gzip),
        ),
        (
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            Some(Compression::Zstd),
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Some(Compression::Gzip),
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            None,
        ),
        ("application/vnd.oci.image.config.v1+json", None),
        ("", None),
    ] {
        assert_eq!(
            Compression::of_media_type(media_type),
            compression,
            "{media_type}"
        );
    }
}

#[test]
fn names_may_be_long_and_of_any_bytes() {
    let long = [vec![b'a'; 200], vec![b'/'], vec![b'b'; 255]].concat();
    let bytes = b"caf\xe9/\xff\xfe";
    let target = vec![b't'; 4095];
    let tar = Archive::default()
        .member(
            "././@LongLink",
            b'L',
            &[long.as_slice(), b"\0"].concat(),
            |_| {},
        )
        .file("cut", b"1")
        .pax(&[("path", &[b"/p/".as_slice(), &long].concat())])
        .file("cut", b"2")
        .file(bytes, b"3")
        .member(
            "././@LongLink",
            b'K',
            &[target.as_slice(), b"\0"].concat(),
            |_| {},
        )
        .link("gnu", b'2', b"cut")
        .pax(&[("linkpath", &long), ("path", b"pax")])
        .link("cut", b'1', b"cut")
        .member("name", b'0', b"4", |header| {
            *header = {
                let mut ustar = tar::Header::new_ustar();
                ustar.as_mut_bytes()[..4].copy_from_slice(b"name");
                ustar.as_mut_bytes()[345..351].copy_from_slice(b"prefix");
                ustar.set_entry_type(tar::EntryType::Regular);
                ustar.set_size(1);
                ustar
            };
        })
        .end();
    let made = sound(&tar);
    let paths: Vec<_> = made
        .entries
        .iter()
        .map(|entry| entry.path.clone())
        .collect();
    let expected: [&[u8]; 6] = [
        &long,
        &[b"p/".as_slice(), &long].concat(),
        bytes,
        b"gnu",
        b"pax",
        b"prefix/name",
    ];
    assert_eq!(paths, expected);
    assert_eq!(made.at("gnu").kind, Kind::Symlink(target));
    assert_eq!(made.at("pax").kind, Kind::Hardlink(long));
    assert_eq!(made.content("prefix/name"), b"4");
}

#[test]
fn pax_records_say_owner_time_size_and_attributes() {
    let tar = Archive::default()
        .member(
            "pax_global_header",
            b'g',
            b"25 comment=of no interest\n",
            |_| {},
        )
        .pax(&[
            ("mtime", b"-1.25"),
            ("uid", b"4294967294"),
            ("gid", b"70000"),
            ("size", b"3"),
            ("comment", b"ignored"),
            ("SCHILY.xattr.user.z", b"\0\xff=\n"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            (
                "SCHILY.xattr.security.selinux",
                b"system_u:object_r:bin_t:s0",
            ),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .member("f", b'0', b"abc", |header| header.set_size(0))
        .member("old", b'0', b"", |header| {
            header.as_mut_bytes()[136..148].copy_from_slice(&[0xff; 12]);
        })
        .end();
    let made = sound(&tar);
    let file = made.at("f");
    assert_eq!((file.mtime, file.mtime_nanos), (-2, 750_000_000));
    assert_eq!((file.uid, file.gid), (u32::MAX - 1, 70_000));
    let xattrs: [(&[u8], &[u8]); 2] = [
        (b"security.capability", b"\x01\0\0\x02"),
        (b"user.z", b"\0\xff=\n"),
    ];
    assert_eq!(
        file.xattrs,
        xattrs.map(|(name, value)| (name.to_vec(), value.to_vec()))
    );
    assert_eq!(made.converted.dropped_xattrs, 2);
    assert_eq!(made.content("f"), b"abc");
    assert_eq!(made.at("old").mtime, -1);
    assert_eq!(made.entries.len(), 2);
}

#[test]
fn whiteouts_become_entries_of_their_own() {
    let tar = Archive::default()
        .file("etc/.wh.passwd", b"content that means nothing")
        .file("var/.wh..wh..opq", b"")
        .folder(".wh..wh.plnk")
        .file(".wh..wh.plnk/12.34", b"AUFS")
        .file(".wh.gone", b"")
        .device("overlay", b'3', 0, 0)
        .file("after", b"in step")
        .end();
    let made = sound(&tar);
    let kinds: Vec<_> = made
        .entries
        .iter()
        .take(4)
        .map(|entry| (entry.path.as_slice(), entry.kind.clone()))
        .collect();
    let expected: [(&[u8], Kind); 4] = [
        (b"etc/passwd", Kind::Whiteout),
        (b"var", Kind::Opaque),
        (b"gone", Kind::Whiteout),
        (b"overlay", Kind::Whiteout),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(made.content("after"), b"in step");
    assert_eq!(made.converted.data_blocks, 1);
}

#[test]
fn duplicates_stay_in_order() {
    let tar = Archive::default()
        .file("a", b"first")
        .link("a", b'2', b"/etc")
        .file("a/b", b"through it")
        .file("a", b"last")
        .end();
    let made = sound(&tar);
    let paths: Vec<_> = made
        .entries
        .iter()
        .map(|entry| entry.path.as_slice())
        .collect();
    let expected: [&[u8]; 4] = [b"a", b"a", b"a/b", b"a"];
    assert_eq!(paths, expected);
}

#[test]
fn only_files_have_content() {
    // As Go's archive/tar has it: the size of anything else is passed over, and nothing follows.
    let sized = |header: &mut tar::Header| header.set_size(1000);
    let tar = Archive::default()
        .file("target", b"x")
        .member("hard", b'1', b"", |header| {
            sized(header);
            header.as_old_mut().linkname[..6].copy_from_slice(b"target");
        })
        .member("folder", b'5', b"", sized)
        .member("pipe", b'6', b"", sized)
        .member("v7folder/", 0, b"", |_| {})
        .member("v7file", 0, b"v7", |_| {})
        .member("contiguous", b'7', b"7", |_| {})
        .end();
    let made = sound(&tar);
    assert_eq!(made.at("v7folder").kind, Kind::Folder);
    assert_eq!(made.content("v7file"), b"v7");
    assert_eq!(made.content("contiguous"), b"7");
    assert_eq!(made.entries.len(), 7);
}

#[test]
fn archives_may_end_in_several_ways() {
    let body = Archive::default().file("f", b"content").0;
    let digest = |tar: &[u8]| {
        let made = sound(tar);
        assert_eq!(made.content("f"), b"content");
        assert_eq!(made.converted.diff_id, Digest::of(tar));
    };
    digest(&body);
    digest(&[body.as_slice(), &[0; 512]].concat());
    digest(&[body.as_slice(), &[0; 1024]].concat());
    digest(&[body.as_slice(), &[0; 100_000]].concat());
    let behind = Archive::default().file("behind", b"").end();
    let tar = [body.as_slice(), &[0; 1024], &behind].concat();
    digest(&tar);
    assert_eq!(
        sound(&tar).entries.len(),
        1,
        "what is behind the end is no part of it"
    );
    for empty in [
        vec![],
        vec![0; 1024],
        gzip(b""),
        gzip(&[0; 1024]),
        zstd(&[0; 1024]),
    ] {
        assert_eq!(sound(&empty).converted.entries, 0);
    }
}

/// A file of three regions, of which two share a block.
const REGIONS: [(u64, usize); 3] = [(0, 4096), (40_960, 100), (41_472, 5000)];
const REAL_SIZE: u64 = 100_000;

fn sparse_content() -> (Vec<u8>, Vec<u8>) {
    let stored = noise(REGIONS.iter().map(|(_, length)| length).sum());
    let mut whole = vec![0; usize::try_from(REAL_SIZE).unwrap()];
    let mut from = 0;
    for (offset, length) in REGIONS {
        let offset = usize::try_from(offset).unwrap();
        whole[offset..offset + length].copy_from_slice(&stored[from..from + length]);
        from += length;
    }
    (stored, whole)
}

fn check_sparse(tar: &[u8]) {
    let made = sound(tar);
    let (_, whole) = sparse_content();
    assert_eq!(made.content("sparse"), whole);
    let Kind::File { size, extents } = &made.at("sparse").kind else {
        panic!("no file")
    };
    assert_eq!(*size, REAL_SIZE);
    let expected = [
        Extent {
            file_block: 0,
            data_block: 0,
            blocks: 1,
        },
        Extent {
            file_block: 10,
            data_block: 1,
            blocks: 2,
        },
    ];
    assert_eq!(*extents, expected);
    assert_eq!(made.content("after"), b"in step");
    assert_eq!(made.converted.data_blocks * BLOCK, 4 * BLOCK);
}

fn octal(number: u64) -> [u8; 12] {
    format!("{number:011o}\0").into_bytes().try_into().unwrap()
}

#[test]
fn gnus_old_sparse_files_keep_their_holes() {
    let (stored, _) = sparse_content();
    let empties: Vec<_> = (0..30).map(|_| (REAL_SIZE, 0)).collect();
    let all: Vec<_> = REGIONS
        .iter()
        .map(|(offset, length)| (*offset, *length as u64))
        .chain(empties)
        .collect();
    let (inline, rest) = all.split_at(4);
    let mut tar = Archive::default().member("sparse", b'S', b"", |header| {
        header.set_size(stored.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(inline) {
            slot.offset = octal(*offset);
            slot.numbytes = octal(*length);
        }
        gnu.set_is_extended(true);
        gnu.realsize = octal(REAL_SIZE);
    });
    for chunk in rest.chunks(21) {
        let mut block = tar::GnuExtSparseHeader::new();
        for (slot, (offset, length)) in block.sparse.iter_mut().zip(chunk) {
            slot.offset = octal(*offset);
            slot.numbytes = octal(*length);
        }
        block.isextended[0] = u8::from(chunk.len() == 21);
        tar = tar.content(block.as_bytes());
    }
    check_sparse(&tar.content(&stored).file("after", b"in step").end());
}

#[test]
fn pax_sparse_files_keep_their_holes() {
    let (stored, _) = sparse_content();
    let numbers: Vec<_> = REGIONS
        .iter()
        .flat_map(|(offset, length)| [offset.to_string(), length.to_string()])
        .collect();
    let size = REAL_SIZE.to_string();

    let mut records: Vec<(&str, &[u8])> = vec![
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", b"3"),
    ];
    for pair in numbers.chunks(2) {
        records.push(("GNU.sparse.offset", pair[0].as_bytes()));
        records.push(("GNU.sparse.numbytes", pair[1].as_bytes()));
    }
    let tar = Archive::default().pax(&records).file("sparse", &stored);
    check_sparse(&tar.file("after", b"in step").end());

    let map = numbers.join(",");
    let tar = Archive::default().pax(&[
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", b"3"),
        ("GNU.sparse.map", map.as_bytes()),
        ("GNU.sparse.name", b"sparse"),
    ]);
    check_sparse(
        &tar.file("GNUSparseFile.0/x", &stored)
            .file("after", b"in step")
            .end(),
    );

    let mut body = format!("3\n{}\n", numbers.join("\n")).into_bytes();
    body.resize(512, 0);
    body.extend_from_slice(&stored);
    let tar = Archive::default().pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"./sparse"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ]);
    check_sparse(
        &tar.file("GNUSparseFile.0/x", &body)
            .file("after", b"in step")
            .end(),
    );
}
