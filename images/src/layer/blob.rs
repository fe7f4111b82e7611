// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The uncompressing side of a conversion: from a blob to pieces of its archive.
//!
//! It runs beside the side that reads the archive ([`super::stream`]), since uncompressing costs about as much as
//! all else together. It alone sees the blob and the caller's wish to stop.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use super::{
    compression::{Compression, MAGIC},
    error::LayerError,
};

/// Bytes of a piece. Large enough that handing it over costs nothing, small enough for the processor's cache.
pub(super) const PIECE: usize = 256 << 10;
/// Pieces that may wait. What a conversion holds in memory is these, whatever the archive says.
pub(super) const WAITING: usize = 4;
/// The largest window of a zstd frame, as a power of two: 128 MiB, what `zstd -d` takes unless told otherwise.
const ZSTD_WINDOW_LOG: u32 = 27;

/// What is handed over.
pub(super) enum Piece {
    /// The next bytes of the archive.
    Bytes(Vec<u8>),
    /// The blob is at its end, and all of it was sound. Without this the archive is not whole.
    End,
}

/// Why the reading of a blob failed, kept aside while the decoders pass an [`io::Error`] on.
enum Failure {
    Stopped,
    Read(io::Error),
}

/// The blob, asked before each read whether to go on.
struct Source<'a, R> {
    blob: R,
    stop: &'a dyn Fn() -> bool,
    failure: &'a Cell<Option<Failure>>,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if (self.stop)() {
                self.failure.set(Some(Failure::Stopped));
                return Err(io::ErrorKind::Other.into());
            }
            match self.blob.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failure.set(Some(Failure::Read(error)));
                    return Err(io::ErrorKind::Other.into());
                }
                read => return read,
            }
        }
    }
}

/// Uncompresses the blob and hands over its archive. Ends early, and well, once nobody takes it.
///
/// `spent` gives pieces back that are no longer needed.
pub(super) fn feed(
    blob: impl Read,
    expect: Option<Compression>,
    stop: &dyn Fn() -> bool,
    pieces: &SyncSender<Piece>,
    spent: &Receiver<Vec<u8>>,
) -> Result<(), LayerError> {
    let failure = Cell::new(None);
    let mut source = Source {
        blob,
        stop,
        failure: &failure,
    };
    let blame = |compression: Compression, error: io::Error| match failure.take() {
        Some(Failure::Stopped) => LayerError::Stopped,
        Some(Failure::Read(source)) => LayerError::Read(source),
        None if error.kind() == io::ErrorKind::UnexpectedEof => LayerError::Cut { compression },
        None => LayerError::Corrupt {
            compression,
            source: error,
        },
    };

    let mut head = Vec::with_capacity(MAGIC);
    let first = source.by_ref().take(MAGIC as u64).read_to_end(&mut head);
    first.map_err(|error| blame(Compression::Plain, error))?;
    let found = Compression::of_content(&head)?;
    if let Some(expected) = expect.filter(|expected| *expected != found) {
        return Err(LayerError::Contradiction { expected, found });
    }

    let whole = BufReader::with_capacity(PIECE, Cursor::new(head).chain(source));
    let ended = match found {
        Compression::Plain => pump(whole, stop, pieces, spent),
        Compression::Gzip => pump(
            flate2::bufread::MultiGzDecoder::new(whole),
            stop,
            pieces,
            spent,
        ),
        Compression::Zstd => zstd(whole).and_then(|decoder| pump(decoder, stop, pieces, spent)),
    };
    match ended {
        Ok(true) => Ok(()),
        Ok(false) => Err(LayerError::Stopped),
        Err(error) => Err(blame(found, error)),
    }
}

fn zstd<R: io::BufRead>(blob: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

/// Hands over all that the decoder gives. False if it was stopped.
fn pump(
    mut decoder: impl Read,
    stop: &dyn Fn() -> bool,
    pieces: &SyncSender<Piece>,
    spent: &Receiver<Vec<u8>>,
) -> io::Result<bool> {
    loop {
        // A bomb gives many pieces for one read of the blob.
        if stop() {
            return Ok(false);
        }
        let mut piece = spent.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let filled = fill(&mut decoder, &mut piece)?;
        piece.truncate(filled);
        if filled > 0 && pieces.send(Piece::Bytes(piece)).is_err() {
            return Ok(true);
        }
        if filled < PIECE {
            // Nobody left to take it: the other side has a reason of its own.
            let _ = pieces.send(Piece::End);
            return Ok(true);
        }
    }
}

/// Reads until the piece is full or the stream ends.
fn fill(decoder: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = piece.get_mut(filled..).filter(|room| !room.is_empty()) {
        match decoder.read(room) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
