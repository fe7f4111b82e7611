// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What npm installed: the packages that were asked for, and what came along with them.
//!
//! npm itself tells numbers alone, and takes ten seconds under emulation to tell more (`npm ls`): the
//! packages' own descriptions are read instead. What a global package needs lies below it, in
//! `node_modules` of its own, so everything is found from what was asked for.
//!
//! The guest wrote all of it: bounded, and believed for what it is. What cannot be read is installed all
//! the same.

use std::{collections::BTreeSet, time::Instant};

use serde::Deserialize;
use serde_bytes::ByteBuf;
use waggle_protocol::message::{FileKind, FindFiles, ListFiles, User};

use super::{
    Work, answered,
    report::{Package, bounded},
};
use crate::session::{LinkError, capture::lossy};

/// Most packages that came along which are looked at: each is a file to be read, which takes some
/// milliseconds under emulation, and few global packages bring more.
const COMPANIONS_MAX: usize = 400;

/// Most files of that name below one package that are listed. Some are no packages, but data of tests.
const FOUND_MAX: u32 = 1000;

/// Levels below a package that are looked at: the most that the guest descends.
const DEPTH: u32 = 64;

/// Most bytes of a package's description of itself that are read.
const MANIFEST_MAX: u64 = 1024 * 1024;

/// Where the descriptions of what came along are, below a package that was asked for.
const COMPANIONS: &str = "**/node_modules/{*,@*/*}/package.json";

/// What stands behind npm's output if the report is not whole.
pub(super) const NOT_ALL: &str =
    "\n[... not all that came along is in `installed`; npm ls -g --all tells it ...]\n";

impl Work<'_> {
    /// What was installed, and whether that is all of it.
    pub(super) async fn npm_installed(&self) -> (Vec<Package>, bool) {
        let Some(modules) = self.lease.live.network.npm_modules() else {
            return (Vec::new(), true);
        };
        let names = self.names.iter();
        let asked: Vec<_> = names
            .map(|word| format!("{modules}/{}", name(&lossy(word))))
            .collect();
        let mut found = BTreeSet::new();
        let whole = self.npm_read(&asked, &mut found).await;
        if let Err(error) = &whole {
            tracing::debug!(%error, "not all of the installed versions could be read");
        }
        (found.into_iter().collect(), whole.unwrap_or(false))
    }

    /// Adds what was `asked` for first. Whether nothing was left out for its number or for the time; an error is one
    /// that the next question would meet as well.
    async fn npm_read(
        &self,
        asked: &[String],
        found: &mut BTreeSet<Package>,
    ) -> Result<bool, LinkError> {
        for package in asked {
            found.extend(
                self.npm_described(&format!("{package}/package.json"))
                    .await?,
            );
        }
        let (mut companions, mut whole) = (Vec::new(), true);
        for package in asked {
            whole &= self.npm_companions(package, &mut companions).await?;
        }
        whole &= companions.len() <= COMPANIONS_MAX;
        for path in companions.iter().take(COMPANIONS_MAX) {
            // Each question may be answered a little after the deadline: together they would go on for half an hour.
            if Instant::now() >= self.deadline {
                return Ok(false);
            }
            found.extend(self.npm_described(path).await?);
        }
        Ok(whole)
    }

    /// The package that a file describes.
    async fn npm_described(&self, path: &str) -> Result<Option<Package>, LinkError> {
        match self.read(path, MANIFEST_MAX).await {
            Ok(json) => Ok(described(&json)),
            Err(LinkError::Failed(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds where that which `package` brought describes itself. Whether that was all of it.
    async fn npm_companions(
        &self,
        package: &str,
        all: &mut Vec<String>,
    ) -> Result<bool, LinkError> {
        let request = FindFiles {
            list: ListFiles {
                path: ByteBuf::from(package.as_bytes()),
                depth: DEPTH,
                limit: FOUND_MAX,
                user: User::Sandbox,
            },
            glob: COMPANIONS.to_owned(),
        };
        let question = self.lease.live.session.find_files(request);
        let listing = match answered(self.deadline, question).await {
            Ok(listing) => listing,
            Err(LinkError::Failed(_)) => return Ok(true),
            Err(error) => return Err(error),
        };
        let files = listing.entries.iter();
        let files = files.filter(|entry| entry.kind == FileKind::File);
        let paths = files.filter_map(|entry| std::str::from_utf8(&entry.name).ok());
        let paths = paths.filter(|path| is_package(path));
        all.extend(paths.map(|path| format!("{package}/{path}")));
        Ok(!listing.truncated)
    }
}

/// Whether npm says that it changed anything.
pub(super) fn changed(output: &str) -> bool {
    ["added ", "changed ", "+ "]
        .iter()
        .any(|start| output.lines().any(|line| line.starts_with(start)))
}

/// The package whose `package.json` this is.
fn described(json: &[u8]) -> Option<Package> {
    #[derive(Deserialize)]
    struct Manifest {
        name: String,
        version: String,
    }
    let Manifest { name, version } = serde_json::from_slice(json).ok()?;
    bounded([(name.as_str(), version.as_str())].into_iter()).pop()
}

/// `@types/node` of `@types/node@20`.
fn name(word: &str) -> &str {
    match word.rfind('@') {
        None | Some(0) => word,
        Some(at) => word.get(..at).unwrap_or(word),
    }
}

/// Whether a `package.json` at `path` below a package is where npm puts what that needs:
/// `node_modules/NAME`, and below it again, with nothing in between. Elsewhere packages keep data for their tests.
fn is_package(path: &str) -> bool {
    let mut parts = path.split('/').peekable();
    while parts.next_if_eq(&"node_modules").is_some() {
        let scope = parts.next_if(|part| part.starts_with('@'));
        let name = parts.next().unwrap_or_default();
        let plain = !name.starts_with(['@', '.']) && !name.is_empty();
        if !plain || scope == Some("@") {
            return false;
        }
        if parts.next_if_eq(&"package.json").is_some() {
            return parts.next().is_none();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_found_by_its_name() {
        assert!(changed("\nadded 1 package in 2s\n") && !changed("up to date in 1s\n"));
        let found = described(br#"{"name":"is-number","version":"7.0.0","main":"x.js"}"#);
        assert_eq!(
            found.map(|package| package.version).as_deref(),
            Some("7.0.0")
        );
        assert!(described(b"no JSON").is_none() && described(b"{}").is_none());
        assert_eq!((name("@a/b"), name("a@1")), ("@a/b", "a"));
    }

    #[test]
    fn only_what_npm_placed_counts_as_having_come_along() {
        for path in [
            "node_modules/ms/package.json",
            "node_modules/@types/ms/package.json",
            "node_modules/a/node_modules/@b/c/package.json",
            "node_modules/node_modules/package.json",
        ] {
            assert!(is_package(path), "{path}");
        }
        for path in [
            "",
            "package.json",
            "node_modules/package.json",
            "node_modules/@types/package.json",
            "node_modules/.package-lock/package.json",
            "node_modules/a/test/node_modules/b/package.json",
            "test/node_modules/b/package.json",
            "node_modules/a/package.json/b",
            "node_modules/a/lib/package.json",
        ] {
            assert!(!is_package(path), "{path}");
        }
    }
}
