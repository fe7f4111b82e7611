// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! One connection from its handshake to its end.
//!
//! Owns: the loop of requests and the rule that each has exactly one terminal reply.
//! Does not own: the operations themselves, nor the listener.
//!
//! Invariants: one operation at a time, a stream the last; an operation that fails, or a request that does not decode,
//! leaves the connection usable; a peer that breaks the protocol loses this connection only.

use std::os::fd::AsFd;

use tokio::io::{AsyncRead, AsyncWrite};
use waggle_protocol::message::{Failure, FailureCode, Reply, Request};

use crate::agent::Agent;
use crate::connection::{Connection, ConnectionError};
use crate::exec::LogLimits;
use crate::failure::failure;
use crate::{exec, files, probe, stream};

/// How an operation fell short of its own terminal reply.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// It could not be done; the host is told, the connection goes on.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// There is no one left to tell.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Serves `socket` until the host closes it.
///
/// Dropping the future cancels the operation in progress: its processes die, its temporary files go.
///
/// # Errors
///
/// [`ConnectionError`] if the connection ended in any other way than by a close between requests.
pub async fn serve<T>(socket: T, agent: &Agent) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let mut connection = Connection::new(socket)?;
    connection.accept_handshake().await?;
    while let Some(request) = connection.next_request().await? {
        let ends_machine = request == Ok(Request::Shutdown);
        let outcome = match request {
            Ok(request) => answer(&mut connection, agent, request).await,
            Err(error) => {
                let text = format!("this agent cannot read the request: {error}");
                Err(failure(FailureCode::Unsupported, &text).into())
            }
        };
        let terminal = match outcome {
            Ok(Some(reply)) => reply,
            Ok(None) => return Ok(()),
            Err(OperationError::Failed(failure)) => Reply::Failed(failure),
            Err(OperationError::Connection(error)) => return Err(error),
        };
        connection.send_reply(&terminal).await?;
        if ends_machine {
            agent.end_machine(&mut connection).await;
            return Ok(());
        }
    }
    Ok(())
}

/// Does what `request` asks and returns the terminal reply, not yet sent; `None` if a stream followed
/// it, with which the connection is over.
async fn answer<T>(
    connection: &mut Connection<T>,
    agent: &Agent,
    request: Request,
) -> Result<Option<Reply>, OperationError>
where
    T: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let outcome = match request {
        Request::Ping => Ok(Reply::Pong),
        Request::Probe => {
            agent.path.look_again();
            let found = probe::probe(&agent.path.get(), &agent.sandbox);
            Ok(Reply::Capabilities(found))
        }
        Request::Exec(exec) => exec::run(connection, agent, exec, None).await,
        Request::WriteFile(write) => files::write(connection, agent, write).await,
        Request::ReadFile(read) => files::read(connection, agent, read).await,
        Request::ListFiles(list) => files::list(connection, agent, list).await,
        Request::Shutdown => Ok(Reply::ShuttingDown),
        Request::ExecLogged(request) => {
            let limits = LogLimits::of(&request);
            exec::run(connection, agent, request.exec, Some(limits)).await
        }
        Request::Signal(request) => Ok(exec::signal(agent, request)?),
        Request::AppendFile(append) => files::append(connection, agent, append).await,
        Request::EditFile(edit) => files::edit(connection, agent, edit).await,
        Request::ReadLines(lines) => files::read_lines(connection, agent, lines).await,
        Request::FindFiles(find) => files::find(connection, agent, find).await,
        Request::Connect(request) => {
            stream::connect(connection, agent, request).await?;
            return Ok(None);
        }
    };
    outcome.map(Some)
}

#[cfg(test)]
mod tests;
