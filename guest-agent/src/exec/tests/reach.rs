// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Whom kills and signals reach: sessions, control groups, programs of other connections.

use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal;
use tempfile::TempDir;
use waggle_protocol::message::Signal;

use super::{
    Duration, EndReason, Exec, ExitStatus, FailureCode, Host, Instant, Path, Pid, Reply, Request,
    agent, assert_dies, assert_reaped, command, fs, is_dead, kill, pid_in, script,
};
use crate::agent::Agent;
use crate::exec::{Cgroups, Programs};
use crate::testing::Hierarchy;

/// An agent that makes control groups, in a hierarchy of its own.
fn grouping_agent() -> Option<(Hierarchy, Agent, TempDir)> {
    let hierarchy = Hierarchy::find()?;
    let folder = tempfile::tempdir().unwrap();
    let mut agent = agent(folder.path());
    agent.exec.cgroups = Cgroups::open(hierarchy.path());
    Some((hierarchy, agent, folder))
}

/// Lines of shell that leave a daemon behind, forked twice and in a session of its own, whose number
/// is in `mark`.
fn daemon(mark: &Path) -> String {
    let mark = mark.display();
    format!(
        "(setsid sh -c 'sleep 100 >/dev/null 2>&1 & echo $! > {mark}' &)\nwhile ! [ -s {mark} ]; do sleep 0.01; done\n"
    )
}

async fn assert_no_groups(hierarchy: &Hierarchy) {
    let until = Instant::now() + Duration::from_secs(5);
    while !hierarchy.groups().is_empty() {
        assert!(Instant::now() < until, "{:?}", hierarchy.groups());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn signal(pid: i32, signal: i32) -> Request {
    let pid = pid.cast_unsigned();
    Request::Signal(Signal { pid, signal })
}

/// A program that puts its number into the file, run by one connection, and a second connection.
async fn program_and_other(code: &str) -> (Host, Host, i32, Arc<Programs>) {
    let folder = tempfile::tempdir().unwrap();
    let other_folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("pid");
    let agent = agent(folder.path());
    let mut other = super::agent(other_folder.path());
    other.exec.programs = Arc::clone(&agent.exec.programs);
    let programs = Arc::clone(&agent.exec.programs);
    let mut host = Host::connect_to(agent, folder).await;
    let other = Host::connect_to(other, other_folder).await;
    let code = format!(
        "{code}\necho $$ > {}\nwhile :; do sleep 0.01; done",
        mark.display()
    );
    host.request(&Request::Exec(script(&code))).await;
    let pid = pid_in(&mark).await;
    (host, other, pid, programs)
}

#[tokio::test]
async fn the_deadline_kills_daemons() {
    let Some((hierarchy, agent, folder)) = grouping_agent() else {
        return;
    };
    let mark = folder.path().join("daemon");
    let mut host = Host::connect_to(agent, folder).await;
    let exec = Exec {
        deadline_ms: Some(700),
        ..script(&format!("{}echo begun; sleep 100", daemon(&mark)))
    };
    let answer = host.ask(Request::Exec(exec)).await;
    assert_eq!(answer.ended().reason, EndReason::Deadline);
    assert_eq!(answer.stdout, b"begun\n");
    assert_dies(pid_in(&mark).await).await;
    assert_no_groups(&hierarchy).await;
}

#[tokio::test]
async fn the_output_limit_kills_daemons() {
    let Some((hierarchy, agent, folder)) = grouping_agent() else {
        return;
    };
    let mark = folder.path().join("daemon");
    let mut host = Host::connect_to(agent, folder).await;
    let exec = Exec {
        output_limit: Some(1000),
        ..script(&format!("{}exec yes", daemon(&mark)))
    };
    let answer = host.ask(Request::Exec(exec)).await;
    assert_eq!(answer.ended().reason, EndReason::OutputLimit);
    assert_dies(pid_in(&mark).await).await;
    assert_no_groups(&hierarchy).await;
}

#[tokio::test]
async fn dropping_the_connection_kills_daemons_and_removes_the_group() {
    let Some((hierarchy, agent, folder)) = grouping_agent() else {
        return;
    };
    let mark = folder.path().join("daemon");
    let mut host = Host::connect_to(agent, folder).await;
    let code = format!("{}sleep 100", daemon(&mark));
    host.request(&Request::Exec(script(&code))).await;
    let pid = pid_in(&mark).await;
    assert_eq!(hierarchy.groups().len(), 1);
    let _ = host.hang_up().await;
    assert_dies(pid).await;
    assert_no_groups(&hierarchy).await;
}

#[tokio::test]
async fn a_service_outlives_its_program_and_keeps_its_group() {
    let Some((hierarchy, agent, folder)) = grouping_agent() else {
        return;
    };
    let mark = folder.path().join("daemon");
    let mut host = Host::connect_to(agent, folder).await;
    let answer = host.ask(Request::Exec(script(&daemon(&mark)))).await;
    assert_eq!(answer.ended().status, ExitStatus::Code(0));
    let pid = pid_in(&mark).await;
    for _ in 0..3 {
        let answer = host.ask(Request::Exec(command(&["true"]))).await;
        assert_eq!(answer.ended().status, ExitStatus::Code(0));
    }
    assert!(!is_dead(pid));
    assert_eq!(hierarchy.groups().len(), 1);
    kill(Pid::from_raw(pid), signal::Signal::SIGKILL).unwrap();
    assert_no_groups(&hierarchy).await;
}

#[tokio::test]
async fn members_of_the_session_do_not_outlive_the_sandboxs_program() {
    let Some((hierarchy, mut agent, folder)) = grouping_agent() else {
        return;
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    (agent.sandbox.uid, agent.sandbox.gid) = (12345, 12346);
    agent.sandbox.home = "/".into();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    fs::set_permissions(folder.path(), mode).unwrap();
    let mark = folder.path().join("pid");
    let mut host = Host::connect_to(agent, folder).await;
    let code = format!("sleep 100 & echo $! > {}", mark.display());
    let answer = host.ask(Request::Exec(script(&code))).await;
    assert_eq!(answer.ended().status, ExitStatus::Code(0));
    assert_dies(pid_in(&mark).await).await;
    // It cannot leave its group, nor end another's.
    let code = format!(
        "for f in procs kill; do (echo 1 >{}/cgroup.$f) 2>&1; done; cat /proc/self/cgroup",
        hierarchy.path().display()
    );
    let answer = host.ask(Request::Exec(script(&code))).await;
    let text = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(text.matches("Permission denied").count(), 2, "{text}");
    assert!(text.contains("/waggle/"), "{text}");
    assert_no_groups(&hierarchy).await;
}

#[tokio::test]
async fn what_does_not_start_leaves_no_group() {
    let Some((hierarchy, agent, folder)) = grouping_agent() else {
        return;
    };
    let script = folder.path().join("no-interpreter");
    fs::write(&script, "#!/nowhere/sh\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    let mut host = Host::connect_to(agent, folder).await;
    let request = Request::Exec(command(&[script.to_str().unwrap()]));
    let answer = host.ask(request).await;
    assert_eq!(answer.failure().code, FailureCode::SpawnFailed);
    assert_eq!(hierarchy.groups(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_kill_by_signal_reaches_daemons() {
    let Some((hierarchy, agent, folder)) = grouping_agent() else {
        return;
    };
    let mark = folder.path().join("daemon");
    let code = daemon(&mark);
    let other_folder = tempfile::tempdir().unwrap();
    let mut other = super::agent(other_folder.path());
    other.exec.programs = Arc::clone(&agent.exec.programs);
    let mut host = Host::connect_to(agent, folder).await;
    let mut other = Host::connect_to(other, other_folder).await;
    let leader = mark.with_file_name("leader");
    let code = format!("{code}echo $$ > {}; sleep 100", leader.display());
    host.request(&Request::Exec(script(&code))).await;
    let (leader, daemon) = (pid_in(&leader).await, pid_in(&mark).await);
    let answer = other.ask(signal(leader, 9)).await;
    assert_eq!(*answer.terminal(), Reply::Signalled);
    assert_dies(daemon).await;
    let answer = host.answer().await;
    assert_eq!(answer.ended().status, ExitStatus::Signal(9));
    assert_eq!(answer.ended().reason, EndReason::Exited);
    assert_no_groups(&hierarchy).await;
}

#[tokio::test]
async fn a_signal_reaches_the_process_group() {
    let code = "trap 'echo got; exit 3' USR1\nsh -c 'trap \"echo child\" USR1; while :; do sleep 0.01; done' &";
    let (mut host, mut other, pid, programs) = program_and_other(code).await;
    // The child needs a moment for its trap.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = other.ask(signal(pid, 10)).await;
    assert_eq!(*answer.terminal(), Reply::Signalled);
    let answer = host.answer().await;
    assert_eq!(answer.ended().status, ExitStatus::Code(3));
    let text = String::from_utf8(answer.stdout).unwrap();
    assert!(text.contains("got\n"), "{text}");
    assert_eq!(programs.count(), 0);
    let answer = other.ask(signal(pid, 10)).await;
    assert_eq!(answer.failure().code, FailureCode::NoProcess);
}

#[tokio::test]
async fn real_time_signals_and_kills_work_without_groups() {
    for (number, expected) in [(34, 34), (9, 9)] {
        let (mut host, mut other, pid, _) = program_and_other("").await;
        let answer = other.ask(signal(pid, number)).await;
        assert_eq!(*answer.terminal(), Reply::Signalled);
        let answer = host.answer().await;
        assert_eq!(answer.ended().status, ExitStatus::Signal(expected));
        assert_eq!(answer.ended().reason, EndReason::Exited);
    }
}

#[tokio::test]
async fn signals_reach_nobody_but_running_programs() {
    let (host, mut other, pid, programs) = program_and_other("").await;
    for (number, code) in [
        (0, FailureCode::InvalidRequest),
        (65, FailureCode::InvalidRequest),
        (-9, FailureCode::InvalidRequest),
    ] {
        let answer = other.ask(signal(pid, number)).await;
        assert_eq!(answer.failure().code, code);
    }
    for stranger in [0, 1, -1, i32::try_from(std::process::id()).unwrap()] {
        let answer = other.ask(signal(stranger, 15)).await;
        assert_eq!(answer.failure().code, FailureCode::NoProcess);
    }
    assert_eq!(programs.count(), 1);
    let _ = host.hang_up().await;
    assert_eq!(programs.count(), 0);
    assert_reaped(pid).await;
    let answer = other.ask(signal(pid, 15)).await;
    assert_eq!(answer.failure().code, FailureCode::NoProcess);
}
