// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! When to ask a registry again, and how long to wait before.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::error::RegistryError;

/// How often, and how long apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Requests in all for one thing, at least one.
    pub attempts: u32,
    /// The wait before the second; it doubles each time.
    pub first: Duration,
    /// The longest wait, also of those that a registry asks for: who is told to wait longer gives up.
    pub longest: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 5,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
        }
    }
}

impl Retries {
    /// How long to wait after attempt number `attempt` (from 1) failed so. None: do not try again.
    #[must_use]
    pub fn wait(&self, attempt: u32, error: &RegistryError) -> Option<Duration> {
        if attempt >= self.attempts || !error.is_transient() {
            return None;
        }
        match error.retry_after() {
            Some(stated) if stated > self.longest => None,
            Some(stated) => Some(stated.max(self.backoff(attempt))),
            None => Some(self.backoff(attempt)),
        }
    }

    /// Half of it fixed, half by chance, so that those who failed together do not return together.
    fn backoff(&self, attempt: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let full = self.first.saturating_mul(doubled).min(self.longest);
        let half = full / 2;
        half + half.mul_f64(rand::random::<f64>())
    }

    /// Runs `request` until it succeeds or fails for good.
    // Not `AsyncFnMut`: of such a closure the compiler cannot show that its futures may cross threads.
    pub(super) async fn run<T, F: Future<Output = Result<T, RegistryError>>>(
        &self,
        mut request: impl FnMut() -> F,
    ) -> Result<T, RegistryError> {
        let mut attempt = 1;
        loop {
            let error = match request().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let Some(wait) = self.wait(attempt, &error) else {
                return Err(error);
            };
            tracing::debug!(%error, attempt, wait_ms = wait.as_millis(), "trying again");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3). Anything else says nothing.
pub(super) fn stated(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date that has passed: at once.
    Some(
        date.duration_since(SystemTime::now())
            .unwrap_or(Duration::ZERO),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn limited(after: Option<u64>) -> RegistryError {
        RegistryError::RateLimited {
            host: "r.example".to_owned(),
            after: after.map(Duration::from_secs),
        }
    }

    #[test]
    fn waits_double_within_bounds_and_end() {
        let retries = Retries::default();
        for (attempt, full) in [(1, 500), (2, 1000), (3, 2000), (4, 4000)] {
            let wait = retries.wait(attempt, &limited(None)).expect("another try");
            let full = Duration::from_millis(full);
            assert!(wait >= full / 2 && wait <= full, "{attempt}: {wait:?}");
        }
        assert_eq!(retries.wait(5, &limited(None)), None);
        assert!(retries.backoff(4_000_000_000) <= retries.longest);
    }

    #[test]
    fn a_stated_wait_is_honoured_or_ends_it() {
        let retries = Retries::default();
        let wait = retries.wait(1, &limited(Some(7)));
        assert_eq!(wait, Some(Duration::from_secs(7)));
        assert_eq!(retries.wait(1, &limited(Some(31))), None);
    }

    #[test]
    fn what_cannot_change_is_not_tried_again() {
        let error = RegistryError::NotFound {
            host: "r.example".to_owned(),
            what: "image".to_owned(),
        };
        assert_eq!(Retries::default().wait(1, &error), None);
    }

    #[test]
    fn reads_seconds_dates_and_nothing_else() {
        let of = |text| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            stated(&headers)
        };
        assert_eq!(of("12"), Some(Duration::from_secs(12)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
        assert_eq!(of("-1"), None);
    }
}
