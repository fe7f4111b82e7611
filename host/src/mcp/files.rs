// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The tools for files: arguments to use case, use case to result.

use rmcp::model::JsonObject;

use super::{
    Handler, Outcome,
    arguments::{EditFile, ListFiles, ReadFile, SearchFiles, WriteFile},
    parse, results, structured, success,
};
use crate::service::{Content, EditRequest, ListRequest, ReadRequest, SearchRequest, WriteRequest};

impl Handler {
    pub(super) async fn write_file(&self, arguments: JsonObject) -> Outcome {
        let WriteFile {
            environment_id,
            path,
            content: text,
            encoding,
            mode,
            append,
        } = parse(arguments)?;
        let request = WriteRequest {
            environment_id,
            path: path.clone(),
            content: Content { encoding, text },
            mode,
            append,
        };
        let written = self.service.write_file(request).await?;
        success(&results::Written::new(path, append, &written))
    }

    pub(super) async fn edit_file(&self, arguments: JsonObject) -> Outcome {
        let EditFile {
            environment_id,
            path,
            old_text,
            new_text,
            expected_replacements,
            replace_all,
            sha256,
        } = parse(arguments)?;
        let request = EditRequest {
            environment_id,
            path: path.clone(),
            old_text,
            new_text,
            expected_replacements,
            replace_all,
            sha256,
        };
        let edited = self.service.edit_file(request).await?;
        let edited = results::Edited::new(path, edited);
        let summary = edited.summary();
        structured(&edited, Some(summary))
    }

    pub(super) async fn read_file(&self, arguments: JsonObject) -> Outcome {
        let ReadFile {
            environment_id,
            path,
            encoding,
            offset,
            length,
            start_line,
            line_count,
        } = parse(arguments)?;
        let request = ReadRequest {
            environment_id,
            path: path.clone(),
            encoding,
            offset,
            length,
            start_line,
            line_count,
        };
        let read = self.service.read_file(request).await?;
        let read = results::Read::new(path, read);
        // For people and models the content itself, not JSON around it.
        let text = read.content.clone();
        structured(&read, Some(text))
    }

    pub(super) async fn list_files(&self, arguments: JsonObject) -> Outcome {
        let ListFiles {
            environment_id,
            path,
            depth,
            glob,
            limit,
        } = parse(arguments)?;
        let request = ListRequest {
            environment_id,
            path,
            depth,
            glob,
            limit,
        };
        let listing = self.service.list_files(request).await?;
        success(&results::Files::from(listing))
    }

    pub(super) async fn search_files(&self, arguments: JsonObject) -> Outcome {
        let SearchFiles {
            environment_id,
            pattern,
            path,
            glob,
            literal,
            ignore_case,
            all_files,
            context_lines,
            limit,
        } = parse(arguments)?;
        let request = SearchRequest {
            environment_id,
            pattern,
            path,
            glob,
            literal,
            ignore_case,
            all_files,
            context_lines,
            limit,
        };
        let found = self.service.search_files(request).await?;
        let matches = results::Matches::from(found);
        let text = matches.text();
        structured(&matches, Some(text))
    }
}
