// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Layers that nobody thought of.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What a generated member is.
#[derive(Debug, Clone)]
enum Sort {
    File(Vec<u8>),
    Folder,
    Symlink(String),
    Hardlink(String),
}

#[derive(Debug, Clone)]
struct Member {
    path: String,
    sort: Sort,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: u32,
    xattrs: BTreeMap<String, Vec<u8>>,
}

fn path() -> impl Strategy<Value = String> {
    // Long enough to need GNU's extensions at times. The first letter keeps `.wh.` and `..` out.
    proptest::collection::vec("[a-zA-Z\u{e4}\u{1f41d}][a-z0-9._-]{0,60}", 1..5)
        .prop_map(|parts| parts.join("/"))
}

fn sort() -> impl Strategy<Value = Sort> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..9000).prop_map(Sort::File),
        Just(Sort::Folder),
        path().prop_map(Sort::Symlink),
        path().prop_map(Sort::Hardlink),
    ]
}

prop_compose! {
    fn member()(
        path in path(),
        sort in sort(),
        mode in 0..0o10000_u32,
        uid in 0..u32::MAX,
        gid in 0..u32::MAX,
        mtime in any::<u32>(),
        xattrs in proptest::collection::btree_map(
            "user\\.[a-z]{1,20}", proptest::collection::vec(any::<u8>(), 0..100), 0..3),
    ) -> Member {
        Member { path, sort, mode, uid, gid, mtime, xattrs }
    }
}

fn archive(members: &[Member]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(member.mode);
        header.set_uid(member.uid.into());
        header.set_gid(member.gid.into());
        header.set_mtime(member.mtime.into());
        header.set_size(0);
        let records: Vec<_> = member
            .xattrs
            .iter()
            .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
            .collect();
        builder
            .append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), *value)))
            .unwrap();
        let path = &member.path;
        match &member.sort {
            Sort::File(content) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(content.len() as u64);
                builder
                    .append_data(&mut header, path, content.as_slice())
                    .unwrap();
            }
            Sort::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                builder
                    .append_data(&mut header, path, [].as_slice())
                    .unwrap();
            }
            Sort::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target).unwrap();
            }
            Sort::Hardlink(target) => {
                header.set_entry_type(tar::EntryType::Link);
                builder.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn check(made: &Made, entry: &Entry, member: &Member) {
    assert_eq!(entry.path, member.path.as_bytes());
    assert_eq!(u32::from(entry.mode), member.mode);
    assert_eq!((entry.uid, entry.gid), (member.uid, member.gid));
    assert_eq!((entry.mtime, entry.mtime_nanos), (member.mtime.into(), 0));
    let xattrs: Vec<_> = member
        .xattrs
        .iter()
        .map(|(name, value)| (name.clone().into_bytes(), value.clone()))
        .collect();
    assert_eq!(entry.xattrs, xattrs);
    match (&member.sort, &entry.kind) {
        (Sort::File(content), Kind::File { size, extents }) => {
            let read = read_content(&made.data, *size, extents, 1 << 20).unwrap();
            assert_eq!(&read, content);
        }
        (Sort::Folder, Kind::Folder) => {}
        (Sort::Symlink(target), Kind::Symlink(found))
        | (Sort::Hardlink(target), Kind::Hardlink(found)) => assert_eq!(found, target.as_bytes()),
        (sort, kind) => panic!("{sort:?} became {kind:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_archived_is_read_back(members in proptest::collection::vec(member(), 0..12)) {
        let tar = archive(&members);
        let made = sound(&tar);
        assert_eq!(made.entries.len(), members.len());
        for (entry, member) in made.entries.iter().zip(&members) {
            check(&made, entry, member);
        }
        assert_eq!(made.converted.diff_id, crate::Digest::of(&tar));
    }

    /// Whatever it is: an end, and nothing beyond the budget.
    #[test]
    fn arbitrary_bytes_come_to_an_end(
        head in prop_oneof![Just(b"".as_slice()), Just(b"\x1f\x8b\x08".as_slice()), Just(b"\x28\xb5\x2f\xfd".as_slice())],
        bytes in proptest::collection::vec(any::<u8>(), 0..5000),
    ) {
        let blob = [head, &bytes].concat();
        let tried = attempt(blob.as_slice(), None, &ROOMY);
        assert!(tried.written <= ROOMY.unpacked_bytes);
    }

    /// Sound archives with some bytes changed, and checksums that fit: the parser's depths.
    #[test]
    fn changed_archives_come_to_an_end(
        members in proptest::collection::vec(member(), 1..4),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut tar = archive(&members);
        for (at, byte) in changes {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        for block in tar.chunks_exact_mut(512) {
            if &block[257..262] == b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let budget = Budget { unpacked_bytes: MIB, file_bytes: MIB, entries: 100 };
        let tried = attempt(tar.as_slice(), None, &budget);
        assert!(tried.written <= budget.unpacked_bytes);
        if let Ok(converted) = tried.end {
            let index = Index::open(&tried.folder.path().join("index")).unwrap();
            let entries = index.collect::<Result<Vec<_>, _>>().unwrap();
            assert_eq!(entries.len() as u64, converted.entries);
            for entry in entries {
                assert!(super::super::path::normal(&entry.path).is_ok_and(|path| path == entry.path));
            }
        }
    }

    /// An index that is none never costs more than a record.
    #[test]
    fn arbitrary_indexes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let made = sound(&Archive::default().file("f", b"x").end());
        let [_, index] = made.bytes();
        for kept in [0, 12, 40] {
            std::fs::write(made.index(), [&index[..kept], &bytes].concat()).unwrap();
            if let Ok(index) = Index::open(&made.index()) {
                assert!(index.count() < 10);
            }
        }
    }
}
