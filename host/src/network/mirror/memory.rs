// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The memory that documents may take up, and the bytes that take it.
//!
//! A document is taken in whole, because its links are rewritten. Room for it is had before its first byte
//! is, and belongs to the bytes from then on: it is given back when the last holder of any part of them
//! lets go, be that a client that reads slowly. So what is held never exceeds what there is, whoever holds it.
//!
//! Not counted: what rewriting a document needs beside it for that moment.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::Limits;

/// How many documents of the largest size ([`Limits::document_bytes`]) are held at once. More smaller ones:
/// those of an install are asked for together.
pub(super) const AT_ONCE: u64 = 4;

/// What is counted in.
const UNIT_BYTES: u64 = 64 * 1024;

/// There is no room: others hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("documents take up all the memory that they may")]
pub(super) struct NoMemory;

/// All of it.
#[derive(Debug)]
pub(super) struct Memory {
    units: Arc<Semaphore>,
    /// How long one waits for others to let go.
    patience: Duration,
}

/// A part of it, for bytes that are to come.
#[derive(Debug)]
pub(super) struct Room {
    units: OwnedSemaphorePermit,
    all: Arc<Semaphore>,
}

/// Bytes with the room that they take.
struct Held {
    bytes: Vec<u8>,
    _room: Room,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT_BYTES + 1).unwrap_or(u32::MAX)
}

impl Memory {
    pub(super) fn new(limits: &Limits) -> Self {
        let all = AT_ONCE.saturating_mul(units(limits.document_bytes).into());
        let all = usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))),
            patience: limits.answer,
        }
    }

    /// Room for `bytes`, once others have let go of it. Cancel-safe.
    pub(super) async fn room(&self, bytes: u64) -> Result<Room, NoMemory> {
        let all = Arc::clone(&self.units);
        let units = timeout(self.patience, all.acquire_many_owned(units(bytes)));
        match units.await {
            Ok(Ok(units)) => Ok(Room {
                units,
                all: Arc::clone(&self.units),
            }),
            _ => Err(NoMemory),
        }
    }

    /// How much there is left, in units.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.units.available_permits()
    }
}

impl Room {
    /// Makes it as large as `bytes` need. Does not wait: who has some and waits for more would wait for others
    /// who do the same.
    pub(super) fn fit(&mut self, bytes: usize) -> Result<(), NoMemory> {
        let wanted = units(u64::try_from(bytes).unwrap_or(u64::MAX));
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let has = self.units.num_permits();
        if has > wanted {
            drop(self.units.split(has - wanted));
        } else if has < wanted {
            let more = u32::try_from(wanted - has).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.all).try_acquire_many_owned(more);
            self.units.merge(more.map_err(|_| NoMemory)?);
        }
        Ok(())
    }

    /// `bytes`, which have this room until nobody has any of them.
    pub(super) fn hold(mut self, bytes: Vec<u8>) -> Result<Bytes, NoMemory> {
        self.fit(bytes.capacity())?;
        Ok(Bytes::from_owner(Held { bytes, _room: self }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(document_bytes: u64) -> Memory {
        Memory::new(&Limits {
            document_bytes,
            ..Limits::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_given_back_by_the_last_who_holds_a_part() {
        let memory = memory(10 * UNIT_BYTES);
        let all = memory.left();
        assert_eq!(all, 44);
        let room = memory.room(10 * UNIT_BYTES).await.expect("room");
        assert_eq!(memory.left(), all - 11);
        let bytes = room.hold(vec![7; 3 * 64 * 1024]).expect("it is smaller");
        assert_eq!(memory.left(), all - 4, "no more than it is");
        let part = bytes.slice(5..6);
        drop(bytes);
        assert_eq!(memory.left(), all - 4);
        drop(part);
        assert_eq!(memory.left(), all);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_none_is_told_and_who_waits_gets_it() {
        let memory = memory(UNIT_BYTES);
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            let room = memory.room(UNIT_BYTES).await.expect("room");
            held.push(room.hold(vec![0; 100_000]).expect("room"));
        }
        assert_eq!(memory.room(1).await.err(), Some(NoMemory));
        let next = memory.room(UNIT_BYTES);
        let letting_go = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(held.pop());
        };
        let (room, ()) = tokio::join!(next, letting_go);
        let room = room.expect("in time");
        // More than was asked for is there for nobody.
        assert_eq!(room.hold(vec![0; 1 << 20]).err(), Some(NoMemory));
        assert_eq!(memory.left(), 2, "and what there was is free again");
    }
}
