// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Searching files for a regular expression, with ripgrep's crates.
//!
//! Owns: which files are searched, in which order, and what is told of a match. Invariants: only
//! regular files are opened, in a way that cannot block; links are not followed (but for the searched
//! path itself); memory does not grow with a file, a line or the number of matches; the last record
//! is [`SearchRecord::End`] if the search came to its end.
//!
//! **Which files.** In a folder: all that are not hidden and that no `.gitignore` or `.ignore` names,
//! in a Git repository or not, unless `all_files` asks for those too; of them those that fit the
//! pattern; of them those that are text: a file with a NUL byte is left at the first one. (A file
//! that begins with a UTF-16 mark is text.) The kernel's file systems are left out, unless the path is
//! in one. If the path names a file, that is searched whatever it is. A `.gitignore` or `.ignore` that
//! is no regular file, or a very long one, makes its folder unreadable; in the searched folder or
//! above it, it makes all others count for nothing. (`.git` is not looked into.)
//!
//! **Lines.** They end at a newline, with or without a carriage return before it; neither is part of
//! a line. A line longer than [`LINE_HEAP_MAX`] ends the search of its file, which then counts as
//! unreadable.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use grep_matcher::LineTerminator;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{
    BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkContextKind, SinkError,
    SinkMatch,
};
use ignore::WalkBuilder;
use serde_bytes::ByteBuf;
use waggle_protocol::codec;
use waggle_protocol::limits::{PATTERN_MAX, SEARCH_LINE_MAX};
use waggle_protocol::message::{Failure, FailureCode, Search, SearchEnd, SearchLine, SearchRecord};

use super::{open_regular, stream_failed};
use crate::failure::{failure, refused, shown};
use crate::files::{is_kernel_folder, require_regular};
use crate::glob::Glob;
use crate::guest_path::GuestPath;

/// Most lines of context: beyond it a caller reads the file.
const CONTEXT_MAX: u32 = 100;
/// Most memory for lines, in bytes: the longest line that is searched, context included.
const LINE_HEAP_MAX: usize = 16 * 1024 * 1024;
/// Most memory for a compiled expression, and for what is derived from it on the way, in bytes. An
/// expression that needs more (`(\w{100}){1000}` does) is refused.
const REGEX_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most levels of nesting in an expression: parsing it is recursive.
const REGEX_NEST_MAX: u32 = 100;
/// Records go out when there are so many bytes of them.
const OUTPUT_BYTES: usize = 32 * 1024;
/// The files that say what is not searched, in every folder.
const IGNORE_FILES: [&str; 2] = [".gitignore", ".ignore"];
/// Longest of them, in bytes. Compiled, it may take a thousand times as much memory and more.
const IGNORE_FILE_MAX: u64 = 256 * 1024;

/// Searches as `request` says and writes the records to `out`.
///
/// # Errors
///
/// A [`Failure`] that names the path or the expression; records may have been written.
pub(super) fn search(request: &Search, out: impl Write) -> Result<(), Failure> {
    let glob = request.glob.as_deref().map(Glob::parse).transpose()?;
    let matcher = matcher(request)?;
    let path = GuestPath::parse(request.path.clone().into_vec())?;
    let path = path.as_path();
    // Links in the path itself are followed, once.
    let root = fs::canonicalize(path).map_err(|error| refused(path, &error))?;
    let found = fs::metadata(&root).map_err(|error| refused(path, &error))?;

    let mut search = Running {
        matcher,
        searcher: searcher(request),
        teller: Teller::new(request, out),
    };
    if found.is_dir() {
        fs::read_dir(&root).map_err(|error| refused(path, &error))?;
        search.folder(&root, glob.as_ref(), request.all_files)
    } else {
        require_regular(path, &found)?;
        search
            .searcher
            .set_binary_detection(BinaryDetection::none());
        let (file, _) = open_regular(&root).map_err(|error| refused(path, &error))?;
        search.file(&file, PathBuf::new())
    }
    .and_then(|()| search.teller.end())
    .map_err(|error| stream_failed("standard output", &error))
}

/// The expression, ready to match.
fn matcher(request: &Search) -> Result<RegexMatcher, Failure> {
    let length = request.pattern.len();
    if length > PATTERN_MAX {
        let text = format!("pattern length {length} exceeds limit {PATTERN_MAX}");
        return Err(failure(FailureCode::InvalidRequest, &text));
    }
    RegexMatcherBuilder::new()
        .fixed_strings(request.literal)
        .case_insensitive(request.ignore_case)
        .multi_line(true)
        .crlf(true)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .nest_limit(REGEX_NEST_MAX)
        .build(&request.pattern)
        .map_err(|error| {
            // The crate draws the expression with a mark below the fault, over some lines.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            let reason = reason.trim().trim_start_matches("error: ");
            let pattern = shown(request.pattern.as_bytes());
            let text = format!("pattern '{pattern}': {reason}");
            failure(FailureCode::InvalidRequest, &text)
        })
}

fn searcher(request: &Search) -> Searcher {
    let context = usize::try_from(request.context.min(CONTEXT_MAX)).unwrap_or(0);
    SearcherBuilder::new()
        .line_terminator(LineTerminator::crlf())
        .line_number(true)
        .before_context(context)
        .after_context(context)
        .heap_limit(Some(LINE_HEAP_MAX))
        .binary_detection(BinaryDetection::quit(0))
        .build()
}

/// A search that is under way.
struct Running<W> {
    matcher: RegexMatcher,
    searcher: Searcher,
    teller: Teller<W>,
}

impl<W: Write> Running<W> {
    /// Searches what is below `root`, in the order of the names.
    fn folder(&mut self, root: &Path, glob: Option<&Glob>, all_files: bool) -> io::Result<()> {
        let can_ignore = root.ancestors().all(has_sound_ignore_files);
        let ignoring = can_ignore && !all_files;
        self.teller.end.unreadable += u64::from(!can_ignore && !all_files);
        let skipped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&skipped);
        let walk = WalkBuilder::new(root)
            .standard_filters(false)
            .hidden(!all_files)
            .parents(ignoring)
            .ignore(ignoring)
            .git_ignore(ignoring)
            .require_git(false)
            .follow_links(false)
            .sort_by_file_name(|a, b| a.cmp(b))
            .filter_entry(move |entry| {
                if !entry.file_type().is_some_and(|kind| kind.is_dir()) {
                    return true;
                }
                if is_kernel_folder(entry.path()) {
                    return false;
                }
                // The crate reads them next, and would wait for a FIFO or read a device without end.
                let is_sound = !ignoring || has_sound_ignore_files(entry.path());
                counter.fetch_add(u64::from(!is_sound), Ordering::Relaxed);
                is_sound
            })
            .build();
        for entry in walk {
            if self.teller.end.truncated {
                break;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    // The others are about lines of a .gitignore.
                    self.teller.end.unreadable += u64::from(error.io_error().is_some());
                    continue;
                }
            };
            let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
            let Ok(name) = entry.path().strip_prefix(root) else {
                continue;
            };
            if !is_file || glob.is_some_and(|glob| !glob.matches(name)) {
                continue;
            }
            match open_regular(entry.path()) {
                Ok((file, _)) => self.file(&file, name.to_owned())?,
                Err(_) => self.teller.end.unreadable += 1,
            }
        }
        self.teller.end.unreadable += skipped.load(Ordering::Relaxed);
        Ok(())
    }

    /// Searches one file, which is told as `name`.
    fn file(&mut self, file: &File, name: PathBuf) -> io::Result<()> {
        self.teller.begin(name);
        let outcome = self
            .searcher
            .search_file(&self.matcher, file, &mut self.teller);
        match outcome {
            Ok(()) => {}
            Err(SearchError::Output(error)) => return Err(error),
            Err(SearchError::Read) => self.teller.end.unreadable += 1,
        }
        Ok(())
    }
}

/// Whether what is ignored in `folder` can be read without risk.
fn has_sound_ignore_files(folder: &Path) -> bool {
    IGNORE_FILES.iter().all(|name| {
        let path = folder.join(name);
        match fs::metadata(&path) {
            // The kernel's own files may block, and hide their length.
            Ok(found) => {
                found.is_file()
                    && found.len() <= IGNORE_FILE_MAX
                    && fs::canonicalize(&path)
                        .is_ok_and(|path| !path.ancestors().any(is_kernel_folder))
            }
            // Not there, or not to be read: the crate goes on without.
            Err(_) => true,
        }
    })
}

/// Why the search of a file ended early.
enum SearchError {
    /// The records could not be written.
    Output(io::Error),
    /// The file could not be read, or has too long a line.
    Read,
}

impl SinkError for SearchError {
    fn error_message<T: std::fmt::Display>(_: T) -> Self {
        Self::Read
    }

    fn error_io(_: io::Error) -> Self {
        Self::Read
    }
}

/// Writes the records.
struct Teller<W> {
    out: W,
    buffer: BytesMut,
    limit: u64,
    line_max: usize,
    /// The current file, until it is told.
    untold: Option<PathBuf>,
    end: SearchEnd,
}

impl<W: Write> Teller<W> {
    fn new(request: &Search, out: W) -> Self {
        let line_max = request.line_max.min(SEARCH_LINE_MAX);
        Self {
            out,
            buffer: BytesMut::new(),
            limit: request.limit.into(),
            line_max: usize::try_from(line_max).unwrap_or(0),
            untold: None,
            end: SearchEnd::default(),
        }
    }

    fn begin(&mut self, file: PathBuf) {
        self.untold = Some(file);
        self.end.files_searched += 1;
    }

    fn line(
        &mut self,
        number: Option<u64>,
        is_match: bool,
        line: &[u8],
    ) -> Result<(), SearchError> {
        if let Some(file) = self.untold.take() {
            self.end.files_matched += 1;
            let name = file.into_os_string().into_vec();
            self.put(&SearchRecord::File(ByteBuf::from(name)));
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = line.get(..self.line_max).unwrap_or(line);
        self.put(&SearchRecord::Line(SearchLine {
            number: number.unwrap_or_default(),
            is_match,
            text: ByteBuf::from(text),
            cut: text.len() < line.len(),
        }));
        if self.buffer.len() < OUTPUT_BYTES {
            return Ok(());
        }
        self.flush().map_err(SearchError::Output)
    }

    fn put(&mut self, record: &SearchRecord) {
        codec::put(record, &mut self.buffer);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }

    fn end(&mut self) -> io::Result<()> {
        self.put(&SearchRecord::End(self.end));
        self.flush()
    }
}

impl<W: Write> Sink for &mut Teller<W> {
    type Error = SearchError;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, SearchError> {
        // One more than the limit is looked for, so that `truncated` is true only if there is one.
        if self.end.matches == self.limit {
            self.end.truncated = true;
            return Ok(false);
        }
        self.end.matches += 1;
        self.line(found.line_number(), true, found.bytes())?;
        Ok(true)
    }

    fn context(&mut self, _: &Searcher, found: &SinkContext<'_>) -> Result<bool, SearchError> {
        // What comes before the match that is one too many is not told either.
        let is_after = *found.kind() == SinkContextKind::After;
        if is_after || self.end.matches < self.limit {
            self.line(found.line_number(), false, found.bytes())?;
        }
        Ok(true)
    }
}
