// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The boot disk that this binary carries: a small EROFS with `waggle-init` and the agent.
//!
//! `build.rs` embeds it; [`materialize`] writes it once to the data folder, under a name that is its
//! content, so that several versions of `waggle` can share the folder and a machine never boots from
//! a half-written file.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use waggle_runtime::write_atomically;

static BOOT_DISK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/boot.erofs"));

/// Why there is no boot disk.
#[derive(Debug, thiserror::Error)]
pub enum BootDiskError {
    /// This binary was built by plain `cargo build`.
    #[error("this binary was built without its boot disk; build it with `./dev build`")]
    NotEmbedded,
    /// The data folder does not take it.
    #[error("cannot write the boot disk to {}; check that the folder is writable", path.display())]
    Write {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The path of the embedded boot disk below `data_dir`, written if it is not there yet.
///
/// # Errors
///
/// [`BootDiskError`] if there is none or the folder does not take it.
pub fn materialize(data_dir: &Path) -> Result<PathBuf, BootDiskError> {
    if BOOT_DISK.is_empty() {
        return Err(BootDiskError::NotEmbedded);
    }
    write_once(data_dir, BOOT_DISK)
}

fn write_once(data_dir: &Path, content: &[u8]) -> Result<PathBuf, BootDiskError> {
    let digest = Sha256::digest(content);
    let name: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = data_dir.join(format!("boot-{name}.erofs"));
    let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == length) {
        return Ok(path);
    }
    // Private: whoever can write here chooses what machines boot.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .and_then(|()| write_atomically(&path, &[content]))
        .map_err(|source| BootDiskError::Write {
            path: path.clone(),
            source,
        })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_once_and_mended_if_cut() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = write_once(folder.path(), b"content").expect("written");
        assert_eq!(write_once(folder.path(), b"content").expect("reused"), path);
        fs::write(&path, b"cont").expect("cut");
        write_once(folder.path(), b"content").expect("mended");
        assert_eq!(fs::read(&path).expect("there"), b"content");
        assert_eq!(
            fs::read_dir(folder.path()).expect("listed").count(),
            1,
            "no partial file"
        );
    }
}
