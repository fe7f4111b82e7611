// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images made by `umoci` and `buildah`: small, in a layout of their own, without a container engine.

use std::fs;
use std::path::{Path, PathBuf};

use super::registry::Registry;
use super::run;

/// An OCI layout folder which `umoci` fills.
pub(crate) struct Layout {
    /// The layout.
    pub(crate) path: PathBuf,
    dir: PathBuf,
}

impl Layout {
    /// An empty one, `NAME` in `dir`.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        run(dir, "umoci", &["init", "--layout", name]);
        Self {
            path: dir.join(name),
            dir: dir.to_owned(),
        }
    }

    /// An image of that tag for linux and `architecture`, with one layer a file, in order. Contents as given.
    pub(crate) fn image(&self, tag: &str, architecture: &str, files: &[(&str, &[u8])]) {
        let image = format!("{}:{tag}", self.path.display());
        run(&self.dir, "umoci", &["new", "--image", &image]);
        for (path, content) in files {
            let source = self.dir.join("content");
            fs::write(&source, content).expect("a file");
            let source = source.display().to_string();
            run(
                &self.dir,
                "umoci",
                &["insert", "--rootless", "--image", &image, &source, path],
            );
        }
        let platform = ["--architecture", architecture, "--os", "linux"];
        let mut arguments = vec!["config", "--image", &image];
        arguments.extend(platform);
        run(&self.dir, "umoci", &arguments);
    }
}

/// Bytes that do not compress, the same ones each time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        // Xorshift: any sequence without a pattern that gzip finds.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(next());
    }
    bytes.truncate(length);
    bytes
}

/// Runs buildah with a storage in `dir`, of plain folders, so that it needs no mounts. Gives what it says.
pub(crate) fn buildah(dir: &Path, arguments: &[&str]) -> String {
    let (root, runroot) = (dir.join("buildah"), dir.join("buildah-run"));
    let (root, runroot) = (root.display().to_string(), runroot.display().to_string());
    let mut all = vec![
        "--root",
        &root,
        "--runroot",
        &runroot,
        "--storage-driver",
        "vfs",
    ];
    all.extend(arguments);
    let said = run(dir, "buildah", &all).stdout;
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// Makes an index of images that are in a registry, by buildah, and puts it there as `name`.
pub(crate) fn index(registry: &Registry, name: &str, images: &[&str]) {
    let dir = registry.dir.path();
    let flags = registry.flags("");
    let list = name.replace(['/', ':'], "-");
    buildah(dir, &["manifest", "create", &list]);
    for image in images {
        let mut arguments = vec!["manifest", "add"];
        arguments.extend(flags.iter().map(String::as_str));
        let source = registry.skopeo(image);
        arguments.extend([list.as_str(), source.as_str()]);
        buildah(dir, &arguments);
    }
    let mut arguments = vec!["manifest", "push", "--all"];
    arguments.extend(flags.iter().map(String::as_str));
    let target = registry.skopeo(name);
    arguments.extend([list.as_str(), target.as_str()]);
    buildah(dir, &arguments);
}
