// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The call to the host for this machine's configuration.
//!
//! Owns: one blocking vsock connection. Invariants: the host's answer is decoded under the guest's
//! ceilings; a host that says nothing stops the boot after [`RECEIVE_TIMEOUT`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, setsockopt, socket};
use nix::sys::time::TimeVal;
use waggle_protocol::boot::{BootConfig, CONFIG_PORT};
use waggle_protocol::codec;
use waggle_protocol::frame::{self, Frame};
use waggle_protocol::handshake::{Hello, negotiate};
use waggle_protocol::limits::REQUEST_PAYLOAD_MAX;

use super::InitError;

/// The host's context id, `VMADDR_CID_HOST`.
const HOST_CID: u32 = 2;
/// How long to try: the host's end may come up a little after the guest.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two tries.
const DIAL_PAUSE: Duration = Duration::from_millis(20);
/// How long the host may take for each part of its answer, in seconds.
const RECEIVE_TIMEOUT: i64 = 30;

/// A call that has said `Hello` and waits for the answer.
#[derive(Debug)]
pub(super) struct ConfigCall {
    stream: File,
    buffer: BytesMut,
}

impl ConfigCall {
    /// Reaches the host.
    ///
    /// # Errors
    ///
    /// [`InitError::Dial`].
    pub(super) fn dial() -> Result<Self, InitError> {
        let failed = |source| InitError::Dial {
            port: CONFIG_PORT,
            source,
        };
        let until = Instant::now() + DIAL_TIMEOUT;
        let mut stream = loop {
            match dial_once() {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > until => return Err(failed(error)),
                Err(_) => sleep(DIAL_PAUSE),
            }
        };
        let mut hello = BytesMut::new();
        codec::put(&Hello::GUEST, &mut hello);
        stream.write_all(&hello).map_err(failed)?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
        })
    }

    /// Waits for the answer, and hangs up.
    ///
    /// # Errors
    ///
    /// Those of [`InitError`] that speak of the host's configuration.
    pub(super) fn receive(mut self) -> Result<BootConfig, InitError> {
        let hello = self.next_frame()?;
        negotiate(Hello::GUEST, codec::message(&hello)?)?;
        let config = self.next_frame()?;
        Ok(codec::message(&config)?)
    }

    fn next_frame(&mut self) -> Result<Frame, InitError> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer, REQUEST_PAYLOAD_MAX)? {
                return Ok(frame);
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece).map_err(InitError::Receive)?;
            if count == 0 {
                return Err(InitError::Receive(io::ErrorKind::UnexpectedEof.into()));
            }
            self.buffer
                .extend_from_slice(piece.get(..count).unwrap_or_default());
        }
    }
}

fn dial_once() -> io::Result<File> {
    let kind = (AddressFamily::Vsock, SockType::Stream);
    let socket = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(RECEIVE_TIMEOUT, 0))?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST_CID, CONFIG_PORT))?;
    Ok(socket.into())
}
