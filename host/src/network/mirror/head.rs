// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Answers to HEAD: what a GET would be answered, without the bytes, and so without fetching them.
//!
//! Invariant: nothing is downloaded, and nothing is kept. What the mirror does not have is asked of the
//! registry by a HEAD of the mirror's own.

use hyper::{HeaderMap, Response, StatusCode};
use url::Url;

use super::{
    Mirror, Served,
    answer::{self, Source},
    artefact::{Artefact, is_good, modified, status},
    artefact_response, conditions,
    digest::Digest,
    failure::Failure,
    insists, passed,
    route::{Apt, AptKind, Route},
};
use crate::network::Body;

impl Mirror {
    /// The head of what a GET of `route` would be answered.
    pub(super) async fn head(
        &self,
        route: &Route,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        match route {
            Route::Document(wanted) => {
                let document = self.documents.head(wanted, insists(headers)).await?;
                Ok(answer::respond(headers, document.content, document.served))
            }
            Route::File(digest, url) => self.head_of_file(digest, url, headers).await,
            Route::Unknown(url) => self.head_past_store(url, headers).await,
            Route::Tarball(wanted, url) => {
                let digest = match self.documents.kept(wanted).await {
                    Some(document) => self.digest_in(document, url).await,
                    None => None,
                };
                self.head_of(digest.as_ref(), url, headers).await
            }
            Route::Apt(apt) => self.head_of_apt(apt, headers).await,
        }
    }

    async fn head_of_apt(&self, apt: &Apt, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        match &apt.kind {
            AptKind::Hashed(digest, _) => self.head_of_file(digest, &apt.url, headers).await,
            AptKind::Package(path) => {
                let digest = self.tables.digest(&apt.repository, path).await;
                self.head_of(digest.as_ref(), &apt.url, headers).await
            }
            AptKind::Document(_) => {
                let wanted = apt.wanted();
                let document = self.documents.head(&wanted, insists(headers)).await?;
                Ok(answer::respond(headers, document.content, document.served))
            }
        }
    }

    async fn head_of(
        &self,
        digest: Option<&Digest>,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        match digest {
            Some(digest) => self.head_of_file(digest, url, headers).await,
            None => self.head_past_store(url, headers).await,
        }
    }

    async fn head_of_file(
        &self,
        digest: &Digest,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        let artefact = match self.downloads.kept(digest).await {
            Some(kept) => kept,
            None => {
                let head = self.upstream.head(url, &HeaderMap::new()).await?;
                if head.status() != StatusCode::OK {
                    return Err(status(&head));
                }
                let source = Source::Unseen(head.stated_len());
                Artefact::Kept(source, modified(&head.head.headers), Served::Upstream)
            }
        };
        Ok(artefact_response(artefact, Some(digest), headers))
    }

    /// The registry's own head, under the client's own conditions.
    async fn head_past_store(
        &self,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        let head = self.upstream.head(url, &conditions(headers)).await?;
        if !is_good(head.status()) {
            return Err(status(&head));
        }
        Ok(passed(&head.head, answer::empty()))
    }
}
