// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The checks before the first machine: is everything here, and if not, what mends it.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::instance::{Instance, private_folders};
use crate::kernel::{self, KernelError};
use crate::options::{Accelerator, AcceleratorChoice, Options};
use crate::parts::{Parts, Places};

/// Why no machine can be launched on this host. Each line of the text names one thing and the
/// command that mends it.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The host is not x86-64.
    #[error("waggle runs on x86_64 hosts, not on {0}")]
    Architecture(&'static str),
    /// Programs or libraries are not installed.
    #[error("{}", lines(.0))]
    Missing(Vec<MissingPart>),
    /// The boot disk cannot be read.
    #[error("cannot read boot disk {}; run: ./dev build", path.display())]
    BootDisk {
        /// The boot disk.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The data folder cannot be used.
    #[error("cannot use data folder {}", path.display())]
    DataDir {
        /// The data folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The guest kernel could not be extracted.
    #[error("cannot prepare the guest kernel; run: ./dev deps")]
    Kernel(#[from] KernelError),
    /// KVM was demanded and cannot be opened.
    #[error("cannot open /dev/kvm; run: usermod -aG kvm \"$USER\", or choose the accelerator tcg")]
    Kvm(#[source] io::Error),
    /// The supervising thread could not be started.
    #[error("cannot start the thread that supervises machines")]
    Thread(#[source] io::Error),
}

fn lines(parts: &[MissingPart]) -> String {
    parts
        .iter()
        .map(MissingPart::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A part that is not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingPart {
    /// The VMM.
    Qemu,
    /// The vsock device.
    VsockDevice,
    /// The scratch disk's formatter.
    Mkfs,
    /// The library that holds the guest kernel.
    Krunfw,
}

impl fmt::Display for MissingPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, remedy) = match self {
            MissingPart::Qemu => ("qemu-system-x86_64", "apt-get install qemu-system-x86"),
            MissingPart::VsockDevice => ("vhost-device-vsock", "./dev deps"),
            MissingPart::Mkfs => ("mkfs.ext4", "apt-get install e2fsprogs"),
            MissingPart::Krunfw => ("libkrunfw.so.5", "./dev deps"),
        };
        write!(f, "{name} not found; run: {remedy}")
    }
}

/// Runs all checks but the KVM probe, which needs a machine. Blocks: it reads and writes files.
///
/// The accelerator in the result is [`Accelerator::Tcg`] unless KVM was demanded.
pub(crate) fn check(options: &Options) -> Result<(Parts, Instance), PreflightError> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(PreflightError::Architecture(std::env::consts::ARCH));
    }
    let (programs, library) = Places::of(options)
        .find()
        .map_err(PreflightError::Missing)?;
    File::open(&options.boot_disk).map_err(|source| PreflightError::BootDisk {
        path: options.boot_disk.clone(),
        source,
    })?;
    let accelerator = match options.accelerator {
        AcceleratorChoice::Auto | AcceleratorChoice::Tcg => Accelerator::Tcg,
        AcceleratorChoice::Kvm => {
            open_kvm().map_err(PreflightError::Kvm)?;
            Accelerator::Kvm
        }
    };
    let data_dir = |source| PreflightError::DataDir {
        path: options.data_dir.clone(),
        source,
    };
    private_folders(&options.data_dir).map_err(data_dir)?;
    let data = options.data_dir.canonicalize().map_err(data_dir)?;
    let kernel = kernel::ensure(&library, &data)?;
    let instance = Instance::take(&data).map_err(data_dir)?;
    let run = instance.folder().to_owned();
    Ok((
        Parts {
            programs,
            kernel,
            accelerator,
            run,
        },
        instance,
    ))
}

/// Opens the device as QEMU would.
pub(crate) fn open_kvm() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/kvm")
}
