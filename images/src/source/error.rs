// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What can be wrong with a file or folder that should have images.

use std::io;
use std::path::PathBuf;

use crate::Digest;
use crate::config::ConfigError;

/// Why a file or folder gives no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// None of the kinds.
    #[error(
        "{} is neither an OCI layout, nor an archive of one, nor from `docker save`, nor a tar of a root file system",
        path.display()
    )]
    Unknown {
        /// The file or folder.
        path: PathBuf,
    },
    /// An archive of images that is compressed.
    #[error(
        "{} is a compressed archive of images, which cannot be read in place: decompress it first",
        path.display()
    )]
    Compressed {
        /// The file.
        path: PathBuf,
    },
    /// No image in it.
    #[error("{} has no image in it", path.display())]
    NoImage {
        /// The file or folder.
        path: PathBuf,
    },
    /// One of its files is missing.
    #[error("{} has no file {name:?}, which its image needs", path.display())]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// What is missing.
        name: String,
    },
    /// One of its files is not a regular one, or a link leads elsewhere.
    #[error("{name:?} in {} is a link that leads out of it or in circles, or no regular file", path.display())]
    Link {
        /// The file or folder.
        path: PathBuf,
        /// What is no file.
        name: String,
    },
    /// A document is longer than any real one.
    #[error("{name:?} in {} is longer than {limit} bytes", path.display())]
    TooLong {
        /// The file or folder.
        path: PathBuf,
        /// The document.
        name: String,
        /// The ceiling, in bytes.
        limit: u64,
    },
    /// A document is not what it should be.
    #[error("{name:?} in {} is malformed", path.display())]
    Json {
        /// The file or folder.
        path: PathBuf,
        /// The document.
        name: String,
        /// What the parser met.
        source: serde_json::Error,
    },
    /// A document has another digest than it is named by.
    #[error("{} has a document with the digest {found} under the name of {expected}", path.display())]
    Mismatch {
        /// The file or folder.
        path: PathBuf,
        /// Its name.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// No tar archive, or a damaged one.
    #[error("{} is malformed near byte {at}", path.display())]
    Tar {
        /// The archive.
        path: PathBuf,
        /// Where.
        at: u64,
        /// What the parser met.
        source: tar_core::parse::ParseError,
    },
    /// The archive ends in the middle of something.
    #[error("{} ends in the middle of an entry", path.display())]
    Truncated {
        /// The archive.
        path: PathBuf,
    },
    /// More files than any archive of images has.
    #[error("{} has more than {limit} entries", path.display())]
    TooMany {
        /// The archive.
        path: PathBuf,
        /// The ceiling.
        limit: u64,
    },
    /// More images, or names of them, than any host has.
    #[error("{} has {images} images and names, the limit is {limit}", path.display())]
    TooManyImages {
        /// The file or folder.
        path: PathBuf,
        /// How many it has.
        images: usize,
        /// The ceiling.
        limit: usize,
    },
    /// An image's configuration cannot be used.
    #[error("an image in {} cannot be used", path.display())]
    Config {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
    /// An image has more layers than any may.
    #[error("an image in {} has {layers} layers, the limit is {limit}", path.display())]
    TooManyLayers {
        /// The archive.
        path: PathBuf,
        /// How many it has.
        layers: usize,
        /// The ceiling.
        limit: usize,
    },
    /// Nobody waits for it any more.
    #[error("reading {} was stopped", path.display())]
    Stopped {
        /// The file or folder.
        path: PathBuf,
    },
}
