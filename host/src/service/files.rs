// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Files of an environment: write, read, list.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_bytes::ByteBuf;
use waggle_protocol::message::{Entry, ListFiles, ReadFile, User, WriteFile};

use super::{Service, ServiceError, validate, validate::ArgumentError};
use crate::session::LinkError;

/// Most bytes that one `read_file` returns. As base64, and twice (structured and as text), they fit
/// into the 1 MiB that MCP clients accept in one event; larger files are read in parts.
const READ_MAX: u64 = 256 * 1024;

/// Most bytes that text may take in JSON, for it is sent twice.
const TEXT_MAX: usize = 480_000;

/// Most entries that one `list_files` returns: usual names of that number fit likewise.
const ENTRIES_MAX: u32 = 2000;

/// Most levels that one `list_files` descends.
const DEPTH_MAX: u32 = 64;

/// Where `list_files` looks if the caller does not say.
const HOME: &str = "/home/sandbox";

/// How a file's bytes travel in JSON.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub enum Encoding {
    /// As text.
    #[serde(rename = "utf-8")]
    Utf8,
    /// As standard base64.
    #[serde(rename = "base64")]
    Base64,
}

/// A file's bytes in JSON.
#[derive(Debug)]
pub struct Content {
    /// How they are encoded.
    pub encoding: Encoding,
    /// The text.
    pub text: String,
}

/// A file that was written.
#[derive(Debug)]
pub struct FileWritten {
    /// Bytes in it.
    pub bytes: u64,
}

/// A file that was read.
#[derive(Debug)]
pub struct FileRead {
    /// What was read.
    pub content: Content,
    /// How many of the file's bytes that is.
    pub bytes: usize,
    /// The whole file's size in bytes.
    pub size: u64,
}

/// A folder's content.
#[derive(Debug)]
pub struct FolderListing {
    /// The folder.
    pub path: String,
    /// Its entries, sorted by name.
    pub entries: Vec<Entry>,
    /// Whether there are more.
    pub truncated: bool,
    /// Entries that could not be read.
    pub unreadable: u64,
}

impl Service {
    /// Replaces a file, atomically; missing folders above it are created.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn write_file(
        &self,
        environment_id: &str,
        path: &str,
        content: Content,
    ) -> Result<FileWritten, ServiceError> {
        let lease = self.lease(environment_id)?;
        let bytes = match content.encoding {
            Encoding::Utf8 => content.text.into_bytes(),
            Encoding::Base64 => BASE64.decode(content.text).map_err(ArgumentError::Base64)?,
        };
        let request = WriteFile {
            path: validate::path(path)?,
            mode: None,
            create_parents: true,
            user: User::Sandbox,
        };
        match lease.live.session.write_file(request, &bytes).await {
            Ok(bytes) => Ok(FileWritten { bytes }),
            Err(error) => Err(self.explain(&lease, error).await),
        }
    }

    /// Reads a file, or a part of it. Without `encoding` the answer is text if it is UTF-8.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn read_file(
        &self,
        environment_id: &str,
        path: &str,
        encoding: Option<Encoding>,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileRead, ServiceError> {
        let lease = self.lease(environment_id)?;
        let request = ReadFile {
            path: validate::path(path)?,
            offset,
            // One byte more than may be returned tells a file that fits from one that does not.
            length: Some(length.unwrap_or(u64::MAX).min(READ_MAX + 1)),
            user: User::Sandbox,
        };
        let (info, bytes) = match lease.live.session.read_file(request, READ_MAX).await {
            Ok(read) => read,
            Err(LinkError::TooMuch { limit, .. }) => {
                return Err(ServiceError::FileTooLarge { limit });
            }
            Err(error) => return Err(self.explain(&lease, error).await),
        };
        let ends_here = length.is_none();
        let (content, bytes) = match encoding {
            Some(Encoding::Base64) => (base64(&bytes), bytes.len()),
            None | Some(Encoding::Utf8) => match text(bytes, ends_here) {
                // Control characters take six bytes in JSON; as base64 all fits.
                Ok(text) if encoding.is_none() && escaped(&text) > TEXT_MAX => {
                    (base64(text.as_bytes()), text.len())
                }
                Ok(text) => {
                    let length = text.len();
                    (
                        Content {
                            encoding: Encoding::Utf8,
                            text,
                        },
                        length,
                    )
                }
                Err(bytes) if encoding.is_none() => (base64(&bytes), bytes.len()),
                Err(_) => {
                    return Err(ServiceError::NotText {
                        path: path.to_owned(),
                    });
                }
            },
        };
        Ok(FileRead {
            content,
            bytes,
            size: info.size,
        })
    }

    /// Lists a folder, down to `depth` levels.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_files(
        &self,
        environment_id: &str,
        path: Option<String>,
        depth: u32,
    ) -> Result<FolderListing, ServiceError> {
        let lease = self.lease(environment_id)?;
        if depth == 0 {
            return Err(ArgumentError::Zero("depth").into());
        }
        let path = path.unwrap_or_else(|| HOME.to_owned());
        let request = ListFiles {
            path: validate::path(&path)?,
            depth: depth.min(DEPTH_MAX),
            limit: ENTRIES_MAX,
            user: User::Sandbox,
        };
        match lease.live.session.list_files(request).await {
            Ok(listing) => Ok(FolderListing {
                path,
                entries: listing.entries,
                truncated: listing.truncated,
                unreadable: listing.unreadable,
            }),
            Err(error @ LinkError::TooMuch { .. }) => Err(ServiceError::ListTooLarge(error)),
            Err(error) => Err(self.explain(&lease, error).await),
        }
    }
}

/// The bytes as text, or back. A character that the end of a part cuts is left for the next part.
fn text(bytes: Vec<u8>, ends_here: bool) -> Result<String, Vec<u8>> {
    String::from_utf8(bytes).or_else(|error| {
        let cut = error.utf8_error();
        let mut bytes = error.into_bytes();
        if ends_here || cut.error_len().is_some() || cut.valid_up_to() == 0 {
            return Err(bytes);
        }
        bytes.truncate(cut.valid_up_to());
        String::from_utf8(bytes).map_err(std::string::FromUtf8Error::into_bytes)
    })
}

/// Bytes that `text` takes in JSON, about.
fn escaped(text: &str) -> usize {
    let extra = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
        0..=31 => 5,
        _ => 0,
    };
    text.len() + text.as_bytes().iter().map(extra).sum::<usize>()
}

fn base64(bytes: &[u8]) -> Content {
    Content {
        encoding: Encoding::Base64,
        text: BASE64.encode(bytes),
    }
}

/// A name as text, and as base64 if the text is not the whole truth.
#[must_use]
pub fn file_name(bytes: &ByteBuf) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (
            String::from_utf8_lossy(bytes).into_owned(),
            Some(BASE64.encode(bytes)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_before_the_character_that_it_cuts() {
        let whole = "a\u{20ac}b".as_bytes();
        assert_eq!(text(whole.to_vec(), false).as_deref(), Ok("a\u{20ac}b"));
        for cut in [2, 3] {
            assert_eq!(text(whole[..cut].to_vec(), false).as_deref(), Ok("a"));
            assert_eq!(
                text(whole[..cut].to_vec(), true),
                Err(whole[..cut].to_vec())
            );
        }
        assert!(
            text(b"a\xffb".to_vec(), false).is_err(),
            "no cut, but no text"
        );
        assert!(
            text(whole[1..3].to_vec(), false).is_err(),
            "nothing whole in it"
        );
    }
}
