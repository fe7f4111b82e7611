// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The tools' arguments. Their documentation comments are what a model reads in the input schema.
//!
//! Bounds stand in the schema for clients; the use cases check them again, with better words.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    environment::Runtime,
    service::{Encoding, OUTPUT_DEFAULT, SignalName, User},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateEnvironment {
    /// What the environment is for; also the default language of `execute`.
    pub(super) runtime: Runtime,
    /// An OCI image to make it of, like python:3.13 or ghcr.io/acme/tool:1, if this server permits it. It
    /// is fetched if need be, which may take minutes. Default: the runtime's.
    #[schemars(length(min = 1, max = 512))]
    pub(super) image: Option<String>,
    /// A name to recognise it by. Default: its id.
    #[schemars(length(min = 1, max = 64))]
    pub(super) name: Option<String>,
    /// Minutes without any call after which the environment is destroyed. Default: 30.
    #[schemars(range(min = 1, max = 60))]
    pub(super) timeout_minutes: Option<u32>,
    /// What its programs may reach, of what the server permits (the default): none, packages (the
    /// package registries), all, or a comma-separated list like example.com:443, *.example.org,
    /// 192.0.2.0/24.
    #[schemars(length(min = 1, max = 8192))]
    pub(super) network: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DestroyEnvironment {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListEnvironments {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Execute {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// The program's text, at most 512,000 bytes; may be many lines.
    pub(super) code: String,
    /// Its language. Default: the environment's runtime.
    pub(super) language: Option<Runtime>,
    /// Seconds after which the program is killed, with everything it has started.
    #[schemars(range(min = 1, max = 604_800))]
    pub(super) timeout_seconds: Option<u64>,
    /// Text for its standard input, at most 1 MiB. Default: no input.
    #[schemars(length(max = 1_048_576))]
    pub(super) stdin: Option<String>,
    /// Environment variables, by name.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Absolute path of the folder to start in. Default: the user's home, or the working_directory that
    /// `create_environment` returned.
    pub(super) working_directory: Option<String>,
    /// Whom it runs as: `root` for what `sandbox` may not do.
    #[serde(default)]
    pub(super) user: User,
    /// Most bytes of stdout and stderr in the result, together; 4 bytes are about a token. Longer
    /// output is cut in the middle, and the log named in the result has the rest.
    #[schemars(range(min = 1, max = 65_536), extend("default" = OUTPUT_DEFAULT))]
    pub(super) max_output_bytes: Option<u64>,
    /// Return at once with a process_id, for the tool process, and let the program go on.
    #[serde(default)]
    pub(super) background: bool,
    /// Any text, best a random UUID. A call repeated with the same key and arguments returns the first
    /// one's result, and the program never runs twice. Such a program goes on if the connection is lost.
    #[schemars(length(min = 1, max = 200))]
    pub(super) idempotency_key: Option<String>,
}

/// What to do with a program that runs in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProcessAction {
    /// Show all of the environment's processes.
    List,
    /// Return output from `cursor` on, after waiting up to `timeout_seconds` for something new.
    Read,
    /// Write `input` to its standard input.
    Write,
    /// Wait for its end, up to `timeout_seconds`, and return output from `cursor` on.
    Wait,
    /// Send it `signal`.
    Signal,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    pub(super) action: ProcessAction,
    /// Id from `execute` with `background`. Needed for all actions but list.
    pub(super) process_id: Option<String>,
    /// read, wait: where to read on, as the last read returned it. It also says that everything before
    /// has arrived and may be dropped. Default: what was said last.
    pub(super) cursor: Option<u64>,
    /// read, wait: most bytes of output in the result.
    #[schemars(range(min = 1, max = 65_536), extend("default" = OUTPUT_DEFAULT))]
    pub(super) max_output_bytes: Option<u64>,
    /// read: seconds to wait for something new, default 0. wait: for the end, default 30.
    #[schemars(range(min = 0, max = 300))]
    pub(super) timeout_seconds: Option<u64>,
    /// write: the text, at most 256 KiB; a line needs its newline.
    #[schemars(length(max = 262_144))]
    pub(super) input: Option<String>,
    /// write: end its input, after `input` if there is any.
    #[serde(default)]
    pub(super) close_input: bool,
    /// signal: which. KILL ends everything that the program has started, too.
    pub(super) signal: Option<SignalName>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InstallPackages {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Names separated by spaces, with versions if needed: `requests pandas[excel]==2.2.*` (pip),
    /// `@types/node@20` (npm), `jq curl=7.88.1-10` (apt). No options, URLs or files.
    pub(super) packages: String,
    /// Seconds after which the installation is killed.
    #[schemars(range(min = 1))]
    pub(super) timeout_seconds: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteFile {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Absolute path, such as `/home/sandbox/data.csv`.
    pub(super) path: String,
    /// What to write: the whole content of the file, or what to append.
    pub(super) content: String,
    /// How `content` is encoded: `base64` for bytes that are not text.
    #[serde(default = "utf8")]
    pub(super) encoding: Encoding,
    /// Permission bits in octal, such as `0755`. Default: those of the file that is replaced, or 0644.
    #[schemars(regex(pattern = r"^(0o)?[0-7]{1,5}$"))]
    pub(super) mode: Option<String>,
    /// Write behind what is in the file instead of replacing it.
    #[serde(default)]
    pub(super) append: bool,
}

fn utf8() -> Encoding {
    Encoding::Utf8
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadFile {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Absolute path of the file.
    pub(super) path: String,
    /// How the content is returned. Default: text if it is UTF-8, else base64.
    pub(super) encoding: Option<Encoding>,
    /// First byte to read. Default: 0.
    pub(super) offset: Option<u64>,
    /// Most bytes to read, at most 262,144. Default: to the end.
    #[schemars(range(min = 1, max = 262_144))]
    pub(super) length: Option<u64>,
    /// First line to read, from 1; instead of offset and length. Default with line_count: 1.
    #[schemars(range(min = 1))]
    pub(super) start_line: Option<u64>,
    /// Most lines to read. Default with start_line: 1000.
    #[schemars(range(min = 1, max = 262_144))]
    pub(super) line_count: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EditFile {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Absolute path of the file.
    pub(super) path: String,
    /// The text to replace, exactly as it is in the file, at most 262,144 bytes.
    #[schemars(length(min = 1, max = 262_144))]
    pub(super) old_text: String,
    /// What to put in its place, at most 262,144 bytes; empty to remove it.
    #[schemars(length(max = 262_144))]
    pub(super) new_text: String,
    /// How often old_text must occur; all of these are replaced. Default: 1.
    #[schemars(range(min = 1))]
    pub(super) expected_replacements: Option<u32>,
    /// Replace old_text however often it occurs.
    #[serde(default)]
    pub(super) replace_all: bool,
    /// SHA-256 that the file must have before, in hexadecimal.
    #[schemars(regex(pattern = "^[0-9a-fA-F]{64}$"))]
    pub(super) sha256: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListFiles {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Absolute path of the folder. Default: `/home/sandbox`.
    pub(super) path: Option<String>,
    /// Levels to descend; 1 lists the folder alone. Default: 1, or with glob all of them.
    #[schemars(range(min = 1, max = 64))]
    pub(super) depth: Option<u32>,
    /// List only what fits this pattern: `*.py`, `src/**/*.{ts,tsx}`. Without a slash it is matched
    /// against the last part of a path, else against the path relative to the folder.
    #[schemars(length(min = 1, max = 1000))]
    pub(super) glob: Option<String>,
    /// Most entries to return. Default: 2000.
    #[schemars(range(min = 1, max = 2000))]
    pub(super) limit: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchFiles {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Regular expression (Rust's syntax: no look-around, no back-references), matched line by line.
    #[schemars(length(min = 1, max = 1000))]
    pub(super) pattern: String,
    /// Absolute path of the folder or file to search. Default: `/home/sandbox`.
    pub(super) path: Option<String>,
    /// Search only files that fit this pattern: `*.py`, `src/**/*.{ts,tsx}`.
    #[schemars(length(min = 1, max = 1000))]
    pub(super) glob: Option<String>,
    /// Take pattern as plain text.
    #[serde(default)]
    pub(super) literal: bool,
    /// Ignore case.
    #[serde(default)]
    pub(super) ignore_case: bool,
    /// Search hidden files as well, and those that .gitignore and the like name.
    #[serde(default)]
    pub(super) all_files: bool,
    /// Lines to show before and after each match. Default: 0.
    #[serde(default)]
    #[schemars(range(max = 10))]
    pub(super) context_lines: u32,
    /// Most matching lines to return. Default: 100.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) limit: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardPort {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// The port in the environment.
    #[schemars(range(min = 1, max = 65_535))]
    pub(super) port: u32,
    /// The port of the host. Default: any that is free.
    #[schemars(range(min = 1, max = 65_535))]
    pub(super) host_port: Option<u32>,
    /// End the forward of this port instead, with its connections.
    #[serde(default)]
    pub(super) close: bool,
}
