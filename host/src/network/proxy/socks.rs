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
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{Egress, ServeError};
use crate::network::{
    audit::Via,
    dial::{Carries, DialError},
    policy::Target,
};

/// The first byte of a connection.
pub(super) const VERSION: u8 = 5;

pub(super) async fn serve<S>(egress: &Arc<Egress>, stream: S) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let read = async {
        let greeted = Socks5ServerProtocol::accept_no_auth(stream).await?;
        greeted.read_command().await
    };
    let (protocol, command, asked) = timeout(egress.limits.header, read)
        .await
        .map_err(|_| ServeError::Silent)??;
    if !matches!(command, Socks5Command::TCPConnect) {
        return Ok(protocol
            .reply_error(&ReplyError::CommandNotSupported)
            .await?);
    }
    let target = match &asked {
        TargetAddr::Ip(address) => Target::new(&address.ip().to_string(), address.port()),
        TargetAddr::Domain(name, port) => Target::new(name, *port),
    };
    let Ok(target) = target else {
        return Ok(protocol.reply_error(&ReplyError::HostUnreachable).await?);
    };
    egress.admit().await;
    match egress.connect(Via::Socks, &target, Carries::Tunnel).await {
        Ok((outbound, flow)) => {
            // The host's own address is nobody's business.
            let bound = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let inside = protocol.reply_success(bound).await?;
            egress.carry(inside, outbound, flow).await;
            Ok(())
        }
        Err(error) => Ok(protocol.reply_error(&reply(&error)).await?),
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
