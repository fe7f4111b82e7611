// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The one thread that spawns, supervises and reaps every child process of a [`Vmm`](crate::Vmm).
//!
//! Why a thread of its own: `PR_SET_PDEATHSIG` fires when the *thread* that forked the child ends,
//! not when its process does. A worker or blocking thread of tokio may end at any time, so children
//! are forked here, by a thread that lives exactly as long as they may. It also makes machines
//! independent of the caller's runtime: dropping a machine while that runtime shuts down, or
//! outside of any runtime, still kills, reaps and cleans up.
//!
//! The thread runs a single-threaded tokio runtime; whatever [`Warden::spawn`] is given runs on it.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};

/// Held by every task that has something to clean up; the thread outlives them all.
#[derive(Debug, Clone)]
pub(crate) struct Busy {
    _alive: mpsc::Sender<()>,
}

/// The thread. Dropping it waits until every [`Busy`] is gone, so the owner must first have asked
/// all machines to die. Never drop it on the thread itself.
#[derive(Debug)]
pub(crate) struct Warden {
    handle: Handle,
    busy: Option<Busy>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Warden {
    pub(crate) fn start() -> io::Result<Warden> {
        let (alive, mut all_done) = mpsc::channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("waggle-warden".to_owned())
            .spawn(move || {
                // Built here, since a runtime must not be dropped inside another one's task.
                let runtime = match Builder::new_current_thread()
                    .enable_io()
                    .enable_time()
                    .build()
                {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        // `start` waits for this message; it cannot have gone.
                        let _ = tell.send(Err(error));
                        return;
                    }
                };
                let _ = tell.send(Ok(runtime.handle().clone()));
                runtime.block_on(async move {
                    // An error means the sender was dropped, which says the same.
                    let _ = stopped.await;
                    // `None` once the last `Busy` is dropped; nobody sends.
                    let _ = all_done.recv().await;
                });
            })?;
        let handle = told.recv().map_err(io::Error::other)??;
        let busy = Some(Busy { _alive: alive });
        Ok(Warden {
            handle,
            busy,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Runs a task on the thread. The task gets a [`Busy`] to hold until it has cleaned up.
    pub(crate) fn spawn<F>(&self, task: impl FnOnce(Option<Busy>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.handle.spawn(task(self.busy.clone()));
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.busy = None;
        if let Some(stop) = self.stop.take() {
            // The thread may have ended already; then there is nothing to tell it.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that supervises machines panicked");
        }
    }
}
