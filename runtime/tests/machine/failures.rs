// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Launches that fail, at each of their stages: a clear error, and nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use waggle_runtime::{Disk, DiskSource, LaunchError, MachineSpec, PreflightError, Vmm};

use crate::support::{House, WAITS, children, read_only, turn, until};

/// Launches what must fail, checks that nothing is left, and gives the error's text.
async fn failure(house: &House, vmm: &Vmm, spec: MachineSpec) -> (LaunchError, String) {
    let error = vmm.launch(spec).await.expect_err("must fail");
    assert_eq!((house.leftovers(), children()), (vec![], vec![]), "{error}");
    let text = error.to_string();
    (error, text)
}

#[tokio::test]
async fn each_stage_fails_cleanly() {
    let _turn = turn().await;
    let house = House::new();
    let vmm = house.open().await;

    let mut spec = house.spec("fails", WAITS);
    spec.memory_mib = 1;
    let (error, _) = failure(&house, &vmm, spec).await;
    assert!(matches!(error, LaunchError::Spec(_)));

    let mut spec = house.spec("fails", WAITS);
    spec.disks.push(Disk {
        serial: "s".into(),
        source: DiskSource::Scratch { mib: 64 },
    });
    spec.disks
        .push(read_only("image", Path::new("/nonexistent/image")));
    let (error, text) = failure(&house, &vmm, spec).await;
    assert!(matches!(error, LaunchError::Disk { .. }));
    assert_eq!(text, "cannot open disk image at /nonexistent/image");

    // A file system needs more than a handful of blocks, but not the limit of a sparse file.
    let mut spec = house.spec("fails", WAITS);
    spec.disks.push(Disk {
        serial: "s".into(),
        source: DiskSource::Scratch { mib: u32::MAX },
    });
    let (error, _) = failure(&house, &vmm, spec).await;
    assert!(
        matches!(error, LaunchError::Folder { .. } | LaunchError::Ended(_)),
        "{error:?}"
    );

    let mut spec = house.spec("fails", WAITS);
    spec.memory_mib = u32::MAX;
    let (error, text) = failure(&house, &vmm, spec).await;
    assert!(matches!(error, LaunchError::Ended(_)));
    assert!(
        text.starts_with("qemu ended with exit status: 1: qemu-system-x86_64: "),
        "{text}"
    );

    for entry in fs::read_dir(&house.options.data_dir).expect("data folder") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "elf") {
            fs::write(path, "no kernel").expect("spoil the kernel");
        }
    }
    let (_, text) = failure(&house, &vmm, house.spec("fails", WAITS)).await;
    assert!(text.contains("qemu ended with exit status: 1"), "{text}");
}

#[tokio::test]
async fn a_device_that_fails_or_is_gone_fails_the_launch() {
    let _turn = turn().await;
    let mut house = House::new();
    let lib = house
        .options
        .lib_dir
        .replace(house.root.path().join("lib"))
        .expect("lib folder");
    let fake = house.root.path().join("lib/vhost-device-vsock");
    fs::create_dir(house.root.path().join("lib")).expect("folder");
    for entry in fs::read_dir(lib).expect("lib folder") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name");
        if name.to_string_lossy().starts_with("libkrunfw") {
            std::os::unix::fs::symlink(&path, house.root.path().join("lib").join(name))
                .expect("link");
        }
    }
    fs::write(&fake, "#!/bin/sh\necho broken >&2\nexit 3\n").expect("fake");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o700)).expect("mode");
    let vmm = house.open().await;
    let (_, text) = failure(&house, &vmm, house.spec("fails", WAITS)).await;
    assert_eq!(text, "vhost-device-vsock ended with exit status: 3: broken");

    fs::remove_file(&fake).expect("remove");
    let (error, _) = failure(&house, &vmm, house.spec("fails", WAITS)).await;
    assert!(matches!(error, LaunchError::Spawn { .. }));
}

#[tokio::test]
async fn a_launch_nobody_waits_for_is_undone() {
    let _turn = turn().await;
    let house = House::new();
    let vmm = house.open().await;
    for millis in [0, 1, 3, 10, 20, 40, 80, 160] {
        let launch = vmm.launch(house.spec("cancelled", WAITS));
        drop(timeout(Duration::from_millis(millis), launch).await);
        until("undone", || {
            house.leftovers().is_empty() && children().is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn preflight_says_what_is_missing() {
    let mut house = House::new();
    house.options.boot_disk = "/nonexistent/boot".into();
    let error = Vmm::open(house.options.clone())
        .await
        .expect_err("no boot disk");
    assert!(matches!(error, PreflightError::BootDisk { .. }));
    assert_eq!(
        error.to_string(),
        "cannot read boot disk /nonexistent/boot; run: ./dev build"
    );
    assert!(!house.options.data_dir.exists());

    let mut house = House::new();
    fs::create_dir_all(house.root.path().join("lib")).expect("folder");
    fs::write(house.root.path().join("lib/libkrunfw.so.5"), "no library").expect("file");
    let real = house
        .options
        .lib_dir
        .replace(house.root.path().join("lib"))
        .expect("lib folder");
    let device = "vhost-device-vsock";
    let link = house.root.path().join("lib").join(device);
    std::os::unix::fs::symlink(real.join(device), link).expect("link");
    let error = Vmm::open(house.options.clone())
        .await
        .expect_err("no kernel");
    assert!(matches!(error, PreflightError::Kernel(_)), "{error}");
}
