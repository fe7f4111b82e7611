// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The tools on real files. Archives are made and read by the crate `tar` itself, and by GNU tar where
//! there is one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use bytes::BytesMut;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};
use tempfile::TempDir;
use waggle_protocol::codec;
use waggle_protocol::frame;
use waggle_protocol::limits::{REPLY_PAYLOAD_MAX, SEARCH_LINE_MAX};
use waggle_protocol::message::{
    Failure, FailureCode, Pack, Search, SearchEnd, SearchRecord, Tool, Unpack,
};

use super::{Problems, from_argument, pack, search, to_argument, unpack};
use crate::testing::bytes_of;

fn path_bytes(path: &Path) -> serde_bytes::ByteBuf {
    bytes_of(path.as_os_str().as_bytes())
}

// Search

fn request(path: &Path, pattern: &str) -> Search {
    Search {
        path: path_bytes(path),
        pattern: pattern.into(),
        literal: false,
        ignore_case: false,
        glob: None,
        all_files: false,
        context: 0,
        limit: 100,
        line_max: 200,
    }
}

/// The lines of a search in the form of grep's: `file:number:text`, with `-` for context.
fn run(request: &Search) -> Result<(Vec<String>, SearchEnd), Failure> {
    let mut out = Vec::new();
    search::search(request, &mut out)?;
    let mut bytes = BytesMut::from(out.as_slice());
    let mut file = String::new();
    let mut lines = Vec::new();
    while let Some(frame) = frame::decode(&mut bytes, REPLY_PAYLOAD_MAX).unwrap() {
        match codec::message(&frame).unwrap() {
            SearchRecord::File(name) => file = String::from_utf8_lossy(&name).into_owned(),
            SearchRecord::Line(line) => {
                let mark = if line.is_match { ':' } else { '-' };
                let text = String::from_utf8_lossy(&line.text);
                let cut = if line.cut { "..." } else { "" };
                lines.push(format!("{file}{mark}{}{mark}{text}{cut}", line.number));
            }
            SearchRecord::End(end) => {
                assert!(bytes.is_empty());
                return Ok((lines, end));
            }
        }
    }
    panic!("no end: {lines:?}");
}

fn lines(request: &Search) -> Vec<String> {
    run(request).unwrap().0
}

fn write(folder: &Path, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) {
    let path = folder.join(name.as_ref());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn matches_come_in_the_order_of_files_and_lines() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "b.txt", "one\ntwo one\n");
    write(folder, "a/z.txt", "x\none");
    write(folder, "a/b.txt", "nothing");
    write(folder, OsStr::from_bytes(b"c\xff"), "One\r\n");
    let (found, end) = run(&request(folder, "^.*one$")).unwrap();
    assert_eq!(found, ["a/z.txt:2:one", "b.txt:1:one", "b.txt:2:two one"]);
    let expected = SearchEnd {
        files_searched: 4,
        files_matched: 2,
        matches: 3,
        truncated: false,
        unreadable: 0,
    };
    assert_eq!(end, expected);
    let ignoring = Search {
        ignore_case: true,
        ..request(folder, "^one$")
    };
    assert_eq!(lines(&ignoring).last().unwrap(), "c\u{fffd}:1:One");
    // A file by itself has no name.
    assert_eq!(
        lines(&request(&folder.join("b.txt"), "two")),
        [":2:two one"]
    );
}

#[test]
fn plain_text_is_no_expression() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a", "f(x)\nfx\n");
    let literal = Search {
        literal: true,
        ..request(folder.path(), "f(x)")
    };
    assert_eq!(lines(&literal), ["a:1:f(x)"]);
    assert_eq!(lines(&request(folder.path(), "f(x)")), ["a:2:fx"]);
}

#[test]
fn a_pattern_for_names_chooses_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.py", "src/b.py", "src/c.rs"] {
        write(folder.path(), name, "x");
    }
    for (glob, expected) in [
        ("*.py", &["a.py:1:x", "src/b.py:1:x"][..]),
        ("src/*", &["src/b.py:1:x", "src/c.rs:1:x"]),
        ("**/*.{rs,go}", &["src/c.rs:1:x"]),
        ("!*.py", &["src/c.rs:1:x"]),
    ] {
        let chosen = Search {
            glob: Some(glob.into()),
            ..request(folder.path(), "x")
        };
        assert_eq!(lines(&chosen), expected);
    }
}

#[test]
fn hidden_and_ignored_files_are_searched_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, ".gitignore", "*.log\n/build/\n[bad\n");
    for name in [
        "a.rs",
        "x.log",
        "build/out.rs",
        ".env",
        ".git/config",
        "sub/y.log",
    ] {
        write(folder, name, "needle");
    }
    assert_eq!(lines(&request(folder, "needle")), ["a.rs:1:needle"]);
    let all = Search {
        all_files: true,
        ..request(folder, "needle")
    };
    let (found, end) = run(&all).unwrap();
    assert_eq!((found.len(), end.unreadable), (6, 0));
}

#[test]
fn ignore_files_that_are_none_hold_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, ".gitignore", "*.log");
    for name in ["a", "x.log", "fifo/a", "device/a", "long/a", "sound/a"] {
        write(folder, name, "needle");
    }
    mkfifo(&folder.join("fifo/.gitignore"), Mode::S_IRWXU).unwrap();
    symlink("/dev/zero", folder.join("device/.ignore")).unwrap();
    write(folder, "kernel/a", "needle");
    symlink("/proc/self/status", folder.join("kernel/.ignore")).unwrap();
    write(folder, "long/.ignore", "b\n".repeat(1 << 17) + "b");
    write(folder, "sound/.ignore", "b\n");
    let (found, end) = run(&request(folder, "needle")).unwrap();
    assert_eq!(found, ["a:1:needle", "sound/a:1:needle"]);
    assert_eq!(end.unreadable, 4);
    // In the folder itself, or above it.
    write(folder, "fifo/below/b", "needle");
    for (below, expected) in [
        ("fifo", &["a:1:needle", "below/b:1:needle"][..]),
        ("fifo/below", &["b:1:needle"]),
    ] {
        let (found, end) = run(&request(&folder.join(below), "needle")).unwrap();
        assert_eq!(found, expected);
        assert_eq!(end.unreadable, 1);
    }
    let all = Search {
        all_files: true,
        ..request(folder, "needle")
    };
    let (found, end) = run(&all).unwrap();
    assert_eq!(found.len(), 8);
    assert_eq!(end.unreadable, 0);
}

#[test]
fn context_surrounds_matches_and_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (1..=12).map(|i| format!("line {i}\n")).collect();
    write(folder.path(), "f", text);
    let around = Search {
        context: 1,
        ..request(folder.path(), "line (3|5|11)$")
    };
    let expected = [
        "f-2-line 2",
        "f:3:line 3",
        "f-4-line 4",
        "f:5:line 5",
        "f-6-line 6",
        "f-10-line 10",
        "f:11:line 11",
        "f-12-line 12",
    ];
    assert_eq!(lines(&around), expected);
    // The last match's context is whole, and the next one's is not begun.
    let limited = Search { limit: 2, ..around };
    let (found, end) = run(&limited).unwrap();
    assert_eq!(found, &expected[..5]);
    assert_eq!((end.matches, end.truncated), (2, true));
}

#[test]
fn the_limit_says_whether_it_cut() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a", "x\nx\n");
    write(folder.path(), "b", "x\n");
    for (limit, matches, truncated) in [(0, 0, true), (1, 1, true), (2, 2, true), (3, 3, false)] {
        let limited = Search {
            limit,
            ..request(folder.path(), "x")
        };
        let (found, end) = run(&limited).unwrap();
        assert_eq!(found.len() as u64, matches);
        assert_eq!((end.matches, end.truncated), (matches, truncated));
    }
}

#[test]
fn binary_files_are_left_unless_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "bin", b"needle \0 needle\n");
    write(folder.path(), "utf16", b"\xff\xfen\0e\0e\0d\0l\0e\0\n\0");
    let (found, end) = run(&request(folder.path(), "needle")).unwrap();
    assert_eq!(found, ["utf16:1:needle"]);
    assert_eq!((end.files_searched, end.unreadable), (2, 0));
    let named = run(&request(&folder.path().join("bin"), "needle")).unwrap();
    assert_eq!(named.1.matches, 1);
}

#[test]
fn long_lines_are_cut_and_longer_ones_end_their_file() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a", "x".repeat(5000) + "\nx\n");
    write(folder.path(), "b", "y\n".to_owned() + &"x".repeat(40 << 20));
    write(folder.path(), "c", "x");
    let all = Search {
        line_max: u32::MAX,
        ..request(folder.path(), "x")
    };
    let (found, end) = run(&all).unwrap();
    assert_eq!(found.len(), 3);
    let most = usize::try_from(SEARCH_LINE_MAX).unwrap();
    assert_eq!(found[0], format!("a:1:{}...", "x".repeat(most)));
    assert_eq!(end.unreadable, 1);
    let short = Search { line_max: 3, ..all };
    assert_eq!(lines(&short)[..2], ["a:1:xxx...", "a:2:x"]);
}

#[test]
fn only_regular_files_are_opened_and_links_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    write(&root, "a", "needle");
    write(folder.path(), "outside/b", "needle");
    mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    symlink("a", root.join("link")).unwrap();
    symlink("../outside", root.join("folder")).unwrap();
    assert_eq!(lines(&request(&root, "needle")), ["a:1:needle"]);
    // The path itself may be one.
    let through = request(&root.join("folder"), "needle");
    assert_eq!(lines(&through), ["b:1:needle"]);

    for (name, code) in [
        ("fifo", FailureCode::NotRegular),
        ("absent", FailureCode::NotFound),
        ("a/b", FailureCode::NotDirectory),
    ] {
        let failure = run(&request(&root.join(name), "x")).unwrap_err();
        assert_eq!(failure.code, code, "{failure}");
    }
    let relative = run(&request(Path::new("relative"), "x")).unwrap_err();
    assert_eq!(relative.code, FailureCode::InvalidPath);
}

#[test]
fn the_kernels_folders_are_searched_only_by_name() {
    let found = run(&request(Path::new("/proc/self/status"), "^Name:")).unwrap();
    assert_eq!(found.1.matches, 1);
}

#[test]
fn a_bad_expression_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let deep = "(".repeat(500) + &")".repeat(500);
    for (pattern, reason) in [
        ("a(b", "pattern 'a(b': unclosed group"),
        ("a\\nb", "pattern 'a\\nb': the literal"),
        ("(\\w{100}){1000}", "exceeds size limit"),
        (&deep, "nested"),
    ] {
        let failure = run(&request(folder.path(), pattern)).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidRequest);
        assert!(failure.message.contains(reason), "{failure}");
    }
    let bad_glob = Search {
        glob: Some("[".into()),
        ..request(folder.path(), "x")
    };
    let failure = run(&bad_glob).unwrap_err();
    assert!(failure.message.starts_with("glob '['"), "{failure}");
}

// Archives

/// Packs `path`; the archive, what was told, and whether it failed.
fn packed(path: &Path) -> Result<(Vec<u8>, String, bool), Failure> {
    let (mut out, mut stderr) = (Vec::new(), Vec::new());
    let mut problems = Problems::new(&mut stderr);
    let request = Pack {
        path: path_bytes(path),
    };
    pack::pack(request, &mut out, &mut problems)?;
    let failed = problems.failures > 0;
    let _ = problems.finish();
    Ok((out, String::from_utf8(stderr).unwrap(), failed))
}

/// Unpacks `archive` to `path`; what was told, and whether it failed.
fn unpacked(archive: &[u8], path: &Path) -> Result<(String, bool), Failure> {
    let mut stderr = Vec::new();
    let mut problems = Problems::new(&mut stderr);
    let request = Unpack {
        path: path_bytes(path),
    };
    unpack::unpack(request, archive, &mut problems)?;
    let failed = problems.failures > 0;
    let _ = problems.finish();
    Ok((String::from_utf8(stderr).unwrap(), failed))
}

/// Compares what is below both, and shows only what differs.
fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (tree(a), tree(b));
    let differ = a
        .keys()
        .chain(b.keys())
        .find(|name| a.get(*name) != b.get(*name));
    let differ = differ.map(|name| (String::from_utf8_lossy(name), a.get(name), b.get(name)));
    assert_eq!(differ, None);
}

/// What is below `root`: names with kind, mode, time and content.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).into_iter();
    let entries = entries.map(|entry| {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        let name = entry.path().strip_prefix(root).unwrap();
        let (mode, time) = (found.mode() & 0o7777, found.mtime());
        let text = if found.is_dir() {
            format!("folder {mode:o} {time}")
        } else if found.is_symlink() {
            format!("link {time} {:?}", fs::read_link(entry.path()).unwrap())
        } else {
            let content = Sha256::digest(fs::read(entry.path()).unwrap());
            format!("file {mode:o} {time} {} {content:?}", found.len())
        };
        (name.as_os_str().as_bytes().to_vec(), text)
    });
    entries.collect()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A folder with everything that a folder may hold and an archive can keep.
fn interesting() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    write(&root, "file", "content");
    write(&root, "script", "#!/bin/sh\n");
    set_mode(&root.join("script"), 0o751);
    write(&root, "secret/key", "k");
    set_mode(&root.join("secret/key"), 0o600);
    fs::create_dir(root.join("empty")).unwrap();
    write(&root, "none", "");
    write(&root, OsStr::from_bytes(b"odd\xff \n'\"\\name"), "odd");
    let long = [&[0xfe][..], &[b'n'; 250]].concat();
    write(&root, OsStr::from_bytes(&long), "long");
    write(
        &root,
        "d".repeat(120) + "/" + &"e".repeat(120) + "/f",
        "deep",
    );
    write(
        &root,
        "x".repeat(95),
        "of just the field's length, with the folder's name",
    );
    write(
        &root,
        "data",
        (0..300_000_u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
    );
    symlink("file", root.join("link")).unwrap();
    symlink("/nowhere/".to_owned() + &"t".repeat(200), root.join("far")).unwrap();
    symlink("empty", root.join("to-folder")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for name in ["file", "empty", "secret"] {
        File::open(root.join(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
    set_mode(&root.join("secret"), 0o500);
    folder
}

#[test]
fn a_folder_comes_back_as_it_went() {
    let folder = interesting();
    let root = folder.path().join("root");
    let (archive, stderr, failed) = packed(&root).unwrap();
    assert_eq!((stderr.as_str(), failed), ("", false));

    // To a place that does not exist, then into a folder, under its own name.
    let copy = folder.path().join("copy");
    assert_eq!(unpacked(&archive, &copy).unwrap(), (String::new(), false));
    assert_same(&copy, &root);
    assert_eq!(
        copy.metadata().unwrap().mtime(),
        root.metadata().unwrap().mtime()
    );
    let into = folder.path().join("into");
    fs::create_dir(&into).unwrap();
    assert_eq!(unpacked(&archive, &into).unwrap(), (String::new(), false));
    assert_same(&into.join("root"), &root);
    for secret in [&root, &copy, &into.join("root")] {
        set_mode(&secret.join("secret"), 0o700);
    }
    // Once more, over what is there already.
    fs::write(into.join("root/file"), "changed").unwrap();
    assert_eq!(unpacked(&archive, &into).unwrap(), (String::new(), false));
    assert_eq!(fs::read(into.join("root/file")).unwrap(), b"content");
}

#[test]
fn gnu_tar_reads_and_writes_the_same() {
    let folder = interesting();
    let root = folder.path().join("root");
    set_mode(&root.join("secret"), 0o700);
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    let (archive, ..) = packed(&root).unwrap();
    let file = folder.path().join("archive.tar");
    fs::write(&file, archive).unwrap();
    let theirs = folder.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let tar = |args: &[&str]| {
        let status = Command::new("tar")
            .args(args)
            .current_dir(folder.path())
            .status();
        assert!(status.unwrap().success(), "{args:?}");
    };
    tar(&["-xpf", "archive.tar", "-C", "theirs"]);
    assert_same(&theirs.join("root"), &root);

    for format in ["gnu", "pax"] {
        let archive = folder.path().join("archive.tar");
        tar(&["--format", format, "-cf", "archive.tar", "-C", "root", "."]);
        let ours = folder.path().join(format);
        let told = unpacked(&fs::read(&archive).unwrap(), &ours).unwrap();
        assert_eq!(told, (String::new(), false));
        assert_same(&ours, &root);
    }
    let sparse = folder.path().join("sparse");
    fs::create_dir(&sparse).unwrap();
    for (format, message) in [("gnu", ""), ("pax", "unsupported: ")] {
        tar(&[
            "--sparse",
            "--format",
            format,
            "-cf",
            "archive.tar",
            "-C",
            "root",
            "sparse",
        ]);
        let (stderr, failed) = unpacked(&fs::read(&file).unwrap(), &sparse).unwrap();
        assert!(stderr.starts_with(message), "{stderr}");
        assert_eq!(failed, format == "pax");
        assert_eq!(
            fs::metadata(sparse.join("sparse")).unwrap().len(),
            3_000_000
        );
    }
}

#[test]
fn a_file_is_an_archive_too() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a", "content");
    symlink("a", folder.path().join("link")).unwrap();
    let (archive, ..) = packed(&folder.path().join("a")).unwrap();
    let new = folder.path().join("new");
    for _ in 0..2 {
        unpacked(&archive, &new).unwrap();
        assert_eq!(fs::read(&new).unwrap(), b"content");
        fs::write(&new, "another and longer").unwrap();
    }
    let (archive, ..) = packed(&folder.path().join("link")).unwrap();
    unpacked(&archive, &new).unwrap();
    assert_eq!(fs::read_link(&new).unwrap(), Path::new("a"));

    let failure = unpacked(&archive, &folder.path().join("no/such")).unwrap_err();
    assert_eq!(failure.code, FailureCode::NotFound);
}

#[test]
fn a_folder_does_not_replace_a_file() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "root/a", "x");
    write(folder.path(), "file", "old");
    let (archive, ..) = packed(&folder.path().join("root")).unwrap();
    let file = folder.path().join("file");
    let (stderr, failed) = unpacked(&archive, &file).unwrap();
    assert!(
        failed && stderr.starts_with("not_directory: root/: "),
        "{stderr}"
    );
    assert_eq!(fs::read(&file).unwrap(), b"old");
    // Nor the other way round.
    fs::create_dir_all(folder.path().join("into/file")).unwrap();
    let (archive, ..) = packed(&file).unwrap();
    let (stderr, failed) = unpacked(&archive, &folder.path().join("into")).unwrap();
    assert!(
        failed && stderr.starts_with("is_directory: file: "),
        "{stderr}"
    );
}

#[test]
fn what_is_special_or_unreadable_is_told_and_the_rest_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    write(&root, "z", "x");
    mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let (archive, stderr, failed) = packed(&root).unwrap();
    assert!(!failed);
    assert_eq!(stderr.lines().count(), 2);
    assert!(stderr.starts_with("not_regular: "), "{stderr}");
    assert_eq!(names(&archive), ["root/", "root/z"]);

    for (path, code) in [
        (root.join("fifo"), FailureCode::NotRegular),
        (root.join("absent"), FailureCode::NotFound),
        ("/".into(), FailureCode::InvalidPath),
    ] {
        assert_eq!(packed(&path).unwrap_err().code, code);
    }
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = Archive::new(archive);
    let names = archive.entries().unwrap();
    names
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect()
}

#[test]
fn holes_stay_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse");
    let mut file = File::create(&path).unwrap();
    for i in 0..60 {
        file.seek(SeekFrom::Start(i * 1_000_000)).unwrap();
        file.write_all(format!("part {i}").as_bytes()).unwrap();
    }
    file.set_len(1 << 30).unwrap();
    if fs::metadata(&path).unwrap().blocks() * 512 > 1 << 24 {
        eprintln!("skipped: this file system makes no holes");
        return;
    }
    let (archive, ..) = packed(&path).unwrap();
    assert!(archive.len() < 1 << 24, "{}", archive.len());
    let copy = folder.path().join("copy");
    unpacked(&archive, &copy).unwrap();
    let found = fs::metadata(&copy).unwrap();
    assert_eq!(found.len(), 1 << 30);
    assert!(found.blocks() * 512 < 1 << 24);
    let head = |path: &Path| {
        let mut head = vec![0; 60_000_000];
        std::os::unix::fs::FileExt::read_exact_at(&File::open(path).unwrap(), &mut head, 0)
            .unwrap();
        head
    };
    assert!(head(&path) == head(&copy));
}

/// An archive of such entries: name, kind, what a link leads to or a file holds.
fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, text) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        header.set_mtime(0);
        // The crate's own setters refuse what an attacker would write.
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        let mut content: &[u8] = &[];
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            fields.linkname[..text.len()].copy_from_slice(text.as_bytes());
        } else {
            content = text.as_bytes();
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

#[test]
fn nothing_outside_of_the_destination_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    let absolute = outside.join("new");
    let absolute = absolute.to_str().unwrap();
    let victim = outside.join("victim");
    let victim = victim.to_str().unwrap();
    let attacks: &[&[(&str, EntryType, &str)]] = &[
        &[(absolute, FILE, "bad")],
        &[("../outside/new", FILE, "bad")],
        &[("a/../../outside/new", FILE, "bad")],
        &[("..", FOLDER, "")],
        &[("../outside/new", FOLDER, "")],
        &[("../outside/new", LINK, "victim")],
        &[
            ("a", FOLDER, ""),
            ("a/l", LINK, "../../outside"),
            ("a/l/new", FILE, "bad"),
        ],
        &[
            ("a", FOLDER, ""),
            ("a/l", LINK, "../../outside"),
            ("a/l/new", FOLDER, ""),
        ],
        &[
            ("a", FOLDER, ""),
            ("a/l", LINK, "../../outside"),
            ("a/l/victim", FOLDER, ""),
        ],
        &[
            ("a", FOLDER, ""),
            ("a/l", LINK, "../../outside"),
            ("a/l/new", LINK, "x"),
        ],
        &[("l", LINK, victim), ("l", FILE, "bad")],
        &[("l", LINK, absolute), ("l", FILE, "bad")],
        &[("l", LINK, "../outside"), ("l", FOLDER, "")],
        &[
            ("l", LINK, "../outside"),
            ("l", FOLDER, ""),
            ("l/new", FILE, "bad"),
        ],
        &[("h", HARD, victim), ("h", FILE, "bad")],
        &[("h", HARD, "../outside/victim"), ("h", FILE, "bad")],
        &[
            ("l", LINK, "../outside"),
            ("h", HARD, "l/victim"),
            ("h", FILE, "bad"),
        ],
        &[("l", LINK, victim), ("h", HARD, "l"), ("h", FILE, "bad")],
        &[("there/new", FILE, "bad")],
        &[("there/sub/new", FILE, "bad")],
        &[("same", FILE, "bad")],
    ];
    for attack in attacks {
        let _ = fs::remove_dir_all(&outside);
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "good").unwrap();
        set_mode(&outside.join("victim"), 0o640);
        let before = tree(&outside);
        let destination = folder.path().join("destination");
        let _ = fs::remove_dir_all(&destination);
        fs::create_dir(&destination).unwrap();
        // What the guest's programs may have laid there.
        symlink("../outside", destination.join("there")).unwrap();
        fs::hard_link(outside.join("victim"), destination.join("same")).unwrap();
        let (stderr, failed) = unpacked(&archive(attack), &destination).unwrap();
        assert_eq!(tree(&outside), before, "{attack:?} {stderr}");
        assert_eq!(stderr.is_empty(), !failed);

        // The same to a place that is not there yet: below the first part.
        let _ = fs::remove_dir_all(&destination);
        let _ = unpacked(&archive(attack), &destination);
        assert_eq!(tree(&outside), before, "{attack:?}");
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        left.retain(|entry| entry.as_ref().unwrap().path() != destination);
        assert_eq!(left.len(), 1, "{attack:?}");
        let _ = fs::remove_file(&destination);
    }
}

#[test]
fn the_rest_of_an_archive_with_refused_entries_is_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(&[
        ("./a", FILE, "a"),
        ("/etc/waggle-test", FILE, "bad"),
        ("null", EntryType::Char, ""),
        ("pipe", EntryType::Fifo, ""),
        ("b/", FILE, ""),
        ("b/h", HARD, "a"),
        ("h", HARD, "absent"),
        ("c/d/e", FILE, "e"),
        ("./", FOLDER, ""),
    ]);
    let (stderr, failed) = unpacked(&archive, folder.path()).unwrap();
    assert!(failed);
    let expected = [
        "invalid_path: /etc/waggle-test: not unpacked: its path is absolute",
        "not_regular: null: not unpacked, not a file, folder or link",
        "not_regular: pipe: not unpacked, not a file, folder or link",
        "not_found: h: no such file or directory",
    ];
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected);
    let tree = tree(folder.path());
    let names: Vec<_> = tree
        .keys()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    assert_eq!(names, ["a", "b", "b/h", "c", "c/d", "c/d/e"]);
    let found = fs::metadata(folder.path().join("a")).unwrap();
    // Neither set-user-ID nor set-group-ID.
    assert_eq!((found.mode() & 0o7777, found.nlink()), (0o755, 2));
}

#[test]
fn headers_and_refused_entries_are_none_at_the_top() {
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(&[
        // As `git archive` has it.
        (
            "pax_global_header",
            EntryType::XGlobalHeader,
            "13 comment=1\n",
        ),
        ("null", EntryType::Char, ""),
        ("top/", FOLDER, ""),
        ("top/file", FILE, "x"),
    ]);
    let new = folder.path().join("new");
    let (stderr, failed) = unpacked(&archive, &new).unwrap();
    assert!(failed);
    assert_eq!(
        stderr,
        "not_regular: null: not unpacked, not a file, folder or link\n"
    );
    assert_eq!(fs::read(new.join("file")).unwrap(), b"x");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn damaged_archives_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let whole = archive(&[("a", FILE, &"x".repeat(5000))]);
    for (bytes, reason) in [
        (&whole[..3000], "ends after 2488 of its 5000 bytes"),
        (&whole[..300], "damaged"),
        (&[b'x'; 2048], "damaged"),
        (&[0; 1024], "empty"),
        (&[], "empty"),
    ] {
        let failure = unpacked(bytes, folder.path()).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidRequest);
        assert!(failure.message.contains(reason), "{failure}");
    }
    // Padding behind the end, as GNU tar has it, is taken as well.
    let padded = [whole.as_slice(), &[0; 10240]].concat();
    assert_eq!(
        unpacked(&padded, folder.path()).unwrap(),
        (String::new(), false)
    );
}

// The program

#[test]
fn a_task_is_an_argument() {
    let task = Tool::Pack(Pack {
        path: bytes_of(b"/a\xff\n"),
    });
    let argument = to_argument(&task);
    assert!(argument.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(from_argument(&argument).unwrap(), task);
    for bad in ["", "0", "zz", "--help", &(argument + "00")] {
        assert_eq!(
            from_argument(bad).unwrap_err().code,
            FailureCode::Unsupported
        );
    }
}

#[test]
fn problems_are_lines_with_a_code_and_are_not_endless() {
    let mut out = Vec::new();
    let mut problems = Problems::new(&mut out);
    let problem = |code, i| crate::failure::failure(code, &format!("file {i}"));
    for i in 0..150 {
        problems.remark(problem(FailureCode::NotRegular, i));
        problems.tell(&problem(FailureCode::NotFound, i));
    }
    assert_eq!(
        format!("{:?}", problems.finish()),
        format!("{:?}", std::process::ExitCode::FAILURE)
    );
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count(), 202);
    assert!(text.starts_with("not_found: file 0\nnot_found: file 1\n"));
    assert!(text.contains("file 99\nio: and 50 more\nnot_regular: file 0\n"));
    assert!(text.ends_with("\nnot_regular: file 99\nio: and 50 more\n"));
    let (code, _) = text.split_once(": ").unwrap();
    assert_eq!(FailureCode::from_name(code), Some(FailureCode::NotFound));
}
