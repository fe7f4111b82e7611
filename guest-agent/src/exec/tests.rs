// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The exec operation over a real socket pair, with real programs.

mod kept;
mod reach;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use waggle_protocol::frame::Kind;
use waggle_protocol::limits::CODE_MAX;
use waggle_protocol::message::{
    EndReason, EnvVar, Exec, ExitStatus, FailureCode, Program, Reply, Request,
};

use crate::sys::DescriptorLimit;
use crate::testing::{Host, agent, bytes_of, command, script};

async fn run(exec: Exec) -> crate::testing::Answer {
    Host::connect().await.ask(Request::Exec(exec)).await
}

/// Waits until `pid` is dead and reaped, or fails.
async fn assert_reaped(pid: i32) {
    let until = Instant::now() + Duration::from_secs(5);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < until, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until `pid` is gone, or fails.
async fn assert_dies(pid: i32) {
    let until = Instant::now() + Duration::from_secs(5);
    while !is_dead(pid) {
        assert!(Instant::now() < until, "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Gone, or a zombie that only waits for its parent.
fn is_dead(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) || status.contains(") Z ")
}

async fn pid_in(path: &Path) -> i32 {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::read_to_string(path).map(|text| text.trim().parse()) {
            Ok(Ok(pid)) => return pid,
            _ if Instant::now() > until => panic!("{} never came", path.display()),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn code_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("waggle_")
        })
        .count()
}

#[tokio::test]
async fn streams_are_apart_and_the_code_arrives() {
    let answer = run(script("echo out; echo err >&2; exit 7")).await;
    assert_eq!(answer.stdout, b"out\n");
    assert_eq!(answer.stderr, b"err\n");
    assert!(matches!(answer.replies[0], Reply::Started { pid } if pid > 1));
    let end = answer.ended();
    assert_eq!(end.status, ExitStatus::Code(7));
    assert_eq!(end.reason, EndReason::Exited);
    assert_eq!((end.stdout.sent, end.stderr.sent), (4, 4));
    assert!(!end.stdout.cut && !end.stderr.cut);
    assert!(end.wall_us > 0);
}

#[tokio::test]
async fn multi_line_code_passes_through_unchanged() {
    let code = "cat <<'EOF'\n\"quotes\" 'and' \\backslashes\\ $HOME `x` \u{fc}\u{1f41d}\n\nEOF\n";
    let answer = run(script(code)).await;
    let text = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(
        text,
        "\"quotes\" 'and' \\backslashes\\ $HOME `x` \u{fc}\u{1f41d}\n\n"
    );
}

#[tokio::test]
async fn a_signal_is_told_from_an_exit_code() {
    let answer = run(script("kill -TERM $$")).await;
    assert_eq!(answer.ended().status, ExitStatus::Signal(15));
    assert_eq!(answer.ended().reason, EndReason::Exited);
}

#[tokio::test]
async fn a_connection_carries_one_operation_after_the_other() {
    let mut host = Host::connect().await;
    for round in 0..5_u8 {
        let answer = host
            .ask(Request::Exec(script(&format!("exit {round}"))))
            .await;
        assert_eq!(answer.ended().status, ExitStatus::Code(round.into()));
        assert_eq!(code_files(host.folder.path()), 0);
    }
    let (_, served) = host.hang_up().await;
    assert!(served.is_ok());
}

#[tokio::test]
async fn the_environment_is_clean() {
    let mut exec = command(&["env"]);
    exec.env.push(EnvVar {
        name: bytes_of("LANG"),
        value: bytes_of("C"),
    });
    let answer = run(exec).await;
    let text = String::from_utf8(answer.stdout).unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|l| l.split('=').next()).collect();
    names.sort_unstable();
    let expected = [
        "HOME",
        "LANG",
        "LOGNAME",
        "PATH",
        "PYTHONUNBUFFERED",
        "SHELL",
        "TZ",
        "USER",
    ];
    assert_eq!(names, expected);
    assert!(text.contains("LANG=C\n") && text.contains("TZ=UTC\n"));
}

#[tokio::test]
async fn no_descriptor_leaks_into_the_program() {
    // What the test process itself was given to pass on is not the agent's doing.
    let inherited = (3..1024).filter(|fd| {
        let flags = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & nix::libc::O_CLOEXEC == 0)
    });
    let expected = 3 + inherited.count();
    let answer = run(command(&["ls", "/proc/self/fd"])).await;
    let text = String::from_utf8(answer.stdout).unwrap();
    // One more: ls's own, of the folder.
    assert_eq!(text.lines().count(), expected + 1, "{text}");
}

#[tokio::test]
async fn the_program_leads_its_own_session() {
    let answer = run(script("cut -d' ' -f1,5,6 /proc/$$/stat")).await;
    let text = String::from_utf8(answer.stdout).unwrap();
    let ids: Vec<_> = text.split_whitespace().collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]), "{text}");
}

#[tokio::test]
async fn the_deadline_kills_a_forking_loop_and_keeps_its_output() {
    let host = Host::connect().await;
    let pids = host.folder.path().join("pids");
    let code = format!(
        "echo begun\nfor i in 1 2 3 4; do (while :; do sleep 0.05; done) & echo $! >> {}; done\nwhile :; do :; done",
        pids.display()
    );
    let mut host = host;
    let exec = Exec {
        deadline_ms: Some(700),
        ..script(&code)
    };
    let answer = host.ask(Request::Exec(exec)).await;
    let end = answer.ended();
    assert_eq!(end.reason, EndReason::Deadline);
    assert_eq!(end.status, ExitStatus::Signal(9));
    assert!(end.wall_us >= 700_000, "{}", end.wall_us);
    assert_eq!(answer.stdout, b"begun\n");
    let text = fs::read_to_string(pids).unwrap();
    assert_eq!(text.lines().count(), 4);
    for pid in text.lines() {
        assert_dies(pid.parse().unwrap()).await;
    }
    assert_eq!(code_files(host.folder.path()), 0);
}

#[tokio::test]
async fn the_deadline_holds_while_the_host_does_not_read() {
    let mut host = Host::connect().await;
    let mark = host.folder.path().join("pid");
    let exec = Exec {
        deadline_ms: Some(300),
        ..script(&format!("echo $$ > {}; exec yes", mark.display()))
    };
    host.request(&Request::Exec(exec)).await;
    assert_dies(pid_in(&mark).await).await;
    let answer = host.answer().await;
    assert_eq!(answer.ended().reason, EndReason::Deadline);
    assert!(answer.stdout.starts_with(b"y\ny\n"));
}

#[tokio::test]
async fn dropping_the_connection_kills_the_group_and_removes_the_code() {
    let mut host = Host::connect().await;
    let (mark, child) = (
        host.folder.path().join("pid"),
        host.folder.path().join("child"),
    );
    let code = format!(
        "sleep 100 & echo $! > {}; echo $$ > {}; wait",
        child.display(),
        mark.display()
    );
    host.request(&Request::Exec(script(&code))).await;
    let (leader, member) = (pid_in(&mark).await, pid_in(&child).await);
    let (folder, served) = host.hang_up().await;
    assert!(served.is_err());
    assert_reaped(leader).await;
    assert_dies(member).await;
    assert_eq!(code_files(folder.path()), 0);
}

#[tokio::test]
async fn dropping_is_noticed_behind_unread_stdin() {
    let mut host = Host::connect().await;
    let mark = host.folder.path().join("pid");
    let exec = Exec {
        stdin: true,
        ..script(&format!("echo $$ > {}; sleep 100", mark.display()))
    };
    host.request(&Request::Exec(exec)).await;
    let pid = pid_in(&mark).await;
    // More than the pipe and the agent's queue hold, so that frames stay in the socket.
    for _ in 0..8 {
        let chunk = tokio::time::timeout(
            Duration::from_millis(200),
            host.data(Kind::Stdin, &[b'x'; 64 * 1024]),
        );
        if chunk.await.is_err() {
            break;
        }
    }
    let (_folder, served) = host.hang_up().await;
    assert!(served.is_err());
    assert_dies(pid).await;
}

#[tokio::test]
async fn output_beyond_the_limit_is_cut_and_the_program_killed() {
    let exec = Exec {
        output_limit: Some(100_000),
        ..command(&["yes"])
    };
    let answer = run(exec).await;
    let end = answer.ended();
    assert_eq!(end.reason, EndReason::OutputLimit);
    assert_eq!(answer.stdout.len(), 100_000);
    assert_eq!(end.stdout.sent, 100_000);
    assert!(end.stdout.cut && !end.stderr.cut);
}

#[tokio::test]
async fn output_up_to_the_limit_is_whole() {
    let exec = Exec {
        output_limit: Some(4),
        ..script("printf 1234")
    };
    let answer = run(exec).await;
    assert_eq!(answer.stdout, b"1234");
    assert_eq!(answer.ended().reason, EndReason::Exited);
    assert!(!answer.ended().stdout.cut);
}

#[tokio::test]
async fn both_streams_flow_under_a_flood() {
    let code = "yes out | head -c 3000000 & yes err | head -c 3000000 >&2; wait";
    let answer = run(script(code)).await;
    assert_eq!(answer.stdout.len(), 3_000_000);
    assert_eq!(answer.stderr.len(), 3_000_000);
    assert_eq!(answer.ended().status, ExitStatus::Code(0));
}

#[tokio::test]
async fn stdin_reaches_the_program_and_ends() {
    let mut host = Host::connect().await;
    let exec = Exec {
        stdin: true,
        ..command(&["cat"])
    };
    host.request(&Request::Exec(exec)).await;
    let chunk = vec![b'z'; 60_000];
    let answer = {
        for _ in 0..3 {
            host.data(Kind::Stdin, &chunk).await;
        }
        host.data(Kind::Stdin, b"").await;
        host.answer().await
    };
    assert_eq!(answer.stdout.len(), 180_000);
    assert_eq!(answer.ended().status, ExitStatus::Code(0));
}

#[tokio::test]
async fn stdin_that_nobody_reads_does_not_spoil_the_connection() {
    let mut host = Host::connect().await;
    let exec = Exec {
        stdin: true,
        ..command(&["true"])
    };
    host.request(&Request::Exec(exec)).await;
    host.data(Kind::Stdin, b"first").await;
    assert_eq!(host.answer().await.ended().status, ExitStatus::Code(0));
    host.data(Kind::Stdin, b"late").await;
    host.data(Kind::Stdin, b"").await;
    let pong = host.ask(Request::Ping).await;
    assert_eq!(*pong.terminal(), Reply::Pong);
}

#[tokio::test]
async fn without_stdin_the_program_reads_nothing() {
    let answer = run(command(&["cat"])).await;
    assert_eq!(answer.ended().status, ExitStatus::Code(0));
    assert!(answer.stdout.is_empty());
}

#[tokio::test]
async fn members_of_the_group_do_not_outlive_the_program() {
    let host = Host::connect().await;
    let mark = host.folder.path().join("pid");
    let mut host = host;
    let code = format!("sleep 100 & echo $! > {}", mark.display());
    let answer = host.ask(Request::Exec(script(&code))).await;
    assert_eq!(answer.ended().status, ExitStatus::Code(0));
    assert!(!answer.ended().stdout.cut);
    assert_dies(pid_in(&mark).await).await;
}

/// Programs that start something in a process group of its own, within the program's session, and
/// leave its number in `mark` once it is there. (dash has no job control without a terminal.)
fn with_a_group_of_its_own(mark: &Path) -> [String; 2] {
    let mark = mark.display();
    let then = format!(
        "p=$!; while [ \"$(cut -d' ' -f5 /proc/$p/stat)\" != $p ]; do sleep 0.01; done; echo $p > {mark}"
    );
    [
        format!(
            "if [ -z \"$BASH\" ]; then exec bash \"$0\"; fi; set -m; (while :; do :; done) & {then}; wait"
        ),
        format!("timeout 100 sleep 100 & {then}; wait"),
    ]
}

#[tokio::test]
async fn the_deadline_kills_every_group_of_the_session() {
    let mut host = Host::connect().await;
    let mark = host.folder.path().join("pid");
    for code in with_a_group_of_its_own(&mark) {
        let exec = Exec {
            deadline_ms: Some(500),
            ..script(&code)
        };
        let answer = host.ask(Request::Exec(exec)).await;
        assert_eq!(answer.ended().reason, EndReason::Deadline);
        assert!(!answer.ended().stdout.cut, "someone held the pipe: {code}");
        assert_dies(pid_in(&mark).await).await;
        fs::remove_file(&mark).unwrap();
    }
}

#[tokio::test]
async fn dropping_the_connection_kills_every_group_of_the_session() {
    for number in 0..2 {
        let mut host = Host::connect().await;
        let mark = host.folder.path().join("pid");
        let code = &with_a_group_of_its_own(&mark)[number];
        host.request(&Request::Exec(script(code))).await;
        let member = pid_in(&mark).await;
        let _ = host.hang_up().await;
        assert_dies(member).await;
    }
}

#[tokio::test]
async fn the_programs_end_is_the_end_of_every_group_of_the_session() {
    let mut host = Host::connect().await;
    let mark = host.folder.path().join("pid");
    for code in with_a_group_of_its_own(&mark) {
        let code = code.trim_end_matches("; wait");
        let answer = host.ask(Request::Exec(script(code))).await;
        assert_eq!(answer.ended().status, ExitStatus::Code(0));
        assert_dies(pid_in(&mark).await).await;
        fs::remove_file(&mark).unwrap();
    }
}

#[tokio::test]
async fn cpu_time_counts_reaped_children() {
    let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    for code in [spin.to_owned(), format!("({spin}) & wait")] {
        let answer = run(script(&code)).await;
        let end = answer.ended();
        assert!(end.user_us > 5_000, "{end:?}");
    }
    let idle = run(command(&["sleep", "0.2"])).await;
    let end = idle.ended();
    assert!(end.user_us + end.system_us < end.wall_us, "{end:?}");
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipe_is_not_waited_for() {
    let mut host = Host::connect().await;
    let mark = host.folder.path().join("pid");
    let code = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 100' & \nwhile ! [ -s {0} ]; do sleep 0.01; done; echo done",
        mark.display()
    );
    let begun = Instant::now();
    let answer = host.ask(Request::Exec(script(&code))).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(answer.stdout, b"done\n");
    let end = answer.ended();
    assert!(end.stdout.cut && end.stderr.cut);
    let daemon = pid_in(&mark).await;
    assert!(!is_dead(daemon));
    kill(Pid::from_raw(daemon), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn what_cannot_start_is_named() {
    let mut host = Host::connect().await;
    let script_path = host.folder.path().join("no-interpreter");
    fs::write(&script_path, "#!/nowhere/sh\n").unwrap();
    let plain = host.folder.path().join("plain");
    fs::write(&plain, "text").unwrap();
    let mut mode = fs::metadata(&script_path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(&script_path, mode).unwrap();

    let (script_path, plain) = (script_path.to_str().unwrap(), plain.to_str().unwrap());
    for (word, code) in [
        ("no-such-program", FailureCode::NotFound),
        ("/no/such/program", FailureCode::NotFound),
        (script_path, FailureCode::SpawnFailed),
        (plain, FailureCode::PermissionDenied),
        ("/tmp", FailureCode::IsDirectory),
    ] {
        let answer = host.ask(Request::Exec(command(&[word]))).await;
        let failure = answer.failure();
        assert_eq!(failure.code, code, "{failure:?}");
        assert!(failure.message.contains(word), "{failure:?}");
    }
    let mut exec = script("");
    exec.program = Program::Code {
        interpreter: vec![bytes_of("pythonnn")],
        extension: "py".into(),
        code: bytes_of(""),
    };
    let answer = host.ask(Request::Exec(exec)).await;
    assert_eq!(answer.failure().code, FailureCode::NotFound);
    assert_eq!(code_files(host.folder.path()), 0);
}

#[tokio::test]
async fn values_that_make_no_sense_are_refused() {
    let mut host = Host::connect().await;
    let code = |extension: &str, code: Vec<u8>| Exec {
        program: Program::Code {
            interpreter: vec![bytes_of("sh")],
            extension: extension.into(),
            code: bytes_of(code),
        },
        ..command(&[])
    };
    let variable = |name: &str, value: &str| Exec {
        env: vec![EnvVar {
            name: bytes_of(name),
            value: bytes_of(value),
        }],
        ..command(&["true"])
    };
    for exec in [
        command(&[]),
        command(&[""]),
        command(&["echo", "a\0b"]),
        variable("A=B", ""),
        variable("", ""),
        variable("A", "\0"),
        code("../x", vec![]),
        code("sh", vec![b'#'; CODE_MAX + 1]),
    ] {
        let answer = host.ask(Request::Exec(exec)).await;
        assert_eq!(answer.failure().code, FailureCode::InvalidRequest);
    }
    let answer = host
        .ask(Request::Exec(code("sh", vec![b'#'; CODE_MAX])))
        .await;
    assert_eq!(answer.ended().status, ExitStatus::Code(0));
}

#[tokio::test]
async fn the_working_directory_is_home_or_what_was_asked_for() {
    let mut host = Host::connect().await;
    let home = fs::canonicalize(host.folder.path()).unwrap();
    let answer = host.ask(Request::Exec(command(&["pwd"]))).await;
    assert_eq!(answer.stdout, format!("{}\n", home.display()).as_bytes());

    for (directory, code) in [
        ("/no/such", FailureCode::NotFound),
        ("/etc/passwd", FailureCode::NotDirectory),
        ("relative", FailureCode::InvalidPath),
    ] {
        let exec = Exec {
            directory: Some(bytes_of(directory)),
            ..command(&["pwd"])
        };
        let answer = host.ask(Request::Exec(exec)).await;
        assert_eq!(answer.failure().code, code);
        assert!(answer.failure().message.contains(directory));
    }
}

#[tokio::test]
async fn root_runs_programs_as_the_sandbox_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent(folder.path());
    agent.sandbox.uid = 12345;
    agent.sandbox.gid = 12346;
    agent.sandbox.groups = vec![12347];
    agent.sandbox.home = "/".into();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    fs::set_permissions(folder.path(), mode).unwrap();
    let mut host = Host::connect_to(agent, folder).await;
    let answer = host
        .ask(Request::Exec(script(
            "id -u; id -g; id -G; stat -c %u:%a \"$0\"",
        )))
        .await;
    assert_eq!(answer.stdout, b"12345\n12346\n12346 12347\n12345:600\n");
}

#[tokio::test]
async fn a_directory_that_the_user_may_not_enter_is_named() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    fs::set_permissions(folder.path(), mode(0o1777)).unwrap();
    fs::set_permissions(&closed, mode(0o700)).unwrap();
    let mut agent = agent(folder.path());
    agent.sandbox.uid = 12345;
    agent.sandbox.gid = 12346;
    agent.sandbox.home.clone_from(&closed);
    let mut host = Host::connect_to(agent, folder).await;

    let exec = Exec {
        directory: Some(bytes_of(closed.to_str().unwrap())),
        ..command(&["pwd"])
    };
    let answer = host.ask(Request::Exec(exec)).await;
    assert_eq!(answer.failure().code, FailureCode::PermissionDenied);
    let text = &answer.failure().message;
    assert!(text.starts_with("working directory /"), "{text}");

    // Nobody asked for home: `/` will do.
    let answer = host.ask(Request::Exec(command(&["pwd"]))).await;
    assert_eq!(answer.stdout, b"/\n");
}

#[tokio::test]
async fn programs_have_the_usual_number_of_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent(folder.path());
    agent.exec.descriptors = Some(DescriptorLimit {
        soft: 321,
        hard: 654,
    });
    let mut host = Host::connect_to(agent, folder).await;
    let code = "ulimit -S -n; ulimit -H -n";
    let answer = host.ask(Request::Exec(script(code))).await;
    assert_eq!(answer.stdout, b"321\n654\n");
}
