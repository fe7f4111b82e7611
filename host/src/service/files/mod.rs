// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Files of an environment: write, edit, read, list, search; and whole folders as archives.

pub(super) mod archive;
mod list;
mod read;
mod search;
mod write;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_bytes::ByteBuf;

use crate::{
    environment::store::Lease,
    service::{Live, Service, ServiceError},
    session::LinkError,
};

pub use archive::{ArchiveRequest, Packed};
pub use list::{FolderListing, ListRequest};
pub use read::{FileRead, LinesRead, ReadRequest};
pub use search::{Found, FoundLine, SearchRequest};
pub use write::{EditRequest, FileEdited, FileWritten, WriteRequest};

/// Where `list_files` and `search_files` look if the caller does not say.
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

impl Service {
    /// What a failed operation that changes nothing means for the caller.
    async fn explain_read(&self, lease: &Lease<Live>, error: LinkError) -> ServiceError {
        self.explain(lease, error).await.of_a_read()
    }
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
