// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Searching in files. The guest's own tool searches; here its records are taken as they come.
//!
//! Invariant: what is held of them is bounded ([`LINES_BYTES_MAX`]), and a search that sends more, or
//! something else, is ended.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use serde_bytes::ByteBuf;
use tokio_util::sync::CancellationToken;
use waggle_protocol::{
    codec, frame,
    limits::{PATH_MAX, REPLY_PAYLOAD_MAX},
    message::{EndReason, Search, SearchEnd, SearchRecord, Tool, User},
};

use super::HOME;
use crate::{
    service::{Service, ServiceError, tool, validate},
    session::{LinkError, Output, OutputStream, Run, capture::Capture},
};

/// How long a search may take. What it has found by then is told.
const DEADLINE: Duration = Duration::from_secs(30);

/// Most matching lines that one `search_files` tells.
const LIMIT_MAX: u32 = 1000;

/// Matching lines that it tells if the caller does not say: what a model can make use of.
const LIMIT_DEFAULT: u32 = 100;

/// Most lines of context around a match.
const CONTEXT_MAX: u32 = 10;

/// Most bytes of a line that are told: enough to know it by.
const LINE_MAX: u32 = 400;

/// Most bytes of lines and of their files' paths that are held, with [`LINE_COST`] for each line; a
/// result has room for less.
const LINES_BYTES_MAX: usize = 512 * 1024;

/// What a line costs beside its text.
const LINE_COST: usize = 32;

/// What to search for, and where.
#[derive(Debug)]
pub struct SearchRequest {
    /// Where.
    pub environment_id: String,
    /// Regular expression, or text.
    pub pattern: String,
    /// File or folder; the user's home if absent.
    pub path: Option<String>,
    /// Pattern of the files' names.
    pub glob: Option<String>,
    /// Take `pattern` as plain text.
    pub literal: bool,
    /// Ignore case.
    pub ignore_case: bool,
    /// Search hidden and ignored files as well.
    pub all_files: bool,
    /// Lines of context around each match.
    pub context_lines: u32,
    /// Most matching lines.
    pub limit: Option<u32>,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// Where it searched.
    pub path: String,
    /// Lines that match, and their context, in the files' order.
    pub lines: Vec<FoundLine>,
    /// What the tool says of it, if it came to its end.
    pub end: SearchEnd,
    /// Whether there may be more.
    pub truncated: bool,
    /// Whether the time was over before the search was.
    pub timed_out: bool,
}

/// A line that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLine {
    /// Absolute path of its file.
    pub file: Arc<ByteBuf>,
    /// Its number, from 1.
    pub number: u64,
    /// Whether it matches; else it is context.
    pub is_match: bool,
    /// Its text; what is not UTF-8 became U+FFFD.
    pub text: String,
    /// Whether that is not all of it.
    pub cut: bool,
}

impl Service {
    /// Searches files for a regular expression.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn search_files(&self, request: SearchRequest) -> Result<Found, ServiceError> {
        let lease = self.lease(&request.environment_id)?;
        let path = request.path.unwrap_or_else(|| HOME.to_owned());
        let limit = request.limit.unwrap_or(LIMIT_DEFAULT);
        let limit = validate::within("limit", limit, LIMIT_MAX)?;
        let root = validate::path(&path)?;
        let search = Search {
            path: root.clone(),
            pattern: validate::pattern(request.pattern)?,
            literal: request.literal,
            ignore_case: request.ignore_case,
            glob: request.glob.map(validate::glob).transpose()?,
            all_files: request.all_files,
            context: validate::at_most("context_lines", request.context_lines, CONTEXT_MAX)?,
            limit,
            line_max: LINE_MAX,
        };
        let run = Run {
            exec: tool::exec(Tool::Search(search), User::Sandbox, DEADLINE),
            log: None,
            stdin: None,
        };
        let mut records = Records::new(root, limit);
        let over = records.over.clone();
        let ran = tokio::select! {
            biased;
            ran = lease.live.session.run(run, &mut records) => Some(ran),
            // Dropping the run ends it.
            () = over.cancelled() => None,
        };
        let end = match ran {
            None => None,
            Some(Ok(ran)) => Some(ran.end),
            Some(Err(error)) => {
                return Err(self.explain_read(&lease, tool::not_started(error)).await);
            }
        };
        if let Some(what) = records.broken {
            return Err(self.explain_read(&lease, LinkError::Unexpected(what)).await);
        }
        let timed_out = end
            .as_ref()
            .is_some_and(|end| end.reason == EndReason::Deadline);
        if let Some(end) = end.filter(|_| !timed_out) {
            let stderr = records.stderr.text(tool::STDERR_MAX, "").text;
            if let Some(failure) = tool::failure(&end, &stderr) {
                return Err(ServiceError::Guest(failure));
            }
        }
        let told = records.end;
        Ok(Found {
            path,
            lines: records.lines,
            truncated: told.is_none_or(|end| end.truncated),
            end: told.unwrap_or(SearchEnd {
                matches: records.matches.into(),
                ..SearchEnd::default()
            }),
            timed_out,
        })
    }
}

/// The tool's records, as they come.
struct Records {
    root: ByteBuf,
    limit: u32,
    buffer: BytesMut,
    file: Arc<ByteBuf>,
    /// Whether `lines` has one of `file`.
    file_held: bool,
    lines: Vec<FoundLine>,
    matches: u32,
    /// What `lines` cost.
    held: usize,
    end: Option<SearchEnd>,
    stderr: Capture,
    /// What was wrong with them.
    broken: Option<&'static str>,
    /// Cancelled when no more of them are wanted.
    over: CancellationToken,
}

impl Records {
    fn new(root: ByteBuf, limit: u32) -> Self {
        Self {
            file: Arc::new(root.clone()),
            file_held: false,
            root,
            limit,
            buffer: BytesMut::new(),
            lines: Vec::new(),
            matches: 0,
            held: 0,
            end: None,
            stderr: Capture::new(tool::STDERR_MAX),
            broken: None,
            over: CancellationToken::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.over.is_cancelled() {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        if let Err(what) = self.decode() {
            self.broken = Some(what);
            self.over.cancel();
        }
    }

    fn decode(&mut self) -> Result<(), &'static str> {
        while let Some(frame) = frame::decode(&mut self.buffer, REPLY_PAYLOAD_MAX)
            .map_err(|_| "a search's frame that is none")?
        {
            let record = codec::message(&frame).map_err(|_| "a search's record that is none")?;
            if self.end.is_some() {
                return Err("a record behind a search's last");
            }
            match record {
                SearchRecord::File(path) if path.len() > PATH_MAX => {
                    return Err("a path that is too long");
                }
                SearchRecord::File(path) => {
                    self.file = Arc::new(joined(&self.root, &path));
                    self.file_held = false;
                }
                SearchRecord::Line(line) => {
                    let path = if self.file_held { 0 } else { self.file.len() };
                    let cost = line.text.len() + LINE_COST + path;
                    if self.held + cost > LINES_BYTES_MAX
                        || (line.is_match && self.matches >= self.limit)
                    {
                        self.over.cancel();
                        return Ok(());
                    }
                    self.held += cost;
                    self.file_held = true;
                    self.matches += u32::from(line.is_match);
                    self.lines.push(FoundLine {
                        file: Arc::clone(&self.file),
                        number: line.number,
                        is_match: line.is_match,
                        text: String::from_utf8_lossy(&line.text).into_owned(),
                        cut: line.cut,
                    });
                }
                SearchRecord::End(end) => self.end = Some(end),
            }
        }
        Ok(())
    }
}

impl Output for Records {
    async fn take(&mut self, stream: OutputStream, bytes: Bytes) {
        match stream {
            OutputStream::Stdout => self.push(&bytes),
            OutputStream::Stderr => self.stderr.push(&bytes),
        }
    }
}

/// The absolute path of a file below `root`; `root` itself if `below` is empty.
fn joined(root: &[u8], below: &[u8]) -> ByteBuf {
    let mut path = root.to_vec();
    if !below.is_empty() {
        while path.last() == Some(&b'/') {
            path.pop();
        }
        path.push(b'/');
        path.extend_from_slice(below);
    }
    ByteBuf::from(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert};
    use waggle_protocol::message::SearchLine;

    use super::*;

    fn records(limit: u32) -> Records {
        Records::new(ByteBuf::from(*b"/home/sandbox/"), limit)
    }

    fn line(number: u64, is_match: bool, text: &[u8]) -> SearchRecord {
        SearchRecord::Line(SearchLine {
            number,
            is_match,
            text: ByteBuf::from(text),
            cut: false,
        })
    }

    fn encoded(all: &[SearchRecord]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for record in all {
            codec::put(record, &mut bytes);
        }
        bytes
    }

    #[test]
    fn records_in_any_pieces_become_lines_with_absolute_paths() {
        let end = SearchEnd {
            files_searched: 3,
            files_matched: 1,
            matches: 1,
            ..SearchEnd::default()
        };
        let bytes = encoded(&[
            SearchRecord::File(ByteBuf::from(*b"a/b.py")),
            line(7, true, b"x\xff"),
            line(8, false, b"y"),
            SearchRecord::End(end),
        ]);
        for size in 1..bytes.len() {
            let mut records = records(10);
            for piece in bytes.chunks(size) {
                records.push(piece);
            }
            assert_eq!(records.broken, None);
            assert_eq!(records.end, Some(end));
            let [first, second] = records.lines.as_slice() else {
                panic!("two lines, not {:?}", records.lines)
            };
            assert_eq!(first.file.as_slice(), b"/home/sandbox/a/b.py");
            assert_eq!((first.number, first.text.as_str()), (7, "x\u{fffd}"));
            assert!(first.is_match && !second.is_match);
        }
    }

    #[test]
    fn a_guest_that_goes_on_past_the_limit_is_ended() {
        let mut more = records(1);
        more.push(&encoded(&[line(1, true, b"x"), line(2, true, b"y")]));
        assert!(more.over.is_cancelled() && more.broken.is_none());
        assert_eq!(more.lines.len(), 1);

        let mut flood = records(1);
        for number in 0..100_000 {
            flood.push(&encoded(&[line(number, false, b"")]));
        }
        assert!(flood.over.is_cancelled());
        assert!(flood.lines.len() * LINE_COST <= LINES_BYTES_MAX);

        // Each line in a file of its own, with the longest path there is.
        let mut paths = records(1);
        let file = SearchRecord::File(ByteBuf::from(vec![b'p'; PATH_MAX]));
        let pair = encoded(&[file, line(1, false, b"")]);
        for _ in 0..LINES_BYTES_MAX / PATH_MAX + 1 {
            paths.push(&pair);
        }
        assert!(paths.over.is_cancelled() && paths.broken.is_none());
        let held: usize = paths.lines.iter().map(|line| line.file.len()).sum();
        assert!(held <= LINES_BYTES_MAX, "{held}");
    }

    #[test]
    fn the_file_that_is_searched_itself_has_its_own_path() {
        assert_eq!(joined(b"/a/b", b"").as_slice(), b"/a/b");
        assert_eq!(joined(b"/", b"etc").as_slice(), b"/etc");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_grow(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        ) {
            let mut records = records(5);
            for piece in &pieces {
                records.push(piece);
            }
            prop_assert!(records.held <= LINES_BYTES_MAX);
            prop_assert!(records.buffer.len() <= 4000);
        }
    }
}
