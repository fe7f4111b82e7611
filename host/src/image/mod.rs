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

use std::path::PathBuf;

use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use waggle_images::{
    Images, ImagesError, Reference,
    images::Pull,
    store::{Stop, Stopper},
};

use crate::settings::{ImageSettings, SettingsError};
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
    /// Interrupted.
    #[error("stopped; what is whole is kept, so run it again to go on")]
    Stopped,
    /// A thread of ours.
    #[error("the work was lost")]
    Lost(#[from] JoinError),
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
        Action::Import { path, name } => {
            let progress = Progress::new(&path.display().to_string());
            let imported = images
                .import(&path, name.as_ref(), &progress.report())
                .await;
            progress.end();
            let imported = imported.map_err(|error| match error {
                ImagesError::Unnamed { .. } => ImageCommandError::Unnamed(error.to_string()),
                error => error.into(),
            });
            Ok(Outcome::good(show::named(&imported?)))
        }
        Action::Push {
            reference,
            destination,
        } => {
            let to = destination.unwrap_or_else(|| reference.clone());
            if to.is_local() {
                return Err(ImageCommandError::NoDestination(to));
            }
            let progress = Progress::new(&to.to_string());
            let pushed = images.push(&reference, &to, &progress.report()).await;
            progress.end();
            Ok(Outcome::good(format!("{to} {}", pushed?)))
        }
        Action::Check { reference, json } => check(images, &reference, json, stopper.stop()).await,
        action => tokio::task::spawn_blocking(move || local(action, &images)).await?,
    }
}

async fn pull(images: &Images, references: &[Reference]) -> Result<Outcome, ImageCommandError> {
    let mut lines = Vec::new();
    for reference in references {
        // Not of a registry: whether it is here.
        let progress = Progress::new(&reference.to_string());
        let image = images
            .ensure(reference, Pull::Always, &progress.report())
            .await;
        progress.end();
        lines.push(format!("{reference} {}", image?.manifest));
    }
    Ok(Outcome::good(lines.join("\n")))
}

async fn check(
    images: Images,
    reference: &Reference,
    json: bool,
    stop: Stop,
) -> Result<Outcome, ImageCommandError> {
    let progress = Progress::new(&reference.to_string());
    let image = images
        .ensure(reference, Pull::Missing, &progress.report())
        .await;
    progress.end();
    let image = image?;
    tokio::task::spawn_blocking(move || {
        let tree = images.tree(&image, &stop)?;
        let checked = check::check(&tree, &image.config);
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
    .await?
}

/// What takes no registry. Blocks.
fn local(action: Action, images: &Images) -> Result<Outcome, ImageCommandError> {
    let text = match action {
        Action::Ls { json: true } => serde_json::to_string_pretty(&show::listed(&images.list()?))?,
        Action::Ls { json: false } => show::table(&images.list()?),
        Action::Rm { references } => {
            let mut lines = Vec::new();
            for reference in &references {
                let removed = images.remove(reference)?;
                lines.push(show::removed(reference, &removed));
            }
            lines.join("\n")
        }
        Action::Prune { all, json } => {
            let pruned = images.prune(all)?;
            match json {
                true => serde_json::to_string_pretty(&show::pruned_json(&pruned))?,
                false => show::pruned(&pruned),
            }
        }
        Action::Inspect { reference, json } => {
            let inspection = images.inspect(&reference)?;
            match json {
                true => serde_json::to_string_pretty(&show::inspected_json(&inspection))?,
                false => show::inspected(&inspection),
            }
        }
        Action::Verify { mend } => {
            let verified = images.verify(mend)?;
            return Ok(Outcome {
                text: show::verified(&verified, mend),
                complaint: (!verified.damage.is_empty())
                    .then(|| "something in the image cache is damaged".to_owned()),
            });
        }
        // Those that wait for something are done elsewhere.
        Action::Pull { .. }
        | Action::Import { .. }
        | Action::Push { .. }
        | Action::Check { .. } => String::new(),
    };
    Ok(Outcome::good(text))
}
