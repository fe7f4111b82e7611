// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Which block device is which: by virtio serial, since their letters depend on the VMM.

use std::fs;
use std::path::PathBuf;

use super::InitError;

/// One disk, or `None`.
///
/// # Errors
///
/// If the kernel's list of block devices cannot be read.
pub(super) fn find(serial: &str) -> Result<Option<PathBuf>, InitError> {
    let found = all()?.into_iter().find(|disk| disk.serial == serial);
    Ok(found.map(|disk| disk.device))
}

/// One disk that must be there.
///
/// # Errors
///
/// [`InitError::NoDisk`], which lists those there are.
pub(super) fn require(serial: &'static str) -> Result<PathBuf, InitError> {
    find(serial)?.ok_or_else(|| {
        let serials = all()
            .unwrap_or_default()
            .into_iter()
            .map(|disk| disk.serial);
        InitError::NoDisk {
            serial,
            found: serials.collect::<Vec<_>>().join(", "),
        }
    })
}

struct Disk {
    serial: String,
    device: PathBuf,
}

fn all() -> Result<Vec<Disk>, InitError> {
    let entries = fs::read_dir("/sys/block").map_err(|source| InitError::Path {
        action: "read",
        path: "/sys/block".into(),
        source,
    })?;
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let serial = name
                .starts_with("vd")
                .then(|| fs::read_to_string(entry.path().join("serial")))?;
            Some(Disk {
                serial: serial.ok()?.trim().to_owned(),
                device: format!("/dev/{name}").into(),
            })
        })
        .collect())
}
