// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A peer that speaks HTTP as a test has it: endless, broken, slow, wrong. No registry does this, a hostile one may.
//! It stands for the enemy; a registry that is used as one is Debian's (`registry`).

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Method and path, such as `GET /v2/`.
    pub(crate) line: String,
    /// The rest of the head.
    pub(crate) head: String,
    /// The body, if a length is stated.
    pub(crate) body: String,
}

impl Asked {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// How to answer. The connection is closed after it.
pub(crate) enum Answer {
    /// These bytes, head and body.
    Bytes(Vec<u8>),
    /// These bytes, once as many requests wait so as the barrier says.
    Together(Arc<Barrier>, Vec<u8>),
    /// These bytes, and then that letter until nobody reads any more.
    Endless(Vec<u8>),
    /// These bytes, and then nothing while the connection is open.
    Silent(Vec<u8>),
}

/// What came in.
#[derive(Debug, Default)]
struct Heard {
    asked: Vec<Asked>,
    /// Requests for the scheme, which every peer answers.
    probes: usize,
    /// Connections that began with something else than HTTP: with TLS.
    handshakes: usize,
}

/// The peer. Ends with the value.
pub(crate) struct Liar {
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    heard: Arc<Mutex<Heard>>,
    serving: JoinHandle<()>,
}

impl Liar {
    /// Answers each request by `answer`, which is told its number among those of the same line, from 0. The question
    /// whether it speaks TLS is not put to it.
    pub(crate) async fn start(
        answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::listen("127.0.0.1:0", None, answer)
            .await
            .expect("a port")
    }

    /// The same on `[::1]`. None if this host has no such address.
    pub(crate) async fn start_v6(
        answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static,
    ) -> Option<Self> {
        Self::listen("[::1]:0", None, answer).await
    }

    /// The same by TLS, with `server.crt` and `server.key` of this folder.
    pub(crate) async fn start_tls(
        dir: &Path,
        answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let chain = CertificateDer::pem_file_iter(dir.join("server.crt")).expect("a certificate");
        let chain = chain.collect::<Result<_, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::listen("127.0.0.1:0", Some(acceptor), answer)
            .await
            .expect("a port")
    }

    async fn listen(
        address: &str,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static,
    ) -> Option<Self> {
        let listener = TcpListener::bind(address).await.ok()?;
        let address = listener.local_addr().ok()?.to_string();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let record = Arc::clone(&heard);
        let answer = Arc::new(answer);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (record, answer, tls) = (Arc::clone(&record), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &record, &*answer).await,
                        Some(tls) => {
                            // One that speaks no TLS is not answered.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &record, &*answer).await;
                            }
                        }
                    }
                });
            }
        });
        Some(Self {
            address,
            heard,
            serving,
        })
    }

    /// The same peer by an address that is no loopback address, although it leads here: Linux connects 0.0.0.0 to this host.
    pub(crate) fn elsewhere(&self) -> String {
        self.address.replace("127.0.0.1", "0.0.0.0")
    }

    /// What was asked so far, the probe for the scheme left out.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.heard.lock().expect("no panic").asked.clone()
    }

    /// Requests in all, and connections that began with something else than HTTP.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let heard = self.heard.lock().expect("no panic");
        (heard.asked.len() + heard.probes, heard.handshakes)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    heard: &Mutex<Heard>,
    answer: &(dyn Fn(&Asked, usize) -> Answer + Send + Sync),
) {
    let Some(asked) = read(&mut stream, heard).await else {
        return;
    };
    if asked.line == "HEAD /v2/" {
        heard.lock().expect("no panic").probes += 1;
        let _ = stream.write_all(&response(200, &[], b"")).await;
        let _ = stream.shutdown().await;
        return;
    }
    let before = {
        let record = &mut heard.lock().expect("no panic").asked;
        let before = record
            .iter()
            .filter(|other| other.line == asked.line)
            .count();
        record.push(asked.clone());
        before
    };
    match answer(&asked, before) {
        Answer::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Answer::Together(barrier, bytes) => {
            barrier.wait().await;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Answer::Endless(bytes) => {
            let mut next = stream.write_all(&bytes).await;
            let more = [b' '; 64 << 10];
            while next.is_ok() {
                next = stream.write_all(&more).await;
            }
        }
        Answer::Silent(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read(&mut [0]).await;
        }
    }
}

/// One request. None if it is not HTTP: a TLS handshake begins with another byte.
async fn read(stream: &mut (impl AsyncRead + Unpin), heard: &Mutex<Heard>) -> Option<Asked> {
    let mut bytes: Vec<u8> = Vec::new();
    let end = loop {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).await.ok()?;
        bytes.extend(piece.get(..length)?);
        if !bytes.first()?.is_ascii_uppercase() {
            heard.lock().expect("no panic").handshakes += 1;
            return None;
        }
        if length == 0 {
            return None;
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8(bytes.get(..end)?.to_vec()).ok()?;
    let mut body = bytes.get(end + 4..)?.to_vec();
    let (line, head) = head.split_once("\r\n")?;
    let mut asked = Asked {
        line: line.trim_end_matches(" HTTP/1.1").to_owned(),
        head: head.to_owned(),
        body: String::new(),
    };
    let length = asked
        .header("content-length")
        .and_then(|text| text.parse().ok());
    while body.len() < length.unwrap_or(0) {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).await.ok()?;
        body.extend(piece.get(..length).filter(|piece| !piece.is_empty())?);
    }
    asked.body = String::from_utf8_lossy(&body).into_owned();
    Some(asked)
}

/// A whole answer with its length.
pub(crate) fn response(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let mut headers = headers.to_vec();
    headers.push(("Content-Length", &length));
    let mut bytes = head(status, &headers);
    bytes.extend(body);
    bytes
}

/// An answer's head alone. Without a length its body ends with the connection.
pub(crate) fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    head.into_bytes()
}
