// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Golden vectors: the bytes of version 1 as shipped. A change here breaks guests in the field.
//!
//! `./dev bless` rewrites the files; the diff then shows what changed on the wire.

use std::path::PathBuf;

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use waggle_protocol::{
    boot::{BootConfig, Ready},
    codec, frame,
    handshake::Hello,
    limits::REQUEST_PAYLOAD_MAX,
    message::{
        Capabilities, EndReason, Entry, EnvVar, Exec, ExecEnd, ExitStatus, Failure, FailureCode,
        FileInfo, FileKind, ListFiles, PackageManager, Program, ReadFile, Reply, Request,
        StreamTotals, User, WriteFile,
    },
};

fn bytes(text: &[u8]) -> ByteBuf {
    ByteBuf::from(text)
}

/// Compares the frame that carries `message` with its file, both ways.
fn pin<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/v1")
        .join(format!("{name}.bin"));
    let mut encoded = BytesMut::new();
    codec::put(message, &mut encoded);
    if std::env::var_os("WAGGLE_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().expect("has a parent")).expect("folder");
        std::fs::write(&file, &encoded).expect("written");
    }
    let golden = std::fs::read(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; `./dev bless` makes it", file.display()));
    assert_eq!(encoded.as_ref(), golden, "{name}: the encoding changed");
    let frame = frame::decode(&mut BytesMut::from(golden.as_slice()), REQUEST_PAYLOAD_MAX)
        .expect("a well-formed frame")
        .expect("a whole frame");
    assert_eq!(
        &codec::message::<M>(&frame).expect("decodes"),
        message,
        "{name}: decodes to else"
    );
}

fn capabilities() -> Capabilities {
    Capabilities {
        python: Some(bytes(b"/usr/bin/python3")),
        pip: None,
        python_venv: true,
        node: Some(bytes(b"/usr/bin/node")),
        npm: None,
        package_managers: vec![
            PackageManager::Apk,
            PackageManager::AptGet,
            PackageManager::Dnf,
            PackageManager::Yum,
            PackageManager::Zypper,
        ],
        user_is_root: false,
        path: bytes(b"/usr/bin:/bin"),
    }
}

#[test]
fn opening() {
    pin(
        "hello",
        &Hello {
            magic: *b"WGGL",
            version_min: 1,
            version_max: 1,
            control_max: 64 * 1024,
            data_max: 64 * 1024,
        },
    );
    pin(
        "boot_config",
        &BootConfig {
            hostname: "env-1".into(),
            unix_time_ns: 1_790_000_000_123_456_789,
            entropy: [0xA5; 32],
            ready_token: [0x5A; 16],
            inject_agent: true,
        },
    );
    pin(
        "ready",
        &Ready {
            token: [0x5A; 16],
            boot_id: [7; 16],
            agent_version: "0.1.0".into(),
            since_init_us: 19_500,
            capabilities: capabilities(),
        },
    );
}

#[test]
fn requests() {
    pin("request_ping", &Request::Ping);
    pin("request_probe", &Request::Probe);
    pin(
        "request_exec_code",
        &Request::Exec(Exec {
            program: Program::Code {
                interpreter: vec![bytes(b"python3"), bytes(b"-u")],
                extension: "py".into(),
                code: bytes("print('h\u{e9}')\n".as_bytes()),
            },
            env: vec![EnvVar {
                name: bytes(b"A"),
                value: bytes(b"\xff"),
            }],
            directory: Some(bytes(b"/tmp")),
            user: User::Sandbox,
            deadline_ms: Some(30_000),
            output_limit: Some(1 << 20),
            stdin: false,
        }),
    );
    pin(
        "request_exec_command",
        &Request::Exec(Exec {
            program: Program::Command(vec![bytes(b"true")]),
            env: Vec::new(),
            directory: None,
            user: User::Root,
            deadline_ms: None,
            output_limit: None,
            stdin: true,
        }),
    );
    pin(
        "request_write_file",
        &Request::WriteFile(WriteFile {
            path: bytes(b"/home/sandbox/a\nb"),
            mode: Some(0o640),
            create_parents: true,
            user: User::Sandbox,
        }),
    );
    pin(
        "request_read_file",
        &Request::ReadFile(ReadFile {
            path: bytes(b"/etc/hosts"),
            offset: 1 << 40,
            length: Some(7),
            user: User::Root,
        }),
    );
    pin(
        "request_list_files",
        &Request::ListFiles(ListFiles {
            path: bytes(b"/\xfe"),
            depth: 3,
            limit: 1000,
            user: User::Sandbox,
        }),
    );
    pin("request_shutdown", &Request::Shutdown);
}

#[test]
fn replies() {
    pin("reply_pong", &Reply::Pong);
    pin("reply_capabilities", &Reply::Capabilities(capabilities()));
    pin("reply_started", &Reply::Started { pid: 4_194_303 });
    let totals = StreamTotals {
        sent: 5,
        cut: false,
    };
    for (name, status, reason) in [
        ("exited", ExitStatus::Code(3), EndReason::Exited),
        ("deadline", ExitStatus::Signal(9), EndReason::Deadline),
        (
            "output_limit",
            ExitStatus::Signal(9),
            EndReason::OutputLimit,
        ),
        (
            "out_of_memory",
            ExitStatus::Signal(9),
            EndReason::OutOfMemory,
        ),
    ] {
        let stderr = StreamTotals { sent: 0, cut: true };
        let end = ExecEnd {
            status,
            reason,
            wall_us: 1_234_567,
            user_us: 1_000_001,
            system_us: 300,
            stdout: totals,
            stderr,
        };
        pin(&format!("reply_ended_{name}"), &Reply::Ended(end));
    }
    pin("reply_written", &Reply::Written { bytes: 16 << 20 });
    pin(
        "reply_file",
        &Reply::File(FileInfo {
            size: 9,
            mode: 0o644,
            modified_ns: -1,
        }),
    );
    pin("reply_file_end", &Reply::FileEnd { bytes: 9 });
    let entry = |name: &[u8], kind| Entry {
        name: bytes(name),
        kind,
        size: 300,
        mode: 0o755,
        modified_ns: 1_790_000_000_000_000_000,
    };
    pin(
        "reply_entries",
        &Reply::Entries(vec![
            entry(b"a\nb", FileKind::File),
            entry(b"\xff", FileKind::Directory),
            entry(b"l", FileKind::Symlink),
            entry(b"d/s", FileKind::Special),
        ]),
    );
    pin(
        "reply_list_end",
        &Reply::ListEnd {
            truncated: true,
            unreadable: 2,
        },
    );
    pin("reply_shutting_down", &Reply::ShuttingDown);
    let codes = [
        FailureCode::NotFound,
        FailureCode::IsDirectory,
        FailureCode::NotDirectory,
        FailureCode::NotRegular,
        FailureCode::PermissionDenied,
        FailureCode::InvalidPath,
        FailureCode::NoSpace,
        FailureCode::SpawnFailed,
        FailureCode::InvalidRequest,
        FailureCode::Unsupported,
        FailureCode::Io,
    ];
    for (number, code) in codes.into_iter().enumerate() {
        let failure = Failure {
            code,
            message: "/x: no such file or directory".into(),
        };
        pin(
            &format!("reply_failed_{number:02}"),
            &Reply::Failed(failure),
        );
    }
}
