// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The hostile corpus, as far as it concerns layers: each member of it is refused with a typed error, or contained.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use super::*;
use crate::layer::{AttributeFault, PathFault};

#[test]
fn paths_that_lead_out_are_refused() {
    for name in [
        "../etc/passwd",
        "a/../../b",
        "/../x",
        "a/..",
        "..",
        "a/../b",
    ] {
        let error = refused(&Archive::default().file(name, b"x").end());
        let LayerError::Path {
            path,
            fault: PathFault::Parent,
        } = error
        else {
            panic!("{name}: {error}")
        };
        assert_eq!(path, name.as_bytes());
    }
    let error = refused(
        &Archive::default()
            .pax(&[("path", b"a\0b")])
            .file("f", b"")
            .end(),
    );
    assert!(matches!(
        error,
        LayerError::Path {
            fault: PathFault::Nul,
            ..
        }
    ));
    let error = refused(
        &Archive::default()
            .pax(&[("path", &[b'n'; 256])])
            .file("f", b"")
            .end(),
    );
    assert!(matches!(
        error,
        LayerError::Path {
            fault: PathFault::Part(256),
            ..
        }
    ));
    let deep = [b'd', b'/'].repeat(3000);
    let error = refused(&Archive::default().pax(&[("path", &deep)]).folder("f").end());
    assert!(matches!(
        error,
        LayerError::Path {
            fault: PathFault::Long(5999),
            ..
        }
    ));
    assert!(error.to_string().len() < 400, "{error}");
}

#[test]
fn absolute_paths_are_places_in_the_root() {
    let made = sound(&Archive::default().file("/etc/passwd", b"x").end());
    assert_eq!(made.entries[0].path, b"etc/passwd");
}

#[test]
fn a_write_through_a_symlink_is_only_two_entries_here() {
    let tar = Archive::default()
        .link("out", b'2', b"/")
        .link("up", b'2', b"../../..")
        .file("out/etc/passwd", b"x")
        .end();
    let made = sound(&tar);
    assert_eq!(made.entries.len(), 3);
    assert_eq!(made.at("up").kind, Kind::Symlink(b"../../..".to_vec()));
    assert_eq!(made.content("out/etc/passwd"), b"x");
}

#[test]
fn links_to_outside_or_nowhere_are_refused() {
    for (kind, target, fault) in [
        (b'1', b"../outside".as_slice(), PathFault::Parent),
        (b'1', b"a/../../outside", PathFault::Parent),
        (b'1', b"", PathFault::Empty),
        (b'1', b"./", PathFault::Empty),
        (b'2', b"", PathFault::Empty),
    ] {
        let error = refused(&Archive::default().link("l", kind, target).end());
        let LayerError::Target { fault: found, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(found, fault);
    }
    let long = [b't'; 4096];
    for (target, fault) in [
        (long.as_slice(), PathFault::Long(4096)),
        (b"a\0b", PathFault::Nul),
    ] {
        let tar = Archive::default()
            .pax(&[("linkpath", target)])
            .link("l", b'2', b"x");
        let LayerError::Target { fault: found, .. } = refused(&tar.end()) else {
            panic!()
        };
        assert_eq!(found, fault);
    }
    let made = sound(&Archive::default().link("l", b'1', b"/etc/passwd").end());
    assert_eq!(made.entries[0].kind, Kind::Hardlink(b"etc/passwd".to_vec()));
}

#[test]
fn the_root_cannot_be_hidden_or_replaced() {
    for name in [".wh.", "./.wh..", "/.wh...", "a/.wh.", ".wh.a/b"] {
        let error = refused(&Archive::default().file(name, b"").end());
        assert!(
            matches!(
                error,
                LayerError::Path {
                    fault: PathFault::Whiteout,
                    ..
                }
            ),
            "{name}"
        );
    }
    for kind in [b'0', b'3', b'6'] {
        let error = refused(&Archive::default().device("./", kind, 1, 1).end());
        assert!(matches!(error, LayerError::Root), "{error}");
    }
    let error = refused(&Archive::default().link("/", b'2', b"elsewhere").end());
    assert!(matches!(error, LayerError::Root), "{error}");
}

#[test]
fn numbers_that_linux_has_not_are_refused() {
    for (major, minor) in [(4096, 0), (0, 1 << 20)] {
        let error = refused(&Archive::default().device("d", b'4', major, minor).end());
        assert!(matches!(error, LayerError::Device { .. }), "{error}");
    }
    for key in ["uid", "gid"] {
        for id in ["4294967295", "4294967296", "18446744073709551615"] {
            let tar = Archive::default()
                .pax(&[(key, id.as_bytes())])
                .file("f", b"")
                .end();
            assert!(
                matches!(refused(&tar), LayerError::Owner { .. }),
                "{key} {id}"
            );
        }
        let tar = Archive::default().pax(&[(key, b"-1")]).file("f", b"").end();
        let error = refused(&tar);
        assert!(matches!(
            error,
            LayerError::Attribute {
                fault: AttributeFault::Record { .. },
                ..
            }
        ));
    }
    let tar = Archive::default().member("f", b'0', b"", |header| {
        // Two to the 64th: cut to 64 bits it would be nothing.
        header.as_mut_bytes()[124..136].copy_from_slice(b"\x80\0\0\x01\0\0\0\0\0\0\0\0");
    });
    let error = refused(&tar.end());
    assert!(
        matches!(
            error,
            LayerError::Attribute {
                fault: AttributeFault::Size,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn unknown_types_are_refused_by_name() {
    for kind in [b'V', b'M', b'A', b's', 0xff] {
        let error = refused(&Archive::default().member("odd", kind, b"", |_| {}).end());
        let LayerError::Type { path, kind: found } = error else {
            panic!("{error}")
        };
        assert_eq!((path.as_slice(), found), (b"odd".as_slice(), kind));
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    for bytes in [noise(10_000), b"<html>not found</html>".repeat(100)] {
        assert!(matches!(
            refused(&bytes),
            LayerError::Malformed { at: 0, .. }
        ));
    }
    let mut tar = Archive::default().file("a", b"x").file("b", b"y").end();
    tar[1024 + 5] ^= 1;
    assert!(matches!(
        refused(&tar),
        LayerError::Malformed { at: 1024, .. }
    ));
    let orphan = Archive::default().pax(&[("path", b"f")]).end();
    assert!(matches!(refused(&orphan), LayerError::Malformed { .. }));
}

#[test]
fn headers_are_bounded() {
    let long = vec![b'v'; 2 << 20];
    let error = refused(
        &Archive::default()
            .pax(&[("comment", &long)])
            .file("f", b"")
            .end(),
    );
    assert!(matches!(error, LayerError::Malformed { .. }), "{error}");
    let error = refused(
        &Archive::default()
            .member("l", b'L', &long, |_| {})
            .file("f", b"")
            .end(),
    );
    assert!(matches!(error, LayerError::Malformed { .. }), "{error}");
    let value = vec![b'v'; 65_530];
    let records: Vec<_> = ["a", "b"]
        .map(|name| (format!("SCHILY.xattr.user.{name}"), value.clone()))
        .to_vec();
    let records: Vec<_> = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()))
        .collect();
    let error = refused(&Archive::default().pax(&records).file("f", b"").end());
    assert!(matches!(
        error,
        LayerError::Attribute {
            fault: AttributeFault::Xattrs(131_072),
            ..
        }
    ));
    // A sparse map whose first number never ends.
    let endless = Archive::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"5"),
        ])
        .file("f", &vec![b'0'; 5 << 20])
        .end();
    let error = refused(&endless);
    assert!(matches!(error, LayerError::HeaderTooLong { .. }), "{error}");
}

fn sparse_map(map: &str, size: &str, content: &[u8]) -> Vec<u8> {
    Archive::default()
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ])
        .file("f", content)
        .end()
}

#[test]
fn sparse_maps_must_fit_their_file() {
    for (map, size, length) in [
        ("0,10,5,10", "100", 20),
        ("50,10,0,10", "100", 20),
        ("95,10", "100", 10),
        ("18446744073709551615,10", "100", 10),
        ("0,18446744073709551615", "18446744073709551615", 10),
        ("0,5", "100", 10),
        ("0,15", "100", 10),
    ] {
        let error = refused(&sparse_map(map, size, &noise(length)));
        let map_is_wrong = matches!(
            error,
            LayerError::Attribute {
                fault: AttributeFault::SparseMap(_),
                ..
            }
        );
        assert!(map_is_wrong, "{map}: {error}");
    }
    let folder = Archive::default()
        .pax(&[("GNU.sparse.map", b"0,1")])
        .folder("d")
        .end();
    let error = refused(&folder);
    assert!(matches!(
        error,
        LayerError::Attribute {
            fault: AttributeFault::SparseType,
            ..
        }
    ));
}

#[test]
fn a_sparse_file_of_a_tebibyte_is_refused_or_takes_no_room() {
    let size = 1_u64 << 40;
    let map = format!("0,4096,{},512", size - 512);
    let tar = sparse_map(&map, &size.to_string(), &noise(4608));
    let tried = attempt(tar.as_slice(), None, &ROOMY);
    let Err(LayerError::FileTooLarge {
        size: found, limit, ..
    }) = tried.end
    else {
        panic!("{:?}", tried.end)
    };
    assert_eq!((found, limit), (size, ROOMY.file_bytes));
    let error = tried.end_text();
    assert!(error.contains("1099511627776") && error.contains("WAGGLE_IMAGE_MAX_FILE_MB"));

    let raised = Budget {
        file_bytes: size,
        ..ROOMY
    };
    let tried = attempt(tar.as_slice(), None, &raised);
    assert_eq!(tried.end.unwrap().data_blocks, 2);
    assert!(tried.written < 10_000);
}

impl Tried {
    fn end_text(&self) -> String {
        self.end.as_ref().expect_err("it was taken").to_string()
    }
}

/// An endless or very long blob, made as it is read, with a count of what was taken of it.
struct Generated<F> {
    next: F,
    piece: Vec<u8>,
    at: usize,
    taken: Rc<Cell<u64>>,
}

fn generated<F: FnMut() -> Vec<u8>>(next: F) -> (Generated<F>, Rc<Cell<u64>>) {
    let taken = Rc::new(Cell::new(0));
    (
        Generated {
            next,
            piece: Vec::new(),
            at: 0,
            taken: taken.clone(),
        },
        taken,
    )
}

impl<F: FnMut() -> Vec<u8>> Read for Generated<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            self.piece = (self.next)();
            self.at = 0;
        }
        let length = into.len().min(self.piece.len() - self.at);
        into[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        self.taken.set(self.taken.get() + length as u64);
        Ok(length)
    }
}

#[test]
fn ten_million_entries_end_at_the_ceiling() {
    let mut count = 0;
    let (blob, taken) = generated(|| {
        count += 1;
        if count > 10_000_000 {
            return Vec::new();
        }
        Archive::default().file(format!("f{count}"), b"").0
    });
    let tried = attempt(blob, None, &ROOMY);
    let Err(LayerError::TooManyEntries { limit: 10_000 }) = tried.end else {
        panic!("{:?}", tried.end)
    };
    assert!(tried.end_text().contains("WAGGLE_IMAGE_MAX_ENTRIES"));
    // What was taken beyond the ceiling is what waits between the two threads.
    assert!(taken.get() < 10_000 * 512 + 4 * MIB, "{}", taken.get());
}

#[test]
fn entries_that_count_for_nothing_count() {
    let global = Archive::default().member("g", b'g', b"", |_| {}).0;
    let aufs = Archive::default().file(".wh..wh.x", b"").0;
    for member in [global, aufs] {
        let (blob, _) = generated(|| member.clone());
        let end = attempt(blob, None, &ROOMY).end;
        assert!(
            matches!(end, Err(LayerError::TooManyEntries { .. })),
            "{end:?}"
        );
    }
}

const SMALL: Budget = Budget {
    unpacked_bytes: MIB,
    file_bytes: u64::MAX,
    ..ROOMY
};

/// Expects the end at the ceiling, and nothing written beyond it.
fn bounded(blob: impl Read) {
    let tried = attempt(blob, None, &SMALL);
    let Err(LayerError::TooLarge { needed, limit: MIB }) = tried.end else {
        panic!("{:?}", tried.end)
    };
    assert!(needed > MIB && tried.written <= MIB, "{}", tried.written);
    assert!(tried.end_text().contains("WAGGLE_IMAGE_MAX_UNPACKED_MB"));
}

#[test]
fn bombs_end_at_the_ceiling() {
    // One file, larger than allowed by what it says.
    let huge = Archive::default()
        .member("f", b'0', b"", |header| header.set_size(10 << 30))
        .0;
    let zeros = huge.as_slice().chain(io::repeat(0));
    bounded(flate2::read::GzEncoder::new(
        zeros,
        flate2::Compression::fast(),
    ));
    // Many files, each of one byte in one block.
    let (files, _) = generated(|| Archive::default().file("f", b"x").0);
    bounded(flate2::read::GzEncoder::new(
        files,
        flate2::Compression::fast(),
    ));
    // Entries without content, whose index is what grows.
    let (links, _) = generated(|| {
        Archive::default()
            .pax(&[("path", &[b'p'; 255])])
            .link("l", b'2', &[b't'; 99])
            .0
    });
    bounded(links);
    // Nothing that is kept: what a sparse file's map leaves out, and what an AUFS file has.
    let aufs =
        Archive::default().member(".wh..wh.x", b'0', b"", |header| header.set_size(10 << 30));
    bounded(aufs.0.as_slice().chain(io::repeat(0)));
    // Nothing but what follows the end.
    bounded(flate2::read::GzEncoder::new(
        io::repeat(0),
        flate2::Compression::fast(),
    ));
}

/// The sum of the extensions' sizes is beyond what a number holds.
#[test]
fn sizes_beyond_all_numbers_are_no_panic() {
    for size in [u64::MAX, u64::MAX - 511, u64::MAX - 2000, 1 << 63] {
        let archive = Archive::default()
            .pax(&[("comment", &[b'c'; 3000])])
            .member("n", b'L', b"", |header| {
                // In base 256, as GNU writes what octal digits do not hold.
                let field = &mut header.as_mut_bytes()[124..136];
                field.fill(0);
                field[0] = 0x80;
                field[4..].copy_from_slice(&size.to_be_bytes());
            })
            .file("f", b"x")
            .end();
        let error = refused(&archive);
        assert!(
            matches!(
                error,
                LayerError::Parser { .. }
                    | LayerError::Malformed { .. }
                    | LayerError::HeaderTooLong { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn what_follows_the_end_is_bounded_of_itself() {
    let tried = attempt(io::repeat(0).take(20 * MIB), None, &ROOMY);
    assert!(
        matches!(tried.end, Err(LayerError::Trailer { .. })),
        "{:?}",
        tried.end
    );
}

#[test]
fn a_budget_is_inclusive() {
    let tar = Archive::default().file("f", b"x").end();
    let made = sound(&tar);
    let unpacked_bytes = made.converted.unpacked_bytes;
    let exact = Budget {
        unpacked_bytes,
        file_bytes: 1,
        entries: 1,
    };
    assert!(attempt(tar.as_slice(), None, &exact).end.is_ok());
    for budget in [
        Budget {
            unpacked_bytes: unpacked_bytes - 1,
            ..exact
        },
        Budget {
            file_bytes: 0,
            ..exact
        },
        Budget {
            entries: 0,
            ..exact
        },
        Budget {
            unpacked_bytes: 0,
            ..exact
        },
    ] {
        let tried = attempt(tar.as_slice(), None, &budget);
        assert!(tried.end.is_err(), "{budget:?}");
        assert!(tried.written <= budget.unpacked_bytes.max(40), "{budget:?}");
    }
}

#[test]
fn media_types_that_lie_are_told() {
    let tar = Archive::default().file("f", b"x").end();
    let blobs = [
        (Compression::Plain, tar.clone()),
        (Compression::Gzip, gzip(&tar)),
        (Compression::Zstd, zstd(&tar)),
    ];
    for (found, blob) in &blobs {
        for expect in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            let end = make(blob, Some(expect));
            if expect == *found {
                assert!(end.is_ok());
                continue;
            }
            let Err(error) = end else { panic!("taken") };
            let text = error.to_string();
            assert!(matches!(error, LayerError::Contradiction { .. }), "{text}");
            assert!(
                text.contains(&format!("says {expect}, its content is {found}")),
                "{text}"
            );
        }
    }
    for (name, blob) in [
        ("xz", b"\xfd7zXZ\0\0\x04\xe6\xd6".as_slice()),
        ("bzip2", b"BZh91AY&SY\0\0\0\0"),
    ] {
        let error = refused(blob);
        let LayerError::Unsupported { name: found } = error else {
            panic!("{error}")
        };
        assert_eq!(found, name);
    }
}

#[test]
fn a_cut_blob_is_told_wherever_it_is_cut() {
    let tar = Archive::default()
        .pax(&[("path", b"a-name"), ("SCHILY.xattr.user.a", b"b")])
        .file("f", &noise(600))
        .folder("d")
        .end();
    for length in 0..tar.len() {
        // Before a member, the archive may end, and behind the last one its marker is not needed, nor is what pads it.
        let legal = [0, 2136, 2560, 3072, 3584].contains(&length);
        match make(&tar[..length], None) {
            Ok(_) => assert!(legal, "{length}"),
            Err(LayerError::Truncated { at, .. }) => {
                assert!(!legal, "{length}");
                assert_eq!(at, length as u64);
            }
            Err(error) => panic!("{length}: {error}"),
        }
    }
    for blob in [gzip(&tar), zstd(&tar)] {
        for length in 4..blob.len() {
            let error = refused(&blob[..length]);
            assert!(matches!(error, LayerError::Cut { .. }), "{length}: {error}");
        }
    }
}

#[test]
fn a_damaged_blob_is_told() {
    let tar = Archive::default().file("f", &noise(3000)).end();
    for (blob, checksum) in [(gzip(&tar), 8), (zstd(&tar), 4)] {
        let mut flipped = blob.clone();
        let at = blob.len() - checksum;
        flipped[at] ^= 1;
        let error = refused(&flipped);
        assert!(matches!(error, LayerError::Corrupt { .. }), "{error}");
        for garbage in [
            b"garbage that follows".as_slice(),
            &[0; 512],
            b"\x1f\x8b\x09garbage....",
        ] {
            let error = refused(&[blob.as_slice(), garbage].concat());
            assert!(matches!(error, LayerError::Corrupt { .. }), "{error}");
        }
    }
}

#[test]
fn a_zstd_window_beyond_the_ceiling_is_refused() {
    // A frame header that asks for a window of 2 GiB, and one block that would need nothing of it.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x03, 0, 0, 0];
    let error = refused(&frame);
    assert!(matches!(error, LayerError::Corrupt { .. }), "{error}");
}

/// A reader that fails, as a disk does.
struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk is gone"))
    }
}

#[test]
fn a_reader_that_fails_is_not_taken_for_a_damaged_layer() {
    let tar = Archive::default().file("f", &noise(100_000)).end();
    for blob in [tar.clone(), gzip(&tar), zstd(&tar)] {
        let half = blob.len() / 2;
        let tried = attempt(blob[..half].chain(Failing), None, &ROOMY);
        let Err(LayerError::Read(source)) = tried.end else {
            panic!("{:?}", tried.end)
        };
        assert_eq!(source.to_string(), "the disk is gone");
    }
}

#[test]
fn a_conversion_stops_when_it_is_told() {
    for stops_at in 0..4 {
        let asked = Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > stops_at
        };
        let huge = Archive::default()
            .member("f", b'0', b"", |header| header.set_size(60 << 20))
            .0;
        let blob = huge.as_slice().chain(io::repeat(0));
        let [mut data, mut index] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let end = convert(blob, None, &mut data, &mut index, &ROOMY, &stop);
        assert!(matches!(end, Err(LayerError::Stopped)), "{end:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_of_its_own() {
    let tar = Archive::default().file("f", &noise(1 << 20)).end();
    let full = || {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let end = convert(
        tar.as_slice(),
        None,
        &mut full(),
        &mut tempfile::tempfile().unwrap(),
        &ROOMY,
        &|| false,
    );
    assert!(
        matches!(end, Err(LayerError::Write { what: "data", .. })),
        "{end:?}"
    );
    let end = convert(
        tar.as_slice(),
        None,
        &mut tempfile::tempfile().unwrap(),
        &mut full(),
        &ROOMY,
        &|| false,
    );
    assert!(
        matches!(end, Err(LayerError::Write { what: "index", .. })),
        "{end:?}"
    );
}
