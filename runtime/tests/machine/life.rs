// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A machine's life and death, with real QEMU and the real kernel but no guest: the kernel panics
//! for want of a root, or waits for one.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;
use waggle_runtime::{AcceptError, ConnectError, Disk, DiskSource, LaunchError};

use crate::support::{
    House, PATIENCE, TALKS, WAITS, children, exists, read_only, turn, until, until_console_says,
};

#[tokio::test]
async fn a_kernel_panic_is_a_death_with_the_console_as_witness() {
    let _turn = turn().await;
    let house = House::new();
    let vmm = house.open().await;
    let machine = vmm
        .launch(house.spec("panics", TALKS))
        .await
        .expect("launch");
    let (accepted, death) = tokio::join!(
        timeout(PATIENCE, machine.accept(1000)),
        timeout(PATIENCE, machine.died())
    );
    let death = death.expect("death in time");
    assert_eq!(death.status, "the guest restarted or panicked");
    assert!(
        death.console_tail.contains("Kernel panic"),
        "{}",
        death.console_tail
    );
    assert!(matches!(
        accepted.expect("in time"),
        Err(AcceptError::Dead { .. })
    ));
    assert!(matches!(
        machine.connect(2000).await,
        Err(ConnectError::Dead { .. })
    ));
    machine.close_listener(1000);
    machine.stop().await;
    machine.stop().await;
    assert_eq!(machine.died().await, death, "the first cause stays");
    assert_eq!((house.leftovers(), children()), (vec![], vec![]));
}

#[tokio::test]
async fn stop_leaves_nothing_and_may_be_repeated() {
    let _turn = turn().await;
    let house = House::new();
    let vmm = house.open().await;
    let mut spec = house.spec("stops", WAITS);
    spec.disks.push(Disk {
        serial: "s".into(),
        source: DiskSource::Scratch { mib: 8192 },
    });
    let machine = vmm.launch(spec.clone()).await.expect("launch");
    assert_eq!(machine.pids().len(), 2);
    assert!(machine.pids().into_iter().all(exists));
    only_for_this_user(&house);
    let again = vmm.launch(spec.clone()).await;
    assert!(
        matches!(again, Err(LaunchError::NameTaken { .. })),
        "{again:?}"
    );
    let died = machine.died();
    let start = Instant::now();
    tokio::join!(machine.stop(), machine.stop());
    println!("stop took {:?}", start.elapsed());
    assert_eq!(died.await.status, "stopped by the host");
    assert!(!machine.pids().into_iter().any(exists));
    assert_eq!((house.leftovers(), children()), (vec![], vec![]));
    let machine = vmm.launch(spec).await.expect("the name is free again");
    machine.stop().await;
}

/// Sockets, pipes and disks are 0600, in a folder that is 0700.
fn only_for_this_user(house: &House) {
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    let machines = house.leftovers();
    let [machine] = machines.as_slice() else {
        panic!("one machine, not {machines:?}")
    };
    assert_eq!(mode(machine), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(machine).expect("machine folder") {
        let entry = entry.expect("entry");
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        names.push(entry.file_name());
    }
    names.sort();
    let expected = [
        "console.in",
        "console.out",
        "scratch-1.ext4",
        "v.sock",
        "v.sock_1000",
        "v.sock_1001",
    ];
    // The device removes vu.sock once QEMU has dialled it, or keeps it: both are fine.
    names.retain(|name| name != "vu.sock");
    assert_eq!(names, expected);
}

#[tokio::test]
async fn dropping_the_last_handle_waits_for_the_clean_up() {
    let _turn = turn().await;
    let house = House::new();
    let vmm = house.open().await;
    let machine = vmm
        .launch(house.spec("drops", WAITS))
        .await
        .expect("launch");
    let (pids, died) = (machine.pids(), machine.died());
    drop(vmm);
    assert!(
        pids.iter().copied().all(exists),
        "the machine keeps its keeper alive"
    );
    drop(machine);
    assert!(!pids.into_iter().any(exists));
    assert_eq!(died.await.status, "stopped by the host");
    let run = fs::read_dir(house.options.data_dir.join("run")).expect("run folder");
    let names: Vec<_> = run.map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(names, ["lock"]);
}

#[tokio::test]
async fn when_one_process_dies_the_other_follows() {
    let _turn = turn().await;
    let house = House::new();
    let vmm = house.open().await;
    for (victim, name) in [(0, "qemu"), (1, "vhost-device-vsock")] {
        let machine = vmm.launch(house.spec(name, WAITS)).await.expect("launch");
        let pid = Pid::from_raw(machine.pids()[victim].try_into().expect("pid"));
        let waiting = timeout(PATIENCE, machine.accept(1001));
        kill(pid, Signal::SIGKILL).expect("kill");
        assert!(matches!(
            waiting.await.expect("in time"),
            Err(AcceptError::Dead { .. })
        ));
        let death = machine.died().await;
        let expected = format!("{name} ended with signal: 9 (SIGKILL)");
        assert!(death.status.starts_with(&expected), "{}", death.status);
        until("all processes reaped", || {
            !machine.pids().into_iter().any(exists)
        })
        .await;
        until("folder removed", || house.leftovers().is_empty()).await;
    }
}

#[tokio::test]
async fn disks_come_in_the_order_given_and_images_are_shared() {
    let _turn = turn().await;
    let house = House::new();
    let vmm = house.open().await;
    let mut spec = house.spec("disks-a", &format!("{WAITS} {TALKS}"));
    for blocks in 1..4u32 {
        let path = house.root.path().join(format!("image-{blocks}"));
        fs::write(&path, vec![0; 4096 * blocks as usize]).expect("image");
        spec.disks
            .push(read_only(&format!("image-{blocks}"), &path));
    }
    spec.disks.push(Disk {
        serial: "scratch".into(),
        source: DiskSource::Scratch { mib: 64 },
    });
    let first = vmm.launch(spec.clone()).await.expect("launch");
    spec.name = "disks-b".to_owned();
    let second = vmm.launch(spec).await.expect("launch with the same images");
    for machine in [&first, &second] {
        for (letter, sectors) in ["a", "b", "c", "d", "e"]
            .iter()
            .zip([128, 8, 16, 24, 131_072])
        {
            let line = format!("[vd{letter}] {sectors} 512-byte logical blocks");
            until_console_says(machine, &line).await;
        }
    }
}

#[tokio::test]
async fn a_host_killed_outright_leaves_no_process_and_its_folder_goes_at_the_next_start() {
    let _turn = turn().await;
    let house = House::new();
    let mut host = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "life::host_to_be_killed",
            "--ignored",
            "--nocapture",
        ])
        .env("WAGGLE_TEST_DATA_DIR", &house.options.data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("host");
    let said = BufReader::new(host.stdout.take().expect("stdout"));
    let pids: Vec<u32> = said
        .lines()
        .find_map(|line| {
            let line = line.expect("line");
            let (_, pids) = line.split_once("pids ")?;
            Some(
                pids.split(' ')
                    .map(|pid| pid.parse().expect("pid"))
                    .collect(),
            )
        })
        .expect("the host says its pids");
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().copied().all(exists));
    host.kill().expect("kill -9");
    host.wait().expect("reaped");
    // Orphans are reaped by whoever is PID 1 here, which may be slow: a zombie counts as gone.
    let running = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    };
    until("orphans killed", || !pids.iter().copied().any(running)).await;

    assert!(!house.leftovers().is_empty(), "a dead host cannot clean up");
    let _vmm = house.open().await;
    assert!(house.leftovers().is_empty(), "so the next one does");
}

#[tokio::test]
#[ignore = "not a test: the host that the test above starts and kills"]
async fn host_to_be_killed() {
    let mut house = House::new();
    let data_dir = std::env::var_os("WAGGLE_TEST_DATA_DIR").expect("started by the test above");
    house.options.data_dir = data_dir.into();
    let vmm = house.open().await;
    let machine = vmm
        .launch(house.spec("orphan", WAITS))
        .await
        .expect("launch");
    let pids: Vec<_> = machine.pids().iter().map(u32::to_string).collect();
    println!("\npids {}", pids.join(" "));
    tokio::time::sleep(Duration::from_secs(600)).await;
}
