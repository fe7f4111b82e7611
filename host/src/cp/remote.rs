// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The server's archives, over HTTP: one connection a copy.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Frame, Incoming},
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, TE},
};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use tokio::{net::TcpStream, sync::mpsc};

use super::{User, channel::Piece};
use crate::{
    archive::{DONE, OUTCOME},
    environment::EnvironmentId,
};

/// Most bytes of an answer that is no archive: an error in words.
const ANSWER_MAX: usize = 64 * 1024;

/// Longest token, in bytes: it has to fit into a header.
const TOKEN_MAX: usize = 4096;

/// What went wrong between here and the server, or there.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Not a URL of a server.
    #[error("{0:?} is not like http://127.0.0.1:8080; give the server's URL by --server")]
    Url(String),
    /// The token's file.
    #[error("cannot read a token from {}", path.display())]
    Token {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("cannot reach a server at {server}; start `waggle serve`, or name another by --server")]
    Connect {
        /// Where.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the server broke")]
    Broken(#[from] hyper::Error),
    /// The server said no.
    #[error("{message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// The archive ended without the word that it is whole.
    #[error("the copy is not whole: {0}")]
    BrokeOff(String),
    /// A request that cannot be put into words.
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A server, and what it wants to know of the client.
#[derive(Debug)]
pub(super) struct Server {
    /// `host:port`.
    authority: String,
    authorization: Option<HeaderValue>,
    user: User,
}

impl Server {
    pub(super) fn new(url: &str, token: Option<&Path>, user: User) -> Result<Self, RemoteError> {
        let authorization = token.map(read_token).transpose()?;
        let refused = || RemoteError::Url(url.to_owned());
        let parsed: Uri = url.parse().map_err(|_| refused())?;
        let authority = parsed.authority().ok_or_else(refused)?;
        // A token in the clear is for loopback, or for the operator's own network.
        if parsed.scheme_str() != Some("http")
            || !matches!(parsed.path(), "" | "/" | "/mcp")
            || authority.as_str().contains('@')
        {
            return Err(refused());
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
            authorization,
            user,
        })
    }

    /// Asks for an archive.
    pub(super) async fn get(
        &self,
        id: &EnvironmentId,
        path: &[u8],
    ) -> Result<Download, RemoteError> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let response = self.send(Method::GET, id, path, body).await?;
        if response.status() == StatusCode::OK {
            Ok(Download(response.into_body()))
        } else {
            Err(refusal(response).await)
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
            Err(refusal(response).await)
        }
    }

    async fn send(
        &self,
        method: Method,
        id: &EnvironmentId,
        path: &[u8],
        body: Body,
    ) -> Result<Response<Incoming>, RemoteError> {
        let unreachable = |source| RemoteError::Connect {
            server: self.authority.clone(),
            source,
        };
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(unreachable)?;
        let user = match self.user {
            User::Sandbox => "sandbox",
            User::Root => "root",
        };
        let path = percent_encode(path, NON_ALPHANUMERIC);
        let target = format!("/environments/{id}/archive?path={path}&user={user}");
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, &self.authority)
            .header(TE, "trailers")
            .header(CONTENT_TYPE, "application/x-tar");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the response's body; what went wrong shows there.
        tokio::spawn(connection);
        Ok(sender.send_request(request.body(body)?).await?)
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, RemoteError> {
    let failed = |source| RemoteError::Token {
        path: path.to_owned(),
        source,
    };
    let invalid = |text| failed(io::Error::new(io::ErrorKind::InvalidData, text));
    let text = std::fs::read_to_string(path).map_err(failed)?;
    // As the server reads it.
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() || token.len() > TOKEN_MAX {
        return Err(invalid("its first line is empty, or too long"));
    }
    let value = HeaderValue::from_str(&format!("Bearer {token}")).ok();
    let value = value.filter(|_| token.is_ascii());
    let mut value = value.ok_or_else(|| invalid("a token is printable ASCII"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An answer that is no archive, in words.
async fn refusal(response: Response<Incoming>) -> RemoteError {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await;
    let told = body.ok().and_then(|body| {
        let answer: serde_json::Value = serde_json::from_slice(&body.to_bytes()).ok()?;
        Some(answer.get("error")?.as_str()?.to_owned())
    });
    let message = match (told, status) {
        (Some(told), _) => printable(&told),
        (None, StatusCode::UNAUTHORIZED) => {
            "the server wants a token; name its file by --auth-token-file".to_owned()
        }
        (None, status) => format!("the server answered {status}; is it a `waggle serve`?"),
    };
    RemoteError::Refused { status, message }
}

/// Without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
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
            Some(told) => Err(RemoteError::BrokeOff(printable(told))),
            None => Err(RemoteError::BrokeOff(
                "the server did not say that it is whole".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_url() {
        let authority = |url| Server::new(url, None, User::Sandbox).map(|server| server.authority);
        for (url, expected) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]:9/mcp", "[::1]:9"),
            ("http://waggle/", "waggle:80"),
        ] {
            assert_eq!(authority(url).expect(url), expected);
        }
        for url in [
            "",
            "localhost:8080",
            "https://x",
            "http://x/y",
            "http://me@x",
        ] {
            assert!(authority(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_token_is_one_line() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("token");
        std::fs::write(&path, "secret\n").expect("written");
        let value = read_token(&path).expect("a token");
        assert_eq!(value, "Bearer secret");
        assert!(!format!("{value:?}").contains("secret"), "it is not logged");
        for text in ["", "\nsecret", "a\u{e9}"] {
            std::fs::write(&path, text).expect("written");
            assert!(read_token(&path).is_err(), "{text:?}");
        }
    }
}
