// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The HTTP side of the proxy: CONNECT tunnels, plain requests in absolute form, and the package mirror in
//! origin form. hyper reads and writes the protocol.
//!
//! Invariants: a plain request gets a connection of its own, to an address that was checked for it; headers
//! that concern one hop stay on it (RFC 9110, 7.6.1); nothing is held but what is on its way.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    header::{
        CONNECTION, EXPECT, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
        TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
};
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use waggle_protocol::boot::PROXY_LOOPBACK_PORT;

use super::{
    Egress, ServeError, answer,
    flow::{Budget, Flow, Metered},
};
use crate::{
    lock::lock,
    network::{
        Body,
        audit::Via,
        dial::{Carries, DialError, Outbound, target_of},
        mirror::{Failed, Mirror, Served},
        policy::{Denial, Target},
    },
};

/// Most bytes of a request's head, or of an answer's: servers take 8 to 64 KiB.
const HEAD_MAX: usize = 64 * 1024;

/// Longest URL that is noted, in characters.
const NOTED_MAX: usize = 300;

/// Who forwarded it (RFC 9110, 7.6.3).
const VIA_WAGGLE: HeaderValue = HeaderValue::from_static("1.1 waggle");

/// Headers that concern one hop only, beside those that `Connection` names. `Expect` is met here: hyper
/// asks for the body itself.
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    EXPECT,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A tunnel that begins once its connection speaks HTTP no more.
type Tunnel = Arc<Mutex<Option<(OnUpgrade, Outbound, Arc<Flow>)>>>;

pub(super) async fn serve<S>(egress: &Arc<Egress>, stream: S) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tunnel = Tunnel::default();
    let service = service_fn(|request| {
        let (egress, tunnel) = (Arc::clone(egress), Arc::clone(&tunnel));
        async move { Ok::<_, Infallible>(respond(&egress, &tunnel, request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(egress.limits.header)
        .max_buf_size(HEAD_MAX)
        // Who has sent all may still wait for the answer; who is gone shows when it is written.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    let tunnel = lock(&tunnel).take();
    if let Some((upgrade, outbound, flow)) = tunnel {
        egress
            .carry(TokioIo::new(upgrade.await?), outbound, flow)
            .await;
    }
    Ok(())
}

async fn respond(egress: &Egress, tunnel: &Tunnel, request: Request<Incoming>) -> Response<Body> {
    egress.admit().await;
    if request.method() == Method::CONNECT {
        return connect(egress, tunnel, request).await;
    }
    let request = match is_for_us(request.uri()) {
        true => in_origin_form(request),
        false => request,
    };
    let (parts, body) = request.into_parts();
    let mirrored = egress
        .mirror
        .as_ref()
        .and_then(|mirror| Some((mirror, mirror.upstream(&parts)?)));
    let request = Request::from_parts(parts, body);
    match (request.uri().scheme_str(), mirrored) {
        (_, Some((mirror, url))) => mirrored_answer(egress, mirror, &url, request).await,
        (Some("http"), None) => forward(egress, request).await,
        (Some(scheme), None) => {
            let text = format!("the proxy takes http URLs, not {scheme}: use CONNECT");
            egress.unusable(Via::Http, &asked_of(request.uri()), &text);
            answer::problem(StatusCode::BAD_REQUEST, "http_request_error", &text)
        }
        (None, None) => answer::problem(
            StatusCode::NOT_FOUND,
            "http_request_error",
            "this is the environment's proxy; the package mirror has nothing here, or is switched off",
        ),
    }
}

async fn connect(
    egress: &Egress,
    tunnel: &Tunnel,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let authority = request
        .uri()
        .authority()
        .map(ToString::to_string)
        .unwrap_or_default();
    let target = match Target::parse(&authority, None) {
        Ok(target) => target,
        Err(error) => {
            let text = error.to_string();
            egress.unusable(Via::Connect, &authority, &text);
            return answer::problem(StatusCode::BAD_REQUEST, "http_request_error", &text);
        }
    };
    match egress.connect(Via::Connect, &target, Carries::Tunnel).await {
        Ok((outbound, flow)) => {
            let upgrade = hyper::upgrade::on(&mut request);
            *lock(tunnel) = Some((upgrade, outbound, flow));
            Response::new(answer::body(Bytes::new()))
        }
        Err(error) => answer::failed(&error),
    }
}

/// Whether a plain request asks this proxy for something of its own: a client that uses the proxy for
/// everything asks it for the mirror in absolute form.
fn is_for_us(uri: &Uri) -> bool {
    let own = matches!(uri.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
    own && uri.scheme_str() == Some("http") && uri.port_u16() == Some(PROXY_LOOPBACK_PORT)
}

fn in_origin_form(mut request: Request<Incoming>) -> Request<Incoming> {
    let path = request.uri().path_and_query().cloned();
    if let Some(path) = path {
        *request.uri_mut() = Uri::from(path);
    }
    request
}

async fn mirrored_answer(
    egress: &Egress,
    mirror: &Mirror,
    url: &Url,
    request: Request<Incoming>,
) -> Response<Body> {
    let port = url.port_or_known_default().unwrap_or_default();
    let target = url.host_str().map(|host| Target::new(host, port));
    let Some(Ok(target)) = target else {
        let text = "the registry's URL has no host";
        return answer::problem(StatusCode::BAD_GATEWAY, "proxy_configuration_error", text);
    };
    let refused = |denial: &Denial| {
        egress.audit.refused(Via::Mirror, denial);
        answer::refused(denial)
    };
    if let Err(denial) = egress.permits(&target) {
        return refused(&denial);
    }
    // It is never closed.
    let place = Arc::clone(&egress.mirror_places).acquire_owned().await.ok();
    let response = mirror.serve(request).await;
    // The name is permitted, but what it resolves to is not: the mirror finds that out when it asks.
    if let Some(denial) = response.extensions().get::<Denial>() {
        return refused(denial);
    }
    let asked: String = url.as_str().chars().take(NOTED_MAX).collect();
    if response.status().is_server_error() {
        let why = match response.extensions().get::<Failed>() {
            Some(Failed(why)) => why.clone(),
            None => format!("the mirror answered {}", response.status()),
        };
        egress.audit.failed(Via::Mirror, &asked, &why);
        return response;
    }
    let from_cache = response.extensions().get::<Served>() == Some(&Served::Cache);
    let counters = egress.audit.allowed(Via::Mirror, &asked, None, from_cache);
    // What the host has already costs nobody anything.
    let budget = match from_cache {
        true => Arc::new(Budget::new(None)),
        false => Arc::clone(&egress.budget),
    };
    let flow = Some(Flow::new(counters, budget));
    response.map(|body| {
        Carried {
            body,
            flow,
            _driver: None,
            _place: place,
        }
        .boxed_unsync()
    })
}

/// A URI for what was checked, not as the guest wrote it: an upstream proxy could read that in another way.
fn checked_uri(uri: &Uri) -> Result<(Target, Uri), DialError> {
    let target = target_of(uri)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let checked = Uri::builder()
        .scheme("http")
        .authority(host_of_http(&target))
        .path_and_query(path)
        .build();
    match checked {
        Ok(checked) => Ok((target, checked)),
        Err(_) => Err(DialError::NoTarget(target.to_string())),
    }
}

/// What `uri` asks for, for the audit list: its path is the guest's own.
fn asked_of(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port_u16() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// `target` as HTTP names it: without the port that everybody takes.
fn host_of_http(target: &Target) -> String {
    match target.port {
        80 => target.host.to_string(),
        _ => target.to_string(),
    }
}

async fn forward(egress: &Egress, mut request: Request<Incoming>) -> Response<Body> {
    let target = match checked_uri(request.uri()) {
        Ok((target, uri)) => {
            *request.uri_mut() = uri;
            target
        }
        Err(error) => {
            let text = "the URL has no host and port that can be asked for";
            egress.unusable(Via::Http, &asked_of(request.uri()), text);
            return answer::failed(&error);
        }
    };
    let (outbound, flow) = match egress.connect(Via::Http, &target, Carries::Http).await {
        Ok(connected) => connected,
        Err(error) => return answer::failed(&error),
    };
    match exchange(&target, request, outbound, flow).await {
        Ok(response) => response,
        Err(error) => {
            let error = DialError::Broken {
                target: target.to_string(),
                source: error,
            };
            egress
                .audit
                .failed(Via::Http, &target.to_string(), &error.to_string());
            answer::failed(&error)
        }
    }
}

async fn exchange(
    target: &Target,
    request: Request<Incoming>,
    outbound: Outbound,
    flow: Arc<Flow>,
) -> Result<Response<Body>, hyper::Error> {
    let by_proxy = outbound.forward.clone();
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .handshake(TokioIo::new(Metered::new(outbound, flow)))
        .await?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the outside broke");
        }
    }));
    let (mut parts, body) = request.into_parts();
    end_of_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    if let Ok(host) = HeaderValue::try_from(host_of_http(target)) {
        parts.headers.insert(HOST, host);
    }
    match by_proxy {
        Some(forward) => {
            if let Some(authorization) = forward.authorization {
                parts.headers.insert(PROXY_AUTHORIZATION, authorization);
            }
        }
        None => {
            let path = parts.uri.path_and_query().cloned();
            parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        }
    }
    let response = sender
        .send_request(Request::from_parts(parts, body))
        .await?;
    let (mut parts, body) = response.into_parts();
    end_of_hop(&mut parts.headers);
    let body = Carried {
        body,
        flow: None,
        _driver: Some(driver),
        _place: None,
    };
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}

/// Takes off what concerns this hop only, and says who forwarded the rest.
fn end_of_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.append(VIA, VIA_WAGGLE);
}

/// A body on its way into the environment.
struct Carried<B> {
    body: B,
    /// Counts it, where nothing below does.
    flow: Option<Arc<Flow>>,
    /// Its connection, which ends with it.
    _driver: Option<AbortOnDropHandle<()>>,
    /// Its place among the mirror's answers.
    _place: Option<OwnedSemaphorePermit>,
}

impl<B> HttpBody for Carried<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let frame = frame.map(|frame| frame.map_err(io::Error::other));
        if let (Some(flow), Some(Ok(frame))) = (&self.flow, &frame)
            && let Some(data) = frame.data_ref()
        {
            flow.check()?;
            flow.came_in(data.remaining());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
