// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Changing files: replace, append, edit.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_bytes::ByteBuf;
use waggle_protocol::message::{EditFile, User, WriteFile};

use super::{Content, Encoding};
use crate::{
    service::{Service, ServiceError, validate, validate::ArgumentError},
    session::WriteMode,
};

/// A file to write.
#[derive(Debug)]
pub struct WriteRequest {
    /// Where.
    pub environment_id: String,
    /// Absolute path.
    pub path: String,
    /// What.
    pub content: Content,
    /// Permission bits in octal; those of the old file, or 0644, if absent.
    pub mode: Option<String>,
    /// Whether to write behind the old content instead of replacing it.
    pub append: bool,
}

/// A file that was written.
#[derive(Debug)]
pub struct FileWritten {
    /// Bytes written.
    pub bytes: u64,
}

/// Text to replace in a file.
#[derive(Debug)]
pub struct EditRequest {
    /// Where.
    pub environment_id: String,
    /// Absolute path.
    pub path: String,
    /// The text to replace.
    pub old_text: String,
    /// What to put in its place.
    pub new_text: String,
    /// How often it has to occur; 1 if absent.
    pub expected_replacements: Option<u32>,
    /// Replace it however often it occurs.
    pub replace_all: bool,
    /// SHA-256 that the file has to have before, in hexadecimal.
    pub sha256: Option<String>,
}

/// A file that was edited.
#[derive(Debug)]
pub struct FileEdited {
    /// How often the text was replaced.
    pub replacements: u32,
    /// Bytes in the file now.
    pub size: u64,
    /// Its SHA-256 now, in hexadecimal.
    pub sha256: String,
}

impl Service {
    /// Replaces a file, atomically, or appends to it; missing folders above it are created.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn write_file(&self, request: WriteRequest) -> Result<FileWritten, ServiceError> {
        let lease = self.lease(&request.environment_id)?;
        let Content { encoding, text } = request.content;
        let bytes = match encoding {
            Encoding::Utf8 => text.into_bytes(),
            Encoding::Base64 => BASE64.decode(text).map_err(ArgumentError::Base64)?,
        };
        let write = WriteFile {
            path: validate::path(&request.path)?,
            mode: request.mode.as_deref().map(validate::mode).transpose()?,
            create_parents: true,
            user: User::Sandbox,
        };
        let mode = if request.append {
            WriteMode::Append
        } else {
            WriteMode::Replace
        };
        match lease.live.session.write_file(write, mode, &bytes).await {
            Ok(bytes) => Ok(FileWritten { bytes }),
            Err(error) => Err(self.explain(&lease, error).await),
        }
    }

    /// Replaces text in a file, atomically.
    ///
    /// # Errors
    ///
    /// [`ServiceError`]; the file is then as it was, or the error says that this is not known.
    pub async fn edit_file(&self, request: EditRequest) -> Result<FileEdited, ServiceError> {
        let lease = self.lease(&request.environment_id)?;
        let expected = match (request.expected_replacements, request.replace_all) {
            (Some(_), true) => {
                return Err(ArgumentError::Both("expected_replacements", "replace_all").into());
            }
            (None, true) => None,
            (Some(0), false) => return Err(ArgumentError::Zero("expected_replacements").into()),
            (Some(count), false) => Some(count),
            (None, false) => Some(1),
        };
        if request.old_text == request.new_text {
            return Err(ArgumentError::SameText.into());
        }
        let edit = EditFile {
            path: validate::path(&request.path)?,
            old: ByteBuf::from(validate::old_text(request.old_text)?),
            new: ByteBuf::from(validate::edit_text("new_text", request.new_text)?),
            expected,
            sha256: request
                .sha256
                .as_deref()
                .map(validate::sha256)
                .transpose()?,
            user: User::Sandbox,
        };
        match lease.live.session.edit_file(edit).await {
            Ok(edited) => Ok(FileEdited {
                replacements: edited.replaced,
                size: edited.bytes,
                sha256: hexadecimal(&edited.sha256),
            }),
            Err(error) => Err(self.explain(&lease, error).await),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
