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
use waggle_protocol::frame::Kind;
use waggle_protocol::message::{
    Entry, FailureCode, FileKind, ListFiles, ReadFile, Reply, Request, User, WriteFile,
};

use crate::testing::{Answer, Host, agent, bytes_of};

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
    let answer = host.ask(Request::ListFiles(request)).await;
    let Reply::ListEnd {
        truncated,
        unreadable,
    } = *answer.terminal()
    else {
        panic!("{answer:?}");
    };
    let entries = answer.replies.into_iter().filter_map(|reply| match reply {
        Reply::Entries(entries) => Some(entries),
        _ => None,
    });
    (entries.flatten().collect(), truncated, unreadable)
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
