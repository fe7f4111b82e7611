// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Another process at work in a store: the test program itself, started once more for one of its tests.
//!
//! A test program that uses it has a test named [`TEST`] which calls [`run`] or [`run_judged`]; without the variable
//! that [`Task::start`] sets, that does nothing.
//!
//! It says on its standard output how far it is, in lines that begin with `waggle:`, and at its end how much memory it
//! took at most.

// Each test program has the whole of it and uses its part.
#![allow(dead_code, reason = "every test program compiles all of it")]
#![allow(unreachable_pub, reason = "a module that test programs share")]
#![expect(
    clippy::print_stdout,
    reason = "it speaks to the process that started it"
)]

mod confine;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};
use waggle_images::images::{Error, Image, Images, Options, Pull};
use waggle_images::{Limits, Reference, RegistryOptions};

/// The test which is the other process.
pub const TEST: &str = "a_process_of_its_own";

const VARIABLE: &str = "WAGGLE_TEST_CHILD";
/// What it says before it begins, and once the image is there.
pub const BEGINS: &str = "waggle: begins";
pub const HOLDS: &str = "waggle: holds";
/// What it says of walls that hold.
pub const WALLED: &str = "waggle: walls: full";
/// What it tries to write beside the store, if there should be walls.
pub const PROBE: &str = "probe";

/// What the other process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// The store.
    pub dir: PathBuf,
    /// Where the image comes from.
    pub from: From,
    /// What is not the default of the image's ceilings.
    pub ceilings: Ceilings,
    /// Whether it can write to anything but the store.
    pub walls: Walls,
    /// Its home, temporary and working folders are `home`, `tmp` and `work` in here.
    pub around: Option<PathBuf>,
    /// It becomes this user, without any privilege.
    pub user: Option<u32>,
    /// For the judge.
    pub case: String,
}

/// What keeps a process from writing to anything but the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Walls {
    /// Nothing.
    None,
    /// Landlock, if the kernel has it. Either way it tries to write [`PROBE`], and leaves it if it could.
    Landlock,
    /// The same, as if the kernel had none.
    Missing,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// By this reference.
    Registry(String),
    /// From this file or folder.
    File(PathBuf),
}

/// What is not the default of [`Limits`].
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Ceilings {
    pub entries: Option<u64>,
    pub unpacked_bytes: Option<u64>,
    pub file_bytes: Option<u64>,
    pub memory_bytes: Option<u64>,
}

/// What a test program makes of what its other process has come to: the descriptor of the image's disk, or why there
/// is none. Panics if it is wrong.
pub type Judge<'a> = &'a dyn Fn(&Task, Result<&Path, &Error>);

/// The other process. Killed with the value.
pub struct Other {
    child: Child,
    output: BufReader<ChildStdout>,
}

/// Starts one that pulls, and holds the image until its standard input is closed.
pub fn start(dir: &Path, reference: &Reference) -> Other {
    Task::pull(dir, reference).start()
}

/// Starts one that imports a file, and can write to nothing but the store, if the kernel has Landlock.
pub fn start_import(dir: &Path, path: &Path) -> Other {
    Task {
        walls: Walls::Landlock,
        ..Task::import(dir, path)
    }
    .start()
}

impl Task {
    /// To pull, and to hold the image until the standard input is closed.
    pub fn pull(dir: &Path, reference: &Reference) -> Self {
        Self::new(dir, From::Registry(reference.to_string()))
    }

    /// To import, and to hold the image likewise.
    pub fn import(dir: &Path, path: &Path) -> Self {
        Self::new(dir, From::File(path.to_owned()))
    }

    fn new(dir: &Path, from: From) -> Self {
        Self {
            dir: dir.to_owned(),
            from,
            ceilings: Ceilings::default(),
            walls: Walls::None,
            around: None,
            user: None,
            case: String::new(),
        }
    }

    /// Starts a process that does it.
    pub fn start(&self) -> Other {
        let task = serde_json::to_string(self).expect("a task");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(VARIABLE, task)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(around) = &self.around {
            command
                .env("HOME", around.join("home"))
                .env("TMPDIR", around.join("tmp"))
                .current_dir(around.join("work"));
        }
        let mut child = command.spawn().expect("another process");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Other { child, output }
    }

    async fn bring(&self, images: &Images) -> Result<Image, Error> {
        let path = match &self.from {
            From::Registry(reference) => {
                let reference: Reference = reference.parse().expect("a reference");
                return images.ensure(&reference, Pull::Missing, &|_| ()).await;
            }
            From::File(path) => path,
        };
        let imported = images.import(path, None, &|_| ()).await?;
        println!("waggle: imported");
        let first = imported.first().expect("an image");
        images.ensure(&first.reference, Pull::Never, &|_| ()).await
    }
}

impl Ceilings {
    fn limits(self) -> Limits {
        let all = Limits::default();
        Limits {
            entries: self.entries.unwrap_or(all.entries),
            unpacked_bytes: self.unpacked_bytes.unwrap_or(all.unpacked_bytes),
            file_bytes: self.file_bytes.unwrap_or(all.file_bytes),
            memory_bytes: self.memory_bytes.unwrap_or(all.memory_bytes),
            ..all
        }
    }
}

impl Other {
    /// Waits until it says so. False: it ended before.
    pub fn says(&mut self, text: &str) -> bool {
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("its output") > 0 {
            if line.contains(text) {
                return true;
            }
            line.clear();
        }
        false
    }

    /// Kills it, as nothing can be caught.
    pub fn kill(mut self) {
        self.child.kill().expect("to kill it");
        self.child.wait().expect("its end");
    }

    /// Lets it end, and says whether it succeeded and what it said.
    pub fn finish(mut self) -> (bool, String) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("its output");
        (self.child.wait().expect("its end").success(), rest)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most memory that it had at any time, in bytes, by what it said.
pub fn peak(said: &str) -> u64 {
    let text = said.lines().find_map(|line| line.split_once(PEAK));
    let kib: u64 = text.expect("its peak").1.parse().expect("a number");
    kib * 1024
}

/// Where the descriptor of its image's disk is, by what it said.
pub fn disk(said: &str) -> Option<PathBuf> {
    let text = said.lines().find_map(|line| line.split_once(DISK));
    text.map(|(_, path)| PathBuf::from(path))
}

const PEAK: &str = "waggle: peak KiB: ";
const DISK: &str = "waggle: disk: ";

/// What the other process does. What cannot be pulled is an error, what cannot be imported is only told.
pub fn run(options: RegistryOptions) {
    run_judged(options, &|task, outcome| {
        if let (From::Registry(reference), Err(error)) = (&task.from, outcome) {
            panic!("{reference}: {error}");
        }
    });
}

/// The same, with this judge of what it came to.
pub fn run_judged(options: RegistryOptions, judge: Judge<'_>) {
    let Ok(task) = std::env::var(VARIABLE) else {
        return;
    };
    let task: Task = serde_json::from_str(&task).expect("a task");
    if let Some(user) = task.user {
        println!("waggle: user: {}", confine::become_user(user));
    }
    let limits = task.ceilings.limits();
    let options = RegistryOptions {
        limits: limits.clone(),
        ..options
    };
    let images = Images::open(Options {
        registry: options,
        limits,
        ..Options::new(task.dir.clone())
    });
    let images = images.expect("a store");
    if task.walls != Walls::None {
        let landlock = task.walls == Walls::Landlock;
        println!("waggle: walls: {}", confine::wall(&task.dir, landlock));
    }
    // After the walls, so that its threads have them.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("{BEGINS}");
    let outcome = runtime.block_on(task.bring(&images));
    if let Err(error) = &outcome {
        println!("waggle: refused: {}", chain(error));
    }
    judge(
        &task,
        outcome.as_ref().map(|image: &Image| image.disk.as_path()),
    );
    println!("{PEAK}{}", peak_now() / 1024);
    let Ok(image) = outcome else { return };
    println!("{DISK}{}", image.disk.display());
    println!("{HOLDS}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(image);
}

/// An error and all its causes, as a program would tell it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The most memory that this process had until now, in bytes.
pub fn peak_now() -> u64 {
    let kib: u64 = status("VmHWM").parse().expect("a number");
    kib * 1024
}

/// A field of this process' status, without its unit.
fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process' status");
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| *name == field).expect("a field");
    value.trim().trim_end_matches(" kB").to_owned()
}
