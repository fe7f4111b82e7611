// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The user `sandbox`, for an image that has none.
//!
//! Invariant: an image's own `sandbox` is left as it is, but for its home, which must exist.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use crate::identity::{Identity, SANDBOX, free_id};

/// Makes sure that the user and its home exist.
///
/// Its ids are 1000 unless the image gave that number to someone else; then the next free one.
pub(super) fn ensure_sandbox() -> io::Result<()> {
    let added = Identity::find(SANDBOX).is_none();
    if added {
        add()?;
    }
    let user = Identity::sandbox();
    let home_is_new = !user.home.exists();
    if home_is_new {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&user.home)?;
    }
    // A folder of that name that the image already has is nobody's yet: its owner was just made.
    if added || home_is_new {
        chown(&user.home, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

fn add() -> io::Result<()> {
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    let group = fs::read("/etc/group").unwrap_or_default();
    let id = free_id(&passwd, &group);
    let shell = ["/bin/bash", "/bin/sh"]
        .into_iter()
        .find(|shell| Path::new(shell).exists())
        .unwrap_or("/bin/sh");
    append("/etc/group", &group, &format!("{SANDBOX}:x:{id}:"))?;
    let line = format!("{SANDBOX}:x:{id}:{id}::/home/{SANDBOX}:{shell}");
    append("/etc/passwd", &passwd, &line)?;
    if let Ok(shadow) = fs::read("/etc/shadow") {
        // No password opens it.
        append(
            "/etc/shadow",
            &shadow,
            &format!("{SANDBOX}:!::0:99999:7:::"),
        )?;
    }
    Ok(())
}

/// Adds `line` to the file, whose content is `old`, in one write.
fn append(path: &str, old: &[u8], line: &str) -> io::Result<()> {
    let gap = if old.last().is_none_or(|last| *last == b'\n') {
        ""
    } else {
        "\n"
    };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(format!("{gap}{line}\n").as_bytes())
}
