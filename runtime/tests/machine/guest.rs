// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What needs something alive in the guest: a static program of one file as its init.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use waggle_runtime::{Accelerator, AcceleratorChoice, AcceptError, ConnectError, Machine};

use crate::support::{House, PATIENCE, read_only, turn, until_console_says};

/// Asks the guest to call a host port; says whether it got through.
async fn guest_gets_through(machine: &Machine, port: u32) -> bool {
    let mut stream = machine.connect(2000).await.expect("connect");
    stream
        .write_all(format!("{port}\n").as_bytes())
        .await
        .expect("ask");
    let mut answer = [0; 2];
    timeout(PATIENCE, stream.read_exact(&mut answer))
        .await
        .expect("in time")
        .expect("answer");
    &answer == b"ok"
}

#[tokio::test]
async fn both_sides_can_call_until_the_listener_or_the_machine_is_gone() {
    let _turn = turn().await;
    let mut house = House::new().with_guest();
    // Longer than a Unix socket's path may be.
    house.options.data_dir = house.root.path().join("long".repeat(30));
    let vmm = house.open().await;
    let mut spec = house.spec("talks", "test=echo");
    // The most disks: every virtio bus is taken, and vsock, the last on them, works all the same.
    for number in 1..5 {
        spec.disks.push(read_only(
            &format!("more-{number}"),
            &house.options.boot_disk,
        ));
    }
    let start = Instant::now();
    let machine = vmm.launch(spec).await.expect("launch");
    println!("launch took {:?}", start.elapsed());
    let call = timeout(PATIENCE, machine.accept(1000))
        .await
        .expect("in time");
    println!("first call after {:?}", start.elapsed());
    let mut hello = [0; 5];
    call.expect("call")
        .read_exact(&mut hello)
        .await
        .expect("hello");
    assert_eq!(&hello, b"hello");

    assert!(guest_gets_through(&machine, 1001).await);
    drop(
        machine
            .accept(1001)
            .await
            .expect("the call waited in the queue"),
    );
    machine.close_listener(1001);
    assert!(!guest_gets_through(&machine, 1001).await, "closed");
    assert!(!guest_gets_through(&machine, 1002).await, "never open");
    let closed = machine.accept(1001).await;
    assert!(matches!(
        closed,
        Err(AcceptError::NotListening { port: 1001 })
    ));
    let refused = machine.connect(2001).await;
    assert!(
        matches!(refused, Err(ConnectError::Refused { port: 2001 })),
        "{refused:?}"
    );

    let mut stream = machine.connect(2000).await.expect("connect");
    let start = Instant::now();
    for _ in 0..20 {
        drop(machine.connect(2001).await);
    }
    println!("a refused connect took {:?}", start.elapsed() / 20);
    machine.stop().await;
    assert_eq!(stream.read(&mut hello).await.expect("end of stream"), 0);
}

#[tokio::test]
async fn a_flooding_console_is_bounded_and_blocks_nobody() {
    let _turn = turn().await;
    let house = House::new().with_guest();
    let vmm = house.open().await;
    let machine = vmm
        .launch(house.spec("floods", "test=flood"))
        .await
        .expect("launch");
    until_console_says(&machine, &"x".repeat(60_000)).await;
    assert_eq!(machine.console().len(), 64 << 10);
    let start = Instant::now();
    machine.stop().await;
    println!("stop under flood took {:?}", start.elapsed());
}

#[tokio::test]
async fn auto_chooses_once_and_remembers() {
    let _turn = turn().await;
    let mut house = House::new().with_guest();
    house.options.accelerator = AcceleratorChoice::Auto;
    let start = Instant::now();
    let first = house.open().await.accelerator();
    println!("{first} chosen after {:?}", start.elapsed());
    let start = Instant::now();
    let vmm = house.open().await;
    println!(
        "{} remembered after {:?}",
        vmm.accelerator(),
        start.elapsed()
    );
    assert_eq!(vmm.accelerator(), first);
    assert!(start.elapsed().as_secs() < 3, "no second probe");
    assert!(house.leftovers().is_empty());
    assert!(matches!(first, Accelerator::Kvm | Accelerator::Tcg));
    let machine = vmm
        .launch(house.spec("probe-word", "test=probe"))
        .await
        .expect("launch");
    until_console_says(&machine, "test-answer").await;
}
