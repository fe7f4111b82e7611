// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Forwards to a guest that is a listener of the test's own.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use waggle_protocol::message::{Failure, FailureCode};

use super::*;

/// Whoever connects to its port gets to `address`, or is refused.
#[derive(Debug, Default)]
struct There {
    address: Option<SocketAddr>,
    touched: AtomicUsize,
}

impl Guest for There {
    type Stream = TcpStream;

    async fn connect(&self, port: u16) -> Result<TcpStream, LinkError> {
        let refused = Failure {
            code: FailureCode::Refused,
            message: format!("nobody listens on port {port}"),
        };
        let address = self.address.ok_or(refused)?;
        Ok(TcpStream::connect(address).await?)
    }

    fn touch(&self) {
        self.touched.fetch_add(1, Ordering::Relaxed);
    }
}

async fn program() -> (TcpListener, Arc<There>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let there = There {
        address: listener.local_addr().ok(),
        ..There::default()
    };
    (listener, Arc::new(there))
}

#[tokio::test]
async fn bytes_and_ends_go_both_ways() {
    let (program, there) = program().await;
    let ports = Ports::default();
    let address = ports.open(Arc::clone(&there), 80, None).expect("forwarded");
    assert!(address.ip().is_loopback() && address.port() != 0);
    let mut client = TcpStream::connect(address).await.expect("connected");
    let (mut server, _) = program.accept().await.expect("accepted");
    client.write_all(b"question").await.expect("sent");
    client.shutdown().await.expect("ended");
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.expect("heard");
    assert_eq!(heard, b"question");
    server.write_all(b"answer").await.expect("sent");
    drop(server);
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.expect("told");
    assert_eq!(told, b"answer");
    ports.end().await;
    assert!(there.touched.load(Ordering::Relaxed) >= 2, "it was used");
}

#[tokio::test]
async fn nobody_there_closes_the_client() {
    let ports = Ports::default();
    let guest = Arc::new(There::default());
    let address = ports.open(guest, 80, None).expect("forwarded");
    let mut client = TcpStream::connect(address).await.expect("connected");
    let read = timeout(Duration::from_secs(5), client.read(&mut [0])).await;
    assert!(!matches!(read, Ok(Ok(1..)) | Err(_)), "{read:?}");
    ports.end().await;
}

#[tokio::test]
async fn closing_frees_the_port_and_cuts_its_connections() {
    let (program, there) = program().await;
    let ports = Ports::default();
    let address = ports.open(Arc::clone(&there), 80, None).expect("forwarded");
    let mut client = TcpStream::connect(address).await.expect("connected");
    let (mut server, _) = program.accept().await.expect("accepted");
    ports.close(80).await.expect("closed");
    for side in [&mut client, &mut server] {
        let read = timeout(Duration::from_secs(5), side.read(&mut [0])).await;
        assert!(!matches!(read, Ok(Ok(1..)) | Err(_)), "{read:?}");
    }
    TcpStream::connect(address).await.expect_err("closed");
    let again = ports.open(there, 80, Some(address.port()));
    assert_eq!(again.expect("free again"), address);
    ports.end().await;
    TcpStream::connect(address).await.expect_err("closed");
    ports.end().await;
}

#[tokio::test]
async fn what_cannot_be_forwarded_says_why() {
    let ports = Ports::default();
    let guest = Arc::new(There::default());
    let taken = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let host_port = taken.local_addr().expect("an address").port();
    let error = ports.open(Arc::clone(&guest), 80, Some(host_port));
    let text = error.expect_err("taken").to_string();
    assert!(
        text.contains(&format!("port {host_port} of this host")),
        "{text}"
    );
    assert!(text.contains("leave host_port out"), "{text}");

    let text = ports.close(80).await.expect_err("nothing").to_string();
    assert!(text.contains("no port of this environment"), "{text}");
    let address = ports.open(Arc::clone(&guest), 80, None).expect("forwarded");
    let same = ports.open(Arc::clone(&guest), 80, Some(address.port()));
    assert_eq!(same.expect("the same"), address);
    let other = ports.open(Arc::clone(&guest), 80, Some(host_port));
    let text = other.expect_err("elsewhere").to_string();
    assert!(text.contains(&address.to_string()), "{text}");
    for port in 1..u16::try_from(FORWARDS_MAX).expect("few") {
        ports.open(Arc::clone(&guest), port, None).expect("room");
    }
    let text = ports
        .open(Arc::clone(&guest), 99, None)
        .expect_err("full")
        .to_string();
    assert!(text.contains("1, 2, 3"), "{text}");
    let text = ports.close(99).await.expect_err("not that one").to_string();
    assert!(text.contains("these are: 1, 2"), "{text}");
    ports.end().await;
    let error = ports.open(guest, 80, None).expect_err("ended");
    assert!(matches!(error, PortError::Ending));
}

#[tokio::test]
async fn further_clients_wait_for_a_place() {
    let (program, there) = program().await;
    let ports = Ports::default();
    let address = ports.open(there, 80, None).expect("forwarded");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let client = TcpStream::connect(address).await.expect("connected");
        held.push((client, program.accept().await.expect("accepted")));
    }
    let _waiting = TcpStream::connect(address).await.expect("in the queue");
    let more = timeout(Duration::from_millis(200), program.accept()).await;
    assert!(more.is_err(), "one more than there are places");
    drop(held.pop());
    let more = timeout(Duration::from_secs(5), program.accept()).await;
    more.expect("its turn").expect("accepted");
    ports.end().await;
}
