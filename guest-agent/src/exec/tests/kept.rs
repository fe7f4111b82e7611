// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Logged programs and Waggle's own program, as the host sees them.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use waggle_protocol::message::{ExecLogged, Log, Logs, Pack, Tool};

use super::{
    EndReason, Exec, ExitStatus, FailureCode, Host, Path, Program, Reply, Request, agent, bytes_of,
    code_files, command, fs, pid_in, script,
};
use crate::exec::Cgroups;
use crate::testing::{Answer, Hierarchy};

fn logged(exec: Exec, log_from: u64, log_max: u64) -> Request {
    Request::ExecLogged(ExecLogged {
        exec,
        log_from,
        log_max,
    })
}

fn logs(answer: &Answer) -> Logs {
    match answer.replies.as_slice() {
        [Reply::Started { .. }, Reply::Logs(logs), Reply::Ended(_)] => logs.clone(),
        other => panic!("no logs: {other:?}"),
    }
}

fn content(log: Option<Log>) -> Vec<u8> {
    let log = log.unwrap();
    let bytes = fs::read(Path::new(std::ffi::OsStr::from_bytes(&log.path))).unwrap();
    assert_eq!(bytes.len() as u64, log.bytes);
    bytes
}

#[tokio::test]
async fn short_output_costs_no_file() {
    let mut host = Host::connect().await;
    let answer = host
        .ask(logged(script("printf 1234; printf 123 >&2"), 4, 100))
        .await;
    assert_eq!(logs(&answer), Logs::default());
    assert_eq!(answer.stdout, b"1234");
    assert_eq!(code_files(host.folder.path()), 0);
}

#[tokio::test]
async fn long_output_of_both_streams_is_kept_from_its_first_byte() {
    let mut host = Host::connect().await;
    let code = "seq 100000; seq 100000 200000 >&2";
    let answer = host.ask(logged(script(code), 1000, 1 << 30)).await;
    let logs = logs(&answer);
    assert_eq!(content(logs.stdout), answer.stdout);
    assert_eq!(content(logs.stderr), answer.stderr);
    assert!(answer.stdout.ends_with(b"\n100000\n"));
    // The next one does without.
    let answer = host.ask(Request::Exec(script("seq 100000"))).await;
    assert_eq!(answer.replies.len(), 2);
    assert_eq!(code_files(host.folder.path()), 2);
}

#[tokio::test]
async fn a_log_ends_at_its_limit_and_the_output_goes_on() {
    let mut host = Host::connect().await;
    let answer = host
        .ask(logged(
            script("head -c 300000 /dev/zero"),
            u64::MAX,
            100_000,
        ))
        .await;
    assert_eq!(answer.stdout.len(), 300_000);
    assert_eq!(content(logs(&answer).stdout).len(), 100_000);
}

#[tokio::test]
async fn a_log_holds_no_more_than_the_output_limit_lets_through() {
    let mut host = Host::connect().await;
    let exec = Exec {
        output_limit: Some(100_000),
        ..command(&["yes"])
    };
    let answer = host.ask(logged(exec, 10, 1 << 30)).await;
    assert_eq!(answer.ended().reason, EndReason::OutputLimit);
    assert_eq!(content(logs(&answer).stdout).len(), 100_000);
}

#[tokio::test]
async fn the_log_of_a_cancelled_program_stays() {
    let mut host = Host::connect().await;
    let mark = host.folder.path().join("pid");
    let code = format!(
        "seq 1000\nsleep 0.3; echo $$ > {}; sleep 100",
        mark.display()
    );
    host.request(&logged(script(&code), 10, 1000)).await;
    pid_in(&mark).await;
    let (folder, _) = host.hang_up().await;
    assert_eq!(code_files(folder.path()), 1);
}

#[tokio::test]
async fn a_program_that_does_not_start_has_no_logs() {
    let mut host = Host::connect().await;
    let answer = host.ask(logged(command(&["no-such"]), 10, 1000)).await;
    assert_eq!(answer.failure().code, FailureCode::NotFound);
    assert_eq!(answer.replies.len(), 1);
}

#[tokio::test]
async fn waggles_own_program_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(folder.path());
    let tool = agent.exec.tool.clone();
    let mut host = Host::connect_to(agent, folder).await;
    let exec = Exec {
        program: Program::Tool(Tool::Pack(Pack {
            path: bytes_of("/a"),
        })),
        ..command(&[])
    };
    let answer = host.ask(Request::Exec(exec.clone())).await;
    assert_eq!(answer.failure().code, FailureCode::Unsupported);
    assert!(answer.failure().message.contains("waggle-tool"));

    fs::write(&tool, "#!/bin/sh\necho \"$0 $*\"").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let answer = host.ask(Request::Exec(exec)).await;
    assert_eq!(answer.ended().status, ExitStatus::Code(0));
    // The variant's number, the length, the text.
    let expected = format!("{} 01022f61\n", tool.display());
    assert_eq!(String::from_utf8(answer.stdout).unwrap(), expected);

    let long = Exec {
        program: Program::Tool(Tool::Pack(Pack {
            path: bytes_of("a".repeat(100_000)),
        })),
        ..command(&[])
    };
    let answer = host.ask(Request::Exec(long)).await;
    assert_eq!(answer.failure().code, FailureCode::InvalidRequest);
}

#[tokio::test]
async fn many_programs_at_once_keep_apart_and_within_bounds() {
    const PROGRAMS: usize = 64;
    let hierarchy = Hierarchy::find();
    let folder = tempfile::tempdir().unwrap();
    let shared = agent(folder.path());
    let cgroups = hierarchy
        .as_ref()
        .map_or_else(Cgroups::none, |hierarchy| Cgroups::open(hierarchy.path()));
    let mut hosts = Vec::new();
    for number in 0..PROGRAMS {
        let own = tempfile::tempdir().unwrap();
        let mut agent = agent(folder.path());
        agent.exec.programs = Arc::clone(&shared.exec.programs);
        agent.exec.logs = Arc::clone(&shared.exec.logs);
        agent.exec.cgroups = Arc::clone(&cgroups);
        let mut host = Host::connect_to(agent, own).await;
        let code = format!("seq {number} 3000; seq {number} 2000 >&2");
        host.request(&logged(script(&code), 100, 1 << 20)).await;
        hosts.push(host);
    }
    for (number, host) in hosts.iter_mut().enumerate() {
        let answer = host.answer().await;
        assert_eq!(answer.ended().status, ExitStatus::Code(0));
        assert!(answer.stdout.starts_with(format!("{number}\n").as_bytes()));
        let (stdout, stderr) = (logs(&answer).stdout, logs(&answer).stderr);
        for (log, expected) in [(stdout, &answer.stdout), (stderr, &answer.stderr)] {
            let path = log.unwrap().path;
            let bytes = fs::read(Path::new(std::ffi::OsStr::from_bytes(&path))).unwrap();
            assert!(bytes == *expected);
        }
    }
    assert_eq!(code_files(folder.path()), 2 * PROGRAMS);
    assert_eq!(shared.exec.programs.count(), 0);
    if let Some(hierarchy) = hierarchy {
        assert_eq!(hierarchy.groups().len(), 0);
    }
}
