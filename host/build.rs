// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Embeds the boot disk that `./dev build` names in `WAGGLE_BOOT_DISK`. Without it (`cargo check`,
//! unit tests) an empty file takes its place, and the binary says so when it is asked to boot.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=WAGGLE_BOOT_DISK");
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let content = match env::var_os("WAGGLE_BOOT_DISK") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", PathBuf::from(&path).display());
            fs::read(&path).expect("WAGGLE_BOOT_DISK names a readable file")
        }
        None => Vec::new(),
    };
    fs::write(target.join("boot.erofs"), content).expect("OUT_DIR is writable");
}
