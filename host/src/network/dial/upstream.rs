// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The host's own proxy: for which targets there is one, and connections through it.
//!
//! Invariant: its password goes to it alone, and is in no error.

use std::net::SocketAddr;

use http_body_util::Empty;
use hyper::{
    Method, Request, StatusCode, Uri,
    header::{HOST, HeaderValue, PROXY_AUTHORIZATION},
};
use hyper_util::{client::proxy::matcher::Intercept, rt::TokioIo};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::either::Either;
use url::Host;

use super::{
    CONNECT_TIMEOUT, Carries, DialError, Dialer, Forward, Outbound, RESOLVE_TIMEOUT, race,
};
use crate::network::policy::Target;

impl Dialer {
    /// The host's own proxy for `target`. Never for this host itself, which no other can reach.
    pub(super) fn upstream(&self, target: &Target, carries: Carries) -> Option<Intercept> {
        if target
            .literal()
            .is_some_and(|address| address.is_loopback())
        {
            return None;
        }
        let scheme = match carries {
            Carries::Tunnel => "https",
            Carries::Http => "http",
        };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(target.to_string())
            .path_and_query("/")
            .build();
        self.upstream.intercept(&uri.ok()?)
    }

    pub(super) async fn by_upstream(
        &self,
        target: &Target,
        carries: Carries,
        proxy: &Intercept,
    ) -> Result<Outbound, DialError> {
        let uri = proxy.uri();
        let name = uri.authority().map(ToString::to_string).unwrap_or_default();
        if uri.scheme_str() != Some("http") {
            return Err(DialError::UpstreamScheme {
                proxy: uri.to_string(),
                target: target.to_string(),
            });
        }
        let proxy_target =
            Target::parse(&name, Some(80)).map_err(|_| DialError::NoTarget(name.clone()))?;
        // The operator named it: no policy applies.
        let addresses = match (&proxy_target.host, proxy_target.literal()) {
            (Host::Domain(name), None) => self.resolve(name, RESOLVE_TIMEOUT).await?,
            (_, literal) => literal.into_iter().collect(),
        };
        let addresses = addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, proxy_target.port));
        let (stream, _) = race(addresses.collect(), &format!("upstream proxy {name}")).await?;
        let authorization = proxy.basic_auth().cloned();
        if carries == Carries::Http {
            let forward = Some(Forward { authorization });
            return Ok(Outbound {
                stream: Either::Left(stream),
                address: None,
                forward,
            });
        }
        match timeout(CONNECT_TIMEOUT, tunnel(stream, target, authorization)).await {
            Ok(Ok(Ok(upgraded))) => {
                let stream = Either::Right(TokioIo::new(upgraded));
                Ok(Outbound {
                    stream,
                    address: None,
                    forward: None,
                })
            }
            Ok(Ok(Err(status))) => Err(DialError::Upstream {
                proxy: name,
                status,
                target: target.to_string(),
            }),
            Ok(Err(source)) => Err(DialError::UpstreamBroken {
                proxy: name,
                target: target.to_string(),
                source,
            }),
            Err(_) => Err(DialError::ConnectTimeout {
                target: target.to_string(),
            }),
        }
    }

    /// Whether an upstream proxy that wants a password forwards plain HTTP requests to `target`.
    pub(super) fn wants_password(&self, target: &Target) -> bool {
        let proxy = self.upstream(target, Carries::Http);
        proxy.is_some_and(|proxy| proxy.basic_auth().is_some())
    }
}

/// A tunnel to `target` over `stream`, or the proxy's answer if that is not success.
///
/// hyper does it, not hyper-util's `Tunnel`: that loses bytes which the target sends at once.
async fn tunnel(
    stream: TcpStream,
    target: &Target,
    authorization: Option<HeaderValue>,
) -> Result<Result<hyper::upgrade::Upgraded, StatusCode>, hyper::Error> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    let authority = target.to_string();
    if let (Ok(uri), Ok(host)) = (authority.parse(), HeaderValue::try_from(authority)) {
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, host);
    }
    if let Some(authorization) = authorization {
        request
            .headers_mut()
            .insert(PROXY_AUTHORIZATION, authorization);
    }
    let exchange = async move {
        let response = sender.send_request(request).await?;
        match response.status() {
            status if status.is_success() => hyper::upgrade::on(response).await.map(Ok),
            status => Ok(Err(status)),
        }
    };
    // The connection is driven here, so that dropping this future leaves nothing running; it is done
    // when it hands over the upgraded stream.
    let (exchange, driven) = futures_util::future::join(exchange, connection.with_upgrades()).await;
    driven.and(exchange)
}
