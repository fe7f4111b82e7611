// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Byte streams between host and guest, over the Unix sockets of `vhost-device-vsock`.
//!
//! Host to guest: dial `v.sock`, say `CONNECT <port>\n`, read `OK <n>\n`, then the stream is the
//! guest's. Guest to host: the device dials `v.sock_<port>`.
//!
//! The sockets are named through `/proc/self/fd/<folder>`, so that their paths stay below the 108
//! bytes of `sockaddr_un` however long the folder's is.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::command::GUEST_SOCKET;

/// A stream of bytes to or from a guest. Closing one half loses the other half's last bytes, so
/// never signal by shutting a half down.
pub type MachineStream = UnixStream;

/// How long a guest may take to answer `CONNECT`. Its kernel alone answers, in a millisecond; the
/// rest is for loaded hosts under TCG.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer to `CONNECT`: `OK`, a space, ten digits and a newline, and some room.
const MAX_ANSWER: usize = 32;
/// Wait before dialling again when the device's queue of unaccepted connections is full.
const BACKLOG_WAIT: Duration = Duration::from_millis(2);

/// Why a guest port could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The machine is dead.
    #[error("machine {name} is dead: {status}")]
    Dead {
        /// The machine.
        name: String,
        /// How it died.
        status: String,
    },
    /// Nobody listens on the port in the guest, or the guest's vsock driver is not up yet.
    #[error("guest port {port} refused the connection")]
    Refused {
        /// The guest's port.
        port: u32,
    },
    /// The guest did not answer in time.
    #[error("guest port {port} did not answer within {} s", after.as_secs())]
    Timeout {
        /// The guest's port.
        port: u32,
        /// How long it was given.
        after: Duration,
    },
    /// The device answered something else than `OK`.
    #[error("the vsock device answered {answer:?} to a connection to guest port {port}")]
    Answer {
        /// The guest's port.
        port: u32,
        /// The answer.
        answer: String,
    },
    /// The host's side of the socket failed.
    #[error("cannot reach the vsock device")]
    Io(#[from] io::Error),
}

/// Why no call from the guest can be taken.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The machine is dead.
    #[error("machine {name} is dead: {status}")]
    Dead {
        /// The machine.
        name: String,
        /// How it died.
        status: String,
    },
    /// The port was not in [`MachineSpec::listen`](crate::MachineSpec::listen), or its listener is
    /// closed.
    #[error("host port {port} has no listener")]
    NotListening {
        /// The host's port.
        port: u32,
    },
    /// The host's side of the socket failed.
    #[error("cannot accept on host port {port}")]
    Io {
        /// The host's port.
        port: u32,
        /// The system's reason.
        source: io::Error,
    },
}

/// Opens a stream to a guest port. Unbounded in time; the caller bounds it.
pub(crate) async fn dial(folder: &File, port: u32) -> Result<MachineStream, ConnectError> {
    let path = through_fd(folder, GUEST_SOCKET);
    let mut stream = loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(BACKLOG_WAIT).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof => ConnectError::Refused { port },
        _ => ConnectError::Io(error),
    };
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await
        .map_err(refused)?;
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    // Byte by byte: what follows the newline belongs to the caller.
    while answer.len() < MAX_ANSWER {
        match stream.read_u8().await.map_err(refused)? {
            b'\n' => break,
            byte => answer.push(byte),
        }
    }
    if answer.starts_with(b"OK ") {
        return Ok(stream);
    }
    Err(ConnectError::Answer {
        port,
        answer: crate::text::neutralise(&answer),
    })
}

/// Binds the socket of a host port. Any runtime may later adopt it.
pub(crate) fn bind(folder: &File, port: u32) -> io::Result<StdListener> {
    let path = through_fd(folder, &listener_name(port));
    let listener = StdListener::bind(&path)?;
    // The folder keeps others out already, so there is no moment in which they could dial.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn listener_name(port: u32) -> String {
    format!("{GUEST_SOCKET}_{port}")
}

fn through_fd(folder: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// The open host ports of one machine.
#[derive(Debug)]
pub(crate) struct Listeners {
    open: Mutex<HashMap<u32, Arc<Listener>>>,
}

#[derive(Debug)]
struct Listener {
    socket: UnixListener,
    closed: watch::Sender<bool>,
}

impl Listeners {
    /// Adopts bound sockets into the current tokio runtime.
    pub(crate) fn adopt(bound: Vec<(u32, StdListener)>) -> io::Result<Listeners> {
        let mut open = HashMap::with_capacity(bound.len());
        for (port, socket) in bound {
            let socket = UnixListener::from_std(socket)?;
            let closed = watch::Sender::new(false);
            open.insert(port, Arc::new(Listener { socket, closed }));
        }
        Ok(Listeners {
            open: Mutex::new(open),
        })
    }

    /// The next call to `port`. Cancel-safe. Ends when the listener is closed.
    pub(crate) async fn accept(&self, port: u32) -> Result<MachineStream, AcceptError> {
        let listener = self.lock().get(&port).cloned();
        let listener = listener.ok_or(AcceptError::NotListening { port })?;
        let mut closed = listener.closed.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {
                    return Err(AcceptError::NotListening { port });
                }
                accepted = listener.socket.accept() => match accepted {
                    Ok((stream, _)) => return Ok(stream),
                    // The guest hung up while it waited in the queue.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(source) => return Err(AcceptError::Io { port, source }),
                },
            }
        }
    }

    /// Closes the listener of `port`, if it is open.
    pub(crate) fn close(&self, folder: &File, port: u32) {
        let Some(listener) = self.lock().remove(&port) else {
            return;
        };
        // Without its name the device is refused at once, even while an accept still holds the
        // socket. It may be gone with the machine's folder.
        let _ = std::fs::remove_file(through_fd(folder, &listener_name(port)));
        listener.closed.send_replace(true);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<Listener>>> {
        // The map is whole between any two of its operations, so a panic elsewhere is no reason.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::{AcceptError, ConnectError, Listeners, bind, dial, listener_name, through_fd};

    /// A folder whose path is longer than a socket's may be.
    fn long_folder(root: &tempfile::TempDir) -> File {
        let path = root.path().join("x".repeat(120));
        std::fs::create_dir(&path).expect("folder");
        File::open(path).expect("open")
    }

    /// Dials against a device that answers with `answer` and hangs up after `kept`.
    async fn dialled(answer: &'static [u8]) -> Result<Vec<u8>, ConnectError> {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = long_folder(&root);
        let device = UnixListener::bind(through_fd(&folder, "v.sock")).expect("bind");
        let device = tokio::spawn(async move {
            let (mut stream, _) = device.accept().await.expect("accept");
            let mut asked = vec![0; b"CONNECT 70000\n".len()];
            stream.read_exact(&mut asked).await.expect("request");
            assert_eq!(asked, b"CONNECT 70000\n");
            stream.write_all(answer).await.expect("answer");
        });
        let stream = dial(&folder, 70_000).await;
        device.await.expect("device");
        let mut rest = Vec::new();
        stream?.read_to_end(&mut rest).await.expect("rest");
        Ok(rest)
    }

    #[tokio::test]
    async fn what_follows_the_answer_belongs_to_the_caller() {
        assert_eq!(
            dialled(b"OK 1073741824\nhello\n").await.expect("stream"),
            b"hello\n"
        );
        assert_eq!(dialled(b"OK 1\n").await.expect("stream"), b"");
    }

    #[tokio::test]
    async fn hanging_up_is_a_refusal_and_nonsense_is_not_an_answer() {
        for answer in [b"".as_slice(), b"OK 12"] {
            assert!(matches!(
                dialled(answer).await,
                Err(ConnectError::Refused { port: 70_000 })
            ));
        }
        for answer in [b"NO 1\n".as_slice(), b"OK", &[b'x'; 100]] {
            let error = dialled(answer).await.expect_err("no stream");
            let refused = matches!(error, ConnectError::Refused { .. });
            assert!(
                refused || matches!(error, ConnectError::Answer { .. }),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn calls_wait_in_a_queue_and_a_closed_listener_refuses_and_wakes() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = long_folder(&root);
        let bound = vec![(7, bind(&folder, 7).expect("bind"))];
        let listeners = Arc::new(Listeners::adopt(bound).expect("adopt"));
        let path = through_fd(&folder, &listener_name(7));
        let mut first = UnixStream::connect(&path).await.expect("call");
        first.write_all(b"1").await.expect("write");
        let nothing = listeners.accept(8).await;
        assert!(matches!(
            nothing,
            Err(AcceptError::NotListening { port: 8 })
        ));
        let mut taken = listeners.accept(7).await.expect("accept");
        assert_eq!(taken.read_u8().await.expect("byte"), b'1');

        let waiting = tokio::spawn({
            let listeners = Arc::clone(&listeners);
            async move { listeners.accept(7).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        listeners.close(&folder, 7);
        listeners.close(&folder, 7);
        let woken = waiting.await.expect("task");
        assert!(matches!(woken, Err(AcceptError::NotListening { port: 7 })));
        UnixStream::connect(&path).await.expect_err("refused");
    }
}
