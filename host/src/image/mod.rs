// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle image`: the images of this host, without a server.
//!
//! Owns: the command's words, and what it prints. What an image is, and every rule about it, is the crate
//! `waggle_images`' affair; servers use the same folder at the same time.
//!
//! Tables and JSON go to standard output, progress to standard error. Whatever is interrupted leaves nothing half:
//! the store sees to that.

mod check;
mod progress;
mod show;

use std::path::{Path, PathBuf};

use clap::Parser as _;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use waggle_images::{
    Image, Images, ImagesError, Reference,
    images::Pull,
    store::{Stop, Stopper},
};

use crate::{
    service::chain,
    settings::{ImageSettings, Settings, SettingsError},
};
use check::Chosen;
use progress::Progress;

/// The words of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[allow(missing_docs)] // A comment here would be the command's.
    #[command(subcommand)]
    pub action: Action,

    #[allow(missing_docs)] // As above.
    #[command(flatten)]
    pub images: ImageSettings,

    /// File of PEM certificates of authorities that are trusted for registries
    #[arg(long, env = "WAGGLE_CA_BUNDLE", global = true)]
    pub ca_bundle: Option<PathBuf>,
}

/// What is to be done.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    /// Fetch images, or see whether those that are here are the newest
    Pull {
        /// Images, like python:3.13 or ghcr.io/acme/tool@sha256:...
        #[arg(required = true)]
        references: Vec<Reference>,
    },
    /// Take in an OCI layout, a `docker save` or OCI archive, or the plain tar of a root file system
    Import {
        /// The file or folder
        path: PathBuf,
        /// What to call it; needed where it does not say so itself
        #[arg(long)]
        name: Option<Reference>,
    },
    /// List the images
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove images by name
    Rm {
        /// Images
        #[arg(required = true)]
        references: Vec<Reference>,
    },
    /// Remove images that were not used for long or do not fit the cache, and what nothing needs
    Prune {
        /// All images that no environment uses, imported ones as well
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all about an image: digests, layers, configuration
    Inspect {
        /// The image
        reference: Reference,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look whether an image has what environments need, and how to mend what is missing
    ///
    /// The commands and the agent that the variables of `waggle serve` choose count, too.
    Check {
        /// The image; fetched if it is not here
        reference: Reference,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send an image to a registry
    Push {
        /// The image
        reference: Reference,
        /// Where to, if not to where its name says
        destination: Option<Reference>,
    },
    /// Read all that is kept and say what is damaged
    Verify {
        /// Take away what is damaged, so that its next use makes it again
        #[arg(long)]
        mend: bool,
    },
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum ImageCommandError {
    /// An image.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// The folder of images.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The result.
    #[error("the result cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// Nowhere to push to.
    #[error("{0} is an image of this host alone: say where to, like registry.example/name:tag")]
    NoDestination(Reference),
    /// What is imported says not, or not wholly, what it is called.
    #[error("{0} by --name, like --name localhost/tool")]
    Unnamed(String),
    /// Several images, of which each may have a reason of its own.
    #[error("{}", all(.0))]
    Several(Vec<Self>),
    /// A variable of `waggle serve`.
    #[error("the variables of `waggle serve`, which say how programs are run: {0}")]
    Server(String),
    /// Interrupted.
    #[error("stopped; what is whole is kept, so run it again to go on")]
    Stopped,
    /// A thread of ours.
    #[error("the work was lost")]
    Lost(#[from] JoinError),
}

/// Why each of them failed, in one line.
fn all(errors: &[ImageCommandError]) -> String {
    let texts: Vec<_> = errors.iter().map(|error| chain(error)).collect();
    texts.join("; ")
}

/// What a command has to say.
#[derive(Debug)]
pub struct Outcome {
    /// For standard output; not ended by a newline.
    pub text: String,
    /// What is not well, if anything: the command fails.
    pub complaint: Option<String>,
}

impl Outcome {
    fn good(text: String) -> Self {
        Self {
            text,
            complaint: None,
        }
    }

    /// Of several images: what became of those that it went well with is said, whatever became of the others.
    fn of_each(results: Vec<Result<String, ImageCommandError>>) -> Result<Self, ImageCommandError> {
        let (mut lines, mut errors) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(line) => lines.push(line),
                Err(error) => errors.push(error),
            }
        }
        let complaint = (!errors.is_empty()).then_some(ImageCommandError::Several(errors));
        match complaint {
            Some(errors) if lines.is_empty() => Err(errors),
            complaint => Ok(Self {
                text: lines.join("\n"),
                complaint: complaint.map(|errors| errors.to_string()),
            }),
        }
    }
}

/// Does what the command says.
///
/// # Errors
///
/// [`ImageCommandError`], also if `stop` is cancelled first. What is whole by then stays.
pub async fn run(
    arguments: Arguments,
    stop: &CancellationToken,
) -> Result<Outcome, ImageCommandError> {
    let options = arguments.images.options(arguments.ca_bundle.as_deref())?;
    let images = Images::open(options)?;
    // Dropped with the work: it ends what goes on on other threads.
    let stopper = Stopper::default();
    let work = act(arguments.action, images, &stopper);
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = stop.cancelled() => Err(ImageCommandError::Stopped),
    }
}

async fn act(
    action: Action,
    images: Images,
    stopper: &Stopper,
) -> Result<Outcome, ImageCommandError> {
    match action {
        Action::Pull { references } => pull(&images, &references).await,
        Action::Import { path, name } => import(&images, &path, name.as_ref()).await,
        Action::Push {
            reference,
            destination,
        } => push(&images, &reference, destination.as_ref()).await,
        Action::Check { reference, json } => check(images, &reference, json, stopper.stop()).await,
        Action::Ls { json } => blocking(move || list(&images, json)).await,
        Action::Rm { references } => blocking(move || remove(&images, &references)).await,
        Action::Prune { all, json } => blocking(move || prune(&images, all, json)).await,
        Action::Inspect { reference, json } => {
            blocking(move || inspect(&images, &reference, json)).await
        }
        Action::Verify { mend } => blocking(move || verify(&images, mend)).await,
    }
}

/// What takes no registry waits for disks alone.
async fn blocking(
    work: impl FnOnce() -> Result<Outcome, ImageCommandError> + Send + 'static,
) -> Result<Outcome, ImageCommandError> {
    tokio::task::spawn_blocking(work).await?
}

async fn pull(images: &Images, references: &[Reference]) -> Result<Outcome, ImageCommandError> {
    let mut results = Vec::new();
    for reference in references {
        // Not of a registry: whether it is here.
        let image = ensure(images, reference, Pull::Always).await;
        results.push(image.map(|image| format!("{reference} {}", image.manifest)));
    }
    Outcome::of_each(results)
}

/// The image, with progress while it is fetched.
async fn ensure(
    images: &Images,
    reference: &Reference,
    pull: Pull,
) -> Result<Image, ImageCommandError> {
    let progress = Progress::new(&reference.to_string());
    let image = images.ensure(reference, pull, &progress.report()).await;
    progress.end();
    Ok(image?)
}

async fn import(
    images: &Images,
    path: &Path,
    name: Option<&Reference>,
) -> Result<Outcome, ImageCommandError> {
    let progress = Progress::new(&path.display().to_string());
    let imported = images.import(path, name, &progress.report()).await;
    progress.end();
    let imported = imported.map_err(|error| match error {
        ImagesError::Unnamed { .. } => ImageCommandError::Unnamed(error.to_string()),
        error => error.into(),
    });
    Ok(Outcome::good(show::named(&imported?)))
}

async fn push(
    images: &Images,
    reference: &Reference,
    destination: Option<&Reference>,
) -> Result<Outcome, ImageCommandError> {
    let to = destination.unwrap_or(reference);
    if to.is_local() {
        return Err(ImageCommandError::NoDestination(to.clone()));
    }
    let progress = Progress::new(&to.to_string());
    let pushed = images.push(reference, to, &progress.report()).await;
    progress.end();
    Ok(Outcome::good(format!("{to} {}", pushed?)))
}

async fn check(
    images: Images,
    reference: &Reference,
    json: bool,
    stop: Stop,
) -> Result<Outcome, ImageCommandError> {
    let chosen = chosen()?;
    let image = ensure(&images, reference, Pull::Missing).await?;
    blocking(move || {
        let tree = images.tree(&image, &stop)?;
        let checked = check::check(&tree, &image.config, &chosen);
        let text = if json {
            serde_json::to_string_pretty(&checked)?
        } else {
            show::checked(&image.reference, &checked)
        };
        Ok(Outcome {
            text,
            complaint: (!checked.is_good())
                .then(|| format!("{} lacks something that environments need", image.reference)),
        })
    })
    .await
}

/// What the owner of a server on this host chose, by the variables that it is started with.
fn chosen() -> Result<Chosen, ImageCommandError> {
    #[derive(clap::Parser)]
    struct Server {
        #[command(flatten)]
        settings: Settings,
    }
    match Server::try_parse_from(["waggle"]) {
        Ok(server) => Ok(Chosen::of(&server.settings)),
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = line.strip_prefix("error: ").unwrap_or(line);
            Err(ImageCommandError::Server(line.to_owned()))
        }
    }
}

fn list(images: &Images, json: bool) -> Result<Outcome, ImageCommandError> {
    let images = images.list()?;
    Ok(Outcome::good(match json {
        true => serde_json::to_string_pretty(&show::listed(&images))?,
        false => show::table(&images),
    }))
}

fn remove(images: &Images, references: &[Reference]) -> Result<Outcome, ImageCommandError> {
    let results = references.iter().map(|reference| {
        let removed = images.remove(reference)?;
        Ok(show::removed(reference, &removed))
    });
    Outcome::of_each(results.collect())
}

fn prune(images: &Images, all: bool, json: bool) -> Result<Outcome, ImageCommandError> {
    let pruned = images.prune(all)?;
    Ok(Outcome::good(match json {
        true => serde_json::to_string_pretty(&show::pruned_json(&pruned))?,
        false => show::pruned(&pruned),
    }))
}

fn inspect(
    images: &Images,
    reference: &Reference,
    json: bool,
) -> Result<Outcome, ImageCommandError> {
    let inspection = images.inspect(reference)?;
    Ok(Outcome::good(match json {
        true => serde_json::to_string_pretty(&show::inspected_json(&inspection))?,
        false => show::inspected(&inspection),
    }))
}

fn verify(images: &Images, mend: bool) -> Result<Outcome, ImageCommandError> {
    let verified = images.verify(mend)?;
    let is_damaged = !verified.damage.is_empty() && !mend;
    Ok(Outcome {
        text: show::verified(&verified, mend),
        complaint: is_damaged.then(|| "something in the image cache is damaged".to_owned()),
    })
}
