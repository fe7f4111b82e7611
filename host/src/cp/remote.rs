// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The server's archives, over HTTP.

use std::io;

use futures_util::stream::unfold;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, TE},
};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use tokio::sync::mpsc;

use super::{User, channel::Piece};
use crate::{
    archive::{DONE, OUTCOME},
    client::{self, Body, ClientError, ServerOptions},
    environment::EnvironmentId,
};

/// What went wrong between here and the server, or there.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No archive was begun.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The connection broke.
    #[error("the connection to the server broke")]
    Broken(#[from] hyper::Error),
    /// The archive ended without the word that it is whole.
    #[error("the copy is not whole: {0}")]
    BrokeOff(String),
}

/// A server, and whose rights are asked for.
#[derive(Debug)]
pub(super) struct Server {
    server: client::Server,
    user: User,
}

impl Server {
    pub(super) fn new(options: &ServerOptions, user: User) -> Result<Self, RemoteError> {
        let server = client::Server::new(options)?;
        Ok(Self { server, user })
    }

    /// Asks for an archive.
    pub(super) async fn get(
        &self,
        id: &EnvironmentId,
        path: &[u8],
    ) -> Result<Download, RemoteError> {
        let response = self.send(Method::GET, id, path, client::nothing()).await?;
        if response.status() == StatusCode::OK {
            Ok(Download(response.into_body()))
        } else {
            Err(client::refusal(response).await.into())
        }
    }

    /// Sends an archive, and waits until it is unpacked.
    pub(super) async fn put(
        &self,
        id: &EnvironmentId,
        path: &[u8],
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<(), RemoteError> {
        let frames = unfold(Some(pieces), |pieces| async move {
            let mut pieces = pieces?;
            match pieces.recv().await {
                Some(Piece::Data(bytes)) => Some((Ok(Frame::data(bytes)), Some(pieces))),
                Some(Piece::End) => None,
                None => Some((Err(io::Error::other("the archive broke off")), None)),
            }
        });
        let body = StreamBody::new(frames).boxed_unsync();
        let response = self.send(Method::PUT, id, path, body).await?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(client::refusal(response).await.into())
        }
    }

    async fn send(
        &self,
        method: Method,
        id: &EnvironmentId,
        path: &[u8],
        body: Body,
    ) -> Result<Response<Incoming>, RemoteError> {
        let user = match self.user {
            User::Sandbox => "sandbox",
            User::Root => "root",
        };
        let path = percent_encode(path, NON_ALPHANUMERIC);
        let target = format!("/environments/{id}/archive?path={path}&user={user}");
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(TE, "trailers")
            .header(CONTENT_TYPE, "application/x-tar");
        Ok(self.server.send(request, body).await?)
    }
}

/// An archive that the server sends.
#[derive(Debug)]
pub(super) struct Download(Incoming);

impl Download {
    /// Hands all of it on, and then its end. If the other side wants no more, that is no error here.
    pub(super) async fn send_to(mut self, pieces: mpsc::Sender<Piece>) -> Result<(), RemoteError> {
        let mut outcome = None;
        while let Some(frame) = self.0.frame().await {
            match frame?.into_data() {
                Ok(bytes) => {
                    if pieces.send(Piece::Data(bytes)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    outcome = trailers.get(OUTCOME).cloned();
                }
            }
        }
        let outcome = outcome.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        match outcome.as_deref() {
            Some(DONE) => {
                // Who wants no more needs no end.
                let _ = pieces.send(Piece::End).await;
                Ok(())
            }
            Some(told) => Err(RemoteError::BrokeOff(client::printable(told))),
            None => Err(RemoteError::BrokeOff(
                "the server did not say that it is whole".to_owned(),
            )),
        }
    }
}
