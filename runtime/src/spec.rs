// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a machine is made of, and the checks that keep a bad description from becoming a strange
//! command line.

use std::path::PathBuf;

use crate::command::kernel_line;

/// Longest machine name; it becomes a folder's name.
pub(crate) const MAX_NAME: usize = 64;
/// Longest serial virtio-blk carries (`VIRTIO_BLK_ID_BYTES`, virtio 1.2 section 5.2.6).
pub(crate) const MAX_SERIAL: usize = 20;
/// Most disks: of the usable buses, console and vsock take two.
pub(crate) const MAX_DISKS: usize = crate::command::BUSES.len() - 2;
/// Least memory the kernel of libkrunfw comes up in.
pub(crate) const MIN_MEMORY_MIB: u32 = 64;
/// Longest kernel command line on x86 (`COMMAND_LINE_SIZE`), less its NUL and less what QEMU
/// appends to ours: some 40 bytes for each of 8 virtio-mmio devices.
pub(crate) const MAX_KERNEL_LINE: usize = 2047 - 8 * 40;

/// One machine.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Name, unique among the live machines of its [`Vmm`](crate::Vmm): 1 to 64 of `a-z`, `0-9`,
    /// `-`.
    pub name: String,
    /// Virtual CPUs, at least 1.
    pub vcpus: u8,
    /// Guest memory in MiB, at least 64.
    pub memory_mib: u32,
    /// Disks, 1 to 5. The first is `/dev/vda`, an EROFS whose `/init` the kernel runs.
    pub disks: Vec<Disk>,
    /// Words added to the kernel's command line.
    pub kernel_args: String,
    /// Host ports the guest may dial; what it says there comes out of
    /// [`Machine::accept`](crate::Machine::accept).
    pub listen: Vec<u32>,
}

/// One virtio block device.
#[derive(Debug, Clone)]
pub struct Disk {
    /// How the guest tells it from the others (`/sys/block/vdX/serial`): 1 to 20 of `A-Z`, `a-z`,
    /// `0-9`, `-`, `_`.
    pub serial: String,
    /// What is on it.
    pub source: DiskSource,
}

/// What is on a disk.
#[derive(Debug, Clone)]
pub enum DiskSource {
    /// A file, never written; any number of machines may share it.
    ReadOnly(PathBuf),
    /// Several files, one after the other, never written; any number of machines may share them. The path is that of
    /// a VMDK text descriptor (its FLAT extents' names are relative to it), which is trusted: the VMM opens whatever
    /// files it names. What is in those is not: it is data whatever it looks like. QEMU 7.2 takes an extent twice
    /// if a blank line stands before it, and passes over those that are not `RW`. libkrun reads the same file as
    /// `KRUN_DISK_FORMAT_VMDK`.
    Extents(PathBuf),
    /// A new, empty ext4 without a journal in a sparse file, which lives as long as the machine.
    Scratch {
        /// Its size in MiB. Costs nothing until written.
        mib: u32,
    },
}

/// What is wrong with a [`MachineSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The name cannot be a folder's.
    #[error("machine name {0:?} is not 1 to {MAX_NAME} of a-z, 0-9 and -")]
    Name(String),
    /// No virtual CPU.
    #[error("a machine needs at least 1 vcpu")]
    Vcpus,
    /// Too little memory to boot.
    #[error("memory {0} MiB is below the least, {MIN_MEMORY_MIB} MiB")]
    Memory(u32),
    /// No disk to boot from, or more than there are slots.
    #[error("{0} disks are outside 1..={MAX_DISKS}")]
    Disks(usize),
    /// A serial the guest could not read back.
    #[error("disk serial {0:?} is not 1 to {MAX_SERIAL} of A-Z, a-z, 0-9, - and _")]
    Serial(String),
    /// Two disks the guest could not tell apart.
    #[error("disk serial {0:?} is used twice")]
    SerialTwice(String),
    /// A scratch disk too small for a file system.
    #[error("scratch disk of {0} MiB is below the least, 1 MiB")]
    Scratch(u32),
    /// A listening port named twice.
    #[error("port {0} is listed twice")]
    PortTwice(u32),
    /// Kernel arguments with control characters.
    #[error("kernel arguments hold a control character")]
    KernelArgs,
    /// The kernel would cut its command line.
    #[error("kernel command line of {0} bytes exceeds limit {MAX_KERNEL_LINE}")]
    KernelLine(usize),
}

impl MachineSpec {
    pub(crate) fn validate(&self) -> Result<(), SpecError> {
        let name_ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.bytes().all(name_ok) {
            return Err(SpecError::Name(self.name.clone()));
        }
        if self.vcpus == 0 {
            return Err(SpecError::Vcpus);
        }
        if self.memory_mib < MIN_MEMORY_MIB {
            return Err(SpecError::Memory(self.memory_mib));
        }
        if self.disks.is_empty() || self.disks.len() > MAX_DISKS {
            return Err(SpecError::Disks(self.disks.len()));
        }
        let mut rest = self.disks.as_slice();
        while let [disk, after @ ..] = rest {
            disk.validate()?;
            if after.iter().any(|other| other.serial == disk.serial) {
                return Err(SpecError::SerialTwice(disk.serial.clone()));
            }
            rest = after;
        }
        let mut rest = self.listen.as_slice();
        while let [port, after @ ..] = rest {
            if after.contains(port) {
                return Err(SpecError::PortTwice(*port));
            }
            rest = after;
        }
        if self.kernel_args.chars().any(char::is_control) {
            return Err(SpecError::KernelArgs);
        }
        let length = kernel_line(&self.kernel_args).len();
        if length > MAX_KERNEL_LINE {
            Err(SpecError::KernelLine(length))
        } else {
            Ok(())
        }
    }
}

impl Disk {
    fn validate(&self) -> Result<(), SpecError> {
        let serial_ok = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let length = self.serial.len();
        if length == 0 || length > MAX_SERIAL || !self.serial.bytes().all(serial_ok) {
            return Err(SpecError::Serial(self.serial.clone()));
        }
        match self.source {
            DiskSource::Scratch { mib: 0 } => Err(SpecError::Scratch(0)),
            DiskSource::Scratch { .. } | DiskSource::ReadOnly(_) | DiskSource::Extents(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Disk, DiskSource, MachineSpec, SpecError};

    fn good() -> MachineSpec {
        MachineSpec {
            name: "m-1".to_owned(),
            vcpus: 1,
            memory_mib: 128,
            disks: vec![disk("boot"), disk("image")],
            kernel_args: String::new(),
            listen: vec![1, 2],
        }
    }

    fn disk(serial: &str) -> Disk {
        Disk {
            serial: serial.to_owned(),
            source: DiskSource::ReadOnly("x".into()),
        }
    }

    fn verdict(change: impl FnOnce(&mut MachineSpec)) -> Result<(), SpecError> {
        let mut spec = good();
        change(&mut spec);
        spec.validate()
    }

    #[test]
    fn each_rule_refuses_by_its_own_name() {
        assert_eq!(verdict(|_| {}), Ok(()));
        for name in ["", "..", "a/b", "A", "a,b", &"x".repeat(65)] {
            assert_eq!(
                verdict(|s| s.name = name.into()),
                Err(SpecError::Name(name.into()))
            );
        }
        assert_eq!(verdict(|s| s.vcpus = 0), Err(SpecError::Vcpus));
        assert_eq!(verdict(|s| s.memory_mib = 63), Err(SpecError::Memory(63)));
        assert_eq!(verdict(|s| s.disks.clear()), Err(SpecError::Disks(0)));
        for serial in ["", "a,b", &"s".repeat(21)] {
            let expected = Err(SpecError::Serial(serial.into()));
            assert_eq!(verdict(|s| s.disks.push(disk(serial))), expected);
        }
        let twice = Err(SpecError::SerialTwice("boot".into()));
        assert_eq!(verdict(|s| s.disks.push(disk("boot"))), twice);
        let none = DiskSource::Scratch { mib: 0 };
        assert_eq!(
            verdict(|s| s.disks[0].source = none),
            Err(SpecError::Scratch(0))
        );
        assert_eq!(verdict(|s| s.listen.push(1)), Err(SpecError::PortTwice(1)));
        assert_eq!(
            verdict(|s| s.kernel_args = "a\nb".into()),
            Err(SpecError::KernelArgs)
        );
        let long = verdict(|s| s.kernel_args = "x".repeat(2000));
        assert!(matches!(long, Err(SpecError::KernelLine(2000..))));
    }
}
