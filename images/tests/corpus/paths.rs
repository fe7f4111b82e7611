// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Members of the corpus that would have something written elsewhere, and what one layer does to another: paths, links,
//! kinds, names.

use waggle_images::images::Error;
use waggle_images::layer::{LayerError, PathFault};
use waggle_images::root::RootError;
use waggle_images::store::StoreError;

use crate::archive::Archive;
use crate::image::{Image, Layer};
use crate::reader::What;
use crate::{Case, Outcome, Root};

/// What hostile layers write.
const MINE: &[u8] = b"written by a layer";

/// A layer is refused for this.
macro_rules! layer {
    ($error:pat, $words:expr) => {
        Outcome::Refused(
            |error| {
                matches!(
                    error,
                    Error::Store(StoreError::Layer { source: $error, .. })
                )
            },
            $words,
        )
    };
}
pub(crate) use layer;

/// A root is refused for this.
macro_rules! root {
    ($error:pat, $words:expr) => {
        Outcome::Refused(
            |error| matches!(error, Error::Store(StoreError::Root($error))),
            $words,
        )
    };
}
pub(crate) use root;

pub(crate) fn cases() -> Vec<Case> {
    [
        paths(),
        symlinks(),
        hard_links(),
        kinds(),
        layers(),
        names(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn one(archive: Archive) -> Image {
    Image::plain(archive.end())
}

/// Layers, the lowest first.
fn several(archives: impl IntoIterator<Item = Archive>) -> Image {
    let layers = archives.into_iter();
    Image::of(layers.map(|archive| Layer::plain(archive.end())).collect())
}

fn file(content: &[u8]) -> What {
    What::File(content.to_vec())
}

fn symlink(target: &str) -> What {
    What::Symlink(target.as_bytes().to_vec())
}

/// These names are there, and these things by them. Folders on the way are not named.
#[track_caller]
fn has(root: &Root, expected: &[(&str, What)]) {
    let all = root.all();
    for (name, what) in expected {
        let seen = all.get(name.as_bytes());
        assert_eq!(seen.map(|seen| &seen.what), Some(what), "{name}");
    }
    let others = all.iter().filter(|(_, seen)| seen.what != What::Folder);
    let folders = expected.iter().filter(|(_, what)| *what == What::Folder);
    assert_eq!(others.count(), expected.len() - folders.count());
}

const PARENT: Outcome = layer!(
    LayerError::Path {
        fault: PathFault::Parent,
        ..
    },
    &["has the path", "leads upwards"]
);

fn paths() -> Vec<Case> {
    vec![
        Case::new(
            "a path upwards",
            |_| one(Archive::default().file("../near", MINE)),
            PARENT,
        ),
        Case::new(
            "a path upwards through a folder",
            |_| one(Archive::default().folder("a").file("a/../../near", MINE)),
            PARENT,
        ),
        Case::new(
            "a path upwards to a file of this host",
            |victim| {
                let up = "../".repeat(40);
                let path = victim.join("file").display().to_string();
                one(Archive::default().file(up + path.trim_start_matches('/'), MINE))
            },
            PARENT,
        ),
        Case::new(
            "a whiteout upwards",
            |_| one(Archive::default().file("../.wh.near", b"")),
            PARENT,
        ),
        // As all tools have it: a place in the root.
        Case::new(
            "an absolute path",
            |victim| {
                let path = victim.join("file").display().to_string();
                one(Archive::default().file(path, MINE))
            },
            Outcome::Contained(|root| has(root, &[(&root.victim("file"), file(MINE))])),
        ),
    ]
}

fn symlinks() -> Vec<Case> {
    vec![
        Case::new(
            "a write through a symlink to a folder of this host",
            |victim| {
                let archive = Archive::default().symlink("out", victim);
                one(archive.file("out/file", MINE).file("out/new", MINE))
            },
            Outcome::Contained(|root| {
                let (old, new) = (root.victim("file"), root.victim("new"));
                let target = format!("/{}", root.victim(""));
                let link = symlink(target.trim_end_matches('/'));
                has(
                    root,
                    &[("out", link), (&old, file(MINE)), (&new, file(MINE))],
                );
            }),
        ),
        Case::new(
            "a write through a symlink upwards",
            |_| {
                let archive = Archive::default().symlink("a/out", "../../../../..");
                one(archive.file("a/out/etc/passwd", MINE))
            },
            Outcome::Contained(|root| {
                let link = symlink("../../../../..");
                has(root, &[("a/out", link), ("etc/passwd", file(MINE))]);
            }),
        ),
        Case::new(
            "a write through a symlink of a lower layer",
            |victim| {
                several([
                    Archive::default().symlink("out", victim),
                    Archive::default().file("out/file", MINE),
                    Archive::default().file("out/.wh.file", b""),
                ])
            },
            Outcome::Contained(|root| {
                assert!(!root.all().contains_key(root.victim("file").as_bytes()));
            }),
        ),
        Case::new(
            "a file over a symlink",
            |victim| {
                let archive = Archive::default().symlink("out", victim.join("file"));
                one(archive.file("out", MINE))
            },
            Outcome::Contained(|root| has(root, &[("out", file(MINE))])),
        ),
        Case::new(
            "a write through symlinks in a circle",
            |_| {
                let archive = Archive::default().symlink("a", "b").symlink("b", "a");
                one(archive.file("a/x", MINE))
            },
            root!(RootError::Loop { .. }, &["more than 40 symlinks"]),
        ),
    ]
}

fn hard_links() -> Vec<Case> {
    const NOWHERE: Outcome = root!(
        RootError::LinkMissing { .. },
        &["hard link", "neither this layer nor one below has"]
    );
    vec![
        Case::new(
            "a hard link to a file of this host",
            |victim| {
                let archive = Archive::default().hard_link("out", victim.join("file"));
                one(archive.file("out", MINE))
            },
            NOWHERE,
        ),
        Case::new(
            "a hard link through a symlink to a folder of this host",
            |victim| {
                let archive = Archive::default().symlink("link", victim);
                one(archive.hard_link("out", "link/file").file("out", MINE))
            },
            NOWHERE,
        ),
        Case::new(
            "a hard link upwards",
            |_| one(Archive::default().hard_link("out", "../near")),
            layer!(
                LayerError::Target {
                    fault: PathFault::Parent,
                    ..
                },
                &["links to \"../near\"", "leads upwards"]
            ),
        ),
        Case::new(
            "a hard link to a folder",
            |_| one(Archive::default().folder("d").hard_link("out", "d")),
            root!(RootError::LinkFolder { .. }, &["which is a folder"]),
        ),
    ]
}

fn kinds() -> Vec<Case> {
    vec![
        // In the guest, where its kernel and not this one's makes them what they are.
        Case::new(
            "device nodes",
            |_| {
                let archive = Archive::default().device("null", b'3', 1, 3);
                let archive = archive
                    .device("disk", b'4', 8, 0)
                    .device("pipe", b'6', 0, 0);
                one(archive.device("large", b'4', 4095, 1_048_575))
            },
            Outcome::Contained(|root| {
                let device = What::Device;
                let expected = [
                    ("null", device(false, 1, 3)),
                    ("disk", device(true, 8, 0)),
                    ("large", device(true, 4095, 1_048_575)),
                    ("pipe", What::Fifo),
                ];
                has(root, &expected);
            }),
        ),
        Case::new(
            "a device that Linux has not",
            |_| one(Archive::default().device("odd", b'4', 4096, 0)),
            layer!(LayerError::Device { .. }, &["device 4096:0"]),
        ),
        // The same: it is root's in the guest. In the store nothing has such a mode, which is looked for every time.
        Case::new(
            "set-uid",
            |_| {
                let set = |mode| move |header: &mut tar::Header| header.set_mode(mode);
                let archive = Archive::default().member("su", b'0', MINE, set(0o4755));
                one(archive.member("sg", b'0', MINE, set(0o2755)).member(
                    "sticky",
                    b'5',
                    b"",
                    set(0o1777),
                ))
            },
            Outcome::Contained(|root| {
                let all = root.all();
                let about = |name: &str| {
                    let seen = &all[name.as_bytes()];
                    (seen.mode, seen.owner)
                };
                assert_eq!(about("su"), (0o4755, (0, 0)));
                assert_eq!(about("sg"), (0o2755, (0, 0)));
                assert_eq!(about("sticky"), (0o1777, (0, 0)));
            }),
        ),
        Case::new(
            "a type that nobody knows",
            |_| one(Archive::default().member("odd", b'V', b"", |_| {})),
            layer!(LayerError::Type { kind: b'V', .. }, &["unknown type 'V'"]),
        ),
        Case::new(
            "the root as a symlink",
            |victim| one(Archive::default().symlink("/", victim)),
            layer!(LayerError::Root, &["other than a folder"]),
        ),
        Case::new(
            "the root as a device",
            |_| one(Archive::default().device("./", b'4', 8, 0)),
            layer!(LayerError::Root, &["other than a folder"]),
        ),
    ]
}

fn layers() -> Vec<Case> {
    const HIDES_NOTHING: Outcome = layer!(
        LayerError::Path {
            fault: PathFault::Whiteout,
            ..
        },
        &["a whiteout that hides no name"]
    );
    vec![
        Case::new(
            "a layer that replaces a symlink by a file",
            |_| {
                let lower = Archive::default().file("target", b"lower");
                several([
                    lower.symlink("a", "target"),
                    Archive::default().file("a", MINE),
                ])
            },
            Outcome::Contained(|root| {
                has(root, &[("a", file(MINE)), ("target", file(b"lower"))]);
            }),
        ),
        Case::new(
            "a layer that replaces a file by a symlink",
            |victim| {
                several([
                    Archive::default().file("a", MINE),
                    Archive::default().symlink("a", victim.join("file")),
                ])
            },
            Outcome::Contained(|root| {
                let target = format!("/{}", root.victim("file"));
                has(root, &[("a", symlink(&target))]);
            }),
        ),
        Case::new(
            "a layer that replaces a symlink by a folder",
            |_| {
                let lower = Archive::default().file("real/x", b"lower");
                several([
                    lower.symlink("d", "real"),
                    Archive::default().folder("d").file("d/x", MINE),
                ])
            },
            Outcome::Contained(|root| {
                has(root, &[("d/x", file(MINE)), ("real/x", file(b"lower"))]);
            }),
        ),
        Case::new(
            "a layer that replaces a folder by a symlink",
            |_| {
                let lower = Archive::default().file("real/x", b"lower");
                several([
                    lower.file("d/gone", MINE),
                    Archive::default().symlink("d", "real"),
                    Archive::default().file("d/x", MINE),
                ])
            },
            Outcome::Contained(|root| {
                has(root, &[("d", symlink("real")), ("real/x", file(MINE))]);
            }),
        ),
        Case::new(
            "a whiteout of the root",
            |_| {
                several([
                    Archive::default().file("a", MINE),
                    Archive::default().file(".wh..", b""),
                ])
            },
            HIDES_NOTHING,
        ),
        Case::new(
            "a whiteout of nothing",
            |_| one(Archive::default().file("./.wh.", b"")),
            HIDES_NOTHING,
        ),
        // Legal: the root stays, and has nothing that is lower.
        Case::new(
            "an opaque root",
            |_| {
                several([
                    Archive::default().file("a", b"lower"),
                    Archive::default().file("b", MINE).file(".wh..wh..opq", b""),
                ])
            },
            Outcome::Contained(|root| has(root, &[("", What::Folder), ("b", file(MINE))])),
        ),
    ]
}

fn names() -> Vec<Case> {
    vec![
        // What comes later counts, as it does for whoever unpacks.
        Case::new(
            "duplicate names",
            |victim| {
                let archive = Archive::default().file("a", b"first").file("a", MINE);
                let archive = archive.folder("d").file("d/gone", MINE).file("d", MINE);
                let archive = archive.file("e", MINE).folder("e").file("e/x", MINE);
                let archive = archive.file("./f", MINE).symlink("f", victim);
                one(archive.file("g", b"first").file("/g", MINE))
            },
            Outcome::Contained(|root| {
                let target = format!("/{}", root.victim(""));
                let expected = [
                    ("a", file(MINE)),
                    ("d", file(MINE)),
                    ("e/x", file(MINE)),
                    ("f", symlink(target.trim_end_matches('/'))),
                    ("g", file(MINE)),
                ];
                has(root, &expected);
            }),
        ),
        Case::new(
            "names that are no text",
            |_| {
                one(Archive::default()
                    .file(b"\xff\xfe/\x80", MINE)
                    .file("\"\n\\", MINE))
            },
            Outcome::Contained(|root| {
                let all = root.all();
                assert_eq!(all[b"\xff\xfe/\x80".as_slice()].what, file(MINE));
                assert_eq!(all[b"\"\n\\".as_slice()].what, file(MINE));
            }),
        ),
    ]
}
