// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Progress notifications: for callers that gave a token, the elapsed time and the newest line.
//!
//! Invariants: at most one a second; `progress` increases; none is sent after the call's result.

use std::time::{Duration, Instant};

use rmcp::{RoleServer, model::ProgressNotificationParam, service::RequestContext};
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use crate::service::Call;

/// Time between two notifications: people read no faster, and models do not read them at all.
const PERIOD: Duration = Duration::from_secs(1);

/// How long the result waits for a notification that is on its way out. It must not overtake it.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// The outcome of `work`, with progress told meanwhile if the caller wants it.
pub(super) async fn reported<T>(
    work: impl Future<Output = T>,
    call: &Call,
    context: &RequestContext<RoleServer>,
) -> T {
    let Some(token) = context.meta.get_progress_token() else {
        return work.await;
    };
    let start = Instant::now();
    let mut ticks = interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            _ = ticks.tick() => {}
        }
        let elapsed = start.elapsed();
        let mut progress = ProgressNotificationParam::new(token.clone(), elapsed.as_secs_f64());
        progress.message = Some(message(elapsed, &call.newest_line()));
        let notify = context.peer.notify_progress(progress);
        tokio::pin!(notify);
        tokio::select! {
            biased;
            outcome = &mut work => {
                // A client that does not read must not hold its own result back for ever.
                let _ = timeout(LAST_WAIT, notify).await;
                return outcome;
            }
            told = &mut notify => if told.is_err() {
                // The client is gone; the call's own cancellation comes by another way.
                return work.await;
            },
        }
    }
}

fn message(elapsed: Duration, line: &str) -> String {
    let seconds = elapsed.as_secs();
    if line.is_empty() {
        format!("{seconds} s")
    } else {
        format!("{seconds} s: {line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_time_and_the_line() {
        assert_eq!(message(Duration::from_millis(1999), ""), "1 s");
        assert_eq!(message(Duration::from_secs(61), "epoch 3"), "61 s: epoch 3");
    }
}
