// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Where the package managers of the images that `./dev images` builds fetch from: `registries.json` in the image
//! folder.
//!
//! It widens what environments may reach, so it is this file alone: nothing that an image says of itself gets into
//! it. What the entries mean is the reader's affair; here they are text.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The file's name in the image folder.
pub const FILE: &str = "registries.json";

/// The version that this release reads.
const VERSION: u32 = 1;

/// Most bytes of it: some thousand registries.
const MAX_BYTES: u64 = 256 * 1024;

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordedError {
    /// It cannot be read.
    #[error("cannot read {}: check its owner and permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is longer than it can be.
    #[error("{} is larger than {MAX_BYTES} bytes: run `./dev images` to write it anew", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not JSON of the expected shape.
    #[error("{} is damaged: run `./dev images` to write it anew", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser met.
        source: serde_json::Error,
    },
    /// Another release wrote it.
    #[error(
        "{} has version {found}, this build reads version {VERSION}: run `./dev images` of the same release",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that it states.
        found: u32,
    },
}

#[derive(serde::Deserialize)]
struct Recorded {
    version: u32,
    /// Only in the version that is read.
    #[serde(default)]
    registries: Option<Vec<String>>,
}

/// The registries, `MANAGER=URL`, as they are written; none if there is no such file. Blocks.
///
/// # Errors
/// What is wrong with the file.
pub fn registries(dir: &Path) -> Result<Vec<String>, RecordedError> {
    let path = dir.join(FILE);
    let unreadable = |source| RecordedError::Unreadable {
        path: path.clone(),
        source,
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    // One byte past the ceiling tells a file that ends there from one that goes on.
    let mut bytes = Vec::new();
    let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    if read.map_err(unreadable)? as u64 > MAX_BYTES {
        return Err(RecordedError::TooLarge { path });
    }
    let malformed = |source| RecordedError::Malformed {
        path: path.clone(),
        source,
    };
    let recorded: Recorded = serde_json::from_slice(&bytes).map_err(malformed)?;
    if recorded.version != VERSION {
        let found = recorded.version;
        return Err(RecordedError::Version { path, found });
    }
    let missing = || malformed(serde::de::Error::missing_field("registries"));
    recorded.registries.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Vec<String>, RecordedError> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(FILE), content).expect("written");
        registries(folder.path())
    }

    #[test]
    fn what_is_written_is_read_and_nothing_written_is_nothing() {
        let empty = tempfile::tempdir().expect("a folder");
        assert!(registries(empty.path()).expect("no file").is_empty());
        let text = r#"{"version": 1, "registries": ["apt=http://a.example/", "pip=https://b.example/simple/"]}"#;
        let found = read(text).expect("a file");
        assert_eq!(
            found,
            ["apt=http://a.example/", "pip=https://b.example/simple/"]
        );
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        for text in [
            "",
            "{",
            "[]",
            r#"{"registries":[]}"#,
            r#"{"version":1}"#,
            r#"{"version":1,"registries":[1]}"#,
        ] {
            let error = read(text).expect_err(text);
            assert!(
                matches!(error, RecordedError::Malformed { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().contains("./dev images"), "{error}");
        }
        let newer = read(r#"{"version":2,"entries":{}}"#).expect_err("newer");
        assert!(
            matches!(newer, RecordedError::Version { found: 2, .. }),
            "{newer}"
        );
        let long = " ".repeat(usize::try_from(MAX_BYTES).expect("small") + 1);
        assert!(matches!(read(&long), Err(RecordedError::TooLarge { .. })));
    }
}
