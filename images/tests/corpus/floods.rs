// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Members of the corpus that are too much of something: entries, bytes, holes, and what uncompresses to them.

use std::io::{Read, repeat};

use erofs_rs::{EroFS, backend::SliceImage};
use waggle_images::Limits;
use waggle_images::images::Error;
use waggle_images::layer::LayerError;
use waggle_images::registry::RegistryError;
use waggle_images::root::RootError;
use waggle_images::source::SourceError;
use waggle_images::store::StoreError;

use crate::archive::{Archive, gzip};
use crate::child::Ceilings;
use crate::image::{Image, Layer};
use crate::paths::{layer, root};
use crate::{Case, Outcome};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// What an image may have unpacked, where reaching the default would only take long.
const LITTLE: Ceilings = Ceilings {
    entries: None,
    unpacked_bytes: Some(8 * MIB),
    file_bytes: None,
    memory_bytes: None,
};

/// In a gzip stream, members follow each other. So a stream of any length is made of what one piece comes to.
fn repeated(piece: &[u8], times: usize) -> Vec<u8> {
    gzip(piece).repeat(times)
}

pub(crate) fn cases() -> Vec<Case> {
    [entries(), holes(), bombs()]
        .into_iter()
        .flatten()
        .collect()
}

fn entries() -> Vec<Case> {
    vec![
        // With the ceiling that everybody has.
        Case::new(
            "ten million entries",
            |_| {
                let names = 0..10_000;
                let archive = names.fold(Archive::default(), |archive, number| {
                    archive.file(format!("f{number}"), b"")
                });
                let pieces = repeated(&archive.bytes(), 1000);
                Image::of(vec![Layer::endless(pieces)])
            },
            layer!(
                LayerError::TooManyEntries { limit: 2_000_000 },
                &["2000000", "WAGGLE_IMAGE_MAX_ENTRIES"]
            ),
        ),
        Case {
            ceilings: Ceilings {
                entries: Some(10),
                ..Ceilings::default()
            },
            ..Case::new(
                "too many entries in all layers together",
                |_| {
                    let layers = [0..6, 6..12].map(|names| {
                        let archive = names.fold(Archive::default(), |archive, name| {
                            archive.file(format!("{name}"), b"")
                        });
                        Layer::plain(archive.end())
                    });
                    Image::of(layers.to_vec())
                },
                Outcome::Refused(
                    |error| matches!(error, Error::Store(StoreError::BombOfEntries { limit: 10 })),
                    &["more than 10 entries", "WAGGLE_IMAGE_MAX_ENTRIES"],
                ),
            )
        },
        long_names(),
    ]
}

/// What names and targets may take of memory, in one member.
const NAMES: u64 = 16 * MIB;

fn long_names() -> Case {
    let case = Case::new(
        "long names and targets",
        |_| {
            let long = |number: u32| format!("{number:0>99}");
            let archive = (0..60_000).fold(Archive::default(), |archive, number| {
                archive.symlink(&long(number), long(number))
            });
            Image::plain(archive.end())
        },
        root!(
            RootError::Memory { limit: NAMES, .. },
            &["bytes of memory", "WAGGLE_IMAGE_MAX_MEMORY"]
        ),
    );
    Case {
        ceilings: Ceilings {
            memory_bytes: Some(NAMES),
            ..Ceilings::default()
        },
        ..case
    }
}

/// A file of a tebibyte, with nothing in it but this at its end.
fn tebibyte(end: &[u8]) -> Image {
    Image::plain(Archive::default().sparse("huge", TIB, end).end())
}

fn holes() -> Vec<Case> {
    let allowed = |case: Case| Case {
        ceilings: Ceilings {
            file_bytes: Some(TIB),
            ..Ceilings::default()
        },
        ..case
    };
    vec![
        Case::new(
            "a sparse file of a tebibyte",
            |_| tebibyte(b"the end"),
            layer!(
                LayerError::FileTooLarge { size: TIB, .. },
                &["\"huge\" has 1099511627776 bytes", "WAGGLE_IMAGE_MAX_FILE"]
            ),
        ),
        // Whoever raises the ceiling gets it, and it takes no room.
        allowed(Case::new(
            "a sparse file of a tebibyte that is allowed",
            |_| tebibyte(b""),
            Outcome::Contained(|root| {
                assert!((root.disk.len() as u64) < MIB, "{}", root.disk.len());
                let fs = EroFS::new(SliceImage::new(&root.disk)).unwrap();
                let huge = fs.open("/huge").unwrap();
                assert_eq!(huge.size(), TIB);
                let mut end = [1; 10];
                assert_eq!(huge.read_at(&mut end, TIB - 10).unwrap(), 10);
                assert_eq!(end, [0; 10]);
            }),
        )),
        // EROFS maps such a file block by block, which takes a gibibyte.
        allowed(Case::new(
            "an allowed tebibyte with something at its end",
            |_| tebibyte(b"the end"),
            root!(
                RootError::Maps { .. },
                &["maps of sparse files", "over the limit"]
            ),
        )),
    ]
}

/// The first bytes of an archive with a file of so many.
fn huge(bytes: u64) -> Vec<u8> {
    let archive = Archive::default().member("huge", b'0', b"", |header| header.set_size(bytes));
    archive.bytes()
}

/// One layer takes more than all may.
const TOO_LARGE: Outcome = layer!(
    LayerError::TooLarge {
        limit: 8_388_608,
        ..
    },
    &["8388608", "WAGGLE_IMAGE_MAX_UNPACKED"]
);

fn bombs() -> Vec<Case> {
    let little = |case: Case| Case {
        ceilings: LITTLE,
        ..case
    };
    vec![
        // With the ceilings that everybody has.
        Case::new(
            "a gzip bomb of one file",
            |_| {
                let zeros = gzip(repeat(0).take(MIB)).repeat(1024);
                Image::of(vec![Layer::endless(
                    [gzip(&*huge(40 * GIB)), zeros].concat(),
                )])
            },
            layer!(
                LayerError::FileTooLarge { .. },
                &["42949672960 bytes", "WAGGLE_IMAGE_MAX_FILE"]
            ),
        ),
        little(Case::new(
            "a gzip bomb of one file within its own ceiling",
            |_| {
                let zeros = gzip(repeat(0).take(MIB)).repeat(1024);
                Image::of(vec![Layer::endless([gzip(&*huge(GIB)), zeros].concat())])
            },
            TOO_LARGE,
        )),
        little(Case::new(
            "a gzip bomb of many files",
            |_| {
                let names = 0..16;
                let archive = names.fold(Archive::default(), |archive, number| {
                    archive.file(format!("f{number}"), &[0; 64 << 10])
                });
                Image::of(vec![Layer::endless(repeated(&archive.bytes(), 1000))])
            },
            TOO_LARGE,
        )),
        little(Case::new(
            "a gzip bomb of what counts for nothing",
            |_| {
                let archive = Archive::default().file(".wh..wh.aufs", &[0; 1 << 20]);
                Image::of(vec![Layer::endless(repeated(&archive.bytes(), 1000))])
            },
            TOO_LARGE,
        )),
        Case::new(
            "a gzip bomb behind the archive's end",
            |_| {
                let end = gzip(&*Archive::default().file("a", b"").end());
                let zeros = gzip(repeat(0).take(MIB)).repeat(1024);
                Image::of(vec![Layer::endless([end, zeros].concat())])
            },
            layer!(
                LayerError::Trailer { .. },
                &["follow the end of the layer's archive"]
            ),
        ),
        little(Case::new(
            "layers that are too much together",
            |_| {
                let layers = (0..4_u8).map(|number| {
                    let tar = Archive::default().file("f", &vec![number; 3 << 20]).end();
                    Layer::zstd(&tar)
                });
                Image::of(layers.collect())
            },
            Outcome::Refused(
                |error| matches!(error, Error::Store(StoreError::BombOfBytes { .. })),
                &["more than 8388608 bytes", "WAGGLE_IMAGE_MAX_UNPACKED"],
            ),
        )),
        Case::new(
            "a zstd stream that wants 2 GiB of memory",
            |_| {
                let frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x03, 0, 0, 0];
                let layer = Layer::endless(frame);
                Image::of(vec![Layer {
                    media_type: crate::image::ZSTD,
                    ..layer
                }])
            },
            layer!(
                LayerError::Corrupt { .. },
                &["zstd stream cannot be uncompressed"]
            ),
        ),
        // JSON may end in spaces, so that what was read until the ceiling does not show that it is none.
        Case {
            import: Outcome::Refused(
                |error| {
                    let limit = Limits::default().manifest_bytes;
                    matches!(error, Error::Source(SourceError::TooLong { limit: found, .. }) if *found == limit)
                },
                &["is longer than 4194304 bytes"],
            ),
            ..Case::new(
                "a manifest of 100 MiB",
                |_| {
                    let image = Image::plain(Archive::default().file("a", b"").end());
                    Image {
                        padding: 100 * MIB,
                        ..image
                    }
                },
                Outcome::Refused(
                    |error| matches!(error, Error::Registry(RegistryError::TooLarge { .. })),
                    &["the manifest of", "is larger than 4194304 bytes"],
                ),
            )
        },
    ]
}
