// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Short channels between a thread that works on an archive and the connection that carries it. The
//! faster side waits for the slower.
//!
//! Invariant: an archive that is cut off is an error on the other side, never an end.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Pieces that may wait.
const PIECES_MAX: usize = 4;

/// A piece, or the end of the archive. A channel that closes without an end was cut off.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    End,
}

/// From a connection to a thread.
pub(super) fn pipe() -> (mpsc::Sender<Piece>, Reader) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let reader = Reader {
        pieces,
        current: Bytes::new(),
        ended: false,
    };
    (sender, reader)
}

/// From a thread to a connection.
pub(super) fn outward() -> (Writer, mpsc::Receiver<Piece>) {
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    (Writer { pieces }, receiver)
}

/// An archive on its way to a thread.
#[derive(Debug)]
pub(super) struct Reader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                None => {
                    let kind = io::ErrorKind::UnexpectedEof;
                    return Err(io::Error::new(kind, "the archive broke off"));
                }
            }
        }
        let length = buffer.len().min(self.current.len());
        let (into, _) = buffer.split_at_mut(length);
        self.current.copy_to_slice(into);
        Ok(length)
    }
}

/// An archive on its way from a thread.
#[derive(Debug)]
pub(super) struct Writer {
    pieces: mpsc::Sender<Piece>,
}

impl Writer {
    /// Says that the archive is whole.
    pub(super) fn end(self) -> io::Result<()> {
        self.send(Piece::End)
    }

    fn send(&self, piece: Piece) -> io::Result<()> {
        self.pieces
            .blocking_send(piece)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the server takes no more"))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(Piece::Data(Bytes::copy_from_slice(bytes)))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_is_said_is_an_end() {
        let (sender, mut reader) = pipe();
        sender
            .try_send(Piece::Data(Bytes::from_static(b"ab")))
            .expect("room");
        sender.try_send(Piece::End).expect("room");
        drop(sender);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("a whole archive");
        assert_eq!(all, b"ab");
        assert_eq!(reader.read(&mut [0]).expect("still at its end"), 0);

        let (sender, mut reader) = pipe();
        drop(sender);
        let error = reader.read(&mut [0]).expect_err("cut off");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
