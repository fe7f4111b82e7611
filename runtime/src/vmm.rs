// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The place machines come from.

use std::sync::Arc;

use crate::accelerator;
use crate::instance::Instance;
use crate::launch::{LaunchError, launch};
use crate::machine::Machine;
use crate::options::{Accelerator, AcceleratorChoice, Options};
use crate::parts::Parts;
use crate::preflight::{PreflightError, check};
use crate::spec::MachineSpec;
use crate::warden::Warden;

/// Launches machines. Cheap to clone. The run folder lives until the last clone and the last
/// [`Machine`] are dropped; that last drop waits some milliseconds for the clean-up.
#[derive(Debug, Clone)]
pub struct Vmm {
    inner: Arc<Inner>,
}

/// What all clones and machines share. The order of the fields is the order of the clean-up: first
/// the thread, which ends when all machines are gone, then the folder.
#[derive(Debug)]
pub(crate) struct Inner {
    warden: Warden,
    parts: Arc<Parts>,
    _instance: Instance,
}

impl Vmm {
    /// Checks that everything is here, extracts the kernel, removes what dead hosts left in the
    /// data folder, and chooses the accelerator.
    ///
    /// Takes some milliseconds; the first time on a host 0.2 s more for the kernel, and with
    /// [`AcceleratorChoice::Auto`] up to 20 s for the probe of KVM, whose verdict is kept until the
    /// host is restarted.
    ///
    /// # Errors
    ///
    /// [`PreflightError`]: its text says what is missing and which command mends it.
    pub async fn open(options: Options) -> Result<Vmm, PreflightError> {
        let asked = options.clone();
        let checked = tokio::task::spawn_blocking(move || check(&asked)).await;
        let (mut parts, instance) =
            checked.map_err(|error| PreflightError::Thread(error.into()))??;
        let warden = Warden::start().map_err(PreflightError::Thread)?;
        if options.accelerator == AcceleratorChoice::Auto {
            parts.accelerator = accelerator::choose(&options, &parts, &warden).await;
        }
        let inner = Inner {
            warden,
            parts: Arc::new(parts),
            _instance: instance,
        };
        Ok(Vmm {
            inner: Arc::new(inner),
        })
    }

    /// The accelerator that machines run under.
    pub fn accelerator(&self) -> Accelerator {
        self.inner.parts.accelerator
    }

    /// Launches a machine: when this returns, its virtual CPUs run.
    ///
    /// # Errors
    ///
    /// [`LaunchError`]; nothing of the machine is left then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future undoes the launch.
    pub async fn launch(&self, spec: MachineSpec) -> Result<Machine, LaunchError> {
        let name = spec.name.clone();
        let Inner { warden, parts, .. } = &*self.inner;
        let launched = launch(warden, parts, spec).await?;
        let folder = parts.run.join(&name);
        Machine::new(name, launched, Arc::clone(&self.inner)).map_err(|source| {
            LaunchError::Folder {
                what: "a listener",
                folder,
                source,
            }
        })
    }
}
