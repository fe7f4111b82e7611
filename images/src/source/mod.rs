// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images that come from files instead of registries: OCI layouts (a folder or a tar of one), what `docker save`
//! writes, and a plain root file system as a tar.
//!
//! It finds the images in what it is given, and hands out their documents and blobs as streams. It writes nothing,
//! unpacks nothing, and follows no link of the file system: a layout's files are opened part by part without
//! following links, an archive is read in place, and links inside it are names within it. Blobs are handed out
//! unverified: the store does that while they stream into it.
//!
//! What something is, is told by its content: a folder or tar with `oci-layout` and `index.json` is a layout, a tar
//! with `manifest.json` is docker's, any other tar is a root file system, and so is what is compressed.

mod archive;
mod docker;
mod error;
mod folder;
mod layout;
mod name;

pub(crate) use docker::single as single_layer;
pub use error::SourceError;
pub use name::Name;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Digest, Limits};
use archive::Archive;
use folder::Folder;

/// A file or folder with images.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
    files: Files,
    contents: Contents,
    limits: Limits,
}

/// What a source turned out to have.
#[derive(Debug, Default)]
struct Contents {
    images: Vec<Found>,
    /// Files of blobs that are not named by their digests.
    blobs: BTreeMap<Digest, String>,
    /// Documents that no file has: they were made of what others say.
    made: BTreeMap<Digest, Vec<u8>>,
}

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder in OCI's layout.
    OciLayout,
    /// A tar of such a folder.
    OciArchive,
    /// What `docker save` wrote.
    DockerArchive,
    /// A tar of a root file system, compressed or not.
    RootFs,
}

/// An image in a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is called there.
    pub names: Vec<String>,
    /// Its manifest, or an index of manifests, for [`Source::document`].
    pub digest: Digest,
    /// What the document is said to be; empty if that is not said.
    pub media_type: String,
}

/// The files of a source, by name.
#[derive(Debug)]
enum Files {
    Folder(Folder),
    Archive(Archive),
    One(Arc<File>),
}

/// A stream of a file's bytes.
#[derive(Debug)]
pub struct Content {
    file: Arc<File>,
    at: u64,
    left: u64,
}

/// How many images, and names of them, a file or folder may have. Each name is a record of the store in the end, and
/// those of a whole host are some hundred.
const MOST_IMAGES: usize = 1000;

/// Whoever asks for something long says so here when it is to end.
type Stop<'a> = &'a dyn Fn() -> bool;

impl Source {
    /// Looks what is there. Reads what is needed for that: lists of images, the headers of an archive, and of docker's
    /// also configurations and what is compressed. Blocks; `stop` is asked now and then, and ends it.
    ///
    /// # Errors
    ///
    /// It cannot be read, is none of the kinds, or is damaged.
    pub fn open(path: &Path, limits: &Limits, stop: Stop<'_>) -> Result<Self, SourceError> {
        let mut source = Self::of(path, limits, stop)?;
        source.contents = match source.kind {
            Kind::OciLayout | Kind::OciArchive => layout::contents(&source)?,
            Kind::DockerArchive => docker::contents(&source, stop)?,
            Kind::RootFs => return Ok(source),
        };
        if source.contents.images.is_empty() {
            return Err(SourceError::NoImage {
                path: path.to_owned(),
            });
        }
        Ok(source)
    }

    fn of(path: &Path, limits: &Limits, stop: Stop<'_>) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Io {
            path: path.to_owned(),
            source,
        };
        let file = open_plain(path).map_err(failed)?;
        let status = file.metadata().map_err(failed)?;
        let (kind, files) = if status.is_dir() {
            let folder = Folder::new(path, file);
            if folder.open("oci-layout")?.is_none() {
                return Err(SourceError::Unknown {
                    path: path.to_owned(),
                });
            }
            (Kind::OciLayout, Files::Folder(folder))
        } else if !status.is_file() {
            return Err(SourceError::Unknown {
                path: path.to_owned(),
            });
        } else {
            let file = Arc::new(file);
            let mut magic = [0; 4];
            let count = file.read_at(&mut magic, 0).map_err(failed)?;
            if count == magic.len() && is_compressed(magic) {
                (Kind::RootFs, Files::One(file))
            } else {
                let archive = Archive::scan(path, Arc::clone(&file), limits, stop)?;
                if archive.has("oci-layout") && archive.has("index.json") {
                    (Kind::OciArchive, Files::Archive(archive))
                } else if archive.has("manifest.json") {
                    (Kind::DockerArchive, Files::Archive(archive))
                } else {
                    (Kind::RootFs, Files::One(file))
                }
            }
        };
        Ok(Self {
            path: path.to_owned(),
            kind,
            files,
            contents: Contents::default(),
            limits: limits.clone(),
        })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its images. A root file system has none: one is to be made of it.
    #[must_use]
    pub fn images(&self) -> &[Found] {
        &self.contents.images
    }

    /// The bytes of a blob, of which nobody knows yet whether they are what the digest says.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn blob(&self, digest: &Digest) -> Result<Content, SourceError> {
        match self.contents.blobs.get(digest) {
            Some(name) => self.file(name),
            None => self.file(&layout::blob_name(digest)),
        }
    }

    /// A document by its digest, whole and verified.
    ///
    /// # Errors
    ///
    /// It is not there, too long, or something else.
    pub fn document(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, SourceError> {
        if let Some(made) = self.contents.made.get(digest) {
            return Ok(made.clone());
        }
        let bytes = self
            .blob(digest)
            .and_then(|content| self.read(content, &digest.to_string(), limit))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(SourceError::Mismatch {
                path: self.path.clone(),
                expected: *digest,
                found,
            });
        }
        Ok(bytes)
    }

    /// The root file system's tar as it is, of a source that is one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is something else.
    pub fn tar(&self) -> Result<Content, SourceError> {
        let Files::One(file) = &self.files else {
            return Err(SourceError::Unknown {
                path: self.path.clone(),
            });
        };
        Content::whole(Arc::clone(file)).map_err(|source| SourceError::Io {
            path: self.path.clone(),
            source,
        })
    }

    /// A file by its name.
    fn file(&self, name: &str) -> Result<Content, SourceError> {
        let content = match &self.files {
            Files::Folder(folder) => folder.open(name)?,
            Files::Archive(archive) => archive.open(name)?,
            Files::One(_) => None,
        };
        content.ok_or_else(|| SourceError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
        })
    }

    /// Reads a file whole.
    fn read(&self, content: Content, name: &str, limit: u64) -> Result<Vec<u8>, SourceError> {
        if content.len() > limit {
            return Err(SourceError::TooLong {
                path: self.path.clone(),
                name: name.to_owned(),
                limit,
            });
        }
        let mut bytes = Vec::new();
        // Bounded also if the file grows meanwhile.
        content
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| SourceError::Io {
                path: self.path.clone(),
                source,
            })?;
        Ok(bytes)
    }

    /// Reads a list of images.
    fn list(&self, name: &str) -> Result<Vec<u8>, SourceError> {
        self.read(self.file(name)?, name, self.limits.manifest_bytes)
    }

    /// Reads JSON from what was in a file of this name.
    fn parse<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
        bytes: &[u8],
    ) -> Result<T, SourceError> {
        serde_json::from_slice(bytes).map_err(|source| SourceError::Json {
            path: self.path.clone(),
            name: name.to_owned(),
            source,
        })
    }

    /// Refuses more images and names than any host has.
    fn allow(&self, images: usize) -> Result<(), SourceError> {
        if images <= MOST_IMAGES {
            return Ok(());
        }
        Err(SourceError::TooManyImages {
            path: self.path.clone(),
            images,
            limit: MOST_IMAGES,
        })
    }
}

impl Content {
    fn whole(file: Arc<File>) -> io::Result<Self> {
        let left = file.metadata()?.len();
        Ok(Self { file, at: 0, left })
    }

    fn part(file: Arc<File>, at: u64, left: u64) -> Self {
        Self { file, at, left }
    }

    /// Where it is in an archive, and how long: names of the same place are names of the same file.
    fn place(&self) -> (u64, u64) {
        (self.at, self.left)
    }

    /// How many bytes are still to come.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.left
    }

    /// Whether none are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(buffer) = buffer.get_mut(..most) else {
            return Ok(0);
        };
        let count = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(count as u64);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

/// Opens a path without waiting for the other end of a pipe. It is the operator's, so links in it are followed.
fn open_plain(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
}

/// Whether this is how a compressed file begins, of whatever format: which ones are known is the layer's business.
fn is_compressed(magic: [u8; 4]) -> bool {
    matches!(
        magic,
        [0x1f, 0x8b, ..]
            | [0x28, 0xb5, 0x2f, 0xfd]
            | [0x50..=0x5f, 0x2a, 0x4d, 0x18]
            | [0xfd, b'7', b'z', b'X']
            | [b'B', b'Z', b'h', b'1'..=b'9']
    )
}

#[cfg(test)]
mod tests;
