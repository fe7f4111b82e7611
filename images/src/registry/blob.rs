// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A blob as a stream of bytes that mends itself: what breaks is asked for again from where it broke, by range, from
//! the same place and then from the next.
//!
//! What comes has the length that was stated, or ends with an error. Whether it is the blob is for the receiver to
//! say, who sees all its bytes and hashes them: also those of an earlier run, which a stream does not repeat.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response, StatusCode};

use super::endpoint::Ask;
use super::error::{RegistryError, chain, of_request};
use super::{Place, Registry, Timeouts};
use crate::digest::Digest;
use crate::limits::SETTING_LAYER;
use crate::reference::Reference;

/// After so many bytes a place has earned its attempts anew.
const PROGRESS: u64 = 1 << 20;

/// The bytes of a blob from an offset on. Ends after the stated size, or with an error.
pub struct BlobStream {
    bytes: BoxStream<'static, Result<Bytes, RegistryError>>,
}

impl Stream for BlobStream {
    type Item = Result<Bytes, RegistryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.bytes.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream").finish_non_exhaustive()
    }
}

impl Registry {
    /// The blob from byte `from` on. `size` is what its descriptor states. Cancel-safe; a stream that is dropped
    /// closes its connection.
    ///
    /// # Errors
    /// If no place has it. Later errors are the stream's.
    pub async fn blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        from: u64,
    ) -> Result<BlobStream, RegistryError> {
        let limit = self.inner.options.limits.blob_bytes;
        let what = format!("{digest} of {}", reference.name());
        let host = reference.registry().to_owned();
        if size > limit {
            return Err(RegistryError::TooLarge {
                host,
                what,
                limit,
                setting: Some(SETTING_LAYER),
            });
        }
        if from > size {
            return Err(RegistryError::SizeMismatch {
                host,
                what,
                expected: size,
                actual: from,
            });
        }
        let mut source = Source {
            places: self.places(reference).await?,
            place: 0,
            path: format!("blobs/{digest}"),
            what,
            size,
            at: from,
            open: None,
            failures: 0,
            earned: from,
        };
        // Here, so that what is not there is told before anybody waits for bytes.
        source.ensure_open().await?;
        let bytes = try_unfold(source, async |mut source| {
            let next = source.next().await?;
            Ok(next.map(|bytes| (bytes, source)))
        });
        Ok(BlobStream {
            bytes: bytes.boxed(),
        })
    }
}

/// Where the bytes come from, and how far they are.
struct Source {
    places: Vec<Place>,
    place: usize,
    path: String,
    what: String,
    size: u64,
    /// The next byte to hand on.
    at: u64,
    open: Option<Open>,
    /// Since `earned`.
    failures: u32,
    earned: u64,
}

/// An answer that is being read.
struct Open {
    response: Response,
    /// Bytes before `Source::at` that are still to come, from a registry without ranges.
    skip: u64,
    waited: Duration,
    got: u64,
}

impl Source {
    /// The next bytes; none after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        while self.at < self.size {
            self.ensure_open().await?;
            let error = match self.read().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => continue,
                Err(error) => error,
            };
            self.open = None;
            self.recover(error).await?;
        }
        Ok(None)
    }

    /// Asks until somebody answers.
    async fn ensure_open(&mut self) -> Result<(), RegistryError> {
        while self.open.is_none() && self.at < self.size {
            match self.ask().await {
                Ok(open) => self.open = Some(open),
                Err(error) => self.recover(error).await?,
            }
        }
        Ok(())
    }

    /// Waits for the next attempt, or goes to the next place, or gives up.
    async fn recover(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if self.at - self.earned >= PROGRESS {
            self.earned = self.at;
            self.failures = 0;
        }
        self.failures += 1;
        let Some(place) = self.places.get(self.place) else {
            return Err(error);
        };
        if let Some(wait) = place.retries.wait(self.failures, &error) {
            tracing::debug!(%error, at = self.at, wait_ms = wait.as_millis(), "trying again");
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        if self.place + 1 == self.places.len() {
            return Err(error);
        }
        tracing::warn!(%error, mirror = place.endpoint.name, "a mirror is given up for a blob");
        self.place += 1;
        self.failures = 0;
        Ok(())
    }

    async fn ask(&self) -> Result<Open, RegistryError> {
        let place = self.places.get(self.place);
        // `recover` stays within the list.
        let place = place.ok_or_else(|| self.wrong("", "nothing".to_owned()))?;
        let ask = Ask {
            from: (self.at > 0).then_some(self.at),
            ..Ask::new(Method::GET, &place.repository, &self.path, &self.what)
        };
        let response = place.endpoint.send(&ask).await?;
        let host = &place.endpoint.name;
        let begins = match response.status() {
            StatusCode::PARTIAL_CONTENT => self.range_begin(host, &response)?,
            // One that knows no ranges begins at the start.
            StatusCode::OK => 0,
            status => return Err(self.wrong(host, format!("with HTTP status {status}"))),
        };
        let expected = self.size - begins;
        match response.content_length() {
            Some(actual) if actual != expected => {
                return Err(RegistryError::SizeMismatch {
                    host: host.clone(),
                    what: self.what.clone(),
                    expected: self.size,
                    actual: actual.saturating_add(begins),
                });
            }
            _ => {}
        }
        Ok(Open {
            response,
            skip: self.at - begins,
            waited: Duration::ZERO,
            got: 0,
        })
    }

    /// The first byte of a partial answer, which must be the one that was asked for (RFC 9110, 14.4).
    fn range_begin(&self, host: &str, response: &Response) -> Result<u64, RegistryError> {
        let range = response.headers().get(CONTENT_RANGE);
        let range = range.and_then(|range| range.to_str().ok());
        let first = range
            .and_then(|range| range.strip_prefix("bytes "))
            .and_then(|range| range.split_once('-'))
            .and_then(|(first, _)| first.parse().ok());
        match first {
            Some(first) if first == self.at => Ok(first),
            _ => Err(self.wrong(host, "with another range than was asked for".to_owned())),
        }
    }

    fn wrong(&self, host: &str, detail: String) -> RegistryError {
        RegistryError::Unexpected {
            host: host.to_owned(),
            what: self.what.clone(),
            detail,
        }
    }

    /// The next bytes of the open answer; none if those that came were before the offset.
    async fn read(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let (Some(open), Some(place)) = (&mut self.open, self.places.get(self.place)) else {
            return Ok(None);
        };
        let (host, idle) = (&place.endpoint.name, place.endpoint.timeouts.idle);
        let began = Instant::now();
        let left = idle.saturating_sub(open.waited);
        let chunk = tokio::time::timeout(left, open.response.chunk()).await;
        // Only waiting counts, not what the receiver takes for its part.
        open.waited += began.elapsed();
        let chunk = chunk.map_err(|_| RegistryError::Stalled {
            host: host.clone(),
            what: self.what.clone(),
            waited: idle,
        })?;
        let broken = |detail| RegistryError::Broken {
            host: host.clone(),
            what: self.what.clone(),
            received: self.at,
            detail,
        };
        let chunk = chunk.map_err(|error| match of_request(host, &self.what, error) {
            RegistryError::Broken { detail, .. } => broken(detail),
            error => broken(chain(&error)),
        })?;
        let mut chunk = chunk.ok_or_else(|| broken("it ended early".to_owned()))?;
        open.got += chunk.len() as u64;
        if open.got >= Timeouts::FLOOR {
            open.got = 0;
            open.waited = Duration::ZERO;
        }
        if open.skip > 0 {
            let skipped = chunk
                .len()
                .min(usize::try_from(open.skip).unwrap_or(usize::MAX));
            chunk.advance(skipped);
            open.skip -= skipped as u64;
        }
        let end = self.at + chunk.len() as u64;
        if end > self.size {
            return Err(RegistryError::SizeMismatch {
                host: host.clone(),
                what: self.what.clone(),
                expected: self.size,
                actual: end,
            });
        }
        self.at = end;
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}
