// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Opens the response of a long call before there is anything to say.
//!
//! Since MCP 2026-07-28 a call's response begins with the handler's first message. Clients give up on
//! a server that has sent nothing for 300 seconds, and so do proxies, sooner; a program may be silent
//! for longer. So a call without an answer after a while is answered with an event stream of comments,
//! and what the inner service says goes into that stream once it comes. Older revisions need none of
//! this: there rmcp opens the stream at once, and keeps it alive.
//!
//! The inner answer's future, later its body, is owned by the response body: a client that closes its
//! response drops it, which is how a call is cancelled in this revision. Nothing is spawned.

use std::{future::ready, pin::Pin, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use super::super::RESULT_MAX;

/// When a silent response is opened, and how often it says that the call lives.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the end of the request to the opening of the response.
    pub silence: Duration,
    /// Between two comments.
    pub comments: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(5),
            // What rmcp does once it has sent something.
            comments: Duration::from_secs(15),
        }
    }
}

/// The first revision in which a response waits for the handler. Revisions are dates and compare as
/// text.
const STATELESS: &str = "2026-07-28";

/// An event stream's comment, which clients skip.
const COMMENT: Bytes = Bytes::from_static(b": waiting\n\n");

/// Most bytes of an answer that is not a stream: a result, and what is around it.
const ANSWER_MAX: usize = 2 * RESULT_MAX;

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// The inner service's response, or one that is held open until that comes.
pub(super) async fn hold(patience: Patience, request: Request, next: Next) -> Response {
    if !waits_for_handler(request.headers()) {
        return next.run(request).await;
    }
    // An upload may be slow, and what is wrong with it deserves its own status: the wait begins when
    // the inner service has read the request, and so has dropped its body.
    let read = CancellationToken::new();
    let unread = read.clone().drop_guard();
    let request = request.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _ = &unread;
        }))
    });
    let mut answer: Answer = Box::pin(next.run(request));
    let silence = async {
        read.cancelled().await;
        sleep(patience.silence).await;
    };
    tokio::select! {
        // A call that is ready never looks at the clock.
        biased;
        response = &mut answer => response,
        () = silence => held(answer, patience.comments),
    }
}

/// Whether the response to such a request begins no sooner than its handler speaks.
fn waits_for_handler(headers: &HeaderMap) -> bool {
    let streams = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|accept| accept.to_str().ok())
        .any(|accept| accept.contains("text/event-stream"));
    streams && is_stateless(headers)
}

/// Whether the request is of a revision without sessions.
pub(super) fn is_stateless(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    // Whatever revision it names, this opens a session. The answer has its id in a header.
    let opens = text("mcp-method").is_some_and(|method| method == b"initialize");
    let revision = text("mcp-protocol-version");
    revision.is_some_and(|revision| revision >= STATELESS.as_bytes()) && !opens
}

/// What a held response does next.
enum Stage {
    /// The inner service has not answered.
    Waiting(Answer, Interval),
    /// It has, and this is the rest of what it says.
    Answered(BodyDataStream),
}

fn held(answer: Answer, comments: Duration) -> Response {
    let mut clock = interval_at(Instant::now() + comments, comments);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let rest = stream::unfold(Stage::Waiting(answer, clock), |stage| async {
        match stage {
            Stage::Waiting(mut answer, mut clock) => tokio::select! {
                biased;
                response = &mut answer => {
                    let (first, rest) = events(response).await;
                    Some((Ok(first), Stage::Answered(rest)))
                }
                _ = clock.tick() => Some((Ok(COMMENT), Stage::Waiting(answer, clock))),
            },
            Stage::Answered(mut body) => {
                let data = body.next().await?;
                Some((data, Stage::Answered(body)))
            }
        }
    });
    let mut response = Response::new(Body::from_stream(
        stream::once(ready(Ok(COMMENT))).chain(rest),
    ));
    let headers = response.headers_mut();
    // Those of rmcp's own streams: no proxy may store or collect the events.
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A late response as events: the first of them, and the rest.
async fn events(response: Response) -> (Bytes, BodyDataStream) {
    let (parts, body) = response.into_parts();
    let is = |wanted: &str| {
        parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with(wanted))
    };
    if is("text/event-stream") {
        // Anything but nothing: an empty chunk would end the body.
        return (COMMENT, body.into_data_stream());
    }
    let nothing = Body::empty().into_data_stream();
    let text = match axum::body::to_bytes(body, ANSWER_MAX).await {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!(%error, "a late answer was lost");
            return (COMMENT, nothing);
        }
    };
    if is("application/json") {
        return (event(&text), nothing);
    }
    // Not a message, and the status is long sent: the end of the stream has to do.
    let text = String::from_utf8_lossy(&text).into_owned();
    tracing::warn!(status = %parts.status, %text, "a late answer is no message");
    (COMMENT, nothing)
}

/// A JSON text as one event.
fn event(json: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(json.len() + 8);
    for line in json.split(|byte| matches!(byte, b'\n' | b'\r')) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.push(b'\n');
    event.into()
}
