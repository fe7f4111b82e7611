// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The mirror by hand, before the real registries and under real package managers.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::net::TcpListener;
use url::Url;

use super::super::{Limits, Mirror, MirrorOptions, Served, over_tls};

/// Serves at `WAGGLE_TEST_MIRROR` (an address of loopback), until it is killed, the registries in
/// `WAGGLE_TEST_REGISTRIES` (`MANAGER=URL`, separated by commas), from the folder `WAGGLE_TEST_PACKAGES`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the registries of the world and package managers: run it by hand"]
async fn serve() {
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let address: SocketAddr = var("WAGGLE_TEST_MIRROR").parse().expect("an address");
    assert!(address.ip().is_loopback(), "{address}");
    let registries = var("WAGGLE_TEST_REGISTRIES");
    let registries = registries
        .split(',')
        .map(|text| text.parse().expect("a registry"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    let options = MirrorOptions {
        dir: PathBuf::from(var("WAGGLE_TEST_PACKAGES")),
        max_bytes: 4 << 30,
        registries: registries.collect(),
        base: Url::parse(&format!("http://{address}/")).expect("a URL"),
        limits: Limits::default(),
    };
    let mirror = Arc::new(Mirror::open(options, over_tls(tls, connector)));
    let listener = TcpListener::bind(address).await.expect("bound");
    loop {
        let (stream, _) = listener.accept().await.expect("accepted");
        let mirror = Arc::clone(&mirror);
        tokio::spawn(async move {
            let service = service_fn(|request: hyper::Request<Incoming>| {
                let mirror = Arc::clone(&mirror);
                async move {
                    let asked = format!("{} {}", request.method(), request.uri());
                    let response = mirror.serve(request).await;
                    let served = response.extensions().get::<Served>().copied();
                    println!("{} {served:?} {asked}", response.status());
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = serving.await {
                println!("broke: {error:?}");
            }
        });
    }
}
