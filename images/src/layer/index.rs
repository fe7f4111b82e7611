// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A layer's index on the disk: a header, then one record for each entry.
//!
//! ```text
//! header: magic [8] | version u32 | entries u64 | data blocks u64 | bytes unpacked u64 | CRC-32 of these u32
//! record: length u32 | CRC-32 u32 | Entry in postcard's format [length]
//! ```
//!
//! Integers are little-endian. The header is written last, so that an index whose writer was killed is none. Each record is
//! checked before anything is made of it; a file that was cut, or has grown, is noticed at its end.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::{Entry, Extent, Kind, error::LayerError};

const MAGIC: [u8; 8] = *b"\x00waglay\n";
/// To be raised with each change of [`Entry`] or of the layout.
const VERSION: u32 = 1;
const HEADER: usize = 40;
const RECORD_HEADER: usize = 8;
/// Bytes of a record: path, target and attributes are bounded where they are read, and a sparse file's extents by
/// [`super::member::SPARSE_MAX`].
const RECORD_MAX: usize = 1 << 20;
const BUFFER: usize = 64 << 10;

/// Writes an index.
pub(super) struct Writer<'a> {
    out: BufWriter<&'a mut File>,
    entries: u64,
    bytes: u64,
}

impl<'a> Writer<'a> {
    /// Begins an index in an empty file.
    pub(super) fn new(file: &'a mut File) -> Result<Self, LayerError> {
        let mut out = BufWriter::with_capacity(BUFFER, file);
        out.write_all(&[0; HEADER]).map_err(unwritten)?;
        Ok(Self {
            out,
            entries: 0,
            bytes: HEADER as u64,
        })
    }

    /// How many bytes it has so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many entries it has so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// An entry as [`Self::write`] takes it.
    pub(super) fn encode(entry: &Entry) -> Result<Vec<u8>, LayerError> {
        let unwritable = |_| unwritten(io::ErrorKind::InvalidData.into());
        let mut record = postcard::to_extend(entry, vec![0; RECORD_HEADER]).map_err(unwritable)?;
        let (header, body) = record.split_at_mut(RECORD_HEADER);
        if body.len() > RECORD_MAX {
            return Err(unwritten(io::ErrorKind::InvalidData.into()));
        }
        let length =
            u32::try_from(body.len()).map_err(|_| unwritten(io::ErrorKind::InvalidData.into()))?;
        let sums = [length.to_le_bytes(), crc(body).to_le_bytes()];
        header.copy_from_slice(sums.as_flattened());
        Ok(record)
    }

    /// Adds a record.
    pub(super) fn write(&mut self, record: &[u8]) -> Result<(), LayerError> {
        self.out.write_all(record).map_err(unwritten)?;
        self.entries += 1;
        self.bytes += record.len() as u64;
        Ok(())
    }

    /// Writes the header. `unpacked` is what the layer takes in all.
    pub(super) fn finish(mut self, data_blocks: u64, unpacked: u64) -> Result<(), LayerError> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.entries, data_blocks, unpacked] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(&crc(&header).to_le_bytes());
        self.out.seek(SeekFrom::Start(0)).map_err(unwritten)?;
        self.out.write_all(&header).map_err(unwritten)?;
        self.out.flush().map_err(unwritten)
    }
}

fn unwritten(source: io::Error) -> LayerError {
    LayerError::Write {
        what: "index",
        source,
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// A layer's index, read entry by entry, in the archive's order. After an error it is at its end.
#[derive(Debug)]
pub struct Index {
    file: BufReader<File>,
    entries: u64,
    data_blocks: u64,
    unpacked_bytes: u64,
    left: u64,
    over: bool,
    record: Vec<u8>,
}

impl Index {
    /// Opens an index and reads its header.
    ///
    /// # Errors
    /// [`LayerError::Stored`] if it cannot be read, [`LayerError::Version`] if another release wrote it,
    /// [`LayerError::Damaged`] if it is no index.
    pub fn open(path: &Path) -> Result<Self, LayerError> {
        let file = File::open(path).map_err(|source| LayerError::Stored {
            what: "index",
            source,
        })?;
        let mut file = BufReader::with_capacity(BUFFER, file);
        let mut header = [0; HEADER];
        exact(&mut file, &mut header)?;
        let mut rest = header.as_slice();
        if array(&mut rest)? != MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        let version = u32::from_le_bytes(array(&mut rest)?);
        if version != VERSION {
            return Err(LayerError::Version {
                found: version,
                expected: VERSION,
            });
        }
        let entries = u64::from_le_bytes(array(&mut rest)?);
        let data_blocks = u64::from_le_bytes(array(&mut rest)?);
        let unpacked_bytes = u64::from_le_bytes(array(&mut rest)?);
        let sum = u32::from_le_bytes(array(&mut rest)?);
        if header
            .split_last_chunk::<4>()
            .is_none_or(|(summed, _)| crc(summed) != sum)
        {
            return Err(damaged("its header's checksum is wrong"));
        }
        let (left, over, record) = (entries, false, Vec::new());
        Ok(Self {
            file,
            entries,
            data_blocks,
            unpacked_bytes,
            left,
            over,
            record,
        })
    }

    /// How many blocks the layer's data has.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// How many entries it has in all.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// What data and index take together, in bytes.
    #[must_use]
    pub fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes
    }

    fn read(&mut self) -> Result<Option<Entry>, LayerError> {
        if self.left == 0 {
            let mut more = [0];
            return match self.file.read(&mut more) {
                Ok(0) => Ok(None),
                Ok(_) => Err(damaged("more follows its end")),
                Err(source) => Err(LayerError::Stored {
                    what: "index",
                    source,
                }),
            };
        }
        let mut header = [0; RECORD_HEADER];
        exact(&mut self.file, &mut header)?;
        let mut rest = header.as_slice();
        let length = u32::from_le_bytes(array(&mut rest)?);
        let sum = u32::from_le_bytes(array(&mut rest)?);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= RECORD_MAX);
        self.record
            .resize(length.ok_or_else(|| damaged("a record is too long"))?, 0);
        exact(&mut self.file, &mut self.record)?;
        if crc(&self.record) != sum {
            return Err(damaged("a record's checksum is wrong"));
        }
        let (entry, rest) = postcard::take_from_bytes::<Entry>(&self.record)
            .map_err(|_| damaged("a record is malformed"))?;
        if !rest.is_empty() || !self.sound(&entry) {
            return Err(damaged("a record is malformed"));
        }
        self.left -= 1;
        Ok(Some(entry))
    }

    /// Whether the numbers that others compute with fit each other.
    fn sound(&self, entry: &Entry) -> bool {
        let Kind::File { size, extents } = &entry.kind else {
            return entry.mtime_nanos < 1_000_000_000;
        };
        let mut covered = 0;
        let in_order = extents.iter().all(|extent: &Extent| {
            let fits = extent.file_block >= covered
                && extent.blocks > 0
                && ends(extent.data_block, extent.blocks)
                    .is_some_and(|end| end <= self.data_blocks);
            covered = ends(extent.file_block, extent.blocks).unwrap_or(u64::MAX);
            fits
        });
        in_order && covered <= size.div_ceil(super::BLOCK) && entry.mtime_nanos < 1_000_000_000
    }
}

fn ends(first: u64, blocks: u64) -> Option<u64> {
    first.checked_add(blocks)
}

impl Iterator for Index {
    type Item = Result<Entry, LayerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let read = self.read().transpose();
        self.over = !matches!(read, Some(Ok(_)));
        read
    }
}

fn damaged(how: &'static str) -> LayerError {
    LayerError::Damaged { what: "index", how }
}

fn exact(file: &mut impl Read, into: &mut [u8]) -> Result<(), LayerError> {
    file.read_exact(into).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut"),
        _ => LayerError::Stored {
            what: "index",
            source,
        },
    })
}

/// Takes the next bytes off a header.
fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], LayerError> {
    let (taken, behind) = rest
        .split_first_chunk()
        .ok_or_else(|| damaged("it is cut"))?;
    *rest = behind;
    Ok(*taken)
}
