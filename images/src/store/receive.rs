// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Receives a blob from where it comes: once for all who want it, and from where the last attempt got to.
//!
//! Two halves: this task reads the stream, a thread hashes and writes. The channel between them is short, so memory
//! stays bounded and a slow disk slows the network down. The thread owns the lock and the visit: if this task is
//! dropped, the channel closes, the thread leaves the partial file as it is and lets go.

use std::future::Future;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::locks::Lock;
use super::partial::{Partial, Unfinished};
use super::{Stop, StoreError, Visit};
use crate::Digest;

/// A blob as a descriptor states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Where blobs come from.
pub trait Origin: Sync {
    /// Why it does not give one.
    type Error: std::error::Error + Send + Sync + 'static;
    /// What it gives.
    type Stream: Stream<Item = Result<Bytes, Self::Error>> + Send + Unpin;

    /// Opens a blob at an offset. It tries again by itself where that makes sense, and so does the stream when it
    /// breaks: a failure is final. Cancel-safe.
    fn open(
        &self,
        wanted: &Wanted,
        from: u64,
    ) -> impl Future<Output = Result<Self::Stream, Self::Error>> + Send;
}

/// Why a blob was not received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError<E: std::error::Error + 'static> {
    /// The store could not take it, or it was not what it should be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It could not be had.
    #[error(transparent)]
    Origin(E),
}

/// Pieces on their way to the disk: as many as keep the network busy while a piece is hashed.
const PIECES: usize = 16;

enum Piece {
    Data(Bytes),
    /// All was received.
    End,
}

impl Visit {
    /// Sees to it that a blob is in the store, and tells each piece's size to `on_bytes` (what is there already
    /// comes first). Dropping the future ends it soon; what was received stays for the next one.
    ///
    /// # Errors
    ///
    /// The origin does not give it, its content is wrong, or there is no room. The store has nothing of it then, but
    /// possibly a part.
    pub async fn receive<O: Origin>(
        &self,
        wanted: Wanted,
        origin: &O,
        stop: &Stop,
        on_bytes: &(dyn Fn(u64) + Sync),
    ) -> Result<(), ReceiveError<O::Error>> {
        // Twice: a partial file that was damaged while nobody looked is found out at the end only.
        for attempt in 0..2 {
            let lock = self.lock("blob", &wanted.digest).await?;
            if self.has_blob(&wanted.digest, Some(wanted.size))? {
                on_bytes(wanted.size);
                return Ok(());
            }
            let outcome = self
                .receive_locked(wanted, origin, stop, on_bytes, lock)
                .await?;
            match outcome {
                Ok(()) => return Ok(()),
                Err(Unfinished::Failed(error)) => return Err(error.into()),
                Err(Unfinished::Retry) => {
                    tracing::warn!(digest = %wanted.digest, attempt, "a partial download was damaged: once again");
                }
            }
        }
        Err(StoreError::Missing {
            what: "the download",
            digest: wanted.digest,
            dir: self.store().dir().to_owned(),
        }
        .into())
    }

    async fn receive_locked<O: Origin>(
        &self,
        wanted: Wanted,
        origin: &O,
        stop: &Stop,
        on_bytes: &(dyn Fn(u64) + Sync),
        lock: Lock,
    ) -> Result<Result<(), Unfinished>, ReceiveError<O::Error>> {
        let mut writer = Writer::start(self, wanted, stop, lock);
        let Some(there) = writer.there().await else {
            return Ok(writer.outcome().await);
        };
        on_bytes(there);
        if there < wanted.size {
            let mut stream = origin
                .open(&wanted, there)
                .await
                .map_err(ReceiveError::Origin)?;
            while let Some(bytes) = stream.next().await {
                let bytes = bytes.map_err(ReceiveError::Origin)?;
                let count = bytes.len() as u64;
                if writer.pieces.send(Piece::Data(bytes)).await.is_err() {
                    // It has failed.
                    return Ok(writer.outcome().await);
                }
                on_bytes(count);
            }
        }
        // If the thread has failed, it says so itself.
        let _ = writer.pieces.send(Piece::End).await;
        Ok(writer.outcome().await)
    }
}

/// The thread that hashes and writes.
struct Writer {
    pieces: mpsc::Sender<Piece>,
    there: Option<oneshot::Receiver<u64>>,
    thread: JoinHandle<Result<(), Unfinished>>,
}

impl Writer {
    fn start(visit: &Visit, wanted: Wanted, stop: &Stop, lock: Lock) -> Self {
        let (pieces, incoming) = mpsc::channel(PIECES);
        let (ready, there) = oneshot::channel();
        let visit = visit.clone();
        let stop = stop.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let written = write(&visit, wanted, &stop, ready, incoming);
            // In this order: who gets the lock next finds the blob.
            drop(lock);
            written
        });
        Self {
            pieces,
            there: Some(there),
            thread,
        }
    }

    /// How much of the blob is there already; none if the thread has failed.
    async fn there(&mut self) -> Option<u64> {
        self.there.take()?.await.ok()
    }

    async fn outcome(self) -> Result<(), Unfinished> {
        drop(self.pieces);
        let thread = self.thread;
        match thread.await {
            Ok(outcome) => outcome,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn write(
    visit: &Visit,
    wanted: Wanted,
    stop: &Stop,
    ready: oneshot::Sender<u64>,
    mut incoming: mpsc::Receiver<Piece>,
) -> Result<(), Unfinished> {
    let mut partial = Partial::open(visit.store(), wanted, stop).map_err(Unfinished::Failed)?;
    // If nobody listens any more, the channel is closed as well.
    let _ = ready.send(partial.length());
    loop {
        match incoming.blocking_recv() {
            Some(Piece::Data(bytes)) => partial.write(&bytes).map_err(Unfinished::Failed)?,
            Some(Piece::End) => return partial.finish(),
            None => {
                partial.leave();
                return Err(Unfinished::Failed(StoreError::Stopped));
            }
        }
    }
}
