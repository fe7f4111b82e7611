// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What can be wrong with an image, each with the command that mends it.

use std::io;
use std::path::PathBuf;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The folder or its index does not exist: nothing was built yet.
    #[error("no images in {}: run `./dev images` to build them", dir.display())]
    NotBuilt {
        /// The folder that was searched.
        dir: PathBuf,
    },
    /// The index holds no image of that name.
    #[error(
        "no image named {name:?} (there are: {}): run `./dev images {name}` to build it",
        list(available)
    )]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names the index holds, sorted.
        available: Vec<String>,
    },
    /// The index is longer than any index of ours can be.
    #[error("{} is larger than {limit} bytes: run `./dev images` to write it anew", path.display())]
    IndexTooLarge {
        /// The index.
        path: PathBuf,
        /// The ceiling, in bytes.
        limit: u64,
    },
    /// The index is not JSON of the expected shape.
    #[error("{} is damaged: run `./dev images` to write it anew", path.display())]
    IndexMalformed {
        /// The index.
        path: PathBuf,
        /// What the parser met.
        source: serde_json::Error,
    },
    /// The index has another version than this build reads.
    #[error(
        "{} has version {found}, this build reads version {expected}: run `./dev images` of the same release",
        path.display()
    )]
    IndexVersion {
        /// The index.
        path: PathBuf,
        /// The version it states.
        found: u32,
        /// The version this build reads.
        expected: u32,
    },
    /// An entry names something other than a plain file of the image folder.
    #[error(
        "image {name:?} names the file {file:?}, which is not a plain file name: run `./dev images` to write the index anew"
    )]
    UnsafeFileName {
        /// The image.
        name: String,
        /// What the index names.
        file: String,
    },
    /// The image's file is missing.
    #[error("image {name:?}: {} is missing: run `./dev images {name}` to build it", path.display())]
    FileMissing {
        /// The image.
        name: String,
        /// Where its file should be.
        path: PathBuf,
    },
    /// The image's file has another size than recorded.
    #[error(
        "image {name:?}: {} has {found} bytes instead of {expected}: run `./dev images --rebuild {name}`",
        path.display()
    )]
    SizeMismatch {
        /// The image.
        name: String,
        /// Its file.
        path: PathBuf,
        /// The recorded size, in bytes.
        expected: u64,
        /// The size found, in bytes.
        found: u64,
    },
    /// The image's file does not begin with an EROFS superblock.
    #[error("image {name:?}: {} is not an EROFS file system: run `./dev images --rebuild {name}`", path.display())]
    NotErofs {
        /// The image.
        name: String,
        /// Its file.
        path: PathBuf,
    },
    /// The image's content is not what was recorded.
    #[error(
        "image {name:?}: {} has SHA-256 {found} instead of {expected}: run `./dev images --rebuild {name}`",
        path.display()
    )]
    DigestMismatch {
        /// The image.
        name: String,
        /// Its file.
        path: PathBuf,
        /// The recorded digest, in hexadecimal.
        expected: String,
        /// The digest found, in hexadecimal.
        found: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: check its owner and permissions", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
