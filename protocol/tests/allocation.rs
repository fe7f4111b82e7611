// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How much memory a hostile payload can make its receiver allocate: a stated multiple of the limit.
//!
//! A file of its own, because it replaces the global allocator, and a single test, because that
//! counts every thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use waggle_protocol::{
    boot::{BootConfig, Ready},
    codec,
    frame::{Frame, Kind},
    handshake::Hello,
    limits::{REPLY_PAYLOAD_MAX, REQUEST_PAYLOAD_MAX},
    message::{Reply, Request, SearchRecord, Tool},
};

/// What the host may have to allocate for one reply, in multiples of `REPLY_PAYLOAD_MAX`. A list is
/// the worst: an entry of 48 bytes takes 5 on the wire; and serde reserves up to 1 MiB on the word of
/// a length alone.
const REPLY_MULTIPLE: usize = 20;
/// The same in the guest, whose host is not hostile: of `REQUEST_PAYLOAD_MAX`. A vector of empty
/// words is the worst, with 24 bytes for 1 on the wire, once more for doubling, and the old half
/// while it moves.
const REQUEST_MULTIPLE: usize = 72;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    // `realloc` is the trait's own: allocate, copy, free. Its peak holds both, the worst there is.
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes allocated at a time while `payload` is decoded as an `M`.
fn peak_of<M: DeserializeOwned>(payload: &[u8]) -> usize {
    let frame = Frame {
        kind: Kind::Control,
        payload: Bytes::copy_from_slice(payload),
    };
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    drop(codec::message::<M>(&frame));
    PEAK.load(Ordering::Relaxed) - before
}

/// Payloads of `limit` bytes at most that claim as much as they can.
fn hostile(limit: usize) -> Vec<Vec<u8>> {
    // The largest lengths that postcard reads, then one that the bytes could fill.
    let claims: [&[u8]; 4] = [
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xff, 0xff, 0x03],
        &[0xff, 0xff, 0x3f],
    ];
    let mut payloads = Vec::new();
    // Every variant of every message starts with one byte; a program's variant is a second one, that
    // of a tool a third. An optional field is such a byte, too.
    let variants: [&[u8]; 7] = [&[], &[0], &[1], &[2], &[2, 0], &[2, 1], &[2, 2]];
    for start in 0..20_u8 {
        for variant in variants {
            for claim in claims {
                for fill in [None, Some(0), Some(1)] {
                    let mut payload = vec![start];
                    payload.extend(variant);
                    payload.extend(claim);
                    if let Some(byte) = fill {
                        payload.resize(limit, byte);
                    }
                    payloads.push(payload);
                }
            }
        }
    }
    payloads
}

#[test]
fn hostile_payloads_allocate_no_more_than_stated() {
    let mut worst_reply = 0;
    for payload in hostile(REPLY_PAYLOAD_MAX) {
        for peak in [
            peak_of::<Reply>(&payload),
            peak_of::<Ready>(&payload),
            peak_of::<SearchRecord>(&payload),
        ] {
            worst_reply = worst_reply.max(peak);
            assert!(
                peak <= REPLY_MULTIPLE * REPLY_PAYLOAD_MAX,
                "{peak} bytes for {:?}...",
                &payload[..payload.len().min(16)]
            );
        }
        assert!(peak_of::<Hello>(&payload) <= REPLY_PAYLOAD_MAX);
    }
    let mut worst_request = 0;
    for payload in hostile(REQUEST_PAYLOAD_MAX) {
        for peak in [
            peak_of::<Request>(&payload),
            peak_of::<Tool>(&payload),
            peak_of::<BootConfig>(&payload),
        ] {
            worst_request = worst_request.max(peak);
            assert!(
                peak <= REQUEST_MULTIPLE * REQUEST_PAYLOAD_MAX,
                "{peak} bytes for {:?}...",
                &payload[..payload.len().min(16)]
            );
        }
    }
    // The payloads above do reach the lists; else this test would show nothing.
    assert!(worst_reply > 8 * REPLY_PAYLOAD_MAX, "{worst_reply}");
    assert!(worst_request > 24 * REQUEST_PAYLOAD_MAX, "{worst_request}");
}
