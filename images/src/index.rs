// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The format of `index.json`: what `./dev images` writes and this crate reads.
//!
//! Parsing is pure: bytes and the path they came from (for error texts) in, an [`Index`] out.
//! Unknown fields are ignored, so that the builder may record more; a change that an older reader
//! would misread raises [`VERSION`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::ImageError;

/// The version of the format this build reads.
pub(crate) const VERSION: u32 = 1;

/// The longest index that is read, in bytes. An entry takes about 400, so this holds some 2,500
/// images: a longer file is not an index, and is not worth its memory.
pub(crate) const MAX_INDEX_BYTES: u64 = 1024 * 1024;

/// The record of every image in a folder.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) images: BTreeMap<String, Entry>,
}

/// What the builder recorded about one image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    /// The file's name within the index's folder.
    pub(crate) file: String,
    /// The file's size, in bytes.
    pub(crate) bytes: u64,
    /// The file's SHA-256, in lower-case hexadecimal.
    pub(crate) sha256: String,
    /// The registries of its package managers, `MANAGER=URL`. Only `./dev images` records them: of an
    /// image of another origin there are none, so that it never widens what environments may reach.
    #[serde(default)]
    pub(crate) registries: Vec<String>,
}

/// Only the version: read first, so that a later format is reported as such and not as damage.
#[derive(Deserialize)]
struct Header {
    version: u32,
}

impl Index {
    /// Parses the index read from `path`.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, ImageError> {
        let malformed = |source| ImageError::IndexMalformed {
            path: path.to_path_buf(),
            source,
        };
        let Header { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(ImageError::IndexVersion {
                path: path.to_path_buf(),
                found: version,
                expected: VERSION,
            });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}

/// Whether `file` is one plain path component, so that joining it to a folder stays in it.
pub(crate) fn is_plain_file_name(file: &str) -> bool {
    !file.is_empty()
        && file != "."
        && file != ".."
        && file
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Index, ImageError> {
        Index::parse(text.as_bytes(), Path::new("/images/index.json"))
    }

    #[test]
    fn reads_entries_and_ignores_fields_it_does_not_know() {
        let index = parse(
            r#"{"version":1,"later":true,"images":{"base":{"file":"base-1.erofs","bytes":4096,
               "sha256":"ab","built":"2026-01-01T00:00:00Z","agent_sha256":"cd"}}}"#,
        )
        .unwrap();
        let expected = Entry {
            file: "base-1.erofs".to_owned(),
            bytes: 4096,
            sha256: "ab".to_owned(),
            registries: Vec::new(),
        };
        assert_eq!(index.images.get("base"), Some(&expected));
    }

    #[test]
    fn another_version_is_said_even_if_the_rest_has_another_shape() {
        let error = parse(r#"{"version":2,"roots":[]}"#).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::IndexVersion {
                    found: 2,
                    expected: 1,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn damage_is_damage() {
        for text in [
            "",
            "{",
            "[]",
            r#"{"images":{}}"#,
            r#"{"version":1}"#,
            r#"{"version":-1}"#,
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                matches!(error, ImageError::IndexMalformed { .. }),
                "{text}: {error}"
            );
            assert!(error.to_string().contains("./dev images"), "{error}");
        }
        let negative = r#"{"version":1,"images":{"a":{"file":"a","bytes":-1,"sha256":""}}}"#;
        assert!(matches!(
            parse(negative),
            Err(ImageError::IndexMalformed { .. })
        ));
    }

    #[test]
    fn only_plain_names_are_file_names() {
        for good in ["python-0123abcd.erofs", "a", "a..b", "_x"] {
            assert!(is_plain_file_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "../x",
            "a/b",
            "a\\b",
            "a\0b",
            "a b",
            "é",
        ] {
            assert!(!is_plain_file_name(bad), "{bad:?}");
        }
    }
}
