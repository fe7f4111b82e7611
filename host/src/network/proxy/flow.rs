// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Bytes that move between an environment and the outside: counted, within the environment's budget, and
//! not for longer than somebody moves some.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use crate::network::audit::Counters;

/// The bytes that one environment may move, over all its connections.
#[derive(Debug)]
pub(super) struct Budget {
    /// None: as many as it likes.
    max: Option<u64>,
    used: AtomicU64,
}

impl Budget {
    pub(super) fn new(max: Option<u64>) -> Self {
        Self {
            max,
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn max(&self) -> Option<u64> {
        self.max
    }

    pub(super) fn is_spent(&self) -> bool {
        self.max
            .is_some_and(|max| self.used.load(Ordering::Relaxed) >= max)
    }

    fn spend(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// One connection's bytes.
#[derive(Debug)]
pub(super) struct Flow {
    counters: Arc<Counters>,
    budget: Arc<Budget>,
    began: Instant,
    /// When bytes moved last, in milliseconds since it began.
    moved: AtomicU64,
}

impl Flow {
    pub(super) fn new(counters: Arc<Counters>, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            counters,
            budget,
            began: Instant::now(),
            moved: AtomicU64::new(0),
        })
    }

    fn count(&self, counter: &AtomicU64, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if bytes > 0 {
            counter.fetch_add(bytes, Ordering::Relaxed);
            self.budget.spend(bytes);
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.moved.store(now, Ordering::Relaxed);
        }
    }

    /// To the environment.
    pub(super) fn came_in(&self, bytes: usize) {
        self.count(&self.counters.bytes_in, bytes);
    }

    /// Refuses if the environment has used up what it may.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.budget.is_spent() {
            return Err(io::Error::other(
                "the environment has used up its network bytes (WAGGLE_NETWORK_MAX_MB)",
            ));
        }
        Ok(())
    }

    /// Resolves once nothing has moved for `idle`.
    pub(super) async fn is_idle(&self, idle: Duration) {
        loop {
            let moved = self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let deadline = moved + idle;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

/// A stream to the outside whose bytes are counted.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    flow: Arc<Flow>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, flow: Arc<Flow>) -> Self {
        Self { stream, flow }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.flow.check()?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.flow
            .came_in(buffer.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.flow.check()?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.flow.count(&self.flow.counters.bytes_out, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
