// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The results of the tools for files. Lists are cut where both copies of a result would no longer
//! fit into one.

use std::fmt::Write as _;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use waggle_protocol::message::{Entry, FileKind};

use super::super::json_length;
use crate::service::{self, Encoding};

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::mcp) struct Written {
    status: &'static str,
    path: String,
    /// Bytes that this call wrote.
    bytes_written: u64,
}

impl Written {
    pub(in crate::mcp) fn new(path: String, append: bool, written: &service::FileWritten) -> Self {
        Self {
            status: if append { "appended" } else { "written" },
            path,
            bytes_written: written.bytes,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::mcp) struct Read {
    pub(in crate::mcp) content: String,
    encoding: Encoding,
    path: String,
    /// Size of the whole file in bytes.
    size: u64,
    /// How many of its bytes `content` is: the next part begins at offset plus this.
    bytes_read: usize,
    /// Number of the first line, where lines were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_line: Option<u64>,
    /// How many lines these are: the next one is start_line plus this.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<u64>,
    /// Offset of the byte behind them, to go on within a line that is too long for one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
    /// Whether the file ends there.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_end: Option<bool>,
}

impl Read {
    pub(in crate::mcp) fn new(path: String, read: service::FileRead) -> Self {
        let service::FileRead {
            content,
            bytes,
            size,
            lines,
        } = read;
        let service::Content { text, encoding } = content;
        Self {
            content: text,
            encoding,
            path,
            size,
            bytes_read: bytes,
            start_line: lines.map(|lines| lines.start_line),
            lines: lines.map(|lines| lines.count),
            next_offset: lines.map(|lines| lines.next_offset),
            at_end: lines.map(|lines| lines.at_end),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::mcp) struct Files {
    path: String,
    files: Vec<File>,
    count: usize,
    /// Whether there are more entries than are listed.
    truncated: bool,
    /// Entries that could not be read and are missing above.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<u64>,
}

/// Bytes of an entry in a result: as JSON, and as JSON within the text copy.
fn entry_cost(file: &File) -> usize {
    let json = serde_json::to_string(file).unwrap_or_default();
    json.len() + json_length(&json)
}

/// Most bytes of entries in a result, both copies together; the rest of a result takes far less than
/// what this leaves.
const FILES_MAX: usize = 900_000;

#[derive(Debug, Serialize, JsonSchema)]
struct File {
    /// Path relative to the listed folder.
    name: String,
    /// The name's bytes as base64, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    size: u64,
    is_dir: bool,
    /// Permission bits in octal, such as 0644.
    mode: String,
    /// RFC 3339.
    modified: String,
}

impl From<Entry> for File {
    fn from(entry: Entry) -> Self {
        let (name, name_base64) = service::file_name(&entry.name);
        let modified = Timestamp::from_nanosecond(i128::from(entry.modified_ns));
        Self {
            name,
            name_base64,
            size: entry.size,
            is_dir: entry.kind == FileKind::Directory,
            mode: format!("{:04o}", entry.mode & 0o7777),
            // 64 bits of nanoseconds never leave jiff's range.
            modified: modified.unwrap_or_default().to_string(),
        }
    }
}

impl From<service::FolderListing> for Files {
    fn from(listing: service::FolderListing) -> Self {
        let total = listing.entries.len();
        let mut room = FILES_MAX;
        let mut files = Vec::new();
        for file in listing.entries.into_iter().map(File::from) {
            let Some(left) = room.checked_sub(entry_cost(&file)) else {
                break;
            };
            room = left;
            files.push(file);
        }
        Self {
            path: listing.path,
            count: files.len(),
            truncated: listing.truncated || files.len() < total,
            files,
            unreadable: (listing.unreadable > 0).then_some(listing.unreadable),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::mcp) struct Edited {
    path: String,
    /// How often the text was replaced.
    replacements: u32,
    /// Size of the file now, in bytes.
    size: u64,
    /// SHA-256 of the file now: give it to the next edit to be sure that nobody else has changed it.
    sha256: String,
}

impl Edited {
    pub(in crate::mcp) fn new(path: String, edited: service::FileEdited) -> Self {
        Self {
            path,
            replacements: edited.replacements,
            size: edited.size,
            sha256: edited.sha256,
        }
    }

    /// The text copy.
    pub(in crate::mcp) fn summary(&self) -> String {
        let Self {
            path,
            replacements,
            size,
            sha256,
        } = self;
        let places = if *replacements == 1 {
            "place"
        } else {
            "places"
        };
        format!("edited {path} in {replacements} {places}; it has {size} bytes, sha256 {sha256}")
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::mcp) struct Matches {
    /// The file or folder that was searched.
    path: String,
    /// The lines, by file and number.
    lines: Vec<Line>,
    /// Matching lines above.
    count: u64,
    /// Files with a match above, as far as is known.
    files_matched: u64,
    /// Files that were searched, as far as is known.
    files_searched: u64,
    /// Whether there may be more matches than are told.
    truncated: bool,
    /// Files and folders that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<u64>,
    /// What to do about matches that are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Line {
    /// Absolute path of the file.
    path: String,
    /// The path's bytes as base64, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// Number of the line, from 1.
    line: u64,
    text: String,
    /// True if the line does not match, but stands near one that does.
    #[serde(skip_serializing_if = "is_false")]
    context: bool,
    /// True if the line is longer than `text`.
    #[serde(skip_serializing_if = "is_false")]
    cut: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

impl From<service::FoundLine> for Line {
    fn from(found: service::FoundLine) -> Self {
        let (path, path_base64) = service::file_name(&found.file);
        Self {
            path,
            path_base64,
            line: found.number,
            text: found.text,
            context: !found.is_match,
            cut: found.cut,
        }
    }
}

impl Line {
    /// As `grep -n` writes it.
    fn write(&self, text: &mut String) {
        let mark = if self.context { '-' } else { ':' };
        let end = if self.cut { " [...]" } else { "" };
        let Self {
            path,
            line,
            text: found,
            ..
        } = self;
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{path}{mark}{line}{mark} {found}{end}");
    }

    /// Bytes in a result: as JSON, and as a line of the text copy.
    fn cost(&self) -> usize {
        let mut text = String::new();
        self.write(&mut text);
        // With the separators of both.
        json_length(self) + json_length(&text) + 8
    }
}

impl From<service::Found> for Matches {
    fn from(found: service::Found) -> Self {
        let total = found.lines.len();
        let mut room = FILES_MAX;
        let mut lines = Vec::new();
        for line in found.lines.into_iter().map(Line::from) {
            let Some(left) = room.checked_sub(line.cost()) else {
                break;
            };
            room = left;
            lines.push(line);
        }
        let cut = lines.len() < total;
        let hint = if found.timed_out {
            Some(
                "the search was stopped after 30 seconds; search a smaller path or a narrower glob",
            )
        } else if cut || found.truncated {
            Some("there are more matches; narrow pattern, path or glob, or raise limit")
        } else {
            None
        };
        let matching = || lines.iter().filter(|line| !line.context);
        let count = u64::try_from(matching().count()).unwrap_or(u64::MAX);
        Self {
            path: found.path,
            count,
            files_matched: found.end.files_matched,
            files_searched: found.end.files_searched,
            truncated: cut || found.truncated,
            unreadable: (found.end.unreadable > 0).then_some(found.end.unreadable),
            hint,
            lines,
        }
    }
}

impl Matches {
    /// The text copy: the lines as `grep -n` writes them, with `--` between groups that do not touch
    /// where there is context, and what is to be known beside.
    pub(in crate::mcp) fn text(&self) -> String {
        let mut text = String::new();
        let grouped = self.lines.iter().any(|line| line.context);
        let mut last: Option<&Line> = None;
        for line in &self.lines {
            let touches =
                |last: &Line| last.path == line.path && last.line.checked_add(1) == Some(line.line);
            if grouped && last.is_some_and(|last| !touches(last)) {
                text.push_str("--\n");
            }
            line.write(&mut text);
            last = Some(line);
        }
        if self.count == 0 {
            let _ = writeln!(
                text,
                "no match in {} files below {}",
                self.files_searched, self.path
            );
        }
        if let Some(hint) = self.hint {
            let _ = writeln!(text, "[{} matches are told; {hint}]", self.count);
        }
        if let Some(unreadable) = self.unreadable {
            let _ = writeln!(text, "[{unreadable} files or folders could not be read]");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_bytes::ByteBuf;
    use waggle_protocol::message::SearchEnd;

    use super::*;
    use crate::mcp::{RESULT_MAX, structured};

    fn found(lines: Vec<service::FoundLine>) -> service::Found {
        service::Found {
            path: "/p".into(),
            lines,
            end: SearchEnd {
                files_searched: 9,
                ..SearchEnd::default()
            },
            truncated: false,
            timed_out: false,
        }
    }

    fn line(number: u64, is_match: bool, text: &str) -> service::FoundLine {
        service::FoundLine {
            file: Arc::new(ByteBuf::from(*b"/p/a.py")),
            number,
            is_match,
            text: text.into(),
            cut: false,
        }
    }

    #[test]
    fn matches_read_like_grep() {
        let lines = vec![
            line(3, true, "x = 1"),
            line(4, false, "y"),
            line(9, true, "x"),
        ];
        let matches = Matches::from(found(lines));
        assert_eq!(matches.count, 2);
        assert_eq!(
            matches.text(),
            "/p/a.py:3: x = 1\n/p/a.py-4- y\n--\n/p/a.py:9: x\n"
        );
        let json = serde_json::to_value(&matches).expect("JSON");
        assert_eq!(
            json["lines"][0],
            serde_json::json!({"path": "/p/a.py", "line": 3, "text": "x = 1"})
        );
        assert_eq!(json["lines"][1]["context"], true);
        let none = Matches::from(found(Vec::new())).text();
        assert_eq!(none, "no match in 9 files below /p\n");
    }

    #[test]
    fn matches_of_any_length_fit_into_a_result() {
        // Each of these bytes takes six in JSON, and seven in the text copy.
        let text = "\u{1}".repeat(2000);
        let lines = (0..1000).map(|number| line(number, true, &text)).collect();
        let matches = Matches::from(found(lines));
        assert!(matches.truncated && matches.hint.is_some());
        assert!((20..1000).contains(&matches.lines.len()));
        let text = matches.text();
        assert!(
            structured(&matches, Some(text)).is_ok(),
            "within {RESULT_MAX}"
        );
    }
}
