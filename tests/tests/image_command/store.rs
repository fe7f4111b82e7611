// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The command on a store of its own, and small images for it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use waggle_tests::settings;

use super::support::{
    image::Layout,
    registry::{Registry, Variant},
    run,
};

/// A store of its own, and a home without logins.
pub(crate) struct Store {
    folder: TempDir,
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Store {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        Self { folder }
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    /// `waggle image WORDS...` with nothing of this process' environment.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(settings::path(settings::BIN));
        command.arg("image").args(words);
        self.surround(&mut command);
        command
    }

    pub(crate) fn surround(&self, command: &mut Command) {
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("TERM", "xterm")
            .env(settings::IMAGE_CACHE_DIR, self.images())
            .stdin(Stdio::null());
    }

    pub(crate) fn say(&self, words: &[&str]) -> Said {
        Said::of(self.command(words).output().expect("waggle runs"))
    }

    /// What it prints if all is well: nothing else is said, then.
    pub(crate) fn good(&self, words: &[&str]) -> String {
        let said = self.say(words);
        assert_eq!(said.code, Some(0), "{words:?}: {}{}", said.out, said.err);
        said.out
    }

    pub(crate) fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.good(words)).expect("JSON")
    }

    /// What it complains of, in one line, with what it prints all the same.
    pub(crate) fn bad(&self, words: &[&str]) -> Said {
        let said = self.say(words);
        assert_eq!(said.code, Some(1), "{words:?}: {}{}", said.out, said.err);
        let last = said.err.lines().next_back().unwrap_or_default();
        assert!(last.starts_with("waggle: "), "{words:?}: {}", said.err);
        said
    }
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// A layout with the image `bare`: a file, and no program.
pub(crate) fn bare(dir: &Path) -> Layout {
    let layout = Layout::new(dir, "bare");
    layout.image("bare", "amd64", &[("/etc/os-release", b"ID=bare\n")]);
    layout
}

/// A registry with `acme/bare:1`.
pub(crate) fn registry_of_bare() -> Registry {
    let registry = Registry::start(Variant::Plain);
    registry.put(&bare(registry.dir.path()).path, "bare", "acme/bare:1");
    registry
}

/// The digest of a manifest, as skopeo has it.
pub(crate) fn digest(registry: &Registry, name: &str) -> String {
    let arguments = [
        "inspect",
        "--tls-verify=false",
        "--format={{.Digest}}",
        &registry.skopeo(name),
    ];
    let output = run(registry.dir.path(), "skopeo", &arguments).stdout;
    String::from_utf8_lossy(&output).trim().to_owned()
}

/// The plain tar of a root file system, by tar.
pub(crate) fn root_fs(dir: &Path) -> String {
    let root = dir.join("root");
    fs::create_dir_all(root.join("bin")).expect("folders");
    fs::write(root.join("bin/sh"), "#!/bin/false\n").expect("a file");
    fs::set_permissions(root.join("bin/sh"), fs::Permissions::from_mode(0o755)).expect("a program");
    run(dir, "tar", &["-cf", "root.tar", "-C", "root", "."]);
    dir.join("root.tar").display().to_string()
}
