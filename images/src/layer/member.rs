// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One member of an archive, checked: what the parser found becomes an [`Entry`], or a typed error.
//!
//! Where tools differ, this does what Go's `archive/tar` does, since it is what images are made and unpacked with
//! (Docker, containerd, Podman, umoci).

use tar_core::{EntryType, SparseEntry, parse::ParsedEntry};

use super::{
    Entry, Kind,
    attributes::{self, AttributeFault, Records},
    error::LayerError,
    path::{self, PathFault, Place},
};

/// Regions of a sparse file.
pub(super) const SPARSE_MAX: usize = 32_768;

/// A member, without its content.
#[derive(Debug)]
pub(super) struct Member {
    /// What goes into the index, a file still without extents. None if it is no part of the image.
    pub(super) entry: Option<Entry>,
    /// Bytes of content that follow in the archive, without what pads them.
    pub(super) content: u64,
    /// Where the content goes, as offset and length in bytes, ascending, none empty.
    pub(super) regions: Vec<(u64, u64)>,
    /// How many extended attributes were dropped.
    pub(super) dropped: u64,
}

/// A sparse file's map and size.
pub(super) type Sparse = Option<(Vec<SparseEntry>, u64)>;

impl Member {
    /// Checks what the parser found.
    pub(super) fn of(parsed: &ParsedEntry<'_>, sparse: Sparse) -> Result<Self, LayerError> {
        let raw = parsed.path.as_ref();
        let of_it = |fault| LayerError::Attribute {
            path: raw.to_vec(),
            fault,
        };
        let refused = |fault| LayerError::Path {
            path: raw.to_vec(),
            fault,
        };
        let place = path::place(raw).map_err(refused)?;
        attributes::header_size(parsed.header).map_err(of_it)?;
        let records = attributes::records(parsed.pax.unwrap_or_default()).map_err(of_it)?;
        let is_file = is_file(parsed);
        // Only files have content: the size of anything else counts for nothing, of hard links too.
        let content = if is_file { parsed.size } else { 0 };
        let regions = match &sparse {
            Some((map, size)) if is_file => regions(map, *size, content).map_err(of_it)?,
            Some(_) => return Err(of_it(AttributeFault::SparseType)),
            None if content > 0 => vec![(0, content)],
            None => Vec::new(),
        };
        let size = sparse.map_or(content, |(_, size)| size);
        let bare = |entry| Self {
            entry,
            content,
            regions: Vec::new(),
            dropped: 0,
        };
        match place {
            Place::Skip => Ok(bare(None)),
            Place::Whiteout(path) => Ok(bare(Some(mark(path, Kind::Whiteout)))),
            Place::Opaque(path) => Ok(bare(Some(mark(path, Kind::Opaque)))),
            Place::At(path) => {
                let kind = kind(parsed, &path, is_file, size)?;
                if matches!(kind, Kind::CharDevice(0, 0)) {
                    return Ok(bare(Some(mark(path, Kind::Whiteout))));
                }
                let dropped = records.dropped;
                let entry = Some(entry(parsed, path, records, kind)?);
                Ok(Self {
                    entry,
                    content,
                    regions,
                    dropped,
                })
            }
        }
    }
}

fn is_file(parsed: &ParsedEntry<'_>) -> bool {
    match parsed.entry_type {
        EntryType::Regular => !is_old_folder(parsed),
        EntryType::Continuous | EntryType::GnuSparse => true,
        _ => false,
    }
}

/// Before there was a type for folders, they were files with a slash at their name's end.
fn is_old_folder(parsed: &ParsedEntry<'_>) -> bool {
    parsed.header.as_bytes().get(156) == Some(&0) && parsed.path.ends_with(b"/")
}

/// Checks a sparse file's map, and leaves out what is empty.
fn regions(
    map: &[SparseEntry],
    size: u64,
    content: u64,
) -> Result<Vec<(u64, u64)>, AttributeFault> {
    let mut regions = Vec::with_capacity(map.len());
    let (mut end, mut sum) = (0_u64, 0_u64);
    for region in map {
        if region.offset < end {
            return Err(AttributeFault::SparseMap("is not in order"));
        }
        end = match region.offset.checked_add(region.length) {
            Some(end) if end <= size => end,
            _ => return Err(AttributeFault::SparseMap("leads beyond its end")),
        };
        // No more than `size`, since they do not overlap.
        sum += region.length;
        if region.length > 0 {
            regions.push((region.offset, region.length));
        }
    }
    if sum != content {
        return Err(AttributeFault::SparseMap(
            "and its content differ in length",
        ));
    }
    Ok(regions)
}

/// A whiteout. What the archive says of the file that marks it means nothing.
fn mark(path: Vec<u8>, kind: Kind) -> Entry {
    let (mode, uid, gid, mtime, mtime_nanos, xattrs) = (0, 0, 0, 0, 0, Vec::new());
    Entry {
        path,
        mode,
        uid,
        gid,
        mtime,
        mtime_nanos,
        xattrs,
        kind,
    }
}

fn kind(
    parsed: &ParsedEntry<'_>,
    path: &[u8],
    is_file: bool,
    size: u64,
) -> Result<Kind, LayerError> {
    let kind = match parsed.entry_type {
        _ if is_file => Kind::File {
            size,
            extents: Vec::new(),
        },
        EntryType::Directory | EntryType::Regular => Kind::Folder,
        EntryType::Symlink => {
            let target = target_of(parsed);
            path::target(target).map_err(|fault| wrong_target(path, target, fault))?;
            Kind::Symlink(target.to_vec())
        }
        EntryType::Link => {
            let target = target_of(parsed);
            let normal = path::normal(target).map_err(|fault| wrong_target(path, target, fault))?;
            if normal.is_empty() {
                return Err(wrong_target(path, target, PathFault::Empty));
            }
            Kind::Hardlink(normal)
        }
        // 0:0 is how overlayfs marks a whiteout on its own disk. OCI has no such thing, but tools have archived it by
        // mistake, and containerd and Podman make the device as they find it, so that on overlayfs, which nearly all of
        // them use, it hides the name. Here it does as well: kept as a device it would act in the guest's overlayfs, but
        // not in `waggle image check`.
        EntryType::Char => {
            let (major, minor) = device(parsed, path)?;
            Kind::CharDevice(major, minor)
        }
        EntryType::Block => {
            let (major, minor) = device(parsed, path)?;
            Kind::BlockDevice(major, minor)
        }
        EntryType::Fifo => Kind::Fifo,
        other => {
            return Err(LayerError::Type {
                path: path.to_vec(),
                kind: other.to_byte(),
            });
        }
    };
    if path.is_empty() && !matches!(kind, Kind::Folder) {
        return Err(LayerError::Root);
    }
    Ok(kind)
}

fn target_of<'a>(parsed: &'a ParsedEntry<'_>) -> &'a [u8] {
    parsed.link_target.as_deref().unwrap_or_default()
}

fn wrong_target(path: &[u8], target: &[u8], fault: PathFault) -> LayerError {
    LayerError::Target {
        path: path.to_vec(),
        target: target.to_vec(),
        fault,
    }
}

/// Linux has 12 bits for the major number and 20 for the minor.
fn device(parsed: &ParsedEntry<'_>, path: &[u8]) -> Result<(u32, u32), LayerError> {
    let (major, minor) = (parsed.dev_major.unwrap_or(0), parsed.dev_minor.unwrap_or(0));
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(LayerError::Device {
            path: path.to_vec(),
            major,
            minor,
        });
    }
    Ok((major, minor))
}

fn entry(
    parsed: &ParsedEntry<'_>,
    path: Vec<u8>,
    records: Records,
    kind: Kind,
) -> Result<Entry, LayerError> {
    // The last number means "leave it" to chown, and belongs to nobody.
    let owner = |id: u64| match u32::try_from(id) {
        Ok(id) if id < u32::MAX => Ok(id),
        _ => Err(LayerError::Owner {
            path: path.clone(),
            id,
        }),
    };
    let (uid, gid) = (owner(parsed.uid)?, owner(parsed.gid)?);
    // Set-id bits stay: the guest is what confines the image's programs.
    let mode = u16::try_from(parsed.mode & 0o7777).unwrap_or(0);
    let header_time = (attributes::header_time(parsed.header), 0);
    let (mtime, mtime_nanos) = records.mtime.unwrap_or(header_time);
    let xattrs = records.xattrs;
    Ok(Entry {
        path,
        mode,
        uid,
        gid,
        mtime,
        mtime_nanos,
        xattrs,
        kind,
    })
}
