// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Creating an environment: which image, having it, booting a machine of it.
//!
//! Each part has a time of its own: an image that has to be fetched takes nothing from the boot. Whatever part fails
//! or is given up, nothing of the environment is left; what was fetched of an image stays.

use std::sync::{Arc, atomic::AtomicBool};

use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waggle_images::{
    Image, ImagesError, Reference,
    images::{Progress, Pull, Stage},
};

use super::{
    Call, ImageError, Live, Service, ServiceError, foreign_agent, image::Surroundings,
    install::Installs, keyed::KeyedRuns, now, process::Processes, validate, watch,
};
use crate::{
    environment::{
        Environment, EnvironmentId, Runtime, Status,
        store::{Store, minutes},
    },
    network::{guest::Prepared, ports::Ports},
    session::{BootError, BootOptions, LinkError, Session},
    settings::Settings,
};

/// What a caller wants created.
#[derive(Debug)]
pub struct CreateRequest {
    /// What for.
    pub runtime: Runtime,
    /// The image's name; that of the runtime if absent.
    pub image: Option<String>,
    /// The user's name for it.
    pub name: Option<String>,
    /// Idle minutes until it is destroyed.
    pub timeout_minutes: Option<u32>,
    /// What of the server's network policy it may use; all of it if absent.
    pub network: Option<String>,
}

/// Frees an environment's place if its creation does not come to an end.
struct Reservation<'a> {
    store: &'a Store<Live>,
    id: Option<EnvironmentId>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.store.remove(id);
        }
    }
}

/// A machine that takes work.
struct Booted {
    session: Session,
    network: Prepared,
    surroundings: Surroundings,
}

impl Service {
    /// Has the image, boots a machine of it, and returns its environment once it takes work.
    ///
    /// Dropping the future ends a fetch, or stops the boot, and leaves nothing of the environment behind.
    ///
    /// # Errors
    ///
    /// [`ServiceError`]; nothing is left of the attempt.
    pub async fn create(
        self: &Arc<Self>,
        request: CreateRequest,
        call: &Arc<Call>,
    ) -> Result<Environment, ServiceError> {
        let idle_minutes = match request.timeout_minutes {
            Some(given) => validate::timeout_minutes(given)?,
            None => self.settings.default_timeout_min,
        };
        let name = request.name.map(validate::name).transpose()?;
        let runtime = request.runtime;
        let reference = choose_image(&self.settings, runtime, request.image)?;
        let policy = self.network.gateway.policy();
        let policy = match request.network {
            Some(text) => policy.narrow(&text)?,
            None => policy.clone(),
        };
        // The server does not exit before this has cleaned up after itself.
        let _under_way = self.tasks.token();
        let id = EnvironmentId::random();
        self.store.insert(Environment {
            name: name.unwrap_or_else(|| id.to_string()),
            id: id.clone(),
            runtime,
            status: Status::Creating,
            created_at: now(),
            idle_timeout: minutes(idle_minutes),
            failure: None,
            network: policy.to_string(),
            image: reference.clone(),
            made: None,
        })?;
        let mut reservation = Reservation {
            store: &self.store,
            id: Some(id.clone()),
        };

        let work = async {
            let image = self.have_image(&reference, call).await?;
            call.stage("booting");
            let options = self.boot_options(&id, &image);
            let booted = self.boot(&options, &image).await?;
            Ok::<_, ServiceError>((image, booted))
        };
        let (image, booted) = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(ServiceError::ShuttingDown),
            outcome = work => outcome?,
        };
        let times = booted.session.boot_times();
        tracing::info!(
            %id, %runtime, image = %image.reference, digest = %image.manifest, init = ?times.init,
            ready = ?times.ready, network = ?booted.network.took(), "environment booted"
        );
        let made = booted.surroundings.made(&image);
        let live = Arc::new(Live {
            session: booted.session,
            venv: AtomicBool::new(false),
            network: booted.network,
            surroundings: booted.surroundings,
            image,
            egress: self.network.gateway.egress(id.to_string(), policy),
            way_out: CancellationToken::new(),
            installing: tokio::sync::Mutex::<Installs>::default(),
            keyed: KeyedRuns::default(),
            processes: Processes::default(),
            ports: Ports::default(),
        });
        let environment = self.store.booted(&id, Arc::clone(&live), made)?;
        reservation.id = None;
        self.open_way_out(&live);
        self.tasks.spawn(watch(
            Arc::clone(&self.store),
            id,
            live.session.machine().died(),
        ));
        Ok(environment)
    }

    /// Sees to it that an image is there, within a time of its own, and that its agent and this server understand
    /// each other.
    async fn have_image(
        &self,
        reference: &Reference,
        call: &Arc<Call>,
    ) -> Result<Image, ServiceError> {
        call.stage("looking for the image");
        let follower = Arc::clone(call);
        let report = move |progress: Progress| tell(progress, &follower);
        // Boxed as this: the compiler cannot show otherwise that it may cross threads.
        let ensured: BoxFuture<'_, _> =
            Box::pin(self.images.ensure(reference, Pull::Missing, &report));
        let limit = self.settings.image_pull_timeout;
        let image = timeout(limit, ensured).await;
        let image = image
            .map_err(|_| ImageError::Timeout {
                reference: reference.clone(),
                limit,
            })?
            .map_err(|source| ImageError::Unusable {
                reference: reference.clone(),
                source,
            })?;
        match foreign_agent(&image.config) {
            Some(spoken) if !self.settings.agent_inject => Err(ImageError::Agent {
                reference: reference.clone(),
                spoken,
            }
            .into()),
            _ => Ok(image),
        }
    }

    /// A guest that knows its image and its way out. Nothing is left of one that could not be told.
    async fn boot(&self, options: &BootOptions, image: &Image) -> Result<Booted, BootError> {
        let session = Session::boot(&self.vmm, options).await?;
        let prepare = async {
            let surroundings = Surroundings::prepare(&session, &image.config).await?;
            // Not the root's key: where programs are looked for is in the configuration.
            let known_by = image.manifest.to_string();
            let network = self.network.guest.prepare(&session, &known_by).await?;
            Ok((surroundings, network))
        };
        let error = match timeout(options.timeout, prepare).await {
            Ok(Ok((surroundings, network))) => {
                return Ok(Booted {
                    session,
                    network,
                    surroundings,
                });
            }
            Ok(Err(error)) => BootError::Prepare(error),
            Err(_) => BootError::Prepare(LinkError::Unanswered {
                seconds: options.timeout.as_secs(),
            }),
        };
        session.close().await;
        Err(error)
    }

    fn boot_options(&self, id: &EnvironmentId, image: &Image) -> BootOptions {
        BootOptions {
            name: id.to_string(),
            boot_disk: self.boot_disk.clone(),
            image: image.disk.clone(),
            vcpus: self.settings.default_cpus,
            memory_mib: self.settings.default_memory_mb,
            scratch_mib: self.settings.default_disk_mb,
            inject_agent: self.settings.agent_inject,
            kernel_log_level: self.settings.log_level,
            timeout: self.settings.boot_timeout,
        }
    }
}

/// The image that a caller wants, if it is permitted.
fn choose_image(
    settings: &Settings,
    runtime: Runtime,
    given: Option<String>,
) -> Result<Reference, ServiceError> {
    let Some(given) = given else {
        return Ok(settings.image(runtime).clone());
    };
    let reference = validate::image(given)?;
    let of_the_owner = Runtime::ALL.map(|runtime| settings.image(runtime));
    if of_the_owner.contains(&&reference) || settings.image_allow.permits(&reference) {
        return Ok(reference);
    }
    Err(ImageError::NotAllowed {
        reference,
        owners: of_the_owner.map(ToString::to_string).join(", "),
    }
    .into())
}

/// Whether an image that is to be used is there, or how it comes to be; for the server's start. One that is damaged is
/// there: its first use mends it, or says why it cannot. Blocks.
///
/// # Errors
///
/// It is of this host, and not there.
pub fn find_image(
    images: &waggle_images::Images,
    reference: &Reference,
) -> Result<bool, ImagesError> {
    let there = images.knows(reference)?;
    if !there && reference.is_local() {
        return Err(ImagesError::NotThere {
            reference: reference.clone(),
        });
    }
    Ok(there)
}

/// Tells a call how far its image is.
fn tell(progress: Progress, call: &Call) {
    let Progress { stage, done, total } = progress;
    let mib = |bytes: u64| bytes / (1024 * 1024);
    call.stage(match stage {
        Stage::Resolve => "looking for the image",
        Stage::Download => "fetching the image",
        Stage::Convert | Stage::Root => "preparing the image",
        Stage::Push => "sending the image",
    });
    match stage {
        Stage::Download => {
            call.printed(format!("{} of {} MiB\n", mib(done), mib(total)).as_bytes());
        }
        Stage::Convert => call.printed(format!("{done} of {total} layers\n").as_bytes()),
        Stage::Resolve | Stage::Root | Stage::Push => {}
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn a_caller_names_images_of_the_owners_choice_only() {
        let choose = |arguments: &[&str], given: Option<&str>| {
            let line = Line::try_parse_from([&["waggle"], arguments].concat()).expect("flags");
            let given = given.map(str::to_owned);
            let chosen = choose_image(&line.settings, Runtime::Python, given);
            chosen.map(|reference| reference.to_string())
        };
        let own = choose(&[], None).expect("the runtime's");
        assert_eq!(own, "localhost/waggle-python:latest");
        let other = choose(&[], Some("localhost/waggle-node")).expect("another runtime's");
        assert_eq!(other, "localhost/waggle-node:latest");
        let refused = choose(&[], Some("python:3.13")).expect_err("nothing is permitted");
        let text = refused.to_string();
        for part in ["docker.io/library/python:3.13", "WAGGLE_IMAGE_ALLOW", &own] {
            assert!(text.contains(part), "{text}");
        }
        let allow = ["--image-allow", "python:3.*,ghcr.io/acme/*"];
        assert!(choose(&allow, Some("python:3.13")).is_ok());
        assert!(choose(&allow, Some("python:2")).is_err());
        assert!(choose(&allow, Some("ghcr.io/acme/tool")).is_ok());
        assert!(matches!(
            choose(&allow, Some("No Image")),
            Err(ServiceError::Argument(_))
        ));
        // The owner's own reference is permitted as it is, not by its name with another tag.
        let own = ["--image-python", "registry.example/py:1"];
        assert!(choose(&own, Some("registry.example/py:1")).is_ok());
        assert!(choose(&own, Some("registry.example/py:2")).is_err());
    }

    #[tokio::test]
    async fn an_image_that_is_damaged_is_there_when_the_server_starts() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = dir.path().join("cache");
        let options = waggle_images::images::Options::new(cache.clone());
        let images = waggle_images::Images::open(options).expect("a store");
        // The end of an archive: a root file system with nothing in it.
        let tar = dir.path().join("root.tar");
        std::fs::write(&tar, [0; 1024]).expect("an archive");
        let find = |name: &str| find_image(&images, &name.parse().expect("a reference"));
        for name in ["localhost/tool:1", "ghcr.io/acme/tool:1"] {
            let name = name.parse().expect("a reference");
            let imported = images.import(&tar, Some(&name), &|_| ()).await;
            imported.expect("an image");
        }
        let blobs = std::fs::read_dir(cache.join("blobs/sha256")).expect("blobs");
        for blob in blobs {
            std::fs::remove_file(blob.expect("a blob").path()).expect("it goes");
        }
        assert!(matches!(find("localhost/tool:1"), Ok(true)));
        assert!(matches!(find("ghcr.io/acme/tool:1"), Ok(true)));
        assert!(matches!(find("ghcr.io/acme/tool:2"), Ok(false)));
        assert!(matches!(
            find("localhost/tool:2"),
            Err(ImagesError::NotThere { .. })
        ));
    }

    #[test]
    fn progress_is_told_as_a_part_and_how_far_it_is() {
        let call = Call::default();
        let progress = |stage, done, total| Progress { stage, done, total };
        tell(progress(Stage::Download, 3 << 20, 50 << 20), &call);
        assert_eq!(call.newest_line(), "fetching the image: 3 of 50 MiB");
        tell(progress(Stage::Convert, 1, 4), &call);
        assert_eq!(call.newest_line(), "preparing the image: 1 of 4 layers");
        tell(progress(Stage::Root, 0, 0), &call);
        assert_eq!(call.newest_line(), "preparing the image");
    }
}
