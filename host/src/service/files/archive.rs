// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Files and folders of an environment as tar archives, in and out.
//!
//! Nothing here looks into an archive: the guest packs and unpacks it, under the rights of a user of
//! its own. At most a few frames of it are held; who is slow holds up who is fast. Dropping either
//! side ends the copy.

use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use waggle_protocol::message::{Pack, Tool, Unpack, User};

use crate::{
    environment::store::Lease,
    service::{Live, Service, ServiceError, tool, validate},
    session::{
        LinkError, Output, OutputStream, Run, RunEnd,
        capture::{Capture, Captured},
    },
};

/// How long a copy may take: gigabytes through an emulated machine, or a client that is slow. After
/// it, an abandoned copy no longer keeps its environment from being idle.
const DEADLINE: Duration = Duration::from_secs(60 * 60);

/// Pieces of an archive that wait between the guest and the client; each is a frame at most.
const PIECES_MAX: usize = 2;

/// What to copy, or where to.
#[derive(Debug)]
pub struct ArchiveRequest {
    /// Where.
    pub environment_id: String,
    /// Absolute path in the guest: any bytes but NUL.
    pub path: Vec<u8>,
    /// Whose rights apply.
    pub user: User,
}

/// An archive on its way out of an environment. Dropping it ends the packing.
#[derive(Debug)]
pub struct Packed {
    first: Option<Bytes>,
    pieces: mpsc::Receiver<Bytes>,
    /// How it ended, apart from the pieces: whoever packs must not wait for a client that does not
    /// read before it may say so. `None` once it is told.
    end: Option<oneshot::Receiver<Result<(), ServiceError>>>,
}

impl Packed {
    /// The next piece; `None` behind the last one.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] if the rest could not be packed. It is the last.
    pub async fn next(&mut self) -> Option<Result<Bytes, ServiceError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        if let Some(piece) = self.pieces.recv().await {
            return Some(Ok(piece));
        }
        // Whoever packs says how it ends, unless the server goes down around it.
        let outcome = self.end.take()?.await;
        let outcome = outcome.unwrap_or(Err(ServiceError::ShuttingDown));
        outcome.err().map(Err)
    }
}

impl Service {
    /// Packs a file or folder. Returns when the first piece of the archive is there.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] if the packing failed before that.
    pub async fn pack(self: &Arc<Self>, request: ArchiveRequest) -> Result<Packed, ServiceError> {
        let lease = self.lease(&request.environment_id)?;
        let path = validate::path_bytes(request.path)?;
        let run = run(Tool::Pack(Pack { path }), request.user, None);
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let (told, end) = oneshot::channel();
        self.tasks
            .spawn(pack_into(Arc::clone(self), lease, run, sender, told));
        let mut packed = Packed {
            first: None,
            pieces,
            end: Some(end),
        };
        packed.first = packed.next().await.transpose()?;
        Ok(packed)
    }

    /// Unpacks the archive that `body` carries.
    ///
    /// # Errors
    ///
    /// [`ServiceError`]; part of the archive may be unpacked then. An error in `body` ends it as well.
    pub async fn unpack<S, E>(
        &self,
        request: ArchiveRequest,
        body: &mut S,
    ) -> Result<(), ServiceError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Display,
    {
        let lease = self.lease(&request.environment_id)?;
        let path = validate::path_bytes(request.path)?;
        let (input, stdin) = mpsc::channel(PIECES_MAX);
        let run = run(Tool::Unpack(Unpack { path }), request.user, Some(stdin));
        let feed = async {
            while let Some(piece) = body.next().await {
                let bytes = match piece {
                    Ok(bytes) => bytes,
                    Err(error) => return error.to_string(),
                };
                if input.send(bytes).await.is_err() {
                    // It reads no more; its end says why.
                    break;
                }
            }
            drop(input);
            std::future::pending().await
        };
        let mut captured = Captured::new(tool::STDERR_MAX);
        let ran = tokio::select! {
            biased;
            ran = lease.live.session.run(run, &mut captured) => ran,
            // Half an archive must not look like a whole one: dropping the run ends the unpacking.
            error = feed => return Err(ServiceError::Upload(error)),
        };
        self.outcome(&lease, ran, &captured.stderr).await
    }

    async fn outcome(
        &self,
        lease: &Lease<Live>,
        ran: Result<RunEnd, LinkError>,
        stderr: &Capture,
    ) -> Result<(), ServiceError> {
        match ran {
            Ok(ran) => {
                let stderr = stderr.text(tool::STDERR_MAX, "").text;
                tool::failure(&ran.end, &stderr)
                    .map_or(Ok(()), |failure| Err(ServiceError::Guest(failure)))
            }
            Err(error) => Err(self.explain(lease, tool::not_started(error)).await),
        }
    }
}

fn run(tool: Tool, user: User, stdin: Option<mpsc::Receiver<Bytes>>) -> Run {
    Run {
        exec: tool::exec(tool, user, DEADLINE),
        log: None,
        stdin,
    }
}

/// Packs into `sender` until the archive's end, until nobody wants it, or until its machine is gone:
/// a client that does not read holds up nothing but its own copy.
async fn pack_into(
    service: Arc<Service>,
    lease: Lease<Live>,
    run: Run,
    sender: mpsc::Sender<Bytes>,
    mut told: oneshot::Sender<Result<(), ServiceError>>,
) {
    let mut output = ToChannel {
        sender,
        stderr: Capture::new(tool::STDERR_MAX),
    };
    let session = &lease.live.session;
    let ran = tokio::select! {
        biased;
        ran = session.run(run, &mut output) => ran,
        // Dropping the run ends the packing.
        () = told.closed() => return,
        _ = session.machine().died() => Err(LinkError::Closed),
    };
    let outcome = service.outcome(&lease, ran, &output.stderr).await;
    // The client may have left just now.
    let _ = told.send(outcome.map_err(ServiceError::of_a_read));
}

struct ToChannel {
    sender: mpsc::Sender<Bytes>,
    stderr: Capture,
}

impl Output for ToChannel {
    async fn take(&mut self, stream: OutputStream, bytes: Bytes) {
        match stream {
            // Where nobody receives any more, the rest goes nowhere, at once.
            OutputStream::Stdout => drop(self.sender.send(bytes).await),
            OutputStream::Stderr => self.stderr.push(&bytes),
        }
    }
}
