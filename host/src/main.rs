// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The command line of `waggle`: `serve` (Streamable HTTP), `mcp` (stdio), `cp` (files and folders),
//! `port` (forwards), `network` (what was asked of the network) and `image` (the images of this host).
//!
//! Standard output belongs to the protocol and to the one line that says where a server or a forward is;
//! logs go to standard error.

#![forbid(unsafe_code)]

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use waggle::{
    archive, boot_disk, cp,
    environment::Runtime,
    image, journal,
    mcp::{Handler, http, stdio},
    network::{
        gate::{Network, NetworkOptions},
        trust::TrustStore,
    },
    port,
    service::{Service, find_image},
    settings::{HttpSettings, Settings},
};
use waggle_images::{Images, recorded};
use waggle_protocol::boot::{PROBE_ANSWER, PROBE_WORD};
use waggle_runtime::{Options, Probe, Vmm};

/// Isolated computers for AI agents, over the Model Context Protocol
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Serve MCP over Streamable HTTP at /mcp
    Serve {
        #[command(flatten)]
        settings: Box<Settings>,
        #[command(flatten)]
        http: HttpSettings,
    },
    /// Serve MCP over standard input and output, for a client that starts this command itself
    Mcp {
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Copy files and folders between this host and an environment of a running `waggle serve`
    Cp(cp::Arguments),
    /// Print what an environment of a running `waggle serve` asked of the network, and what became of it
    Network(journal::Arguments),
    /// Forward a port of this host to a port of an environment of a running `waggle serve`
    Port(port::Arguments),
    /// Fetch, list, check and remove images
    Image(Box<image::Arguments>),
}

/// How long a read of standard input, which nothing can interrupt, may hold up the end.
const EXIT_WAIT: Duration = Duration::from_millis(200);

/// Most file descriptors that are taken: programs that are started may walk through all they could have.
const DESCRIPTORS_MAX: u64 = 65_536;

fn main() -> ExitCode {
    let line = Line::parse();
    let outcome = log().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(run(line.command));
        runtime.shutdown_timeout(EXIT_WAIT);
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever the error's causes hold.
            let text = format!("{error:#}").replace('\n', "; ");
            let _ = writeln!(std::io::stderr(), "waggle: {text}");
            ExitCode::FAILURE
        }
    }
}

fn log() -> anyhow::Result<()> {
    let words = std::env::var("WAGGLE_LOG").unwrap_or_else(|_| "info,rmcp=warn".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&words).with_context(|| {
        format!("WAGGLE_LOG={words:?} is not a filter; write it like info,waggle=debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve {
            settings,
            http: access,
        } => {
            let stop = stop_signal()?;
            let mut options = http::Options {
                access: access.access()?,
                ..http::Options::default()
            };
            // Before anything slow: a port in use is the operator's likeliest mistake.
            let listener = tokio::net::TcpListener::bind(access.listen_addr)
                .await
                .with_context(|| {
                    format!(
                        "cannot listen on {}; choose another --listen-addr",
                        access.listen_addr
                    )
                })?;
            let Some(service) = until(&stop, open(*settings)).await? else {
                return Ok(());
            };
            let address = listener.local_addr()?;
            options.routes = archive::routes(Arc::clone(&service))
                .merge(port::routes(Arc::clone(&service)))
                .merge(journal::routes(Arc::clone(&service)));
            let handler = Handler::new(Arc::clone(&service));
            let mut server = http::serve(handler, listener, options);
            announce(&format!("waggle listening on http://{address}/mcp"));
            let failure = tokio::select! {
                () = stop.cancelled() => Ok(()),
                outcome = server.failed() => outcome.context("the HTTP server failed"),
            };
            // First no new work, then no environments, last the answers and sessions: a call under
            // way gets its error result instead of a broken connection.
            server.stop_accepting();
            service.shut_down().await;
            if failure.is_ok() {
                server.finish().await;
            }
            failure
        }
        Command::Mcp { settings } => {
            let stop = stop_signal()?;
            let Some(service) = until(&stop, open(*settings)).await? else {
                return Ok(());
            };
            let input_ended = CancellationToken::new();
            let handler = Handler::new(Arc::clone(&service));
            let serving = stdio::serve(handler, stop.clone(), input_ended.clone());
            tokio::pin!(serving);
            let outcome = tokio::select! {
                outcome = &mut serving => outcome,
                // Without environments, the calls under way end, and with them the serving.
                () = input_ended.cancelled() => {
                    service.shut_down().await;
                    serving.await
                }
                () = stop.cancelled() => {
                    service.shut_down().await;
                    serving.await
                }
            };
            service.shut_down().await;
            Ok(outcome?)
        }
        // Signals are not caught: nothing would have to be cleaned up.
        Command::Cp(arguments) => Ok(cp::run(arguments, warn).await?),
        Command::Network(arguments) => {
            announce(&journal::run(arguments).await?);
            Ok(())
        }
        Command::Port(arguments) => {
            if let Some(address) = port::run(arguments).await? {
                announce(&address);
            }
            Ok(())
        }
        Command::Image(arguments) => {
            let outcome = image::run(*arguments, &stop_signal()?).await?;
            announce(&outcome.text);
            match outcome.complaint {
                Some(complaint) => Err(anyhow::anyhow!(complaint)),
                None => Ok(()),
            }
        }
    }
}

/// Checks everything that machines need, so that what is missing is said now and not in a call.
async fn open(settings: Settings) -> anyhow::Result<Arc<Service>> {
    settings.validate()?;
    raise_descriptors();
    let data_dir = settings.data_dir()?;
    let options = settings.images.options(settings.ca_bundle.as_deref())?;
    let recorded = recorded::registries(&options.dir)?;
    let images = Images::open(options)?;
    let (looked, at) = (settings.clone(), images.clone());
    tokio::task::spawn_blocking(move || find_images(&looked, &at)).await??;
    let trust = TrustStore::load(settings.ca_bundle.as_deref())?;
    let cache = settings.package_cache_dir()?;
    let cache_bytes = u64::from(settings.package_cache_mb) * 1024 * 1024;
    let network = Network::open(NetworkOptions {
        preset: &settings.network,
        allow: &settings.network_allow,
        packages: settings.network_packages.as_deref(),
        recorded: &recorded,
        max_bytes: settings.network_max_bytes(),
        environments: settings.max_environments,
        mirror: settings.package_mirror.then_some((cache, cache_bytes)),
        trust,
    })?;
    let boot_disk = boot_disk::materialize(&data_dir)?;
    let vmm = Vmm::open(Options {
        data_dir,
        lib_dir: settings.lib_dir.clone(),
        accelerator: settings.accelerator,
        boot_disk: boot_disk.clone(),
        probe: Probe {
            kernel_word: PROBE_WORD.to_owned(),
            answer: PROBE_ANSWER.to_owned(),
        },
    })
    .await?;
    let accelerator = vmm.accelerator();
    tracing::info!(?accelerator, network = %network.gateway.policy(), "ready for environments");
    Ok(Service::start(settings, vmm, images, boot_disk, network))
}

/// Says which images are missing, and refuses to start if none can be had.
fn find_images(settings: &Settings, images: &Images) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let mut usable = 0;
    for runtime in Runtime::ALL {
        let image = settings.image(runtime);
        match find_image(images, image) {
            Ok(true) => usable += 1,
            Ok(false) => {
                usable += 1;
                tracing::info!(%runtime, %image, "is fetched when an environment needs it");
            }
            Err(error) => missing.push((runtime, error)),
        }
    }
    if usable == 0 && settings.image_allow.is_empty() && !missing.is_empty() {
        // One is enough to say how to mend it.
        return Err(missing.swap_remove(0).1.into());
    }
    for (runtime, error) in missing {
        tracing::warn!(%runtime, %error, "no environments of this runtime can be created");
    }
    Ok(())
}

/// Takes the file descriptors that this process may have: the usual soft limit of 1,024 is made for
/// `select`, and few for the connections of many environments.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(DESCRIPTORS_MAX);
        match soft < wanted {
            true => setrlimit(Resource::RLIMIT_NOFILE, wanted, hard),
            false => Ok(()),
        }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The outcome of `work`, or `None` if the server is asked to stop first.
async fn until<T>(
    stop: &CancellationToken,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        outcome = work => outcome.map(Some),
        () = stop.cancelled() => Ok(None),
    }
}

/// A token that SIGINT or SIGTERM cancels. Stopping takes seconds at most, so further signals change
/// nothing.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(token)
}

fn warn(line: &str) {
    let _ = writeln!(std::io::stderr(), "waggle: {line}");
}

fn announce(line: &str) {
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason not to serve.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
