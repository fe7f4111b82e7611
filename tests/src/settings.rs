// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Where the tests find the product and its parts: the environment that `./dev test` sets.

use std::path::PathBuf;

/// The product's program.
pub const BIN: &str = "WAGGLE_BIN";
/// Kernel, boot disk and device programs.
pub const LIB_DIR: &str = "WAGGLE_LIB_DIR";
/// Bootable images.
pub const IMAGE_CACHE_DIR: &str = "WAGGLE_IMAGE_CACHE_DIR";
/// Which accelerator machines use.
pub const ACCELERATOR: &str = "WAGGLE_ACCELERATOR";
/// Where a server keeps its state.
pub const DATA_DIR: &str = "WAGGLE_DATA_DIR";
/// The clients and checkers that others wrote, as `tools/kit.sh` lays them out.
pub const TEST_KIT: &str = "WAGGLE_TEST_KIT";

/// A path that the environment must name.
///
/// # Panics
/// If it does not: the tests cannot run without.
#[must_use]
pub fn path(variable: &str) -> PathBuf {
    let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) else {
        panic!("{variable} is not set: run the tests by `./dev test`, which builds and sets it");
    };
    let path = PathBuf::from(value);
    assert!(
        path.exists(),
        "{variable} names {}, which does not exist: run the tests by `./dev test`",
        path.display()
    );
    path
}

/// The folder of the test kit, with what others wrote to test servers; says so if there is none.
///
/// # Panics
/// If the variable names a folder that is not there.
#[must_use]
pub fn kit() -> Option<PathBuf> {
    if std::env::var_os(TEST_KIT).is_none_or(|value| value.is_empty()) {
        eprintln!("skipped: {TEST_KIT} is not set; `./dev test` makes the kit");
        return None;
    }
    Some(path(TEST_KIT))
}
