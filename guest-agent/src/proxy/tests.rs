// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The way out, with real clients and a host that is a Unix socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::BytesMut;
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use waggle_protocol::frame::{Kind, encode};

use super::*;

/// A way out to a host that accepts as the test says.
struct Way {
    _folder: TempDir,
    host: UnixListener,
    path: PathBuf,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Way {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host");
        let host = UnixListener::bind(&path).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialled = path.clone();
        let serving = tokio::spawn(serve(listener, move || {
            UnixStream::connect(dialled.clone())
        }));
        Self {
            _folder: folder,
            host,
            path,
            address,
            serving,
        }
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The host's end of the next connection, after the handshake.
    async fn accept(&self) -> Connection<UnixStream> {
        let (socket, _) = self.host.accept().await.unwrap();
        let mut connection = Connection::new(socket).unwrap();
        connection.accept_handshake().await.unwrap();
        connection
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn send(host: &mut Connection<UnixStream>, payload: &[u8]) {
    let mut bytes = BytesMut::new();
    encode(Kind::File, payload, &mut bytes);
    host.writer.write_all(&bytes).await.unwrap();
}

#[tokio::test]
async fn a_client_talks_to_the_host() {
    let way = Way::open().await;
    let mut client = way.client().await;
    client.write_all(b"GET").await.unwrap();
    client.shutdown().await.unwrap();
    let mut host = way.accept().await;
    let mut heard = Vec::new();
    loop {
        let frame = host.reader.next().await.unwrap().unwrap();
        assert_eq!(frame.kind, Kind::File);
        if frame.payload.is_empty() {
            break;
        }
        heard.extend_from_slice(&frame.payload);
    }
    assert_eq!(heard, b"GET");
    send(&mut host, b"200").await;
    send(&mut host, b"").await;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"200");
}

#[tokio::test]
async fn a_host_that_refuses_or_closes_closes_the_client() {
    let mut way = Way::open().await;
    let mut client = way.client().await;
    drop(way.host.accept().await.unwrap());
    assert!(!matches!(client.read(&mut [0]).await, Ok(1..)));

    // Nobody there at all.
    std::fs::remove_file(&way.path).unwrap();
    let mut client = way.client().await;
    assert!(!matches!(client.read(&mut [0]).await, Ok(1..)));

    way.host = UnixListener::bind(&way.path).unwrap();
    let mut client = way.client().await;
    drop(way.accept().await);
    assert!(!matches!(client.read(&mut [0]).await, Ok(1..)));
}

#[tokio::test]
async fn a_client_that_resets_frees_its_place_before_and_after_the_handshake() {
    let way = Way::open().await;
    for greeted in [false, true] {
        let client = way.client().await;
        let (mut socket, _) = way.host.accept().await.unwrap();
        if greeted {
            let mut host = Connection::new(socket).unwrap();
            host.accept_handshake().await.unwrap();
            client.set_zero_linger().unwrap();
            drop(client);
            assert!(!matches!(host.reader.next().await, Some(Ok(_))));
        } else {
            client.set_zero_linger().unwrap();
            drop(client);
            let mut hello = Vec::new();
            socket.read_to_end(&mut hello).await.unwrap();
            assert!(!hello.is_empty());
        }
    }
}

#[tokio::test]
async fn further_clients_wait_for_a_place() {
    let way = Way::open().await;
    let mut clients = Vec::new();
    let mut hosts = Vec::new();
    for _ in 0..OUTBOUND_MAX {
        clients.push(way.client().await);
        hosts.push(way.accept().await);
    }
    let _waiting = way.client().await;
    let more = timeout(Duration::from_millis(300), way.host.accept()).await;
    assert!(more.is_err(), "one more than there are places");
    drop(hosts.pop());
    timeout(Duration::from_secs(5), way.accept())
        .await
        .expect("its turn");
}
