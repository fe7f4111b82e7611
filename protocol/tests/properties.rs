// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What holds for all inputs: round trips, any split of the bytes, and hostile bytes.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use waggle_protocol::{
    boot::{BootConfig, Ready},
    codec,
    frame::{self, Frame, FrameError, Kind},
    handshake::{Agreed, Hello, negotiate},
    limits::{
        DATA_PAYLOAD_MAX, EDIT_TEXT_MAX, FAILURE_TEXT_MAX, HEADER_BYTES, LOG_PATH_MAX, PATH_MAX,
        PATTERN_MAX, PAYLOAD_MAX_MIN, REPLY_PAYLOAD_MAX, REQUEST_PAYLOAD_MAX, SEARCH_LINE_MAX,
        TOOL_BYTES_MAX,
    },
    message::{
        Capabilities, Connect, EditFile, Edited, EndReason, Entry, EnvVar, Exec, ExecEnd,
        ExecLogged, ExitStatus, Failure, FailureCode, FileInfo, FileKind, FindFiles, LinesEnd,
        ListFiles, Log, Logs, Pack, PackageManager, Program, ReadFile, ReadLines, Reply, Request,
        Search, SearchEnd, SearchLine, SearchRecord, Signal, StreamMessage, StreamTotals, Tool,
        Unpack, User, WriteFile,
    },
};

fn blob(most: usize) -> impl Strategy<Value = ByteBuf> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(ByteBuf::from)
}

fn user() -> impl Strategy<Value = User> {
    prop_oneof![Just(User::Sandbox), Just(User::Root)]
}

fn program() -> impl Strategy<Value = Program> {
    prop_oneof![
        prop::collection::vec(blob(20), 0..4).prop_map(Program::Command),
        (
            prop::collection::vec(blob(20), 1..3),
            "[a-z]{1,4}",
            blob(3000)
        )
            .prop_map(|(interpreter, extension, code)| Program::Code {
                interpreter,
                extension,
                code
            }),
        tool().prop_map(Program::Tool),
    ]
}

fn tool() -> impl Strategy<Value = Tool> {
    let switches = any::<([bool; 3], [u32; 3])>();
    let search = (blob(60), ".{0,40}", prop::option::of(".{0,20}"), switches).prop_map(
        |(path, pattern, glob, ([literal, ignore_case, all_files], [context, limit, line_max]))| {
            Tool::Search(Search {
                path,
                pattern,
                literal,
                ignore_case,
                glob,
                all_files,
                context,
                limit,
                line_max,
            })
        },
    );
    prop_oneof![
        search,
        blob(60).prop_map(|path| Tool::Pack(Pack { path })),
        blob(60).prop_map(|path| Tool::Unpack(Unpack { path })),
    ]
}

fn search_record() -> impl Strategy<Value = SearchRecord> {
    prop_oneof![
        blob(300).prop_map(SearchRecord::File),
        (any::<(u64, bool, bool)>(), blob(300)).prop_map(|((number, is_match, cut), text)| {
            SearchRecord::Line(SearchLine {
                number,
                is_match,
                text,
                cut,
            })
        }),
        any::<([u64; 4], bool)>().prop_map(
            |([files_searched, files_matched, matches, unreadable], truncated)| {
                SearchRecord::End(SearchEnd {
                    files_searched,
                    files_matched,
                    matches,
                    truncated,
                    unreadable,
                })
            }
        ),
    ]
}

fn exec() -> impl Strategy<Value = Exec> {
    let variable = (blob(8), blob(30)).prop_map(|(name, value)| EnvVar { name, value });
    (
        program(),
        prop::collection::vec(variable, 0..4),
        prop::option::of(blob(40)),
        user(),
        any::<(Option<u64>, Option<u64>, bool)>(),
    )
        .prop_map(
            |(program, env, directory, user, (deadline_ms, output_limit, stdin))| Exec {
                program,
                env,
                directory,
                user,
                deadline_ms,
                output_limit,
                stdin,
            },
        )
}

fn write_file() -> impl Strategy<Value = WriteFile> {
    (blob(60), any::<(Option<u32>, bool)>(), user()).prop_map(
        |(path, (mode, create_parents), user)| WriteFile {
            path,
            mode,
            create_parents,
            user,
        },
    )
}

fn list_files() -> impl Strategy<Value = ListFiles> {
    (blob(60), any::<(u32, u32)>(), user()).prop_map(|(path, (depth, limit), user)| ListFiles {
        path,
        depth,
        limit,
        user,
    })
}

fn edit_file() -> impl Strategy<Value = EditFile> {
    let conditions = any::<(Option<u32>, Option<[u8; 32]>)>();
    (blob(60), blob(400), blob(400), conditions, user()).prop_map(
        |(path, old, new, (expected, sha256), user)| EditFile {
            path,
            old,
            new,
            expected,
            sha256,
            user,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Ping),
        Just(Request::Probe),
        Just(Request::Shutdown),
        exec().prop_map(Request::Exec),
        write_file().prop_map(Request::WriteFile),
        (blob(60), any::<(u64, Option<u64>)>(), user()).prop_map(
            |(path, (offset, length), user)| Request::ReadFile(ReadFile {
                path,
                offset,
                length,
                user
            })
        ),
        list_files().prop_map(Request::ListFiles),
        (exec(), any::<(u64, u64)>()).prop_map(|(exec, (log_from, log_max))| {
            Request::ExecLogged(ExecLogged {
                exec,
                log_from,
                log_max,
            })
        }),
        any::<(u32, i32)>().prop_map(|(pid, signal)| Request::Signal(Signal { pid, signal })),
        write_file().prop_map(Request::AppendFile),
        edit_file().prop_map(Request::EditFile),
        (blob(60), any::<[u64; 3]>(), user()).prop_map(
            |(path, [first, count, bytes_max], user)| Request::ReadLines(ReadLines {
                path,
                first,
                count,
                bytes_max,
                user
            })
        ),
        (list_files(), ".{0,20}")
            .prop_map(|(list, glob)| Request::FindFiles(FindFiles { list, glob })),
        any::<u16>().prop_map(|port| Request::Connect(Connect { port })),
    ]
}

/// Not called: it does not compile while a request, program, tool or record is missing from
/// [`request`], [`program`], [`tool`] or [`search_record`]. Add it there and here.
#[allow(dead_code)]
fn every_request_is_generated(request: &Request, record: &SearchRecord) {
    match request {
        Request::Exec(exec) | Request::ExecLogged(ExecLogged { exec, .. }) => match &exec.program {
            Program::Command(_)
            | Program::Code { .. }
            | Program::Tool(Tool::Search(_) | Tool::Pack(_) | Tool::Unpack(_)) => {}
        },
        Request::Ping
        | Request::Probe
        | Request::WriteFile(_)
        | Request::ReadFile(_)
        | Request::ListFiles(_)
        | Request::Shutdown
        | Request::Signal(_)
        | Request::AppendFile(_)
        | Request::EditFile(_)
        | Request::ReadLines(_)
        | Request::FindFiles(_)
        | Request::Connect(_) => {}
    }
    match record {
        SearchRecord::File(_) | SearchRecord::Line(_) | SearchRecord::End(_) => {}
    }
}

fn reply() -> impl Strategy<Value = Reply> {
    let kind = prop_oneof![
        Just(FileKind::File),
        Just(FileKind::Directory),
        Just(FileKind::Symlink),
        Just(FileKind::Special)
    ];
    let entry = (blob(300), kind, any::<(u64, u32, i64)>()).prop_map(
        |(name, kind, (size, mode, modified_ns))| Entry {
            name,
            kind,
            size,
            mode,
            modified_ns,
        },
    );
    let status = prop_oneof![
        any::<i32>().prop_map(ExitStatus::Code),
        any::<i32>().prop_map(ExitStatus::Signal)
    ];
    let reason = prop_oneof![
        Just(EndReason::Exited),
        Just(EndReason::Deadline),
        Just(EndReason::OutputLimit),
        Just(EndReason::OutOfMemory)
    ];
    let ended = (status, reason, any::<([u64; 3], u64, bool, u64, bool)>()).prop_map(
        |(status, reason, ([wall_us, user_us, system_us], out, out_cut, err, err_cut))| {
            Reply::Ended(ExecEnd {
                status,
                reason,
                wall_us,
                user_us,
                system_us,
                stdout: StreamTotals {
                    sent: out,
                    cut: out_cut,
                },
                stderr: StreamTotals {
                    sent: err,
                    cut: err_cut,
                },
            })
        },
    );
    prop_oneof![
        Just(Reply::Pong),
        any::<u32>().prop_map(|pid| Reply::Started { pid }),
        prop::collection::vec(entry, 0..20).prop_map(Reply::Entries),
        ended,
        capabilities().prop_map(Reply::Capabilities),
        any::<u64>().prop_map(|bytes| Reply::Written { bytes }),
        any::<(u64, u32, i64)>().prop_map(|(size, mode, modified_ns)| Reply::File(FileInfo {
            size,
            mode,
            modified_ns,
        })),
        any::<u64>().prop_map(|bytes| Reply::FileEnd { bytes }),
        any::<(bool, u64)>().prop_map(|(truncated, unreadable)| Reply::ListEnd {
            truncated,
            unreadable,
        }),
        Just(Reply::ShuttingDown),
        (prop::sample::select(&FAILURE_CODES), ".{0,60}")
            .prop_map(|(code, message)| Reply::Failed(Failure { code, message })),
        (prop::option::of(log()), prop::option::of(log()))
            .prop_map(|(stdout, stderr)| Reply::Logs(Logs { stdout, stderr })),
        Just(Reply::Signalled),
        Just(Reply::Connected),
        any::<(u32, u64, [u8; 32])>().prop_map(|(replaced, bytes, sha256)| {
            Reply::Edited(Edited {
                replaced,
                bytes,
                sha256,
            })
        }),
        any::<([u64; 3], bool)>().prop_map(|([lines, bytes, next_offset], at_end)| {
            Reply::LinesEnd(LinesEnd {
                lines,
                bytes,
                next_offset,
                at_end,
            })
        }),
    ]
}

fn log() -> impl Strategy<Value = Log> {
    (blob(60), any::<u64>()).prop_map(|(path, bytes)| Log { path, bytes })
}

const FAILURE_CODES: [FailureCode; 16] = [
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
    FailureCode::NoMatch,
    FailureCode::Changed,
    FailureCode::NoProcess,
    FailureCode::TooLarge,
    FailureCode::Refused,
];

/// Not called: it does not compile while a reply is missing from [`reply`]. Add it there and here.
#[allow(dead_code)]
fn every_reply_is_generated(reply: &Reply) {
    match reply {
        Reply::Pong
        | Reply::Capabilities(_)
        | Reply::Started { .. }
        | Reply::Ended(_)
        | Reply::Written { .. }
        | Reply::File(_)
        | Reply::FileEnd { .. }
        | Reply::Entries(_)
        | Reply::ListEnd { .. }
        | Reply::ShuttingDown
        | Reply::Failed(_)
        | Reply::Logs(_)
        | Reply::Signalled
        | Reply::Edited(_)
        | Reply::LinesEnd(_)
        | Reply::Connected => {}
    }
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let program = || prop::option::of(blob(40));
    let package_managers = prop::sample::subsequence(
        vec![
            PackageManager::Apk,
            PackageManager::AptGet,
            PackageManager::Dnf,
            PackageManager::Yum,
            PackageManager::Zypper,
        ],
        0..=5,
    );
    let programs = (program(), program(), program(), program());
    (programs, any::<(bool, bool)>(), package_managers, blob(80)).prop_map(
        |((python, pip, node, npm), (python_venv, user_is_root), package_managers, path)| {
            Capabilities {
                python,
                pip,
                python_venv,
                node,
                npm,
                package_managers,
                user_is_root,
                path,
            }
        },
    )
}

fn ready() -> impl Strategy<Value = Ready> {
    let numbers = any::<([u8; 16], [u8; 16], u64)>();
    (numbers, ".{0,20}", capabilities()).prop_map(
        |((token, boot_id, since_init_us), agent_version, capabilities)| Ready {
            token,
            boot_id,
            agent_version,
            since_init_us,
            capabilities,
        },
    )
}

fn boot_config() -> impl Strategy<Value = BootConfig> {
    ("[a-z0-9-]{1,63}", any::<(u64, [u8; 32], [u8; 16], bool)>()).prop_map(
        |(hostname, (unix_time_ns, entropy, ready_token, inject_agent))| BootConfig {
            hostname,
            unix_time_ns,
            entropy,
            ready_token,
            inject_agent,
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    any::<([u8; 4], u16, u16, u32, u32)>().prop_map(
        |(magic, version_min, version_max, control_max, data_max)| Hello {
            magic,
            version_min,
            version_max,
            control_max,
            data_max,
        },
    )
}

/// A valid payload of any message.
fn valid_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        request().prop_map(|m| codec::to_payload(&m)),
        tool().prop_map(|m| codec::to_payload(&m)),
        search_record().prop_map(|m| codec::to_payload(&m)),
        reply().prop_map(|m| codec::to_payload(&m)),
        ready().prop_map(|m| codec::to_payload(&m)),
        boot_config().prop_map(|m| codec::to_payload(&m)),
        hello().prop_map(|m| codec::to_payload(&m)),
    ]
}

/// Decodes `payload` as every message there is. Whatever comes out encodes again.
fn decode_as_everything(payload: Vec<u8>) {
    fn decode<M: Serialize + DeserializeOwned + PartialEq + Debug>(frame: &Frame) {
        if let Ok(message) = codec::message::<M>(frame) {
            let frame = control(codec::to_payload(&message));
            assert_eq!(codec::message::<M>(&frame).as_ref(), Ok(&message));
        }
    }
    let frame = control(payload);
    decode::<Request>(&frame);
    decode::<Tool>(&frame);
    decode::<SearchRecord>(&frame);
    decode::<StreamMessage>(&frame);
    decode::<Reply>(&frame);
    decode::<Ready>(&frame);
    decode::<BootConfig>(&frame);
    decode::<Hello>(&frame);
}

fn control(payload: Vec<u8>) -> Frame {
    Frame {
        kind: Kind::Control,
        payload: Bytes::from(payload),
    }
}

/// Through the wire and back.
fn survives<M: Serialize + DeserializeOwned + PartialEq + Debug>(message: &M) {
    let mut wire = BytesMut::new();
    codec::put(message, &mut wire);
    let frame = frame::decode(&mut wire, REQUEST_PAYLOAD_MAX);
    let frame = frame.expect("well-formed").expect("whole");
    assert!(wire.is_empty());
    assert_eq!(codec::message::<M>(&frame).as_ref(), Ok(message));
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let kind = prop_oneof![
        Just(Kind::Control),
        Just(Kind::Stdin),
        Just(Kind::Stdout),
        Just(Kind::Stderr),
        Just(Kind::File)
    ];
    // The bounds of a first read and of the frames themselves are where splits go wrong.
    let filled = |length: usize| any::<u8>().prop_map(move |byte| vec![byte; length]);
    let payload = prop_oneof![
        16 => prop::collection::vec(any::<u8>(), 0..400),
        3 => prop::collection::vec(any::<u8>(), 8180..8200),
        1 => filled(DATA_PAYLOAD_MAX),
        1 => filled(DATA_PAYLOAD_MAX - HEADER_BYTES),
    ];
    prop::collection::vec(
        (kind, payload).prop_map(|(kind, payload)| Frame {
            kind,
            payload: Bytes::from(payload),
        }),
        0..12,
    )
}

proptest::proptest! {
    #[test]
    fn a_request_survives_the_wire(request in request()) {
        survives(&request);
    }

    #[test]
    fn a_reply_survives_the_wire(reply in reply()) {
        survives(&reply);
    }

    #[test]
    fn what_a_tool_takes_and_tells_survives_the_wire(
        tool in tool(),
        record in search_record(),
    ) {
        survives(&tool);
        survives(&record);
    }

    #[test]
    fn what_goes_beside_a_stream_survives_the_wire(bytes in any::<u32>()) {
        survives(&StreamMessage::Taken { bytes });
        survives(&StreamMessage::GivenUp);
    }

    #[test]
    fn what_opens_a_connection_survives_the_wire(
        hello in hello(),
        ready in ready(),
        config in boot_config(),
    ) {
        survives(&hello);
        survives(&ready);
        survives(&config);
    }

    #[test]
    fn no_payload_makes_a_message_panic(payload in prop::collection::vec(any::<u8>(), 0..4096)) {
        decode_as_everything(payload);
    }

    #[test]
    fn no_damage_to_a_valid_payload_makes_a_message_panic(
        payload in valid_payload(),
        length in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        appended in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let mut payload = payload;
        if damage.len() < 2 {
            payload.truncate(length.index(payload.len() + 1));
        }
        for (place, byte) in damage {
            if !payload.is_empty() {
                let place = place.index(payload.len());
                payload[place] = byte;
            }
        }
        payload.extend(appended);
        decode_as_everything(payload);
    }

    #[test]
    fn any_split_gives_the_same_frames(
        frames in frames(),
        cuts in prop::collection::vec(1_usize..200, 1..60),
    ) {
        let mut wire = BytesMut::new();
        for frame in &frames {
            frame::encode(frame.kind, &frame.payload, &mut wire);
        }
        let (mut received, mut buffer, mut cuts) = (Vec::new(), BytesMut::new(), cuts.iter().cycle());
        while !wire.is_empty() {
            let piece = wire.split_to((*cuts.next().unwrap()).min(wire.len()));
            buffer.extend_from_slice(&piece);
            while let Some(frame) = frame::decode(&mut buffer, REPLY_PAYLOAD_MAX).unwrap() {
                received.push(frame);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(received, frames);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_reserve_past_its_limit(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        control_max in 0_usize..4096,
    ) {
        let mut buffer = BytesMut::from(bytes.as_slice());
        while let Ok(Some(frame)) = frame::decode(&mut buffer, control_max) {
            let limit = if frame.kind == Kind::Control { control_max } else { DATA_PAYLOAD_MAX };
            prop_assert!(frame.payload.len() <= limit);
            let _ = codec::message::<Request>(&frame);
            let _ = codec::message::<Reply>(&frame);
            let _ = codec::message::<Hello>(&frame);
            let _ = codec::message::<Ready>(&frame);
        }
        // `reserve` may double what is there; it never follows a length above the limit.
        let ceiling = control_max.max(DATA_PAYLOAD_MAX) + HEADER_BYTES + bytes.len();
        prop_assert!(buffer.capacity() <= 2 * ceiling);
    }

    #[test]
    fn a_length_above_the_limit_is_refused_from_the_header_alone(
        excess in 1_u32..u32::MAX - 65_536,
        kind in 0_u8..5,
    ) {
        let length = 65_536 + excess;
        let mut buffer = BytesMut::from(&length.to_le_bytes()[..]);
        buffer.extend_from_slice(&[kind]);
        let capacity = buffer.capacity();
        let outcome = frame::decode(&mut buffer, REPLY_PAYLOAD_MAX);
        prop_assert_eq!(
            outcome,
            Err(FrameError::TooLong { length: length as usize, limit: REPLY_PAYLOAD_MAX })
        );
        prop_assert_eq!(buffer.capacity(), capacity);
    }

    #[test]
    fn both_sides_agree_on_the_version(a in any::<(u16, u16)>(), b in any::<(u16, u16)>()) {
        let hello = |(version_min, version_max), ours| Hello { version_min, version_max, ..ours };
        let (host, guest) = (hello(a, Hello::HOST), hello(b, Hello::GUEST));
        let version = |agreed: Agreed| agreed.version;
        prop_assert_eq!(
            negotiate(host, guest).ok().map(version),
            negotiate(guest, host).ok().map(version)
        );
    }

    #[test]
    fn nothing_beyond_the_protocols_limits_is_agreed(theirs in hello(), ours in hello()) {
        let theirs = Hello { magic: Hello::HOST.magic, ..theirs };
        if let Ok(agreed) = negotiate(ours, theirs) {
            prop_assert!((PAYLOAD_MAX_MIN..=REQUEST_PAYLOAD_MAX).contains(&agreed.control_max));
            prop_assert!((PAYLOAD_MAX_MIN..=DATA_PAYLOAD_MAX).contains(&agreed.data_max));
        }
    }
}

#[test]
fn a_message_with_surplus_bytes_is_refused() {
    let mut payload = codec::to_payload(&Request::Ping);
    payload.push(0);
    let frame = Frame {
        kind: Kind::Control,
        payload: Bytes::from(payload),
    };
    assert_eq!(
        codec::message::<Request>(&frame),
        Err(codec::CodecError::Surplus(1))
    );
}

/// Bytes that `message` takes as a payload.
fn length<M: Serialize>(message: &M) -> usize {
    codec::to_payload(message).len()
}

#[test]
fn replies_without_a_list_fit_any_host() {
    let log = || Log {
        path: ByteBuf::from(vec![b'x'; LOG_PATH_MAX]),
        bytes: u64::MAX,
    };
    let totals = StreamTotals {
        sent: u64::MAX,
        cut: true,
    };
    let largest = [
        Reply::Started { pid: u32::MAX },
        Reply::Ended(ExecEnd {
            status: ExitStatus::Code(i32::MIN),
            reason: EndReason::OutOfMemory,
            wall_us: u64::MAX,
            user_us: u64::MAX,
            system_us: u64::MAX,
            stdout: totals,
            stderr: totals,
        }),
        Reply::Written { bytes: u64::MAX },
        Reply::File(FileInfo {
            size: u64::MAX,
            mode: u32::MAX,
            modified_ns: i64::MIN,
        }),
        Reply::FileEnd { bytes: u64::MAX },
        Reply::ListEnd {
            truncated: true,
            unreadable: u64::MAX,
        },
        Reply::Failed(Failure {
            code: FailureCode::TooLarge,
            message: "x".repeat(FAILURE_TEXT_MAX),
        }),
        Reply::Logs(Logs {
            stdout: Some(log()),
            stderr: Some(log()),
        }),
        Reply::Edited(Edited {
            replaced: u32::MAX,
            bytes: u64::MAX,
            sha256: [u8::MAX; 32],
        }),
        Reply::LinesEnd(LinesEnd {
            lines: u64::MAX,
            bytes: u64::MAX,
            next_offset: u64::MAX,
            at_end: true,
        }),
    ];
    for reply in largest {
        assert!(length(&reply) <= PAYLOAD_MAX_MIN, "{reply:?}");
    }
}

#[test]
fn the_largest_of_version_2_fits_where_it_goes() {
    let path = || ByteBuf::from(vec![b'x'; PATH_MAX]);
    let text = || ByteBuf::from(vec![b'x'; EDIT_TEXT_MAX]);
    let edit = Request::EditFile(EditFile {
        path: path(),
        old: text(),
        new: text(),
        expected: Some(u32::MAX),
        sha256: Some([u8::MAX; 32]),
        user: User::Root,
    });
    assert!(length(&edit) <= REQUEST_PAYLOAD_MAX);

    let search = Tool::Search(Search {
        path: path(),
        pattern: "x".repeat(PATTERN_MAX),
        literal: true,
        ignore_case: true,
        glob: Some("x".repeat(PATTERN_MAX)),
        all_files: true,
        context: u32::MAX,
        limit: u32::MAX,
        line_max: u32::MAX,
    });
    assert!(length(&search) <= TOOL_BYTES_MAX);

    let line = SearchRecord::Line(SearchLine {
        number: u64::MAX,
        is_match: true,
        text: ByteBuf::from(vec![b'x'; SEARCH_LINE_MAX as usize]),
        cut: true,
    });
    assert!(length(&line) <= PAYLOAD_MAX_MIN);
    assert!(length(&SearchRecord::File(path())) <= REPLY_PAYLOAD_MAX);
}

#[test]
fn an_unknown_kind_is_refused() {
    let mut buffer = BytesMut::from(&[0, 0, 0, 0, 9][..]);
    assert_eq!(
        frame::decode(&mut buffer, 10),
        Err(FrameError::UnknownKind(9))
    );
}
