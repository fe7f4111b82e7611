// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The bench's own machines.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use waggle::boot_disk;
use waggle::session::{BootOptions, Session};
use waggle_images::images::{Options as ImageOptions, Pull};
use waggle_images::{Image, Images};
use waggle_protocol::boot::{PROBE_ANSWER, PROBE_WORD};
use waggle_runtime::{AcceleratorChoice, Options, Probe, Vmm};
use waggle_tests::{Server, Settings, settings};

/// Memory of a machine as `waggle serve` makes them by default.
const MEMORY_MIB: u32 = 512;

/// What machines are made of here.
pub(crate) struct Host {
    /// Launches them.
    pub(crate) vmm: Vmm,
    boot_disk: PathBuf,
    images: Images,
    /// Those that machines run from: nobody evicts them.
    held: Mutex<Vec<Image>>,
}

impl Host {
    /// Looks for everything, as `waggle serve` does when it starts.
    pub(crate) async fn open(data: &Path) -> anyhow::Result<Self> {
        let boot_disk = boot_disk::materialize(data)?;
        let accelerator = match std::env::var(settings::ACCELERATOR).as_deref() {
            Err(_) | Ok("auto") => AcceleratorChoice::Auto,
            Ok("kvm") => AcceleratorChoice::Kvm,
            Ok("tcg") => AcceleratorChoice::Tcg,
            Ok(other) => anyhow::bail!("{}: {other:?}", settings::ACCELERATOR),
        };
        let vmm = Vmm::open(Options {
            data_dir: data.to_owned(),
            lib_dir: Some(settings::path(settings::LIB_DIR)),
            accelerator,
            boot_disk: boot_disk.clone(),
            probe: Probe {
                kernel_word: PROBE_WORD.to_owned(),
                answer: PROBE_ANSWER.to_owned(),
            },
        })
        .await?;
        let folder = settings::path(settings::IMAGE_CACHE_DIR);
        let images = Images::open(ImageOptions::new(folder))?;
        Ok(Self {
            vmm,
            boot_disk,
            images,
            held: Mutex::default(),
        })
    }

    /// A `waggle serve`. It uses the accelerator of these machines: nobody probes it twice.
    pub(crate) async fn serve(&self) -> Server {
        Server::start(self.settings()).await
    }

    /// A `waggle serve` with one more setting.
    pub(crate) async fn serve_with(&self, variable: &str, value: &str) -> Server {
        Server::start(self.settings().with(variable, value)).await
    }

    fn settings(&self) -> Settings {
        let accelerator = self.vmm.accelerator().to_string();
        Settings::default().with(settings::ACCELERATOR, accelerator)
    }

    /// A machine as `waggle serve` makes them by default.
    pub(crate) async fn boot(&self, name: &str) -> anyhow::Result<Session> {
        self.boot_with(name, "shell", MEMORY_MIB).await
    }

    /// A machine of this runtime and memory.
    pub(crate) async fn boot_with(
        &self,
        name: &str,
        runtime: &str,
        memory_mib: u32,
    ) -> anyhow::Result<Session> {
        let image = format!("localhost/waggle-{runtime}").parse()?;
        let image = self.images.ensure(&image, Pull::Never, &|_| ()).await?;
        let disk = image.disk.clone();
        self.held.lock().expect("no panic").push(image);
        let options = BootOptions {
            name: name.to_owned(),
            boot_disk: self.boot_disk.clone(),
            image: disk,
            vcpus: 1,
            memory_mib,
            scratch_mib: 4096,
            inject_agent: std::env::var_os("WAGGLE_AGENT_INJECT").is_some_and(|value| value == "1"),
            kernel_log_level: 0,
            timeout: Duration::from_secs(120),
        };
        Ok(Session::boot(&self.vmm, &options).await?)
    }
}
