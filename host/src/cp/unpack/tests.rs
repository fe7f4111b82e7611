// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Archives that no honest guest makes, and those that one does.

use std::{
    fs::{read, read_link, read_to_string, symlink_metadata, write},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use proptest::prelude::{any, prop};
use tar::{Builder, Header};
use tempfile::TempDir;

use super::*;

/// An archive, entry by entry. Paths are written as they are, which the crate would refuse.
#[derive(Default)]
struct Made(Vec<u8>);

impl Made {
    fn entry(self, kind: EntryType, path: &[u8], link: &[u8], content: &[u8]) -> Self {
        self.with_mode(kind, path, link, content, 0o7777)
    }

    fn with_mode(
        mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        content: &[u8],
        mode: u32,
    ) -> Self {
        for (kind, long) in [
            (EntryType::GNULongName, path),
            (EntryType::GNULongLink, link),
        ] {
            if long.len() > 100 {
                self.block(kind, b"././@LongLink", b"", long, 0o644);
            }
        }
        let short = |bytes: &[u8]| bytes[..bytes.len().min(100)].to_vec();
        self.block(kind, &short(path), &short(link), content, mode);
        self
    }

    fn block(&mut self, kind: EntryType, path: &[u8], link: &[u8], content: &[u8], mode: u32) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn file(self, path: &[u8], content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, b"", content)
    }

    fn link(self, path: &[u8], target: &[u8]) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    fn folder(self, path: &[u8]) -> Self {
        self.entry(EntryType::Directory, path, b"", b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A folder to unpack into, beside a file that must stay as it is.
struct Stage {
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        std::fs::create_dir(folder.path().join("into")).expect("a folder");
        write(folder.path().join("secret"), "untouched").expect("a file");
        Self { folder }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("into")
    }

    fn unpack(&self, archive: &[u8]) -> (Result<(), UnpackError>, Vec<String>) {
        let target = Target::new(&self.dir(), OsStr::new("copy")).expect("a folder");
        let mut warnings = Vec::new();
        let outcome = unpack(archive, &target, |line: &str| {
            warnings.push(line.to_owned());
        });
        (outcome, warnings)
    }

    /// Nothing but the destination has changed, and no link in it leads out.
    fn assert_safe(&self) {
        let secret = self.folder.path().join("secret");
        assert_eq!(read_to_string(secret).expect("still there"), "untouched");
        let mut beside: Vec<_> = std::fs::read_dir(self.folder.path())
            .expect("still there")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        beside.sort();
        assert_eq!(beside, ["into", "secret"]);
        let root = self.dir().canonicalize().expect("still there");
        for entry in walkdir::WalkDir::new(&root) {
            let entry = entry.expect("an entry");
            let found = symlink_metadata(entry.path()).expect("an entry");
            if !found.is_symlink() {
                assert_eq!(found.mode() & 0o7000, 0, "{:?}", entry.path());
                assert!(found.is_dir() || found.is_file(), "{:?}", entry.path());
            } else if let Ok(end) = entry.path().canonicalize() {
                assert!(
                    end.starts_with(&root),
                    "{:?} leads to {end:?}",
                    entry.path()
                );
            }
        }
    }
}

#[test]
fn an_honest_archive_is_unpacked_under_the_new_name() {
    let stage = Stage::new();
    let long = [b"src/".as_slice(), &[b'n'; 150], b"/file"].concat();
    let archive = Made::default()
        .with_mode(EntryType::Directory, b"src/", b"", b"", 0o500)
        .with_mode(EntryType::Regular, b"src/run", b"", b"#!", 0o4755)
        .file(&long, b"deep")
        .link(b"src/sub/up", b"../run")
        .link(b"src/down", b"sub/up")
        .entry(EntryType::Link, b"src/same", b"src/run", b"")
        .end();
    let (outcome, warnings) = stage.unpack(&archive);
    outcome.expect("unpacked");
    assert_eq!(warnings, Vec::<String>::new());
    let copy = stage.dir().join("copy");
    let run = symlink_metadata(copy.join("run")).expect("a file");
    assert_eq!(run.permissions().mode() & 0o7700, 0o700);
    assert_eq!((run.mtime(), run.nlink()), (1_000_000_000, 2));
    assert_eq!(read(copy.join("down")).expect("through two links"), b"#!");
    assert_eq!(
        read(copy.join("n".repeat(150)).join("file")).expect("deep"),
        b"deep"
    );
    stage.assert_safe();
    // Again, over what is there.
    stage.unpack(&archive).0.expect("replaced");
}

#[test]
fn a_file_alone_takes_the_name_that_is_given() {
    let stage = Stage::new();
    let archive = Made::default().file(b"a.txt", b"one").end();
    let target = Target::new(&stage.dir().join("b.txt"), OsStr::new("a.txt")).expect("a target");
    unpack(archive.as_slice(), &target, |_: &str| {}).expect("unpacked");
    assert_eq!(read(stage.dir().join("b.txt")).expect("renamed"), b"one");
    let missing = stage.dir().join("no/such");
    assert!(Target::new(&missing, OsStr::new("x")).is_err());
    let local = Target::new(Path::new("new"), OsStr::new("x")).expect("in this folder");
    assert_eq!(local.folder, Path::new("."));
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in [
        &b"/secret"[..],
        b"../secret",
        b"src/../../secret",
        b"src/a/../../../secret",
        b"other/file",
        b"..",
        b"",
        b"./",
        &[b'x'; 5000],
    ] {
        let stage = Stage::new();
        let archive = Made::default().folder(b"src").file(path, b"evil").end();
        let (outcome, _) = stage.unpack(&archive);
        assert!(
            matches!(outcome, Err(UnpackError::Refused(_))),
            "{path:?}: {outcome:?}"
        );
        stage.assert_safe();
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let stage = Stage::new();
    let copy = stage.dir().join("copy");
    // One of the archive's own, and one that was there.
    let archive = Made::default()
        .folder(b"src")
        .folder(b"src/real")
        .link(b"src/link", b"real")
        .file(b"src/link/file", b"evil")
        .end();
    let (outcome, _) = stage.unpack(&archive);
    assert!(
        matches!(outcome, Err(UnpackError::Write { .. })),
        "{outcome:?}"
    );
    assert!(!copy.join("real/file").exists());
    symlink(stage.folder.path(), copy.join("mine")).expect("a link");
    let archive = Made::default().file(b"src/mine/secret", b"evil").end();
    assert!(stage.unpack(&archive).0.is_err());
    // A file replaces a link; it is not written to where that leads.
    symlink(stage.folder.path().join("secret"), copy.join("file")).expect("a link");
    let archive = Made::default().file(b"src/file", b"new").end();
    stage.unpack(&archive).0.expect("replaced");
    assert_eq!(read(copy.join("file")).expect("a file"), b"new");
    // The destination itself may not be a link either.
    std::fs::remove_file(copy.join("mine")).expect("removed");
    let other = Stage::new();
    symlink(other.folder.path(), other.dir().join("copy")).expect("a link");
    let archive = Made::default()
        .folder(b"src")
        .file(b"src/secret", b"evil")
        .end();
    assert!(other.unpack(&archive).0.is_err());
    std::fs::remove_file(other.dir().join("copy")).expect("removed");
    other.assert_safe();
    stage.assert_safe();
}

#[test]
fn links_that_lead_out_are_left_out_and_told() {
    for (path, target) in [
        (&b"src/l"[..], &b"/etc/passwd"[..]),
        (b"src/l", b"../secret"),
        (b"src/l", b".."),
        (b"src/a/l", b"../../secret"),
        (b"src/a/l", b"b/../../../secret"),
        (b"src/l", b"a/../b"),
        (b"src/l", b""),
        (b"src", b"secret"),
    ] {
        let stage = Stage::new();
        let archive = Made::default().link(path, target).end();
        let (outcome, warnings) = stage.unpack(&archive);
        outcome.expect("the rest is fine");
        assert_eq!(warnings.len(), 1, "{target:?}");
        stage.assert_safe();
    }
    // Each of these is inside by itself; together they must not lead out.
    let stage = Stage::new();
    let archive = Made::default()
        .folder(b"src/a/b/c")
        .link(b"src/a/b/c/root", b"../../..")
        .link(b"src/chain", b"a/b/c/root/../secret")
        .link(b"src/other", b"a/b/c/root")
        .link(b"src/a/more", b"../other/../secret")
        .end();
    let (outcome, warnings) = stage.unpack(&archive);
    outcome.expect("the rest is fine");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    stage.assert_safe();
}

#[test]
fn hard_links_reach_regular_files_of_the_copy_only() {
    for target in [
        &b"/etc/passwd"[..],
        b"../secret",
        b"src/../../secret",
        b"src/deep/root",
        b"src/deep",
        b"src/none",
        b"src/l",
    ] {
        let stage = Stage::new();
        let archive = Made::default()
            .folder(b"src/deep/er")
            .link(b"src/deep/root", b"..")
            .entry(EntryType::Link, b"src/l", target, b"")
            .end();
        let (outcome, _) = stage.unpack(&archive);
        assert!(outcome.is_err(), "{target:?}");
        stage.assert_safe();
    }
    // One that was there before is the user's.
    let stage = Stage::new();
    let copy = stage.dir().join("copy");
    std::fs::create_dir(&copy).expect("a folder");
    symlink(stage.folder.path().join("secret"), copy.join("mine")).expect("a link");
    let archive = Made::default()
        .entry(EntryType::Link, b"src/l", b"src/mine", b"")
        .end();
    assert!(stage.unpack(&archive).0.is_err());
    assert!(read_link(copy.join("mine")).is_ok() && !copy.join("l").exists());
}

#[test]
fn devices_are_left_out_and_strange_entries_refused() {
    let stage = Stage::new();
    let mut archive = Made::default().folder(b"src");
    for _ in 0..15 {
        archive = archive.entry(EntryType::Char, b"src/null", b"", b"").entry(
            EntryType::Fifo,
            b"src/p\x1b[2J",
            b"",
            b"",
        );
    }
    let (outcome, warnings) = stage.unpack(&archive.end());
    outcome.expect("the rest is fine");
    assert_eq!(warnings.len(), WARNINGS_MAX + 1);
    assert!(
        warnings.iter().all(|line| !line.contains('\x1b')),
        "{warnings:?}"
    );
    assert!(
        warnings.last().is_some_and(|line| line.contains("10 more")),
        "{warnings:?}"
    );
    let archive = Made::default()
        .entry(EntryType::new(b'Z'), b"src", b"", b"")
        .end();
    assert!(matches!(
        stage.unpack(&archive).0,
        Err(UnpackError::Refused(_))
    ));
    stage.assert_safe();
}

#[test]
fn headers_cannot_make_it_hold_much() {
    let stage = Stage::new();
    let target = Target::new(&stage.dir(), OsStr::new("copy")).expect("a folder");
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
    ] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(u64::MAX / 2);
        header.set_cksum();
        let endless = Read::chain(&header.as_bytes()[..], io::repeat(b'x'));
        let outcome = unpack(endless, &target, |_: &str| {});
        assert!(
            matches!(outcome, Err(UnpackError::Archive(_))),
            "{outcome:?}"
        );
    }
    // Parts of a file with holes that never end.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.as_gnu_mut().expect("GNU's").set_is_extended(true);
    header.set_size(0);
    header.set_cksum();
    let mut more = tar::GnuExtSparseHeader::new();
    more.set_is_extended(true);
    let more = more.as_bytes().repeat(10_000);
    let archive = [header.as_bytes().as_slice(), &more].concat();
    assert!(matches!(
        stage.unpack(&archive).0,
        Err(UnpackError::Archive(_))
    ));
    // Nor is read on behind the end.
    let archive = Made::default().folder(b"src").end();
    let endless = Read::chain(archive.as_slice(), io::repeat(0));
    let outcome = unpack(endless, &target, |_: &str| {});
    assert!(
        matches!(outcome, Err(UnpackError::Refused(_))),
        "{outcome:?}"
    );
}

/// As the guest's tool packs it.
fn sparse(real_size: u64, parts: &[(u64, &[u8])]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("src").expect("a short path");
    header.set_mode(0o644);
    header.set_size(parts.iter().map(|(_, bytes)| bytes.len() as u64).sum());
    let gnu = header.as_gnu_mut().expect("GNU's");
    gnu.set_real_size(real_size);
    for (place, (offset, bytes)) in gnu.sparse.iter_mut().zip(parts) {
        place.set_offset(*offset);
        place.set_length(bytes.len() as u64);
    }
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    for (_, bytes) in parts {
        archive.extend_from_slice(bytes);
    }
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

#[test]
fn sparse_entries_become_sparse_files() {
    let stage = Stage::new();
    let archive = sparse(1 << 24, &[(4096, &[b'x'; 512]), (1 << 24, b"")]);
    stage.unpack(&archive).0.expect("unpacked");
    let found = symlink_metadata(stage.dir().join("copy")).expect("a file");
    assert_eq!(found.len(), 1 << 24);
    assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
    let content = read(stage.dir().join("copy")).expect("a file");
    assert_eq!(content.iter().filter(|byte| **byte == b'x').count(), 512);
    assert_eq!(content[4096..4608], [b'x'; 512]);
    // One that nobody could walk to its end is refused at once.
    let beyond = SPARSE_MAX + 1;
    let (outcome, _) = stage.unpack(&sparse(beyond, &[(beyond, b"")]));
    assert!(
        matches!(&outcome, Err(UnpackError::Refused(_))),
        "{outcome:?}"
    );
    stage.assert_safe();
}

#[test]
fn holes_stay_holes_and_what_is_cut_off_is_an_error() {
    let stage = Stage::new();
    let mut content = vec![0; 40 * PIECE];
    content.extend_from_slice(b"end");
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "src", content.as_slice())
        .expect("packed");
    let archive = builder.into_inner().expect("packed");
    stage.unpack(&archive).0.expect("unpacked");
    let path = stage.dir().join("copy");
    assert!(read(&path).expect("a file") == content);
    let blocks = symlink_metadata(&path).expect("a file").blocks();
    assert!(blocks * 512 < content.len() as u64 / 2, "{blocks} blocks");
    let (outcome, _) = stage.unpack(&archive[..archive.len() / 2]);
    assert!(
        matches!(outcome, Err(UnpackError::Archive(_))),
        "{outcome:?}"
    );
    assert!(stage.unpack(b"").0.is_err() && stage.unpack(&[0; 1024]).0.is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn no_archive_gets_out(
        entries in prop::collection::vec(
            (
                prop::sample::select(vec![
                    EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link,
                ]),
                prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "..", ".", ""]), 0..5),
                prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "..", ".", ""]), 0..6),
                any::<bool>(),
            ),
            0..24,
        ),
    ) {
        let stage = Stage::new();
        for (kind, path, target, rooted) in entries {
            let path = format!("src/{}", path.join("/"));
            let target = target.join("/");
            let target = if rooted { format!("src/{target}") } else { target };
            // One each, so that a refusal does not end the game.
            let archive = Made::default()
                .with_mode(kind, path.as_bytes(), target.as_bytes(), b"", 0o755)
                .end();
            let _ = stage.unpack(&archive);
        }
        stage.assert_safe();
    }

    #[test]
    fn no_bytes_make_it_panic(noise in prop::collection::vec(any::<u8>(), 0..3000)) {
        let stage = Stage::new();
        let mut archive = Made::default().folder(b"src").0;
        archive.extend_from_slice(&noise);
        let _ = stage.unpack(&archive);
        stage.assert_safe();
    }
}
