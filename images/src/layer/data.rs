// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A layer's data: contents of files, each from a block's beginning, and how one is read back.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt as _;

use super::{BLOCK, Extent, error::LayerError};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 256 << 10;

/// Writes contents one after the other.
pub(super) struct Data<W: Write> {
    out: BufWriter<W>,
    blocks: u64,
    /// Of the file at hand.
    extents: Vec<Extent>,
    /// Where in the file at hand the next byte goes.
    offset: u64,
}

impl<W: Write> Data<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER, out),
            blocks: 0,
            extents: Vec::new(),
            offset: 0,
        }
    }

    /// How many blocks there are, of the file at hand too.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Goes on at this place of the file, which is not before the last byte. What is between becomes a hole, as far as
    /// it is whole blocks.
    pub(super) fn seek(&mut self, offset: u64) -> Result<(), LayerError> {
        let covered = self
            .extents
            .last()
            .map_or(0, |last| last.file_block + last.blocks);
        let block = offset / BLOCK;
        if block < covered {
            self.zeros(offset.saturating_sub(self.offset))?;
        } else {
            self.fill_up()?;
            if self.extents.is_empty() || block > covered {
                self.extents.push(Extent {
                    file_block: block,
                    data_block: self.blocks,
                    blocks: 0,
                });
            }
            self.zeros(offset % BLOCK)?;
        }
        self.offset = offset;
        Ok(())
    }

    /// Writes bytes of the file at hand.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.out.write_all(bytes).map_err(failed)?;
        self.offset += bytes.len() as u64;
        if let Some(last) = self.extents.last_mut() {
            last.blocks = self.offset.div_ceil(BLOCK) - last.file_block;
            self.blocks = last.data_block + last.blocks;
        }
        Ok(())
    }

    /// Ends the file at hand.
    pub(super) fn end(&mut self) -> Result<Vec<Extent>, LayerError> {
        self.fill_up()?;
        self.offset = 0;
        Ok(std::mem::take(&mut self.extents))
    }

    /// Writes all that is still held.
    pub(super) fn finish(mut self) -> Result<u64, LayerError> {
        self.out.flush().map_err(failed)?;
        Ok(self.blocks)
    }

    fn fill_up(&mut self) -> Result<(), LayerError> {
        self.zeros(self.offset.next_multiple_of(BLOCK) - self.offset)
    }

    /// Writes zeros that are within the last block, less than a block of them.
    fn zeros(&mut self, count: u64) -> Result<(), LayerError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        const { assert!(ZEROS.len() as u64 == BLOCK) };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.out
            .write_all(ZEROS.get(..count).unwrap_or(&ZEROS))
            .map_err(failed)
    }
}

fn failed(source: io::Error) -> LayerError {
    LayerError::Write {
        what: "data",
        source,
    }
}

/// Reads a file's content from its layer's data: `size` and `extents` are [`super::Kind::File`]'s.
///
/// # Errors
/// [`LayerError::ContentTooLong`] if it has more than `limit` bytes, [`LayerError::Damaged`] if an extent is not within the
/// file or the data.
pub fn read_content(
    data: &File,
    size: u64,
    extents: &[Extent],
    limit: usize,
) -> Result<Vec<u8>, LayerError> {
    let too_long = || LayerError::ContentTooLong {
        size,
        limit: limit as u64,
    };
    let length = usize::try_from(size)
        .ok()
        .filter(|length| *length <= limit)
        .ok_or_else(too_long)?;
    let mut content = vec![0; length];
    for extent in extents {
        let damaged = || LayerError::Damaged {
            what: "data",
            how: "an extent is out of place",
        };
        let bytes = |blocks: u64| blocks.checked_mul(BLOCK);
        let start = bytes(extent.file_block)
            .filter(|start| *start < size)
            .ok_or_else(damaged)?;
        let from = bytes(extent.data_block).ok_or_else(damaged)?;
        let until = bytes(extent.blocks).and_then(|length| start.checked_add(length));
        let until = until.ok_or_else(damaged)?.min(size);
        let (Ok(start), Ok(until)) = (usize::try_from(start), usize::try_from(until)) else {
            return Err(damaged());
        };
        let into = content.get_mut(start..until).ok_or_else(damaged)?;
        data.read_exact_at(into, from)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => LayerError::Damaged {
                    what: "data",
                    how: "it is cut",
                },
                _ => LayerError::Stored {
                    what: "data",
                    source,
                },
            })?;
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_whole_blocks_and_near_regions_share_theirs() {
        let mut data = Data::new(Vec::new());
        // One region at the start, one later in the same block, one in the next, one far away, unaligned.
        for (offset, bytes) in [(0, 10), (100, 3996), (5000, 1), (40_970, 5000)] {
            data.seek(offset).unwrap();
            data.write(&vec![b'x'; bytes]).unwrap();
        }
        let extents = data.end().unwrap();
        let expected = [
            Extent {
                file_block: 0,
                data_block: 0,
                blocks: 2,
            },
            Extent {
                file_block: 10,
                data_block: 2,
                blocks: 2,
            },
        ];
        assert_eq!(extents, expected);
        data.seek(0).unwrap();
        data.write(b"next").unwrap();
        assert_eq!(
            data.end().unwrap(),
            [Extent {
                file_block: 0,
                data_block: 4,
                blocks: 1
            }]
        );
        assert!(data.end().unwrap().is_empty());
        let bytes = data.out.into_inner().unwrap();
        assert_eq!(bytes.len(), 5 * 4096);
        let set = |from: usize, until: usize| bytes[from..until].iter().all(|byte| *byte == b'x');
        let zero = |from: usize, until: usize| bytes[from..until].iter().all(|byte| *byte == 0);
        assert!(set(0, 10) && zero(10, 100) && set(100, 4096));
        assert!(zero(4096, 5000) && set(5000, 5001) && zero(5001, 8192));
        assert!(zero(8192, 8202) && set(8202, 13_202) && zero(13_202, 16_384));
    }

    #[test]
    fn content_comes_back_with_its_holes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'a'; 4096]).unwrap();
        file.write_all(&[b'b'; 4096]).unwrap();
        let extents = [
            Extent {
                file_block: 1,
                data_block: 1,
                blocks: 1,
            },
            Extent {
                file_block: 3,
                data_block: 0,
                blocks: 1,
            },
        ];
        let content = read_content(&file, 3 * 4096 + 5, &extents, 1 << 20).unwrap();
        let expected = [
            vec![0; 4096],
            vec![b'b'; 4096],
            vec![0; 4096],
            vec![b'a'; 5],
        ]
        .concat();
        assert_eq!(content, expected);
        let read = |size, extent: Extent| read_content(&file, size, &[extent], 1 << 20);
        let extent = |file_block, data_block, blocks| Extent {
            file_block,
            data_block,
            blocks,
        };
        for out_of_place in [
            extent(1, 0, 1),
            extent(u64::MAX, 0, 1),
            extent(0, u64::MAX, 1),
            extent(0, 0, u64::MAX),
            extent(0, 2, 1),
        ] {
            let error = read(4096, out_of_place);
            assert!(
                matches!(error, Err(LayerError::Damaged { .. })),
                "{out_of_place:?}"
            );
        }
        let error = read((1 << 20) + 1, extent(0, 0, 1));
        assert!(matches!(error, Err(LayerError::ContentTooLong { .. })));
    }
}
