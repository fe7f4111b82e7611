// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Reading files: whole, by bytes, by lines.

use waggle_protocol::message::{LinesEnd, ReadFile, ReadLines, User};

use super::{Content, Encoding, base64};
use crate::{
    environment::store::Lease,
    service::{Live, Service, ServiceError, validate, validate::ArgumentError},
    session::{Lines, LinkError},
};

/// Most bytes that one `read_file` returns. As base64, and twice (structured and as text), they fit
/// into the 1 MiB that MCP clients accept in one event; larger files are read in parts.
const READ_MAX: u64 = 256 * 1024;

/// Most bytes that text may take in JSON, for it is sent twice.
const TEXT_MAX: usize = 480_000;

/// Lines that one `read_file` returns if the caller does not say: more is rarely of use to a model.
const LINES_DEFAULT: u32 = 1000;

/// Most lines that one `read_file` returns: each has a byte at least.
const LINES_MAX: u32 = 262_144;

/// A file to read, or a part of it: by bytes or by lines, not both.
#[derive(Debug)]
pub struct ReadRequest {
    /// Where.
    pub environment_id: String,
    /// Absolute path.
    pub path: String,
    /// How the bytes shall travel; text where they are text, if absent.
    pub encoding: Option<Encoding>,
    /// First byte.
    pub offset: Option<u64>,
    /// Most bytes.
    pub length: Option<u64>,
    /// First line, from 1.
    pub start_line: Option<u64>,
    /// Most lines.
    pub line_count: Option<u32>,
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
    /// Which lines these are, if lines were asked for.
    pub lines: Option<LinesRead>,
}

/// Which lines were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinesRead {
    /// The first one's number, from 1.
    pub start_line: u64,
    /// How many.
    pub count: u64,
    /// Offset of the byte behind them.
    pub next_offset: u64,
    /// Whether the file ends there.
    pub at_end: bool,
}

impl Service {
    /// Reads a file, or a part of it. Without `encoding` the answer is text if it is UTF-8.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn read_file(&self, request: ReadRequest) -> Result<FileRead, ServiceError> {
        let lease = self.lease(&request.environment_id)?;
        let by_lines = request.start_line.is_some() || request.line_count.is_some();
        if by_lines && (request.offset.is_some() || request.length.is_some()) {
            return Err(ArgumentError::Both("start_line or line_count", "offset or length").into());
        }
        if by_lines {
            self.read_lines(&lease, request).await
        } else {
            self.read_bytes(&lease, request).await
        }
    }

    async fn read_bytes(
        &self,
        lease: &Lease<Live>,
        request: ReadRequest,
    ) -> Result<FileRead, ServiceError> {
        let ends_here = request.length.is_none();
        let read = ReadFile {
            path: validate::path(&request.path)?,
            offset: request.offset.unwrap_or(0),
            // One byte more than may be returned tells a file that fits from one that does not.
            length: Some(request.length.unwrap_or(u64::MAX).min(READ_MAX + 1)),
            user: User::Sandbox,
        };
        match lease.live.session.read_file(read, READ_MAX).await {
            Ok((info, bytes)) => {
                let (content, bytes) = encode(&request, bytes, ends_here)?;
                Ok(FileRead {
                    content,
                    bytes,
                    size: info.size,
                    lines: None,
                })
            }
            Err(LinkError::TooMuch { limit, .. }) => Err(ServiceError::FileTooLarge { limit }),
            Err(error) => Err(self.explain_read(lease, error).await),
        }
    }

    async fn read_lines(
        &self,
        lease: &Lease<Live>,
        request: ReadRequest,
    ) -> Result<FileRead, ServiceError> {
        let first = match request.start_line {
            Some(0) => return Err(ArgumentError::Zero("start_line").into()),
            Some(line) => line,
            None => 1,
        };
        let count = request.line_count.unwrap_or(LINES_DEFAULT);
        let read = ReadLines {
            path: validate::path(&request.path)?,
            first,
            count: validate::within("line_count", count, LINES_MAX)?.into(),
            bytes_max: READ_MAX,
            user: User::Sandbox,
        };
        let Lines { info, bytes, end } = match lease.live.session.read_lines(read).await {
            Ok(lines) => lines,
            Err(error) => return Err(self.explain_read(lease, error).await),
        };
        let sent = bytes.len();
        // Only a line that is longer than a result can end within a character.
        let (content, bytes) = encode(&request, bytes, end.at_end)?;
        Ok(FileRead {
            content,
            bytes,
            size: info.size,
            lines: Some(lines_read(first, end, sent - bytes)),
        })
    }
}

/// `left` bytes of what was read are left for the next part.
fn lines_read(start_line: u64, end: LinesEnd, left: usize) -> LinesRead {
    let left = u64::try_from(left).unwrap_or(u64::MAX);
    LinesRead {
        start_line,
        count: end.lines,
        next_offset: end.next_offset.saturating_sub(left),
        at_end: end.at_end && left == 0,
    }
}

/// The bytes in the encoding that is asked for, or that fits them; and how many of them that is.
fn encode(
    request: &ReadRequest,
    bytes: Vec<u8>,
    ends_here: bool,
) -> Result<(Content, usize), ServiceError> {
    let may_choose = match request.encoding {
        Some(Encoding::Base64) => return Ok((base64(&bytes), bytes.len())),
        Some(Encoding::Utf8) => false,
        None => true,
    };
    match text(bytes, ends_here) {
        // Control characters take six bytes in JSON; as base64 all fits.
        Ok(text) if may_choose && escaped(&text) > TEXT_MAX => {
            Ok((base64(text.as_bytes()), text.len()))
        }
        Ok(text) => {
            let length = text.len();
            let encoding = Encoding::Utf8;
            Ok((Content { encoding, text }, length))
        }
        Err(bytes) if may_choose => Ok((base64(&bytes), bytes.len())),
        Err(_) => Err(ServiceError::NotText {
            path: request.path.clone(),
        }),
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

    #[test]
    fn the_next_part_of_a_long_line_begins_at_the_cut_character() {
        let end = LinesEnd {
            lines: 1,
            bytes: 10,
            next_offset: 110,
            at_end: false,
        };
        let read = lines_read(7, end, 2);
        assert_eq!((read.start_line, read.next_offset), (7, 108));
        assert!(!read.at_end);
    }
}
