// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The archive as the reading side sees it: bytes in order, hashed and counted as they come.
//!
//! A window holds what is not yet consumed, in one stretch, since the parser wants whole headers. It grows only while
//! a header is longer than the pieces that come, up to [`HEADER_MAX`].

use std::sync::mpsc::{Receiver, Sender};

use sha2::{Digest as _, Sha256};

use super::{
    blob::{PIECE, Piece},
    convert::Tally,
    error::LayerError,
};
use crate::Digest;

/// Bytes of a header with all its extensions: 1 MiB of PAX records and GNU names, and a sparse file's map.
pub(super) const HEADER_MAX: usize = 4 << 20;
/// Bytes behind the archive's end. Tools pad to a record of 10 KiB, or to whatever the operator of a tape drive chose.
const TRAILER_MAX: u64 = 16 << 20;

/// Bytes of the archive, in order.
pub(super) struct Stream<'a> {
    pieces: Receiver<Piece>,
    spent: Sender<Vec<u8>>,
    window: Vec<u8>,
    /// Where in the window the next byte is.
    at: usize,
    ended: bool,
    hasher: Sha256,
    received: u64,
    limit: u64,
    tally: &'a dyn Tally,
}

/// Why there is no more.
pub(super) enum Ended {
    /// This is why.
    Error(LayerError),
    /// The other side gave up, and knows why.
    Abandoned,
}

impl From<LayerError> for Ended {
    fn from(error: LayerError) -> Self {
        Self::Error(error)
    }
}

impl<'a> Stream<'a> {
    /// Reads what `pieces` brings, at most `limit` bytes, and tells `tally`: each costs time, even if nothing is kept
    /// of it.
    pub(super) fn new(
        pieces: Receiver<Piece>,
        spent: Sender<Vec<u8>>,
        limit: u64,
        tally: &'a dyn Tally,
    ) -> Self {
        Self {
            pieces,
            spent,
            window: Vec::new(),
            at: 0,
            ended: false,
            hasher: Sha256::new(),
            received: 0,
            limit,
            tally,
        }
    }

    /// What is there and not consumed.
    pub(super) fn rest(&self) -> &[u8] {
        self.window.get(self.at..).unwrap_or_default()
    }

    /// How many bytes were consumed.
    pub(super) fn position(&self) -> u64 {
        self.received - self.rest().len() as u64
    }

    /// Consumes bytes of [`Self::rest`].
    pub(super) fn consume(&mut self, count: usize) {
        self.at = self.window.len().min(self.at + count);
    }

    /// Makes the rest longer. False at the end.
    fn more(&mut self) -> Result<bool, Ended> {
        if self.ended {
            return Ok(false);
        }
        let piece = match self.pieces.recv() {
            Ok(Piece::Bytes(piece)) => piece,
            Ok(Piece::End) => {
                self.ended = true;
                return Ok(false);
            }
            Err(_) => return Err(Ended::Abandoned),
        };
        self.hasher.update(&piece);
        self.received += piece.len() as u64;
        if self.received > self.limit {
            let (needed, limit) = (self.received, self.limit);
            return Err(LayerError::TooLarge { needed, limit }.into());
        }
        if !self.tally.reach(self.received) {
            return Err(LayerError::Stopped.into());
        }
        let used = if self.rest().is_empty() {
            std::mem::replace(&mut self.window, piece)
        } else {
            self.window.drain(..self.at);
            self.window.extend_from_slice(&piece);
            piece
        };
        self.at = 0;
        // One that grew for a long header is not to stay. The other side may be done already.
        if used.capacity() <= 2 * PIECE {
            let _ = self.spent.send(used);
        }
        Ok(true)
    }

    /// Makes the rest longer for a header that needs at least `wanted` bytes. False at the end.
    ///
    /// It at least doubles: the parser begins anew each time, and must not do so once for each block.
    pub(super) fn grow(&mut self, wanted: usize) -> Result<bool, Ended> {
        let before = self.rest().len();
        if wanted.max(before) > HEADER_MAX {
            let (at, limit) = (self.position(), HEADER_MAX);
            return Err(LayerError::HeaderTooLong { at, limit }.into());
        }
        let target = wanted.max(before * 2).min(HEADER_MAX + 1);
        while self.rest().len() < target && self.more()? {}
        Ok(self.rest().len() > before)
    }

    /// Consumes `count` bytes, and shows them piece by piece.
    pub(super) fn read(
        &mut self,
        count: u64,
        what: &'static str,
        mut show: impl FnMut(&[u8]) -> Result<(), LayerError>,
    ) -> Result<(), Ended> {
        let mut left = count;
        while left > 0 {
            if self.rest().is_empty() && !self.more()? {
                let at = self.position();
                return Err(LayerError::Truncated { at, what }.into());
            }
            let rest = self.rest();
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            show(rest.get(..length).unwrap_or(rest))?;
            self.consume(length);
            left -= length as u64;
        }
        Ok(())
    }

    /// Consumes `count` bytes of no interest.
    pub(super) fn skip(&mut self, count: u64, what: &'static str) -> Result<(), Ended> {
        self.read(count, what, |_| Ok(()))
    }

    /// Reads what follows the archive's end, which counts for nothing but the digest. Docker and containerd do the
    /// same, whatever it is.
    pub(super) fn finish(mut self) -> Result<Digest, Ended> {
        let end = self.position();
        loop {
            self.at = self.window.len();
            if self.position() - end > TRAILER_MAX {
                return Err(LayerError::Trailer { limit: TRAILER_MAX }.into());
            }
            if !self.more()? {
                return Ok(Digest::finish(self.hasher));
            }
        }
    }
}
