// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! SOCKS 5 (RFC 1928), without authentication: who can connect is the guest itself. Only `CONNECT`, with
//! addresses or names. A library reads and writes the protocol.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use fast_socks5::{
    ReplyError, Socks5Command, server::Socks5ServerProtocol, util::target_addr::TargetAddr,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{Egress, ServeError, flow::Flow};
use crate::network::{
    audit::Via,
    dial::{Carries, DialError, Outbound},
    policy::Target,
};

/// The first byte of a connection.
pub(super) const VERSION: u8 = 5;

pub(super) async fn serve<S>(egress: &Arc<Egress>, mut stream: S) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let outcome = speak(egress, &mut stream).await;
    if let Ok(Some((outbound, flow))) = outcome {
        egress.carry(stream, outbound, flow).await;
        return Ok(());
    }
    // Without an end the reply could be lost.
    let _ = timeout(egress.limits.header, stream.shutdown()).await;
    outcome.map(drop)
}

/// What was asked for, once the client knows that it has it.
async fn speak<S>(
    egress: &Egress,
    stream: &mut S,
) -> Result<Option<(Outbound, Arc<Flow>)>, ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let read = async {
        let greeted = Socks5ServerProtocol::accept_no_auth(stream).await?;
        greeted.read_command().await
    };
    let read = timeout(egress.limits.header, read).await;
    let (protocol, command, asked) = read.map_err(|_| ServeError::Silent)??;
    if !matches!(command, Socks5Command::TCPConnect) {
        let why = "SOCKS 5 is spoken for CONNECT only";
        egress.unusable(Via::Socks, &asked.to_string(), why);
        protocol
            .reply_error(&ReplyError::CommandNotSupported)
            .await?;
        return Ok(None);
    }
    let target = match &asked {
        TargetAddr::Ip(address) => Target::new(&address.ip().to_string(), address.port()),
        TargetAddr::Domain(name, port) => Target::new(name, *port),
    };
    let target = match target {
        Ok(target) => target,
        Err(error) => {
            egress.unusable(Via::Socks, &asked.to_string(), &error.to_string());
            protocol.reply_error(&ReplyError::HostUnreachable).await?;
            return Ok(None);
        }
    };
    egress.admit().await;
    match egress.connect(Via::Socks, &target, Carries::Tunnel).await {
        Ok(connected) => {
            // The host's own address is nobody's business.
            let bound = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            protocol.reply_success(bound).await?;
            Ok(Some(connected))
        }
        Err(error) => {
            protocol.reply_error(&reply(&error)).await?;
            Ok(None)
        }
    }
}

fn reply(error: &DialError) -> ReplyError {
    match error {
        DialError::Denied(_) => ReplyError::ConnectionNotAllowed,
        DialError::Resolve { .. } | DialError::NoTarget(_) => ReplyError::HostUnreachable,
        DialError::ResolveTimeout { .. } | DialError::ConnectTimeout { .. } => {
            ReplyError::ConnectionTimeout
        }
        DialError::Connect { source, .. } => match source.kind() {
            io::ErrorKind::ConnectionRefused => ReplyError::ConnectionRefused,
            io::ErrorKind::NetworkUnreachable => ReplyError::NetworkUnreachable,
            _ => ReplyError::HostUnreachable,
        },
        DialError::Upstream { .. }
        | DialError::UpstreamBroken { .. }
        | DialError::Broken { .. }
        | DialError::UpstreamScheme { .. } => ReplyError::GeneralFailure,
    }
}
