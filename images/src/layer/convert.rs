// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The conversion: the archive's members in order, each to the data and the index, within the ceilings.
//!
//! Two threads: the caller's uncompresses ([`super::blob`]), the other one hashes, parses and writes. An archive may say
//! what it likes, so each ceiling is checked before the bytes that would break it are written.

use std::fs::File;
use std::io::{Read, Seek as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread;

use tar_core::parse::{Limits as ParserLimits, ParseEvent, Parser};

use super::{
    BLOCK, Entry, Kind,
    blob::{self, WAITING},
    compression::Compression,
    data::Data,
    error::LayerError,
    index::Writer,
    member::{Member, SPARSE_MAX},
    stream::{Ended, Stream},
};
use crate::{Digest, Limits};

/// A header of a tar archive, and what contents are padded to.
const TAR_BLOCK: u64 = 512;
/// Bytes of PAX records and GNU names of one entry.
const METADATA_MAX: u32 = 1 << 20;

/// The ceilings of one layer. All are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of data and index together, and of the layer's archive: that is read to its end, even where nothing
    /// is kept of it.
    pub unpacked_bytes: u64,
    /// Bytes of one file, holes included.
    pub file_bytes: u64,
    /// Entries, those too that are no part of the image, such as PAX' global headers.
    pub entries: u64,
}

impl From<&Limits> for Budget {
    /// All that an image may have.
    fn from(limits: &Limits) -> Self {
        Self {
            unpacked_bytes: limits.unpacked_bytes,
            file_bytes: limits.file_bytes,
            entries: limits.entries,
        }
    }
}

/// Counts what a layer takes while it is converted, of what it shares with the other layers of its image. Asked before
/// anything is written, from the thread that reads the archive.
pub(crate) trait Tally: Sync {
    /// The archive has one member more. False: that is one too many.
    fn member(&self) -> bool;

    /// The layer has come to so many bytes: those of its archive, or of data and index, whichever are more; fewer than
    /// before mean nothing. False: that is too many.
    fn reach(&self, bytes: u64) -> bool;
}

/// For a layer that shares nothing.
struct Alone;

impl Tally for Alone {
    fn member(&self) -> bool {
        true
    }

    fn reach(&self, _: u64) -> bool {
        true
    }
}

/// What came of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The digest of the archive, from its first byte to whatever is its last.
    pub diff_id: Digest,
    /// Blocks of the data.
    pub data_blocks: u64,
    /// Entries of the index.
    pub entries: u64,
    /// Bytes of data and index.
    pub unpacked_bytes: u64,
    /// Extended attributes that were dropped, since they mean the host the layer was made on.
    pub dropped_xattrs: u64,
}

/// Reads a layer's blob as it was transferred, and writes its data and its index.
///
/// `expect` is what the media type says of the compression, if it says anything; the first bytes decide. Both files
/// must be empty; on an error they are in no particular state, but never beyond the budget. Nothing is synced to the disk.
/// `stop` is asked now and then, from the calling thread.
///
/// Blocks, and takes a second thread meanwhile. Memory: about 2 MiB, for hostile layers up to 10 MiB, and the window
/// of a zstd stream, at most 128 MiB.
///
/// # Errors
/// [`LayerError::Stopped`] if `stop` said so, else what is wrong with the layer, the reader or the disk.
pub fn convert(
    blob: impl Read,
    expect: Option<Compression>,
    data: &mut File,
    index: &mut File,
    budget: &Budget,
    stop: &dyn Fn() -> bool,
) -> Result<Converted, LayerError> {
    convert_counted(blob, expect, (data, index), budget, &Alone, stop)
}

/// The same for one of several layers, which `tally` counts together: [`LayerError::Stopped`] if it refuses more.
pub(crate) fn convert_counted(
    blob: impl Read,
    expect: Option<Compression>,
    (data, index): (&mut File, &mut File),
    budget: &Budget,
    tally: &dyn Tally,
    stop: &dyn Fn() -> bool,
) -> Result<Converted, LayerError> {
    let (pieces, incoming) = mpsc::sync_channel(WAITING);
    let (give_back, spent) = mpsc::channel();
    let stream = Stream::new(incoming, give_back, budget.unpacked_bytes, tally);
    let (fed, converted) = thread::scope(|scope| {
        let reader =
            scope.spawn(move || Conversion::new(stream, data, index, *budget, tally)?.run());
        let fed = blob::feed(blob, expect, stop, &pieces, &spent);
        drop(pieces);
        let converted = reader
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic));
        (fed, converted)
    });
    match (fed, converted) {
        // What the reading side met came first in the archive.
        (_, Err(Ended::Error(error))) => Err(error),
        (Err(error), _) => Err(error),
        (Ok(()), Ok(converted)) => Ok(converted),
        // Cannot be: who gives up has a reason.
        (Ok(()), Err(Ended::Abandoned)) => Err(LayerError::Stopped),
    }
}

struct Conversion<'a> {
    stream: Stream<'a>,
    data: Data<&'a mut File>,
    index: Writer<'a>,
    budget: Budget,
    tally: &'a dyn Tally,
    /// Members of the archive so far, those too that the index has not.
    members: u64,
    dropped: u64,
}

impl<'a> Conversion<'a> {
    fn new(
        stream: Stream<'a>,
        data: &'a mut File,
        index: &'a mut File,
        budget: Budget,
        tally: &'a dyn Tally,
    ) -> Result<Self, Ended> {
        data.rewind().map_err(|source| LayerError::Write {
            what: "data",
            source,
        })?;
        index.rewind().map_err(|source| LayerError::Write {
            what: "index",
            source,
        })?;
        let (data, index) = (Data::new(data), Writer::new(index)?);
        Ok(Self {
            stream,
            data,
            index,
            budget,
            tally,
            members: 0,
            dropped: 0,
        })
    }

    fn run(mut self) -> Result<Converted, Ended> {
        self.charge(0)?;
        let mut parser = Parser::new(ParserLimits {
            max_metadata_size: METADATA_MAX,
            // Paths are measured in normal form.
            max_path_len: None,
            max_sparse_entries: SPARSE_MAX,
            ..ParserLimits::default()
        });
        // Negative times are no numbers to the parser. Everything else that it passes over, `attributes` refuses.
        parser.set_ignore_pax_errors(true);
        while let Some(member) = self.next(&mut parser)? {
            if let Some(member) = member {
                self.take(member)?;
            }
        }
        let diff_id = self.stream.finish()?;
        let entries = self.index.entries();
        let data_blocks = self.data.finish()?;
        let unpacked_bytes = data_blocks * BLOCK + self.index.bytes();
        self.index.finish(data_blocks, unpacked_bytes)?;
        let dropped_xattrs = self.dropped;
        if dropped_xattrs > 0 {
            tracing::debug!(%diff_id, dropped_xattrs, "extended attributes of the building host dropped");
        }
        Ok(Converted {
            diff_id,
            data_blocks,
            entries,
            unpacked_bytes,
            dropped_xattrs,
        })
    }

    /// The next member: none at the archive's end, none inside if it is one that counts for nothing.
    fn next(&mut self, parser: &mut Parser) -> Result<Option<Option<Member>>, Ended> {
        let (consumed, member) = loop {
            match step(parser, self.stream.rest(), self.stream.position())? {
                Step::Need(wanted) => {
                    if !self.stream.grow(wanted)? {
                        return self.ended();
                    }
                }
                Step::Member(consumed, member) => break (consumed, member),
                Step::End(consumed) => {
                    self.stream.consume(consumed);
                    return Ok(None);
                }
            }
        };
        self.stream.consume(consumed);
        self.members += 1;
        if self.members > self.budget.entries {
            return Err(LayerError::TooManyEntries {
                limit: self.budget.entries,
            }
            .into());
        }
        if !self.tally.member() {
            return Err(LayerError::Stopped.into());
        }
        Ok(Some(member))
    }

    /// The stream is at its end without the archive's end marker. Some tools leave it out, or half of it.
    fn ended(&self) -> Result<Option<Option<Member>>, Ended> {
        let rest = self.stream.rest();
        let half_a_marker = rest.len() as u64 == TAR_BLOCK && rest.iter().all(|byte| *byte == 0);
        if rest.is_empty() || half_a_marker {
            return Ok(None);
        }
        let at = self.stream.position() + rest.len() as u64;
        Err(LayerError::Truncated {
            at,
            what: "a header",
        }
        .into())
    }

    /// What fills up a file's last block. Where nothing of it is there, the archive ends with all of the file: umoci
    /// writes such layers, and Go's reader, by which most tools read them, takes them.
    fn skip_padding(&mut self, padding: u64) -> Result<(), Ended> {
        let before = self.stream.position();
        match self.stream.skip(padding, "a file") {
            Err(Ended::Error(LayerError::Truncated { at, .. })) if at == before => Ok(()),
            outcome => outcome,
        }
    }

    /// Writes a member.
    fn take(&mut self, member: Member) -> Result<(), Ended> {
        self.dropped += member.dropped;
        let padded = member.content.checked_next_multiple_of(TAR_BLOCK);
        let padding = padded.map_or(0, |padded| padded - member.content);
        let Some(mut entry) = member.entry else {
            self.stream.skip(member.content, "a file")?;
            return self.skip_padding(padding);
        };
        if member.regions.is_empty() {
            self.check_size(&entry)?;
            self.stream.skip(member.content, "a file")?;
        } else {
            self.content(&mut entry, &member.regions)?;
        }
        self.skip_padding(padding)?;
        let record = Writer::encode(&entry)?;
        self.charge(record.len() as u64)?;
        Ok(self.index.write(&record)?)
    }

    /// Writes a file's content, and tells the entry where.
    fn content(&mut self, entry: &mut Entry, regions: &[(u64, u64)]) -> Result<(), Ended> {
        self.check_size(entry)?;
        self.charge(blocks_of(regions).saturating_mul(BLOCK))?;
        for (offset, length) in regions {
            self.data.seek(*offset)?;
            let data = &mut self.data;
            self.stream
                .read(*length, "a file", |bytes| data.write(bytes))?;
        }
        let found = self.data.end()?;
        if let Kind::File { extents, .. } = &mut entry.kind {
            *extents = found;
        }
        Ok(())
    }

    fn check_size(&self, entry: &Entry) -> Result<(), LayerError> {
        let limit = self.budget.file_bytes;
        match entry.kind {
            Kind::File { size, .. } if size > limit => Err(LayerError::FileTooLarge {
                path: entry.path.clone(),
                size,
                limit,
            }),
            _ => Ok(()),
        }
    }

    /// Checks that so many bytes more are within the budget.
    fn charge(&self, bytes: u64) -> Result<(), LayerError> {
        let limit = self.budget.unpacked_bytes;
        let used = self.data.blocks() * BLOCK + self.index.bytes();
        let needed = used.saturating_add(bytes);
        if needed > limit {
            return Err(LayerError::TooLarge { needed, limit });
        }
        if !self.tally.reach(needed) {
            return Err(LayerError::Stopped);
        }
        Ok(())
    }
}

/// What is to be done next.
enum Step {
    /// Get more bytes, at least so many in all.
    Need(usize),
    /// Consume so many bytes, a member's header.
    Member(usize, Option<Member>),
    /// Consume so many bytes, the archive's end.
    End(usize),
}

fn step(parser: &mut Parser, rest: &[u8], at: u64) -> Result<Step, LayerError> {
    // Sizes that are made up overflow in the parser, where that is checked. It is of no use afterwards, and is not used.
    let parsed = panic::catch_unwind(AssertUnwindSafe(|| parser.parse(rest)));
    let event = parsed
        .map_err(|_| LayerError::Parser { at })?
        .map_err(|source| LayerError::Malformed { at, source })?;
    Ok(match event {
        ParseEvent::NeedData { min_bytes } => Step::Need(min_bytes),
        ParseEvent::Entry { consumed, entry } => {
            Step::Member(consumed, Some(Member::of(&entry, None)?))
        }
        ParseEvent::SparseEntry {
            consumed,
            entry,
            sparse_map,
            real_size,
        } => Step::Member(
            consumed,
            Some(Member::of(&entry, Some((sparse_map, real_size)))?),
        ),
        // Defaults for all that follows. Git writes its commit there; Docker and containerd ignore them.
        ParseEvent::GlobalExtensions { consumed, .. } => Step::Member(consumed, None),
        ParseEvent::End { consumed } => Step::End(consumed),
    })
}

/// How many blocks these regions touch.
fn blocks_of(regions: &[(u64, u64)]) -> u64 {
    let (mut blocks, mut covered) = (0_u64, 0_u64);
    for (offset, length) in regions {
        let end = offset.saturating_add(*length).div_ceil(BLOCK);
        let first = (offset / BLOCK).max(covered);
        blocks = blocks.saturating_add(end.saturating_sub(first));
        covered = end;
    }
    blocks
}
