// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Golden vectors: the bytes of each version as shipped. A change here breaks guests in the field.
//!
//! `./dev bless` rewrites the files of the newest version alone; the diff then shows what changed on
//! the wire. Those of the versions before it are read, never written.

use std::path::PathBuf;

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use waggle_protocol::{
    boot::{BootConfig, Ready},
    codec, frame,
    handshake::{Hello, VERSION_MAX},
    limits::REQUEST_PAYLOAD_MAX,
    message::{
        Capabilities, Connect, EditFile, Edited, EndReason, Entry, EnvVar, Exec, ExecEnd,
        ExecLogged, ExitStatus, Failure, FailureCode, FileInfo, FileKind, FindFiles, LinesEnd,
        ListFiles, Log, Logs, Pack, PackageManager, Program, ReadFile, ReadLines, Reply, Request,
        Search, SearchEnd, SearchLine, SearchRecord, Signal, StreamMessage, StreamTotals, Tool,
        Unpack, User, WriteFile,
    },
};

fn bytes(text: &[u8]) -> ByteBuf {
    ByteBuf::from(text)
}

/// Compares the frame that carries `message` with its file of version 1, both ways.
fn pin<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    pin_in(1, name, message);
}

/// The same of version 2.
fn pin2<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    pin_in(2, name, message);
}

/// The same of version 3.
fn pin3<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    pin_in(3, name, message);
}

fn pin_in<M>(version: u16, name: &str, message: &M)
where
    M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("testdata/v{version}"))
        .join(format!("{name}.bin"));
    let mut encoded = BytesMut::new();
    codec::put(message, &mut encoded);
    if version == VERSION_MAX && std::env::var_os("WAGGLE_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().expect("has a parent")).expect("folder");
        std::fs::write(&file, &encoded).expect("written");
    }
    let golden = std::fs::read(&file).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; `./dev bless` makes those of version {VERSION_MAX}",
            file.display()
        )
    });
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

#[test]
fn opening_of_version_2() {
    pin2(
        "hello",
        &Hello {
            magic: *b"WGGL",
            version_min: 1,
            version_max: 2,
            control_max: 1024 * 1024,
            data_max: 64 * 1024,
        },
    );
}

/// An execution with nothing in it but its program.
fn exec(program: Program) -> Exec {
    Exec {
        program,
        env: Vec::new(),
        directory: None,
        user: User::Sandbox,
        deadline_ms: Some(60_000),
        output_limit: None,
        stdin: false,
    }
}

#[test]
fn requests_of_version_2() {
    pin2(
        "request_exec_logged",
        &Request::ExecLogged(ExecLogged {
            exec: exec(Program::Command(vec![bytes(b"make"), bytes(b"-j2")])),
            log_from: 100_000,
            log_max: 1 << 30,
        }),
    );
    pin2(
        "request_signal",
        &Request::Signal(Signal {
            pid: 4_194_303,
            signal: 15,
        }),
    );
    pin2(
        "request_append_file",
        &Request::AppendFile(WriteFile {
            path: bytes(b"/home/sandbox/log"),
            mode: None,
            create_parents: false,
            user: User::Sandbox,
        }),
    );
    let edit = |expected, sha256| {
        Request::EditFile(EditFile {
            path: bytes(b"/home/sandbox/\xff.py"),
            old: bytes(b"a\r\n"),
            new: bytes(b""),
            expected,
            sha256,
            user: User::Root,
        })
    };
    pin2("request_edit_file", &edit(Some(300), Some([0xC3; 32])));
    pin2("request_edit_file_any", &edit(None, None));
    pin2(
        "request_read_lines",
        &Request::ReadLines(ReadLines {
            path: bytes(b"/var/log/messages"),
            first: 1 << 33,
            count: 200,
            bytes_max: 65_536,
            user: User::Sandbox,
        }),
    );
    pin2(
        "request_find_files",
        &Request::FindFiles(FindFiles {
            list: ListFiles {
                path: bytes(b"/\xfe"),
                depth: 64,
                limit: 1000,
                user: User::Sandbox,
            },
            glob: "src/**/*.{rs,to?l}".into(),
        }),
    );
}

#[test]
fn tools_of_version_2() {
    let pin_tool = |name: &str, tool: Tool| {
        // On the wire it is a program; on the command line of its program it stands alone.
        pin2(&format!("tool_{name}"), &tool);
        pin2(
            &format!("request_exec_tool_{name}"),
            &Request::Exec(exec(Program::Tool(tool))),
        );
    };
    pin_tool(
        "search",
        Tool::Search(Search {
            path: bytes(b"/home/sandbox/\xff"),
            pattern: r"fn\s+h\u{e9}".into(),
            literal: false,
            ignore_case: true,
            glob: Some("*.rs".into()),
            all_files: false,
            context: 2,
            limit: 1000,
            line_max: 500,
        }),
    );
    let path = bytes(b"/home/sandbox/out");
    pin_tool("pack", Tool::Pack(Pack { path: path.clone() }));
    pin_tool("unpack", Tool::Unpack(Unpack { path }));

    pin2("search_file", &SearchRecord::File(bytes(b"src/\xfe.rs")));
    pin2(
        "search_line",
        &SearchRecord::Line(SearchLine {
            number: 1 << 20,
            is_match: true,
            text: bytes(b"fn h\xe9\r"),
            cut: false,
        }),
    );
    pin2(
        "search_end",
        &SearchRecord::End(SearchEnd {
            files_searched: 12_345,
            files_matched: 678,
            matches: 1000,
            truncated: true,
            unreadable: 9,
        }),
    );
}

#[test]
fn replies_of_version_2() {
    let log = |path: &[u8], length| Log {
        path: bytes(path),
        bytes: length,
    };
    pin2(
        "reply_logs",
        &Reply::Logs(Logs {
            stdout: Some(log(b"/tmp/waggle_7.stdout", 1 << 30)),
            stderr: Some(log(b"/tmp/waggle_7.stderr", 100_001)),
        }),
    );
    pin2("reply_logs_none", &Reply::Logs(Logs::default()));
    pin2("reply_signalled", &Reply::Signalled);
    pin2(
        "reply_edited",
        &Reply::Edited(Edited {
            replaced: 300,
            bytes: 1 << 22,
            sha256: [0x3C; 32],
        }),
    );
    pin2(
        "reply_lines_end",
        &Reply::LinesEnd(LinesEnd {
            lines: 200,
            bytes: 5000,
            next_offset: 1 << 34,
            at_end: true,
        }),
    );
    let codes = [
        FailureCode::NoMatch,
        FailureCode::Changed,
        FailureCode::NoProcess,
        FailureCode::TooLarge,
    ];
    for (number, code) in (11..).zip(codes) {
        let failure = Failure {
            code,
            message: "/x: is not as it was".into(),
        };
        pin2(
            &format!("reply_failed_{number:02}"),
            &Reply::Failed(failure),
        );
    }
}

#[test]
fn what_came_with_version_3() {
    pin3(
        "hello",
        &Hello {
            magic: *b"WGGL",
            version_min: 1,
            version_max: 3,
            control_max: 1024 * 1024,
            data_max: 64 * 1024,
        },
    );
    pin3(
        "request_connect",
        &Request::Connect(Connect { port: 65_535 }),
    );
    pin3("reply_connected", &Reply::Connected);
    pin3("stream_taken", &StreamMessage::Taken { bytes: 65_536 });
    pin3("stream_given_up", &StreamMessage::GivenUp);
    let failure = Failure {
        code: FailureCode::Refused,
        message: "nobody listens on port 8000".into(),
    };
    pin3("reply_failed_15", &Reply::Failed(failure));
}
