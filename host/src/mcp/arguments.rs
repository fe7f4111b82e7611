// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The tools' arguments. Their documentation comments are what a model reads in the input schema.
//!
//! Bounds stand in the schema for clients; the use cases check them again, with better words.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{environment::Runtime, service::Encoding};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateEnvironment {
    /// What the environment is for; also the default language of `execute`.
    pub(super) runtime: Runtime,
    /// A name to recognise it by. Default: its id.
    #[schemars(length(min = 1, max = 64))]
    pub(super) name: Option<String>,
    /// Minutes without any call after which the environment is destroyed. Default: 30.
    #[schemars(range(min = 1, max = 60))]
    pub(super) timeout_minutes: Option<u32>,
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
    /// Seconds after which the program is killed, with all processes of its session.
    #[schemars(range(min = 1, max = 300))]
    pub(super) timeout_seconds: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InstallPackages {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Package names separated by spaces, with versions if needed: `requests pandas==2.2.*`.
    pub(super) packages: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteFile {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Absolute path, such as `/home/sandbox/data.csv`.
    pub(super) path: String,
    /// The whole content of the file.
    pub(super) content: String,
    /// How `content` is encoded: `base64` for bytes that are not text.
    #[serde(default = "utf8")]
    pub(super) encoding: Encoding,
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
    #[serde(default)]
    pub(super) offset: u64,
    /// Most bytes to read, at most 262,144. Default: to the end.
    #[schemars(range(min = 1, max = 262_144))]
    pub(super) length: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListFiles {
    /// Id from `create_environment`.
    pub(super) environment_id: String,
    /// Absolute path of the folder. Default: `/home/sandbox`.
    pub(super) path: Option<String>,
    /// Levels to descend; 1 lists the folder alone.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub(super) depth: u32,
}

fn one() -> u32 {
    1
}
