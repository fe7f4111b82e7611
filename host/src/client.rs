// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A client of a running `waggle serve`, for the commands that work with one: a connection a request.
//!
//! Owns: which server, its token, and the words of what went wrong. Does not own: what is asked.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, HOST, HeaderValue},
    http::request,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Most bytes of an answer in JSON, or of an error in words.
const ANSWER_MAX: usize = 1024 * 1024;

/// Longest token, in bytes: it has to fit into a header.
const TOKEN_MAX: usize = 4096;

/// Which server, in the words of a command.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerOptions {
    /// The server that has the environment
    #[arg(long, env = "WAGGLE_SERVER", default_value = "http://127.0.0.1:8080")]
    pub server: String,

    /// File with the server's bearer token
    #[arg(long, env = "WAGGLE_AUTH_TOKEN_FILE")]
    pub auth_token_file: Option<PathBuf>,
}

/// What went wrong between here and the server, or there.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
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
    /// A request that cannot be put into words.
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
    /// An answer that is none of a server's.
    #[error("the server's answer makes no sense; is it a `waggle serve` of this version?")]
    Answer,
}

/// The body of a request.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A server, and what it wants to know of the client.
#[derive(Debug)]
pub struct Server {
    /// `host:port`.
    authority: String,
    authorization: Option<HeaderValue>,
}

impl Server {
    /// The server that `options` name; nothing is asked of it yet.
    ///
    /// # Errors
    ///
    /// [`ClientError::Url`] or [`ClientError::Token`].
    pub fn new(options: &ServerOptions) -> Result<Self, ClientError> {
        let url = options.server.as_str();
        let token = options.auth_token_file.as_deref();
        let authorization = token.map(read_token).transpose()?;
        let refused = || ClientError::Url(url.to_owned());
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
        })
    }

    /// Sends a request, begun by the caller with its method, target and own headers.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; an answer of any status is none.
    pub async fn send(
        &self,
        request: request::Builder,
        body: Body,
    ) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |source| ClientError::Connect {
            server: self.authority.clone(),
            source,
        };
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(unreachable)?;
        let mut request = request.header(HOST, &self.authority);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the response's body; what went wrong shows there.
        tokio::spawn(connection);
        Ok(sender.send_request(request.body(body)?).await?)
    }

    /// Asks for what is answered in JSON.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn json(
        &self,
        method: Method,
        target: &str,
    ) -> Result<serde_json::Value, ClientError> {
        let request = Request::builder().method(method).uri(target);
        let response = self.send(request, nothing()).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let body = collected(response).await.ok_or(ClientError::Answer)?;
        serde_json::from_slice(&body).map_err(|_| ClientError::Answer)
    }
}

/// A body without anything.
#[must_use]
pub fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn read_token(path: &Path) -> Result<HeaderValue, ClientError> {
    let failed = |source| ClientError::Token {
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

async fn collected(response: Response<Incoming>) -> Option<Bytes> {
    let body = Limited::new(response.into_body(), ANSWER_MAX);
    Some(body.collect().await.ok()?.to_bytes())
}

/// An answer that is a refusal, in words.
pub async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    let told = collected(response).await.and_then(|body| {
        let answer: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(answer.get("error")?.as_str()?.to_owned())
    });
    let message = match (told, status) {
        (Some(told), _) => printable(&told),
        (None, StatusCode::UNAUTHORIZED) => {
            "the server wants a token; name its file by --auth-token-file".to_owned()
        }
        (None, status) => format!("the server answered {status}; is it a `waggle serve`?"),
    };
    ClientError::Refused { status, message }
}

/// Without what a terminal would obey.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_url() {
        let authority = |url: &str| {
            let options = ServerOptions {
                server: url.to_owned(),
                auth_token_file: None,
            };
            Server::new(&options).map(|server| server.authority)
        };
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
