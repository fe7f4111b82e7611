// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the tests of real machines share: the parts, a boot disk, and views of what is left over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use waggle_runtime::{
    AcceleratorChoice, Disk, DiskSource, Machine, MachineSpec, Options, Probe, Vmm,
};

/// Longest any single step may take here, under translation on a loaded host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Kernel arguments that keep a machine alive without any guest: it waits for a disk that never
/// comes.
pub(crate) const WAITS: &str = "root=/dev/none rootwait";
/// Kernel arguments that show the kernel's own messages.
pub(crate) const TALKS: &str = "ignore_loglevel";

/// Machines of one test at a time: hosts that run tests have few cores.
pub(crate) async fn turn() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}

/// A data folder and options for it.
pub(crate) struct House {
    pub(crate) root: TempDir,
    pub(crate) options: Options,
}

impl House {
    pub(crate) fn new() -> House {
        let lib_dir = PathBuf::from(std::env::var_os("WAGGLE_LIB_DIR").expect(
            "set WAGGLE_LIB_DIR to a folder with libkrunfw.so.5* and vhost-device-vsock; ./dev \
             test does",
        ));
        let root = tempfile::tempdir().expect("temporary folder");
        let boot_disk = root.path().join("boot,disk.erofs");
        fs::write(&boot_disk, [0; 64 << 10]).expect("boot disk");
        let options = Options {
            data_dir: root.path().join("data"),
            lib_dir: Some(lib_dir),
            accelerator: AcceleratorChoice::Tcg,
            boot_disk,
            probe: Probe {
                kernel_word: "test=probe".to_owned(),
                answer: "test-answer".to_owned(),
            },
        };
        House { root, options }
    }

    /// Gives the boot disk a guest: `init.c`.
    pub(crate) fn with_guest(self) -> House {
        let tree = self.root.path().join("tree");
        fs::create_dir_all(tree.join("proc")).expect("folder");
        fs::create_dir_all(tree.join("dev")).expect("folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/init.c");
        run(Command::new("cc")
            .args(["-static", "-Os", "-w", "-o"])
            .arg(tree.join("init"))
            .arg(source));
        fs::remove_file(&self.options.boot_disk).expect("old boot disk");
        run(Command::new("mkfs.erofs")
            .arg(&self.options.boot_disk)
            .arg(tree));
        self
    }

    pub(crate) async fn open(&self) -> Vmm {
        Vmm::open(self.options.clone()).await.expect("vmm")
    }

    pub(crate) fn spec(&self, name: &str, kernel_args: &str) -> MachineSpec {
        MachineSpec {
            name: name.to_owned(),
            vcpus: 1,
            memory_mib: 128,
            disks: vec![read_only("boot", &self.options.boot_disk)],
            kernel_args: kernel_args.to_owned(),
            listen: vec![1000, 1001],
        }
    }

    /// What lies in the run folders, apart from locks.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let run = self.options.data_dir.join("run");
        let instances = fs::read_dir(run)
            .expect("run folder")
            .map(|entry| entry.expect("entry").path());
        instances
            .filter(|path| path.is_dir())
            .flat_map(|path| fs::read_dir(path).expect("instance"))
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.file_name().is_some_and(|name| name != "lock"))
            .collect()
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} {}: {errors}",
        output.status
    );
}

pub(crate) fn read_only(serial: &str, path: &Path) -> Disk {
    Disk {
        serial: serial.to_owned(),
        source: DiskSource::ReadOnly(path.to_owned()),
    }
}

/// Whether a process exists, be it as a zombie.
pub(crate) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// All processes started by this one, and not reaped yet.
pub(crate) fn children() -> Vec<String> {
    let me = std::process::id().to_string();
    let processes = fs::read_dir("/proc").expect("proc");
    processes
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(|stat| {
            let after_name = stat.rsplit(')').next().unwrap_or_default();
            after_name.split_whitespace().nth(1) == Some(&me)
        })
        .collect()
}

/// Waits until `done`, or fails.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn until_console_says(machine: &Machine, text: &str) {
    let start = Instant::now();
    while !machine.console().contains(text) {
        let console = machine.console();
        assert!(
            start.elapsed() < PATIENCE,
            "no {text:?} on the console:\n{console}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
