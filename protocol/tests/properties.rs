// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What holds for all inputs: round trips, any split of the bytes, and hostile bytes.

use bytes::{Bytes, BytesMut};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof};
use serde_bytes::ByteBuf;
use waggle_protocol::{
    boot::Ready,
    codec,
    frame::{self, Frame, FrameError, Kind},
    handshake::{Hello, negotiate},
    limits::{DATA_PAYLOAD_MAX, HEADER_BYTES, REPLY_PAYLOAD_MAX, REQUEST_PAYLOAD_MAX},
    message::{
        EndReason, Entry, EnvVar, Exec, ExecEnd, ExitStatus, FileKind, ListFiles, Program,
        ReadFile, Reply, Request, StreamTotals, User, WriteFile,
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
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let variable = (blob(8), blob(30)).prop_map(|(name, value)| EnvVar { name, value });
    let exec = (
        program(),
        prop::collection::vec(variable, 0..4),
        prop::option::of(blob(40)),
        user(),
        any::<(Option<u64>, Option<u64>, bool)>(),
    )
        .prop_map(
            |(program, env, directory, user, (deadline_ms, output_limit, stdin))| {
                Request::Exec(Exec {
                    program,
                    env,
                    directory,
                    user,
                    deadline_ms,
                    output_limit,
                    stdin,
                })
            },
        );
    prop_oneof![
        Just(Request::Ping),
        Just(Request::Probe),
        Just(Request::Shutdown),
        exec,
        (blob(60), any::<(Option<u32>, bool)>(), user()).prop_map(
            |(path, (mode, create_parents), user)| Request::WriteFile(WriteFile {
                path,
                mode,
                create_parents,
                user
            })
        ),
        (blob(60), any::<(u64, Option<u64>)>(), user()).prop_map(
            |(path, (offset, length), user)| Request::ReadFile(ReadFile {
                path,
                offset,
                length,
                user
            })
        ),
        (blob(60), any::<(u32, u32)>(), user()).prop_map(|(path, (depth, limit), user)| {
            Request::ListFiles(ListFiles {
                path,
                depth,
                limit,
                user,
            })
        }),
    ]
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
    let ended = (status, reason, any::<(u64, u64, bool, u64, bool)>()).prop_map(
        |(status, reason, (wall_us, out, out_cut, err, err_cut))| {
            Reply::Ended(ExecEnd {
                status,
                reason,
                wall_us,
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
    ]
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let kind = prop_oneof![
        Just(Kind::Control),
        Just(Kind::Stdin),
        Just(Kind::Stdout),
        Just(Kind::Stderr),
        Just(Kind::File)
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..400);
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
        let mut wire = BytesMut::new();
        codec::put(&request, &mut wire);
        let frame = frame::decode(&mut wire, REQUEST_PAYLOAD_MAX).unwrap().unwrap();
        prop_assert!(wire.is_empty());
        prop_assert_eq!(codec::message::<Request>(&frame).unwrap(), request);
    }

    #[test]
    fn a_reply_survives_the_wire(reply in reply()) {
        let mut wire = BytesMut::new();
        codec::put(&reply, &mut wire);
        let frame = frame::decode(&mut wire, REPLY_PAYLOAD_MAX).unwrap().unwrap();
        prop_assert_eq!(codec::message::<Reply>(&frame).unwrap(), reply);
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
    fn negotiation_is_symmetric(a in any::<(u16, u16)>(), b in any::<(u16, u16)>()) {
        let hello = |(version_min, version_max)| Hello { version_min, version_max, ..Hello::OURS };
        prop_assert_eq!(negotiate(hello(a), hello(b)).ok(), negotiate(hello(b), hello(a)).ok());
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

#[test]
fn an_unknown_kind_is_refused() {
    let mut buffer = BytesMut::from(&[0, 0, 0, 0, 9][..]);
    assert_eq!(
        frame::decode(&mut buffer, 10),
        Err(FrameError::UnknownKind(9))
    );
}

#[test]
fn a_list_that_claims_more_elements_than_bytes_allocates_little() {
    // Reply::Entries with a length of 2^32 and nothing behind it.
    const PAYLOAD: [u8; 6] = [7, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let frame = Frame {
        kind: Kind::Control,
        payload: Bytes::from_static(&PAYLOAD),
    };
    assert!(matches!(
        codec::message::<Reply>(&frame),
        Err(codec::CodecError::Malformed(_))
    ));
    let reply = codec::to_payload(&Reply::Entries(Vec::new()));
    assert_eq!(
        reply,
        [7, 0],
        "the variant's number moved: mend this test's payload"
    );
}
