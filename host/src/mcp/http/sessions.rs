// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The sessions of clients older than MCP 2026-07-28: rmcp's, but not more than a number of them.
//!
//! Many clients open a session for each piece of work and never close it, so sessions are given up,
//! not refused: if there are too many, the one that was idle the longest ends, and its client, should
//! it ever return, is told to open another. A session is never given up while the stream of a call is
//! open, resumed ones among them; if all have one, a new session is refused. A call whose client closed
//! its stream and has not come back does not count, nor does the stream that carries no call: it is
//! open for as long as the client is there, whether that does anything or not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _};
use rmcp::{
    model::{ClientJsonRpcMessage, ServerJsonRpcMessage},
    transport::streamable_http_server::session::{
        ServerSseMessage, SessionId, SessionManager,
        local::{LocalSessionManager, LocalSessionManagerError},
    },
};

use crate::lock::lock;

/// How long an idle session is kept. rmcp's five minutes would end it while its user thinks; a day
/// bounds what forgotten ones cost.
const IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a session could not be made or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionsError {
    /// All sessions have calls under way.
    #[error("all {0} sessions have calls under way; try again later")]
    Busy(usize),
    /// What rmcp said.
    #[error(transparent)]
    Local(#[from] LocalSessionManagerError),
}

/// What is known of a session beside rmcp's own state.
#[derive(Debug)]
struct Usage {
    last: Instant,
    /// Open streams of calls.
    calls: usize,
}

type Usages = Arc<Mutex<HashMap<SessionId, Usage>>>;

/// Sessions, at most `limit` of them.
#[derive(Debug)]
pub(super) struct Sessions {
    local: LocalSessionManager,
    usages: Usages,
    limit: usize,
}

impl Sessions {
    pub(super) fn new(limit: usize) -> Self {
        let mut local = LocalSessionManager::default();
        local.session_config.keep_alive = Some(IDLE);
        Self {
            local,
            usages: Usages::default(),
            limit,
        }
    }

    /// Whether a new session would be refused.
    pub(super) fn are_busy(&self) -> bool {
        let usages = lock(&self.usages);
        usages.len() >= self.limit && usages.values().all(|usage| usage.calls > 0)
    }

    fn touch(&self, id: &SessionId) {
        if let Some(usage) = lock(&self.usages).get_mut(id) {
            usage.last = Instant::now();
        }
    }

    /// Takes note of a new session, and of the one that has to go for it.
    fn enter(&self, id: SessionId) -> Result<Option<SessionId>, SessionsError> {
        let mut usages = lock(&self.usages);
        let victim = if usages.len() < self.limit {
            None
        } else {
            let idle = usages.iter().filter(|(_, usage)| usage.calls == 0);
            let oldest = idle.min_by_key(|(_, usage)| usage.last);
            let (victim, _) = oldest.ok_or(SessionsError::Busy(self.limit))?;
            let victim = victim.clone();
            usages.remove(&victim);
            Some(victim)
        };
        let last = Instant::now();
        usages.insert(id, Usage { last, calls: 0 });
        Ok(victim)
    }
}

/// The open stream of a call, until it is dropped.
struct Call {
    usages: Usages,
    id: SessionId,
}

impl Call {
    fn begin(usages: &Usages, id: &SessionId) -> Self {
        if let Some(usage) = lock(usages).get_mut(id) {
            usage.calls += 1;
        }
        Self {
            usages: Arc::clone(usages),
            id: id.clone(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(usage) = lock(&self.usages).get_mut(&self.id) {
            usage.calls = usage.calls.saturating_sub(1);
            usage.last = Instant::now();
        }
    }
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let (id, transport) = self.local.create_session().await?;
        match self.enter(id.clone()) {
            Ok(Some(victim)) => {
                tracing::info!(session = %victim, limit = self.limit, "gave up an idle session");
                // The new session is there, whatever becomes of the old one.
                if let Err(error) = self.local.close_session(&victim).await {
                    tracing::warn!(session = %victim, %error, "a session was not closed");
                }
            }
            Ok(None) => {}
            Err(busy) => {
                self.local.close_session(&id).await?;
                return Err(busy);
            }
        }
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        Ok(self.local.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.touch(id);
        Ok(self.local.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        lock(&self.usages).remove(id);
        Ok(self.local.close_session(id).await?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let call = Call::begin(&self.usages, id);
        let messages = self.local.create_stream(id, message).await?;
        Ok(messages.inspect(move |_| {
            let _ = &call;
        }))
    }

    async fn accept_message(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<(), Self::Error> {
        Ok(self.local.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.local.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        // Ids of events that belong to a call name its request behind a slash.
        let call = last_event_id
            .contains('/')
            .then(|| Call::begin(&self.usages, id));
        let messages = self.local.resume(id, last_event_id).await?;
        Ok(messages.inspect(move |_| {
            let _ = &call;
        }))
    }
}
