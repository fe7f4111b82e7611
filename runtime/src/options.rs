// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What [`Vmm::open`](crate::Vmm::open) needs to know. Plain data; no defaults are hidden here.

use std::fmt;
use std::path::PathBuf;

/// How to open a [`Vmm`](crate::Vmm).
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the kernel's file, the accelerator's verdict and the folders of running machines live.
    /// Created when absent.
    pub data_dir: PathBuf,
    /// First place to look for `libkrunfw.so*` and `vhost-device-vsock`. After it come
    /// `<data_dir>/lib`, then the system's library folders and `PATH`.
    pub lib_dir: Option<PathBuf>,
    /// Which accelerator to use.
    pub accelerator: AcceleratorChoice,
    /// The boot disk (EROFS) the probe machine boots from.
    pub boot_disk: PathBuf,
    /// How the boot disk's init tells that it runs.
    pub probe: Probe,
}

/// The agreement with the boot disk's init that lets [`AcceleratorChoice::Auto`] test KVM.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Word on the kernel's command line that makes init answer and restart.
    pub kernel_word: String,
    /// What init then prints on the console.
    pub answer: String,
}

/// Which accelerator to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM if a probe machine boots under it on this host, else TCG.
    Auto,
    /// KVM, unprobed: a machine that cannot run under it dies.
    Kvm,
    /// QEMU's own translator: works everywhere, slower.
    Tcg,
}

/// The accelerator in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host kernel's virtualisation.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        })
    }
}
