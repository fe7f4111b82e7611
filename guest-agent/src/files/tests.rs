// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The file operations over a real socket pair, on real files.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sha2::{Digest, Sha256};
use waggle_protocol::frame::Kind;
use waggle_protocol::message::{
    EditFile, Edited, Entry, FailureCode, FileKind, FindFiles, LinesEnd, ListFiles, ReadFile,
    ReadLines, Reply, Request, User, WriteFile,
};

use super::write::{Draft, Target, Version};
use crate::testing::{Answer, Host, agent, bytes_of, current_user};

fn read_request(path: &Path) -> ReadFile {
    ReadFile {
        path: bytes_of(path.as_os_str().as_bytes()),
        offset: 0,
        length: None,
        user: User::Sandbox,
    }
}

fn write_request(path: &Path) -> WriteFile {
    WriteFile {
        path: bytes_of(path.as_os_str().as_bytes()),
        mode: None,
        create_parents: false,
        user: User::Sandbox,
    }
}

async fn upload(host: &mut Host, request: WriteFile, content: &[u8]) -> Answer {
    host.request(&Request::WriteFile(request)).await;
    for chunk in content.chunks(50_000) {
        host.data(Kind::File, chunk).await;
    }
    host.data(Kind::File, b"").await;
    host.answer().await
}

async fn read(host: &mut Host, path: &Path) -> Answer {
    host.ask(Request::ReadFile(read_request(path))).await
}

async fn list(host: &mut Host, path: &Path, depth: u32, limit: u32) -> (Vec<Entry>, bool, u64) {
    let request = ListFiles {
        path: bytes_of(path.as_os_str().as_bytes()),
        depth,
        limit,
        user: User::Sandbox,
    };
    entries(&host.ask(Request::ListFiles(request)).await)
}

async fn find(host: &mut Host, path: &Path, glob: &str, limit: u32) -> (Vec<Entry>, bool, u64) {
    let list = ListFiles {
        path: bytes_of(path.as_os_str().as_bytes()),
        depth: 10,
        limit,
        user: User::Sandbox,
    };
    let glob = glob.into();
    let request = FindFiles { list, glob };
    entries(&host.ask(Request::FindFiles(request)).await)
}

fn entries(answer: &Answer) -> (Vec<Entry>, bool, u64) {
    let Reply::ListEnd {
        truncated,
        unreadable,
    } = *answer.terminal()
    else {
        panic!("{answer:?}");
    };
    let entries = answer.replies.iter().filter_map(|reply| match reply {
        Reply::Entries(entries) => Some(entries),
        _ => None,
    });
    (entries.flatten().cloned().collect(), truncated, unreadable)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn bytes_come_back_as_they_went() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("data");
    let content: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
    let answer = upload(&mut host, write_request(&path), &content).await;
    assert_eq!(*answer.terminal(), Reply::Written { bytes: 1_000_003 });
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);

    let answer = read(&mut host, &path).await;
    assert!(answer.file == content);
    let Reply::File(info) = answer.replies[0] else {
        panic!("{answer:?}");
    };
    assert_eq!((info.size, info.mode), (1_000_003, 0o644));
    assert!(info.modified_ns > 0);
    assert_eq!(*answer.terminal(), Reply::FileEnd { bytes: 1_000_003 });
}

#[tokio::test]
async fn parts_of_a_file_can_be_read() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("data");
    fs::write(&path, b"0123456789").unwrap();
    for (offset, length, expected) in [
        (3, Some(4), &b"3456"[..]),
        (8, Some(100), b"89"),
        (5, None, b"56789"),
        (10, None, b""),
        (u64::MAX, None, b""),
        (0, Some(0), b""),
    ] {
        let request = ReadFile {
            offset,
            length,
            ..read_request(&path)
        };
        let answer = host.ask(Request::ReadFile(request)).await;
        assert_eq!(answer.file, expected);
        let bytes = expected.len() as u64;
        assert_eq!(*answer.terminal(), Reply::FileEnd { bytes });
    }
}

#[tokio::test]
async fn files_of_proc_read_though_their_size_is_zero() {
    let mut host = Host::connect().await;
    let answer = read(&mut host, Path::new("/proc/self/status")).await;
    assert!(answer.file.starts_with(b"Name:"));
}

#[tokio::test]
async fn only_regular_files_are_read_and_written() {
    let mut host = Host::connect().await;
    let fifo = host.folder.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let absent = host.folder.path().join("absent");
    let through_file = Path::new("/etc/passwd/x");
    for (path, code) in [
        (fifo.as_path(), FailureCode::NotRegular),
        (Path::new("/dev/null"), FailureCode::NotRegular),
        (Path::new("/tmp"), FailureCode::IsDirectory),
        (&absent, FailureCode::NotFound),
        (through_file, FailureCode::NotDirectory),
        (Path::new("relative"), FailureCode::InvalidPath),
        (Path::new("/a\0b"), FailureCode::InvalidPath),
    ] {
        let answer = read(&mut host, path).await;
        assert_eq!(answer.failure().code, code, "{:?}", answer.failure());
        if path != absent {
            let answer = upload(&mut host, write_request(path), b"new").await;
            assert_eq!(answer.failure().code, code, "{:?}", answer.failure());
        }
    }
    let answer = read(&mut host, &absent).await;
    let expected = format!("{}: no such file or directory", absent.display());
    assert_eq!(answer.failure().message, expected);
}

#[tokio::test]
async fn a_failed_upload_is_drained_and_the_connection_goes_on() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("no/such/folder");
    let answer = upload(&mut host, write_request(&path), &[7; 200_000]).await;
    assert_eq!(answer.failure().code, FailureCode::NotFound);
    assert_eq!(*host.ask(Request::Ping).await.terminal(), Reply::Pong);
}

#[tokio::test]
async fn parents_are_made_on_request() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("a/b/c.txt");
    let request = WriteFile {
        create_parents: true,
        mode: Some(0o750),
        ..write_request(&path)
    };
    upload(&mut host, request, b"x").await;
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o750);
    let parent = fs::metadata(host.folder.path().join("a/b")).unwrap();
    assert_eq!(parent.mode() & 0o7777, 0o755);

    let below_file = WriteFile {
        create_parents: true,
        ..write_request(&path.join("d/e"))
    };
    let answer = upload(&mut host, below_file, b"x").await;
    assert_eq!(answer.failure().code, FailureCode::NotDirectory);
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("script");
    fs::write(&path, "old and longer").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
    upload(&mut host, write_request(&path), b"new").await;
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o751);
}

#[tokio::test]
async fn links_are_written_through() {
    let mut host = Host::connect().await;
    let folder = host.folder.path().to_owned();
    fs::create_dir(folder.join("sub")).unwrap();
    symlink("sub/target", folder.join("one")).unwrap();
    symlink(folder.join("one"), folder.join("two")).unwrap();
    // First the link dangles, then its target exists.
    for content in [&b"made"[..], b"replaced"] {
        upload(&mut host, write_request(&folder.join("two")), content).await;
        assert_eq!(fs::read(folder.join("sub/target")).unwrap(), content);
        assert!(
            fs::symlink_metadata(folder.join("two"))
                .unwrap()
                .is_symlink()
        );
    }
    symlink("loop", folder.join("loop")).unwrap();
    let answer = upload(&mut host, write_request(&folder.join("loop")), b"x").await;
    assert_eq!(answer.failure().code, FailureCode::InvalidPath);
}

#[tokio::test]
async fn an_upload_cut_short_leaves_the_old_file_and_no_other() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("file");
    fs::write(&path, "old").unwrap();
    host.request(&Request::WriteFile(write_request(&path)))
        .await;
    host.data(Kind::File, b"half of the new").await;
    let (folder, served) = host.hang_up().await;
    assert!(served.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["file"]);
}

#[tokio::test]
async fn odd_names_are_listed_as_bytes_in_order() {
    let mut host = Host::connect().await;
    let root = host.folder.path().join("root");
    fs::create_dir_all(root.join("b/deep/er")).unwrap();
    for name in [
        &b"new\nline"[..],
        b"\xff\xfe",
        b"a",
        b"b/x",
        b"b/deep/er/y",
        b"c",
    ] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    symlink("/nowhere", root.join("link")).unwrap();
    mkfifo(&root.join("pipe"), Mode::S_IRUSR).unwrap();

    let (entries, truncated, unreadable) = list(&mut host, &root, 3, 100).await;
    let listed: Vec<&[u8]> = entries.iter().map(|e| e.name.as_slice()).collect();
    let expected: [&[u8]; 10] = [
        b"a",
        b"b",
        b"b/deep",
        b"b/deep/er",
        b"b/x",
        b"c",
        b"link",
        b"new\nline",
        b"pipe",
        b"\xff\xfe",
    ];
    assert_eq!(listed, expected);
    assert_eq!((truncated, unreadable), (false, 0));
    let kinds: Vec<FileKind> = entries.iter().map(|e| e.kind).collect();
    assert_eq!(kinds[0], FileKind::File);
    assert_eq!(kinds[1], FileKind::Directory);
    assert_eq!(kinds[6], FileKind::Symlink);
    assert_eq!(kinds[8], FileKind::Special);
    assert_eq!(entries[7].size, 8);

    let (shallow, ..) = list(&mut host, &root, 1, 100).await;
    assert_eq!(shallow.len(), 7);
    let (cut, truncated, _) = list(&mut host, &root, 3, 2).await;
    assert_eq!((cut.len(), truncated), (2, true));
    assert_eq!(cut[1].name.as_slice(), b"b");
    let (whole, truncated, _) = list(&mut host, &root, 3, 10).await;
    assert_eq!((whole.len(), truncated), (10, false));
}

#[tokio::test]
async fn the_kernels_folders_are_not_searched_from_above() {
    let mut host = Host::connect().await;
    let above = host.folder.path().join("above");
    symlink("/", &above).unwrap();
    for (path, glob, expected) in [
        (Path::new("/"), "{proc,tmp}", &[&b"tmp"[..]][..]),
        (&above, "{proc,tmp}", &[b"tmp"]),
        (Path::new("/proc"), "version", &[b"version"]),
    ] {
        let list = ListFiles {
            path: bytes_of(path.as_os_str().as_bytes()),
            depth: 1,
            limit: 100,
            user: User::Sandbox,
        };
        let glob = glob.into();
        let request = FindFiles { list, glob };
        let (entries, ..) = entries(&host.ask(Request::FindFiles(request)).await);
        let names: Vec<&[u8]> = entries.iter().map(|entry| entry.name.as_slice()).collect();
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn large_folders_come_in_batches_and_then_unsorted() {
    let mut host = Host::connect().await;
    let root = host.folder.path().join("root");
    fs::create_dir(&root).unwrap();
    for i in 0..12_000 {
        fs::write(root.join(format!("a-rather-long-file-name-{i:05}")), "").unwrap();
    }
    let (entries, truncated, _) = list(&mut host, &root, 1, u32::MAX).await;
    assert_eq!((entries.len(), truncated), (12_000, false));
    let mut listed: Vec<_> = entries.into_iter().map(|e| e.name).collect();
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed.len(), 12_000);
    let (cut, truncated, _) = list(&mut host, &root, 1, 11_000).await;
    assert_eq!((cut.len(), truncated), (11_000, true));
}

#[tokio::test]
async fn what_is_no_folder_is_not_listed() {
    let mut host = Host::connect().await;
    for (path, depth, code) in [
        ("/etc/passwd", 1, FailureCode::NotDirectory),
        ("/no/such", 1, FailureCode::NotFound),
        ("tmp", 1, FailureCode::InvalidPath),
        ("/tmp", 0, FailureCode::InvalidRequest),
    ] {
        let request = ListFiles {
            path: bytes_of(path),
            depth,
            limit: 10,
            user: User::Sandbox,
        };
        let answer = host.ask(Request::ListFiles(request)).await;
        assert_eq!(answer.failure().code, code);
    }
}

#[tokio::test]
async fn the_sandbox_user_has_its_own_permissions_only() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent(folder.path());
    (agent.sandbox.uid, agent.sandbox.gid) = (12345, 12346);
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.path(), open).unwrap();
    let mut host = Host::connect_to(agent, folder).await;
    let secret = host.folder.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();

    let denied = FailureCode::PermissionDenied;
    let inside = secret.join("file");
    assert_eq!(read(&mut host, &inside).await.failure().code, denied);
    let answer = upload(&mut host, write_request(&inside), b"x").await;
    assert_eq!(answer.failure().code, denied);
    let root = host.folder.path().to_owned();
    let (entries, _, unreadable) = list(&mut host, &root, 2, 10).await;
    assert_eq!((entries.len(), unreadable), (1, 1));

    let own = root.join("new/own");
    let request = WriteFile {
        create_parents: true,
        ..write_request(&own)
    };
    upload(&mut host, request, b"x").await;
    for path in [&own, &root.join("new")] {
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.uid(), found.gid()), (12345, 12346));
    }
    let request = ReadFile {
        user: User::Root,
        ..read_request(&inside)
    };
    let answer = host.ask(Request::ReadFile(request)).await;
    assert_eq!(answer.file, b"secret");
}

async fn append(host: &mut Host, request: WriteFile, content: &[u8]) -> Answer {
    host.request(&Request::AppendFile(request)).await;
    for chunk in content.chunks(50_000) {
        host.data(Kind::File, chunk).await;
    }
    host.data(Kind::File, b"").await;
    host.answer().await
}

#[tokio::test]
async fn appended_bytes_go_to_the_end() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("log");
    for (content, whole) in [
        (&b"one"[..], &b"one"[..]),
        (b"", b"one"),
        (b" two", b"one two"),
    ] {
        let answer = append(&mut host, write_request(&path), content).await;
        let bytes = content.len() as u64;
        assert_eq!(*answer.terminal(), Reply::Written { bytes });
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
    // The mode stays, unless there is another one.
    let bare = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path, bare).unwrap();
    for (mode, expected) in [(None, 0o600), (Some(0o755), 0o755)] {
        let request = WriteFile {
            mode,
            ..write_request(&path)
        };
        append(&mut host, request, &[b'x'; 200_000]).await;
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, expected);
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 400_007);

    let below = host.folder.path().join("new/folder/log");
    let answer = append(&mut host, write_request(&below), b"x").await;
    assert_eq!(answer.failure().code, FailureCode::NotFound);
    let request = WriteFile {
        create_parents: true,
        ..write_request(&below)
    };
    append(&mut host, request, b"x").await;
    assert_eq!(fs::read(&below).unwrap(), b"x");
}

#[tokio::test]
async fn appending_follows_links_and_takes_only_files() {
    let mut host = Host::connect().await;
    let folder = host.folder.path().to_owned();
    symlink("target", folder.join("link")).unwrap();
    for whole in [&b"x"[..], b"xx"] {
        append(&mut host, write_request(&folder.join("link")), b"x").await;
        assert_eq!(fs::read(folder.join("target")).unwrap(), whole);
    }
    mkfifo(&folder.join("fifo"), Mode::S_IRWXU).unwrap();
    for (path, code) in [
        (folder.join("fifo"), FailureCode::NotRegular),
        ("/dev/null".into(), FailureCode::NotRegular),
        ("/tmp".into(), FailureCode::IsDirectory),
    ] {
        let answer = append(&mut host, write_request(&path), b"x").await;
        assert_eq!(answer.failure().code, code);
    }
}

#[tokio::test]
async fn an_append_cut_short_leaves_what_came() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("log");
    host.request(&Request::AppendFile(write_request(&path)))
        .await;
    host.data(Kind::File, b"half").await;
    let (_folder, served) = host.hang_up().await;
    assert!(served.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"half");
}

fn edit_request(path: &Path, old: &str, new: &str) -> EditFile {
    EditFile {
        path: bytes_of(path.as_os_str().as_bytes()),
        old: bytes_of(old),
        new: bytes_of(new),
        expected: Some(1),
        sha256: None,
        user: User::Sandbox,
    }
}

async fn edit(host: &mut Host, request: EditFile) -> Answer {
    host.ask(Request::EditFile(request)).await
}

#[tokio::test]
async fn text_is_replaced_as_often_as_expected() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("file");
    fs::write(&path, b"a\nb\xff a\nc").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let request = EditFile {
        expected: Some(2),
        sha256: Some(Sha256::digest(b"a\nb\xff a\nc").into()),
        ..edit_request(&path, "a\n", "long\n")
    };
    let answer = edit(&mut host, request).await;
    let now = b"long\nb\xff long\nc";
    let edited = Edited {
        replaced: 2,
        bytes: now.len() as u64,
        sha256: Sha256::digest(now).into(),
    };
    assert_eq!(*answer.terminal(), Reply::Edited(edited));
    assert_eq!(fs::read(&path).unwrap(), now);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);

    // Through a link, to nothing, any number of times.
    symlink("file", host.folder.path().join("link")).unwrap();
    let request = EditFile {
        expected: None,
        ..edit_request(&host.folder.path().join("link"), "long", "")
    };
    edit(&mut host, request).await;
    assert_eq!(fs::read(&path).unwrap(), b"\nb\xff \nc");
    let mut left = names(host.folder.path());
    left.sort();
    assert_eq!(left, ["file", "link"]);
}

#[tokio::test]
async fn an_edit_that_does_not_fit_says_why() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("file");
    let content = "fn a() {\n    x = 1;\n}\nfn b() {\n    x = 1;\n}\n";
    fs::write(&path, content).unwrap();
    let crlf = host.folder.path().join("crlf");
    fs::write(&crlf, "one\r\ntwo\r\n").unwrap();
    for (request, code, text) in [
        (
            edit_request(&path, "x = 1", "x = 2"),
            FailureCode::NoMatch,
            "occurs 2 times (line 2, 5), not once",
        ),
        (
            EditFile {
                expected: Some(3),
                ..edit_request(&path, "fn b", "fn c")
            },
            FailureCode::NoMatch,
            "occurs once (line 4), not 3 times",
        ),
        (
            edit_request(&path, "fn b() {\n\tx = 1;", "y"),
            FailureCode::NoMatch,
            "it does in line 4 with other white space",
        ),
        (
            edit_request(&crlf, "one\ntwo", "y"),
            FailureCode::NoMatch,
            "it does in line 1 with line ends \\r\\n",
        ),
        (
            EditFile {
                expected: None,
                ..edit_request(&path, "absent", "y")
            },
            FailureCode::NoMatch,
            "the text to replace does not occur",
        ),
        (
            EditFile {
                sha256: Some([0; 32]),
                ..edit_request(&path, "fn b", "fn c")
            },
            FailureCode::Changed,
            "not 0000000000000000",
        ),
        (
            edit_request(&path, "", "y"),
            FailureCode::InvalidRequest,
            "empty",
        ),
        (
            edit_request(&path, "x", "x"),
            FailureCode::InvalidRequest,
            "the old one",
        ),
        (
            edit_request(&host.folder.path().join("absent"), "x", "y"),
            FailureCode::NotFound,
            "no such file",
        ),
        (
            edit_request(Path::new("/tmp"), "x", "y"),
            FailureCode::IsDirectory,
            "directory",
        ),
    ] {
        let answer = edit(&mut host, request).await;
        let failure = answer.failure();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.contains(text), "{failure}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
}

#[tokio::test]
async fn edits_of_one_file_at_a_time_are_all_made() {
    let (mut one, mut other) = (Host::connect().await, Host::connect().await);
    let path = one.folder.path().join("file");
    for _ in 0..10 {
        fs::write(&path, "a\nb\n").unwrap();
        let (first, second) = tokio::join!(
            edit(&mut one, edit_request(&path, "a", "A")),
            edit(&mut other, edit_request(&path, "b", "B")),
        );
        for answer in [first, second] {
            assert!(matches!(answer.terminal(), Reply::Edited(_)), "{answer:?}");
        }
        assert_eq!(fs::read(&path).unwrap(), b"A\nB\n");
    }
}

#[tokio::test]
async fn an_edit_does_not_replace_what_it_did_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let owner = current_user(folder.path());
    let draft = |path: &Path| {
        let target = Target::find(path, false).unwrap();
        Draft::create(target, owner.clone()).unwrap()
    };
    let version = || Version::of(&nix::sys::stat::lstat(&path).unwrap());
    fs::write(&path, "old").unwrap();
    let read = version();
    draft(&path).publish(None, Some(read)).await.unwrap();
    for change in [
        |path: &Path| fs::write(path, "longer").unwrap(),
        |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(),
        |path: &Path| fs::rename(path, path.with_extension("moved")).unwrap(),
    ] {
        fs::write(&path, "old").unwrap();
        let draft = draft(&path);
        let read = version();
        // The kernel's clock for files ticks some hundred times a second.
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(&path);
        let failure = draft.publish(None, Some(read)).await.unwrap_err();
        assert_eq!(failure.code, FailureCode::Changed);
        assert!(failure.message.ends_with("read it again"), "{failure}");
    }
    assert_eq!(names(folder.path()), ["file.moved"]);
}

#[tokio::test]
async fn edits_are_bounded_before_and_after() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("file");
    fs::write(&path, vec![b'x'; 8 << 20]).unwrap();
    let grow = EditFile {
        expected: None,
        ..edit_request(&path, "x", "xy")
    };
    let answer = edit(&mut host, grow).await;
    assert_eq!(answer.failure().code, FailureCode::TooLarge);
    let same = EditFile {
        expected: Some(8 << 20),
        ..edit_request(&path, "x", "y")
    };
    let answer = edit(&mut host, same.clone()).await;
    assert!(matches!(answer.terminal(), Reply::Edited(edited) if edited.replaced == 8 << 20));
    fs::write(&path, vec![b'x'; (8 << 20) + 1]).unwrap();
    let answer = edit(&mut host, same).await;
    assert_eq!(answer.failure().code, FailureCode::TooLarge);
    assert_eq!(names(host.folder.path()), ["file"]);
}

async fn lines(host: &mut Host, path: &Path, range: (u64, u64, u64)) -> (Vec<u8>, LinesEnd) {
    let request = ReadLines {
        path: bytes_of(path.as_os_str().as_bytes()),
        first: range.0,
        count: range.1,
        bytes_max: range.2,
        user: User::Sandbox,
    };
    let answer = host.ask(Request::ReadLines(request)).await;
    assert!(matches!(answer.replies[0], Reply::File(_)), "{answer:?}");
    match answer.terminal() {
        Reply::LinesEnd(end) => (answer.file.clone(), *end),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn lines_are_whole_but_for_one_that_is_too_long() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("file");
    let (all, plenty) = (u64::MAX, u64::MAX);
    for (content, range, text, lines_sent, at_end) in [
        ("a\nbb\nccc", (1, all, plenty), "a\nbb\nccc", 3, true),
        ("a\nbb\nccc", (2, 1, plenty), "bb\n", 1, false),
        ("a\nbb\nccc", (2, 2, plenty), "bb\nccc", 2, true),
        ("a\nbb\nccc", (3, 1, 3), "ccc", 1, true),
        ("a\nbb\nccc", (3, 1, 2), "cc", 1, false),
        ("a\nbb\nccc", (1, all, 4), "a\n", 1, false),
        ("a\nbb\nccc", (1, all, 5), "a\nbb\n", 2, false),
        ("a\nbb\nccc", (1, all, 7), "a\nbb\n", 2, false),
        ("a\nbb\nccc", (1, all, 8), "a\nbb\nccc", 3, true),
        ("a\nbb\nccc", (4, 1, plenty), "", 0, true),
        ("a\nbb\nccc", (all, 1, plenty), "", 0, true),
        ("a\n", (1, 1, plenty), "a\n", 1, true),
        ("a\n", (1, 1, 1), "a", 1, false),
        ("a\n", (2, 1, plenty), "", 0, true),
        ("\n\n", (2, 5, plenty), "\n", 1, true),
        ("", (1, 1, plenty), "", 0, true),
    ] {
        fs::write(&path, content).unwrap();
        let (sent, end) = lines(&mut host, &path, range).await;
        assert_eq!(sent, text.as_bytes(), "{content:?} {range:?}");
        let found = (end.lines, end.bytes, end.at_end);
        assert_eq!(
            found,
            (lines_sent, text.len() as u64, at_end),
            "{content:?} {range:?}"
        );
        if !text.is_empty() {
            let before = usize::try_from(range.0).unwrap() - 1;
            let before = content.split_inclusive('\n').take(before);
            let start = before.map(str::len).sum::<usize>();
            assert_eq!(end.next_offset, (start + text.len()) as u64);
        }
    }
    for (first, count, bytes_max) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        let request = ReadLines {
            path: bytes_of(path.as_os_str().as_bytes()),
            first,
            count,
            bytes_max,
            user: User::Sandbox,
        };
        let answer = host.ask(Request::ReadLines(request)).await;
        assert_eq!(answer.failure().code, FailureCode::InvalidRequest);
    }
}

#[tokio::test]
async fn lines_far_down_are_found() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("file");
    let content: String = (1..=300_000).map(|i| format!("line {i}\n")).collect();
    fs::write(&path, &content).unwrap();
    let (sent, end) = lines(&mut host, &path, (299_999, 1, u64::MAX)).await;
    assert_eq!(
        (sent.as_slice(), end.at_end),
        (&b"line 299999\n"[..], false)
    );
    let (sent, end) = lines(&mut host, &path, (2, 250_000, u64::MAX)).await;
    assert_eq!((end.lines, end.bytes), (250_000, sent.len() as u64));
    assert!(content.as_bytes()[7..].starts_with(&sent));
    let (sent, _) = lines(&mut host, Path::new("/proc/self/status"), (1, 1, 100)).await;
    assert!(sent.starts_with(b"Name:"));
}

#[tokio::test]
async fn a_search_for_a_line_ends_with_its_host() {
    let mut host = Host::connect().await;
    let path = host.folder.path().join("sparse");
    fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
    let request = ReadLines {
        path: bytes_of(path.as_os_str().as_bytes()),
        first: 2,
        count: 1,
        bytes_max: 10,
        user: User::Sandbox,
    };
    host.request(&Request::ReadLines(request)).await;
    let (_folder, served) = host.hang_up().await;
    assert!(served.is_err());
}

#[tokio::test]
async fn patterns_choose_what_is_listed() {
    let mut host = Host::connect().await;
    let root = host.folder.path().join("root");
    fs::create_dir_all(root.join("src/deep.py")).unwrap();
    for name in ["a.py", "b.rs", "src/c.py", "src/deep.py/d.py", ".e.py"] {
        fs::write(root.join(name), "").unwrap();
    }
    fs::File::create(root.join("src/huge.bin"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("x.sock")).unwrap();
    for (glob, expected) in [
        (
            "*.py",
            &[
                ".e.py",
                "a.py",
                "src/c.py",
                "src/deep.py",
                "src/deep.py/d.py",
            ][..],
        ),
        ("./*.py", &[".e.py", "a.py"]),
        ("src/*", &["src/c.py", "src/deep.py", "src/huge.bin"]),
        ("**/d*.py", &["src/deep.py", "src/deep.py/d.py"]),
        ("*.{rs,sock,bin}", &["b.rs", "src/huge.bin", "x.sock"]),
        ("nothing", &[]),
    ] {
        let (found, truncated, unreadable) = find(&mut host, &root, glob, 10).await;
        let found: Vec<_> = found
            .iter()
            .map(|e| String::from_utf8_lossy(&e.name))
            .collect();
        assert_eq!(found, expected, "{glob}");
        assert_eq!((truncated, unreadable), (false, 0));
    }
    // The limit counts what fits.
    let (found, truncated, _) = find(&mut host, &root, "*.py", 3).await;
    assert_eq!((found.len(), truncated), (3, true));
    let (found, truncated, _) = find(&mut host, &root, "*.rs", 1).await;
    assert_eq!((found.len(), truncated), (1, false));
    let (found, ..) = find(&mut host, &root, "*.{bin,sock}", 9).await;
    assert_eq!((found[0].size, found[0].kind), (1 << 40, FileKind::File));
    assert_eq!(found[1].kind, FileKind::Special);

    let list = ListFiles {
        path: bytes_of("/tmp"),
        depth: 1,
        limit: 1,
        user: User::Sandbox,
    };
    let glob = "[x".into();
    let answer = host.ask(Request::FindFiles(FindFiles { list, glob })).await;
    assert_eq!(answer.failure().code, FailureCode::InvalidRequest);
    assert!(answer.failure().message.starts_with("glob '[x'"));
}
