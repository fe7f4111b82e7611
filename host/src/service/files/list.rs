// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Listing folders, whole or by pattern.

use waggle_protocol::message::{Entry, FindFiles, ListFiles, User};

use super::HOME;
use crate::{
    service::{Service, ServiceError, validate},
    session::LinkError,
};

/// Most entries that one `list_files` returns: usual names of that number fit into a result.
const ENTRIES_MAX: u32 = 2000;

/// Most levels that one `list_files` descends.
const DEPTH_MAX: u32 = 64;

/// A folder to list.
#[derive(Debug)]
pub struct ListRequest {
    /// Where.
    pub environment_id: String,
    /// Absolute path; the user's home if absent.
    pub path: Option<String>,
    /// Levels to descend. If absent: one, or all of them where there is a pattern.
    pub depth: Option<u32>,
    /// Pattern that an entry has to fit.
    pub glob: Option<String>,
    /// Most entries; as many as a result takes if absent.
    pub limit: Option<u32>,
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
    /// Lists a folder.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_files(&self, request: ListRequest) -> Result<FolderListing, ServiceError> {
        let lease = self.lease(&request.environment_id)?;
        let glob = request.glob.map(validate::glob).transpose()?;
        let depth = match request.depth {
            Some(given) => validate::within("depth", given, DEPTH_MAX)?,
            None if glob.is_some() => DEPTH_MAX,
            None => 1,
        };
        let limit = request.limit.unwrap_or(ENTRIES_MAX);
        let path = request.path.unwrap_or_else(|| HOME.to_owned());
        let list = ListFiles {
            path: validate::path(&path)?,
            depth,
            limit: validate::within("limit", limit, ENTRIES_MAX)?,
            user: User::Sandbox,
        };
        let session = &lease.live.session;
        let listed = match glob {
            Some(glob) => session.find_files(FindFiles { list, glob }).await,
            None => session.list_files(list).await,
        };
        match listed {
            Ok(listing) => Ok(FolderListing {
                path,
                entries: listing.entries,
                truncated: listing.truncated,
                unreadable: listing.unreadable,
            }),
            Err(error @ LinkError::TooMuch { .. }) => Err(ServiceError::ListTooLarge(error)),
            Err(error) => Err(self.explain_read(&lease, error).await),
        }
    }
}
