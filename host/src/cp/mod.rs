// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle cp`: copies files and folders between this host and an environment of a running server.
//!
//! Owns: what the command's words mean, and which side says why a copy failed. An archive goes through
//! as it comes, a few pieces at a time, both ways: [`pack`] and [`unpack`] work on threads of their
//! own, [`remote`] speaks HTTP, and short channels join them.

mod channel;
mod pack;
mod remote;
mod unpack;

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use tokio::task::JoinHandle;

use crate::{
    client::{ClientError, ServerOptions},
    environment::EnvironmentId,
};
use channel::pipe;
pub use pack::PackError;
pub use remote::RemoteError;
use remote::Server;
pub use unpack::UnpackError;

/// The words of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// What to copy: a local path, ENVIRONMENT_ID:/absolute/path, or - for a tar archive on standard
    /// input
    pub source: OsString,

    /// Where to: the same; - writes a tar archive to standard output. A folder that exists takes the
    /// source under its own name; else the copy gets the destination's name
    pub destination: OsString,

    #[allow(missing_docs)] // A comment here would be the command's.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Whose rights apply in the environment, and who owns what is copied there
    #[arg(long, value_enum, default_value_t = User::Sandbox)]
    pub user: User,
}

/// A user of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum User {
    /// The unprivileged user
    Sandbox,
    /// The guest's root
    Root,
}

/// Why nothing, or not all, was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Neither side is an environment, or both are.
    #[error(
        "one of the two must be in an environment, written ENVIRONMENT_ID:/absolute/path, and the other on this host"
    )]
    Sides,
    /// A path in an environment that has no name to copy under.
    #[error("{0:?} is not a file or folder below / that could be copied; give an absolute path")]
    RemotePath(String),
    /// A local path that has no name to copy under.
    #[error("{0:?} has no name to copy it under; name a file or folder below /")]
    LocalPath(PathBuf),
    /// The server.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Reading here.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Writing here.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Standard input or output.
    #[error("standard input or output failed")]
    Standard(#[source] io::Error),
    /// A thread ended by a panic.
    #[error("the copy broke")]
    Task(#[from] tokio::task::JoinError),
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    Environment { id: EnvironmentId, path: Vec<u8> },
    Local(PathBuf),
    Standard,
}

impl Side {
    fn parse(word: &OsStr) -> Result<Self, CopyError> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Standard);
        }
        // A local file of such a name can be given as ./env-...:name.
        let parts = word.to_string_lossy();
        let id = parts.split_once(':').and_then(|(id, _)| id.parse().ok());
        let Some(id): Option<EnvironmentId> = id else {
            return Ok(Self::Local(PathBuf::from(word)));
        };
        let path = bytes.splitn(2, |byte| *byte == b':').nth(1);
        match path.unwrap_or_default() {
            path if path.starts_with(b"/") => Ok(Self::Environment {
                id,
                path: path.to_vec(),
            }),
            path => Err(CopyError::RemotePath(
                String::from_utf8_lossy(path).into_owned(),
            )),
        }
    }
}

/// Copies. What was left out is told to `warn`, a line at a time.
///
/// # Errors
///
/// [`CopyError`]; a part may be copied then.
pub async fn run(
    arguments: Arguments,
    warn: impl FnMut(&str) + Send + 'static,
) -> Result<(), CopyError> {
    let source = Side::parse(&arguments.source)?;
    let destination = Side::parse(&arguments.destination)?;
    let server = Server::new(&arguments.server, arguments.user)?;
    match (source, destination) {
        (Side::Environment { id, path }, Side::Local(destination)) => {
            let name = last_part(&path)?;
            let target = unpack::Target::new(&destination, &name)?;
            download(&server, &id, &path, move |archive| {
                Ok(unpack::unpack(archive, &target, warn)?)
            })
            .await
        }
        (Side::Environment { id, path }, Side::Standard) => {
            download(&server, &id, &path, |mut archive| {
                io::copy(&mut archive, &mut io::stdout().lock())
                    .map(drop)
                    .map_err(CopyError::Standard)
            })
            .await
        }
        (Side::Local(source), Side::Environment { id, path }) => {
            let source = pack::Source::new(&source)?;
            upload(&server, &id, &path, move |archive| {
                Ok(pack::pack(&source, archive, warn)?)
            })
            .await
        }
        (Side::Standard, Side::Environment { id, path }) => {
            upload(&server, &id, &path, |mut archive| {
                io::copy(&mut io::stdin().lock(), &mut archive)
                    .and_then(|_| archive.end())
                    .map_err(CopyError::Standard)
            })
            .await
        }
        _ => Err(CopyError::Sides),
    }
}

/// The name of what is at `path`.
fn last_part(path: &[u8]) -> Result<OsString, CopyError> {
    match Path::new(OsStr::from_bytes(path)).components().next_back() {
        Some(Component::Normal(name)) => Ok(name.to_owned()),
        _ => Err(CopyError::RemotePath(
            String::from_utf8_lossy(path).into_owned(),
        )),
    }
}

/// Takes an archive from the server to `consume`, which runs on a thread of its own.
async fn download(
    server: &Server,
    id: &EnvironmentId,
    path: &[u8],
    consume: impl FnOnce(channel::Reader) -> Result<(), CopyError> + Send + 'static,
) -> Result<(), CopyError> {
    let archive = server.get(id, path).await?;
    let (sender, reader) = pipe();
    let consumer: JoinHandle<Result<(), CopyError>> =
        tokio::task::spawn_blocking(move || consume(reader));
    let sent = archive.send_to(sender).await;
    let consumed = consumer.await?;
    match (sent, consumed) {
        // The consumer's error is then only that its input broke off.
        (Err(error), _) => Err(error.into()),
        (Ok(()), consumed) => consumed,
    }
}

/// Takes what `produce` writes, on a thread of its own, to the server.
async fn upload(
    server: &Server,
    id: &EnvironmentId,
    path: &[u8],
    produce: impl FnOnce(channel::Writer) -> Result<(), CopyError> + Send + 'static,
) -> Result<(), CopyError> {
    let (writer, receiver) = channel::outward();
    let producer: JoinHandle<Result<(), CopyError>> =
        tokio::task::spawn_blocking(move || produce(writer));
    match server.put(id, path, receiver).await {
        Ok(()) => producer.await?,
        // The server says why it takes no more; the producer only noticed.
        Err(error @ RemoteError::Client(ClientError::Refused { .. })) => Err(error.into()),
        Err(error) => match producer.await? {
            Err(own) if !own.is_broken_pipe() => Err(own),
            _ => Err(error.into()),
        },
    }
}

impl CopyError {
    /// Whether this side only noticed that the other one is gone.
    fn is_broken_pipe(&self) -> bool {
        let cause = match self {
            Self::Pack(PackError::Archive(cause)) | Self::Standard(cause) => cause,
            _ => return false,
        };
        cause.kind() == io::ErrorKind::BrokenPipe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let parse = |word: &str| Side::parse(OsStr::new(word)).expect(word);
        assert_eq!(parse("-"), Side::Standard);
        let Side::Environment { id, path } = parse("env-0123456789ab:/a:b") else {
            panic!("an environment")
        };
        assert_eq!(
            (id.as_str(), path.as_slice()),
            ("env-0123456789ab", &b"/a:b"[..])
        );
        for local in [
            "a",
            "./env-0123456789ab:/a",
            "a:/b",
            "/x:y",
            "env-0123456789ab",
        ] {
            assert_eq!(parse(local), Side::Local(local.into()));
        }
        for wrong in ["env-0123456789ab:", "env-0123456789ab:a"] {
            assert!(Side::parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
        let bytes = OsStr::from_bytes(b"env-0123456789ab:/\xff");
        assert!(
            matches!(Side::parse(bytes), Ok(Side::Environment { path, .. }) if path == b"/\xff")
        );
    }

    #[test]
    fn what_is_copied_has_a_name() {
        assert_eq!(last_part(b"/a/b/").expect("a name"), "b");
        assert_eq!(last_part(b"/a/.").expect("a name"), "a");
        assert!(last_part(b"/").is_err() && last_part(b"/a/..").is_err());
    }
}
