// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Another process at work in a store: the test program itself, started once more for one of its tests.
//!
//! A test program that uses it has a test named [`TEST`] which calls [`run`]; without the variable that [`start`] sets,
//! that does nothing.

// Each test program has the whole of it and uses its part.
#![allow(dead_code, reason = "every test program compiles all of it")]
#![allow(unreachable_pub, reason = "a module that test programs share")]
#![expect(
    clippy::print_stdout,
    reason = "it speaks to the process that started it"
)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use waggle_images::images::{Images, Options, Pull};
use waggle_images::{Reference, RegistryOptions};

/// The test which is the other process.
pub const TEST: &str = "a_process_of_its_own";

const VARIABLE: &str = "WAGGLE_TEST_CHILD";
/// What it says before it begins, and once the image is there.
pub const BEGINS: &str = "waggle: begins";
pub const HOLDS: &str = "waggle: holds";

/// The other process. Killed with the value.
pub struct Other {
    child: Child,
    output: BufReader<ChildStdout>,
}

/// Starts one that pulls, and holds the image until its standard input is closed.
pub fn start(dir: &Path, reference: &Reference) -> Other {
    spawn(&format!("pull {} {reference}", dir.display()))
}

/// Starts one that imports a file, and can write to nothing but the store, if the kernel has Landlock.
pub fn start_import(dir: &Path, path: &Path) -> Other {
    spawn(&format!("import {} {}", dir.display(), path.display()))
}

fn spawn(task: &str) -> Other {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, task)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("another process");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    Other { child, output }
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

/// What the other process does.
pub fn run(options: RegistryOptions) {
    let Ok(task) = std::env::var(VARIABLE) else {
        return;
    };
    let parts: Vec<_> = task.splitn(3, ' ').collect();
    let [kind, dir, what] = parts.as_slice() else {
        panic!("{task}")
    };
    let images = Images::open(Options {
        registry: options,
        ..Options::new(PathBuf::from(dir))
    });
    let images = images.expect("a store");
    if *kind == "import" {
        println!("waggle: walls: {}", wall(Path::new(dir)));
    }
    // After the walls, so that its threads have them.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("{BEGINS}");
    if *kind == "import" {
        let imported = runtime.block_on(images.import(Path::new(what), None, &|_| ()));
        match imported {
            Ok(_) => println!("waggle: imported"),
            Err(error) => println!("waggle: refused: {error}"),
        }
        return;
    }
    let reference: Reference = what.parse().expect("a reference");
    let image = runtime.block_on(images.ensure(&reference, Pull::Missing, &|_| ()));
    let image = image.expect("an image");
    println!("{HOLDS}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(image);
}

/// Denies this thread, and those that it makes, to write anywhere but below `dir`. Says what came of it.
fn wall(dir: &Path) -> String {
    use landlock::{
        ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    };
    let all = AccessFs::from_all(ABI::V5);
    let reads = AccessFs::from_read(ABI::V5);
    let rule = |path: &Path, access| PathBeneath::new(PathFd::new(path).expect("a path"), access);
    let restricted = Ruleset::default()
        .handle_access(all)
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(rule(Path::new("/"), reads)))
        .and_then(|ruleset| ruleset.add_rule(rule(dir, all)))
        .and_then(|ruleset| ruleset.restrict_self());
    let status = restricted.map(|status| format!("{:?}", status.ruleset));
    let outside = dir.with_file_name("outside");
    let probe = std::fs::write(&outside, b"x");
    if probe.is_ok() {
        std::fs::remove_file(&outside).expect("to remove it");
    }
    format!("{status:?}, writing outside: {probe:?}")
}
