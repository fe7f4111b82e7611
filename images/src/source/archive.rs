// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A tar archive that is read in place: one pass over its headers says where each file is.
//!
//! Links in it lead to names in it, and nowhere else. Of two entries of one name the last counts, as it would if the
//! archive were unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar_core::parse::{Limits as HeaderLimits, ParseEvent, Parser};
use tar_core::{EntryType, HEADER_SIZE};

use super::{Content, SourceError, Stop};
use crate::Limits;

#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    places: BTreeMap<String, Place>,
    /// Some names were left out: there were too many.
    crowded: bool,
}

/// What is at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File {
        at: u64,
        size: u64,
    },
    /// Another name in the archive.
    Link(String),
    /// A link out of it, or what has no content.
    Other,
}

/// How many names are kept. An archive of images has some for each layer; a root file system, which has millions,
/// needs none.
const MOST_NAMES: usize = 16 << 10;

/// Names that tell what an archive is.
const TELLING: [&str; 3] = ["oci-layout", "index.json", "manifest.json"];

/// How many links are followed from one to the next.
const MOST_LINKS: usize = 8;

/// Bytes of a name, or of where a link leads to, as Linux takes them (`PATH_MAX`). What is longer is nothing of an
/// image's, and is not kept.
const LONGEST_NAME: usize = 4096;

/// Bytes of a header with its extensions: attributes do not matter here, but may be long.
const LARGEST_HEADER: u32 = 1 << 20;

impl Archive {
    /// Reads all headers.
    pub(super) fn scan(
        path: &Path,
        file: Arc<File>,
        limits: &Limits,
        stop: Stop<'_>,
    ) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Io {
            path: path.to_owned(),
            source,
        };
        let truncated = || SourceError::Truncated {
            path: path.to_owned(),
        };
        let length = file.metadata().map_err(failed)?.len();
        let mut archive = Self {
            path: path.to_owned(),
            file,
            places: BTreeMap::new(),
            crowded: false,
        };
        let mut header_limits = HeaderLimits::new();
        header_limits.max_metadata_size = LARGEST_HEADER;
        let mut parser = Parser::new(header_limits);
        parser.set_allow_empty_path(true);
        parser.set_ignore_pax_errors(true);
        let (mut at, mut entries, mut wanted) = (0_u64, 0_u64, HEADER_SIZE);
        let mut buffer = Vec::new();
        loop {
            if stop() {
                return Err(SourceError::Stopped {
                    path: path.to_owned(),
                });
            }
            buffer.resize(wanted, 0);
            let count = read_fully(&archive.file, &mut buffer, at).map_err(failed)?;
            let header = buffer.get(..count).unwrap_or_default();
            let event = parser.parse(header).map_err(|source| {
                if at == 0 {
                    // It does not even begin as a tar.
                    SourceError::Unknown {
                        path: path.to_owned(),
                    }
                } else {
                    SourceError::Tar {
                        path: path.to_owned(),
                        at,
                        source,
                    }
                }
            })?;
            let (consumed, size) = match event {
                ParseEvent::NeedData { .. } if count == 0 && at > 0 => break,
                ParseEvent::NeedData { .. } if count < wanted => return Err(truncated()),
                ParseEvent::NeedData { min_bytes } => {
                    wanted = min_bytes.max(wanted + HEADER_SIZE);
                    continue;
                }
                ParseEvent::End { .. } => break,
                ParseEvent::GlobalExtensions { consumed, .. } => (consumed, 0),
                // No file of an image is sparse.
                ParseEvent::SparseEntry {
                    consumed, entry, ..
                } => (consumed, entry.size),
                ParseEvent::Entry { consumed, entry } => {
                    let size = if has_content(entry.entry_type) {
                        entry.size
                    } else {
                        0
                    };
                    let target = entry.link_target.as_deref();
                    archive.note(
                        &entry.path,
                        entry.entry_type,
                        target,
                        at + consumed as u64,
                        size,
                    );
                    (consumed, size)
                }
            };
            entries += 1;
            if entries > limits.entries {
                return Err(SourceError::TooMany {
                    path: path.to_owned(),
                    limit: limits.entries,
                });
            }
            let padded = size
                .checked_next_multiple_of(HEADER_SIZE as u64)
                .ok_or_else(truncated)?;
            let content = at.checked_add(consumed as u64).ok_or_else(truncated)?;
            at = content.checked_add(padded).ok_or_else(truncated)?;
            if content.saturating_add(size) > length {
                return Err(truncated());
            }
            wanted = HEADER_SIZE;
        }
        if archive.crowded && TELLING.iter().any(|name| archive.has(name)) {
            return Err(SourceError::TooMany {
                path: path.to_owned(),
                limit: MOST_NAMES as u64,
            });
        }
        Ok(archive)
    }

    /// Notes where an entry is, if it could be a part of an image: those are at most in folders of folders.
    fn note(&mut self, name: &[u8], kind: EntryType, target: Option<&[u8]>, at: u64, size: u64) {
        let Some(name) = text(name).and_then(|name| normal("", name)) else {
            return;
        };
        if name.is_empty() || name.split('/').count() > 3 {
            return;
        }
        let target = target.and_then(text);
        let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
        let place = match kind {
            EntryType::Regular | EntryType::Continuous => Place::File { at, size },
            EntryType::Symlink => target
                .filter(|target| !target.starts_with('/'))
                .and_then(|target| normal(parent, target))
                .map_or(Place::Other, Place::Link),
            EntryType::Link => target
                .and_then(|target| normal("", target))
                .map_or(Place::Other, Place::Link),
            EntryType::Directory => return,
            _ => Place::Other,
        };
        if self.places.len() >= MOST_NAMES && !TELLING.contains(&name.as_str()) {
            self.crowded = true;
            return;
        }
        self.places.insert(name, place);
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(self.places.get(name), Some(Place::File { .. }))
    }

    /// A file by its name, which may be a link.
    pub(super) fn open(&self, name: &str) -> Result<Option<Content>, SourceError> {
        let link = || SourceError::Link {
            path: self.path.clone(),
            name: name.to_owned(),
        };
        let mut at = normal("", name).ok_or_else(link)?;
        for _ in 0..MOST_LINKS {
            match self.places.get(&at) {
                None => return Ok(None),
                Some(Place::File { at, size }) => {
                    return Ok(Some(Content::part(Arc::clone(&self.file), *at, *size)));
                }
                Some(Place::Link(target)) => at.clone_from(target),
                Some(Place::Other) => return Err(link()),
            }
        }
        Err(link())
    }
}

/// A name, or where a link leads to, as an archive of images may have it.
fn text(bytes: &[u8]) -> Option<&str> {
    let bytes = (bytes.len() <= LONGEST_NAME).then_some(bytes)?;
    std::str::from_utf8(bytes).ok()
}

/// A name as it is within the archive; none if it leads out of it. By name only: no link is followed here.
fn normal(parent: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = parent.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Links and folders have none, whatever size their headers state.
fn has_content(kind: EntryType) -> bool {
    !matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Directory
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    )
}

/// Reads as much as there is, at most the buffer.
fn read_fully(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
