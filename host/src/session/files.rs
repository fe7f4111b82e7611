// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The operations on files, on one connection: write, append, edit, read, list, find.
//!
//! Owns: their conversations and how much of an answer is held. Does not own the connection pool.
//!
//! Invariant: an answer ends at what was asked for ([`LinkError::TooMuch`]), whatever the guest sends.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use waggle_protocol::{
    codec,
    frame::{Frame, Kind},
    message::{
        EditFile, Edited, Entry, FileInfo, FindFiles, LinesEnd, ListFiles, ReadFile, ReadLines,
        Reply, Request, WriteFile,
    },
};

use super::{
    connection::{Connection, LinkError, Reusable, settle},
    run::VERSION_TOOLS,
};

/// Most bytes of names in one listing: what the host holds for it stays within some megabytes,
/// however long the names. A result has room for less.
const NAME_BYTES_MAX: usize = 1024 * 1024;

/// A folder's content.
#[derive(Debug)]
pub struct Listing {
    /// Its entries.
    pub entries: Vec<Entry>,
    /// Whether the limit cut the list.
    pub truncated: bool,
    /// Entries that could not be read.
    pub unreadable: u64,
}

/// What becomes of the old content of a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// The new content takes its place, at once.
    Replace,
    /// The new content goes behind it, as it comes.
    Append,
}

/// Lines of a file.
#[derive(Debug)]
pub struct Lines {
    /// The file.
    pub info: FileInfo,
    /// Their bytes, newlines included.
    pub bytes: Vec<u8>,
    /// How many, and where the next one is.
    pub end: LinesEnd,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Writes a file. Returns the bytes written.
    ///
    /// # Errors
    ///
    /// [`LinkError`]. A failure that the agent reports before it has read all leaves the connection
    /// out of step, which is why it is an early end here and not [`LinkError::Failed`] alone: the
    /// second value says whether the connection may be used again.
    pub async fn write_file(
        &mut self,
        request: WriteFile,
        mode: WriteMode,
        content: &[u8],
    ) -> (Result<u64, LinkError>, Reusable) {
        let request = match mode {
            WriteMode::Replace => Request::WriteFile(request),
            WriteMode::Append => match self.require(VERSION_TOOLS) {
                Ok(()) => Request::AppendFile(request),
                Err(error) => return (Err(error), Reusable::Yes),
            },
        };
        let mut all_sent = false;
        let outcome = self.upload(&request, content, &mut all_sent).await;
        let in_order = matches!(outcome, Ok(_) | Err(LinkError::Failed(_)));
        (
            outcome,
            if in_order && all_sent {
                Reusable::Yes
            } else {
                Reusable::No
            },
        )
    }

    async fn upload(
        &mut self,
        request: &Request,
        content: &[u8],
        all_sent: &mut bool,
    ) -> Result<u64, LinkError> {
        self.send(request).await?;
        let piece_max = self.data_max();
        let (mut sink, mut stream) = self.frames().split();
        let send = async {
            for piece in content.chunks(piece_max) {
                let payload = Bytes::copy_from_slice(piece);
                sink.feed(Frame {
                    kind: Kind::File,
                    payload,
                })
                .await?;
            }
            sink.send(Frame {
                kind: Kind::File,
                payload: Bytes::new(),
            })
            .await?;
            *all_sent = true;
            // The reply decides.
            std::future::pending::<Result<(), LinkError>>().await
        };
        // Both ways at once: an agent that fails early answers without reading the rest.
        let frame = tokio::select! {
            biased;
            frame = stream.next() => frame.ok_or(LinkError::Closed)??,
            Err(error) = send => return Err(error),
        };
        match settle(codec::message(&frame)?)? {
            Reply::Written { bytes } => Ok(bytes),
            _ => Err(LinkError::Unexpected(
                "an answer to a write that it does not have",
            )),
        }
    }

    /// Replaces text in a file.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; [`LinkError::TooOld`] on an agent of version 1.
    pub async fn edit_file(&mut self, request: EditFile) -> Result<Edited, LinkError> {
        self.require(VERSION_TOOLS)?;
        self.send(&Request::EditFile(request)).await?;
        match self.reply().await? {
            Reply::Edited(edited) => Ok(edited),
            _ => Err(LinkError::Unexpected(
                "an answer to an edit that it does not have",
            )),
        }
    }

    /// Reads a file, or the part that `request` names, into memory: at most `ceiling` bytes.
    ///
    /// # Errors
    ///
    /// [`LinkError::TooMuch`] when there is more than `ceiling`; other [`LinkError`]s.
    pub async fn read_file(
        &mut self,
        request: ReadFile,
        ceiling: u64,
    ) -> Result<(FileInfo, Vec<u8>), LinkError> {
        self.send(&Request::ReadFile(request)).await?;
        match self.content(ceiling).await? {
            (info, bytes, Reply::FileEnd { .. }) => Ok((info, bytes)),
            _ => Err(LinkError::Unexpected("a reply that a read does not have")),
        }
    }

    /// Reads lines of a file into memory: at most the request's `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// [`LinkError::TooMuch`] when the guest sends more; [`LinkError::TooOld`] on an agent of version
    /// 1; other [`LinkError`]s.
    pub async fn read_lines(&mut self, request: ReadLines) -> Result<Lines, LinkError> {
        self.require(VERSION_TOOLS)?;
        let ceiling = request.bytes_max;
        self.send(&Request::ReadLines(request)).await?;
        match self.content(ceiling).await? {
            (info, bytes, Reply::LinesEnd(end)) => Ok(Lines { info, bytes, end }),
            _ => Err(LinkError::Unexpected("a reply that a read does not have")),
        }
    }

    /// A file's bytes, at most `ceiling`, and the reply that ends them.
    async fn content(&mut self, ceiling: u64) -> Result<(FileInfo, Vec<u8>, Reply), LinkError> {
        let Reply::File(info) = self.reply().await? else {
            return Err(LinkError::Unexpected(
                "an answer to a read that it does not have",
            ));
        };
        let mut content = Vec::new();
        loop {
            let frame = self.frame().await?;
            match frame.kind {
                Kind::File => {
                    content.extend_from_slice(&frame.payload);
                    if u64::try_from(content.len()).unwrap_or(u64::MAX) > ceiling {
                        return Err(LinkError::TooMuch {
                            limit: ceiling,
                            unit: "bytes",
                        });
                    }
                }
                Kind::Control => return Ok((info, content, settle(codec::message(&frame)?)?)),
                Kind::Stdin | Kind::Stdout | Kind::Stderr => {
                    return Err(LinkError::Unexpected(
                        "a data frame that a read does not have",
                    ));
                }
            }
        }
    }

    /// Lists a folder.
    ///
    /// # Errors
    ///
    /// [`LinkError`]; [`LinkError::TooMuch`] when the guest sends more entries than the request's
    /// limit.
    pub async fn list_files(&mut self, request: ListFiles) -> Result<Listing, LinkError> {
        let limit = request.limit;
        self.entries(&Request::ListFiles(request), limit).await
    }

    /// Lists the entries of a folder that fit a pattern.
    ///
    /// # Errors
    ///
    /// As [`Self::list_files`]; [`LinkError::TooOld`] on an agent of version 1.
    pub async fn find_files(&mut self, request: FindFiles) -> Result<Listing, LinkError> {
        self.require(VERSION_TOOLS)?;
        let limit = request.list.limit;
        self.entries(&Request::FindFiles(request), limit).await
    }

    async fn entries(&mut self, request: &Request, limit: u32) -> Result<Listing, LinkError> {
        self.send(request).await?;
        let mut entries = Vec::new();
        let mut name_bytes = 0;
        loop {
            match self.reply().await? {
                Reply::Entries(batch) => {
                    name_bytes += batch.iter().map(|entry| entry.name.len()).sum::<usize>();
                    entries.extend(batch);
                }
                Reply::ListEnd {
                    truncated,
                    unreadable,
                } => {
                    return Ok(Listing {
                        entries,
                        truncated,
                        unreadable,
                    });
                }
                _ => return Err(LinkError::Unexpected("a reply that a list does not have")),
            }
            if u32::try_from(entries.len()).unwrap_or(u32::MAX) > limit {
                return Err(LinkError::TooMuch {
                    limit: u64::from(limit),
                    unit: "entries",
                });
            }
            if name_bytes > NAME_BYTES_MAX {
                let limit = u64::try_from(NAME_BYTES_MAX).unwrap_or(u64::MAX);
                return Err(LinkError::TooMuch {
                    limit,
                    unit: "bytes of names",
                });
            }
        }
    }
}
