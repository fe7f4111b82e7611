// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The command lines of a machine's two processes: pure functions, so that they can be read and
//! tested without a machine.
//!
//! Both processes run with the machine's folder as working directory and name their sockets
//! relative to it, so that the 108 bytes of a Unix socket's path cannot bite.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::options::Accelerator;
use crate::spec::MachineSpec;

/// Socket over which QEMU drives the vsock device.
pub(crate) const DEVICE_SOCKET: &str = "vu.sock";
/// Socket over which the host dials the guest; the guest dials `v.sock_<port>`.
pub(crate) const GUEST_SOCKET: &str = "v.sock";
/// The console's two pipes are this with `.in` and `.out` (QEMU's chardev `pipe`).
pub(crate) const CONSOLE_PIPE: &str = "console";

/// QEMU's buses for virtio devices, in the order in which the guest numbers them. Bus `n` has
/// interrupt `5 + n`; 3 is left out because its interrupt, 8, belongs to the real-time clock, and a
/// device there is never probed by the guest.
pub(crate) const BUSES: [u8; 7] = [7, 6, 5, 4, 2, 1, 0];

/// A disk that exists: its serial, its file, and how the guest uses that.
pub(crate) struct OpenDisk<'a> {
    pub(crate) serial: &'a str,
    pub(crate) file: &'a Path,
    pub(crate) access: Access,
}

/// How a disk's file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its bytes are the disk's, and are only read.
    Read,
    /// It is a descriptor of the files that are, which are only read.
    ReadExtents,
    /// Its bytes are the disk's.
    Write,
}

impl Access {
    /// QEMU's words for it. The format is always told: to guess it from what a guest or an image's maker wrote would
    /// let them name files of the host.
    ///
    /// Errors are reported, the guest sees them as its own: QEMU's default stops the machine when the host's disk is
    /// full.
    fn options(self) -> &'static str {
        match self {
            Self::Read => "format=raw,readonly=on,rerror=report",
            Self::ReadExtents => "format=vmdk,readonly=on,rerror=report",
            Self::Write => "format=raw,cache=unsafe,discard=unmap,werror=report,rerror=report",
        }
    }
}

/// The whole kernel command line. `reboot=t panic=-1` makes a panic end QEMU at once.
pub(crate) fn kernel_line(extra: &str) -> String {
    let fixed = "console=hvc0 quiet loglevel=0 reboot=t panic=-1 \
                 root=/dev/vda ro rootfstype=erofs init=/init";
    if extra.is_empty() {
        fixed.to_owned()
    } else {
        format!("{fixed} {extra}")
    }
}

/// Arguments of `vhost-device-vsock`.
///
/// A buffer above 32 KiB makes a guest write of more than that stall for ever.
pub(crate) fn device_arguments() -> [&'static str; 8] {
    [
        "--guest-cid",
        "3",
        "--socket",
        DEVICE_SOCKET,
        "--uds-path",
        GUEST_SOCKET,
        "--tx-buffer-size",
        "32768",
    ]
}

/// Arguments of `qemu-system-x86_64`. QMP is on stdin and stdout, the guest's console in a pipe.
pub(crate) fn qemu_arguments(
    spec: &MachineSpec,
    disks: &[OpenDisk<'_>],
    kernel: &Path,
    accelerator: Accelerator,
) -> Vec<OsString> {
    let MachineSpec {
        name,
        vcpus,
        memory_mib,
        kernel_args,
        ..
    } = spec;
    let mut line = Line(Vec::with_capacity(64));
    line.two("-name", name);
    line.two(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    // rtc: without it the boot waits a second for a clock. acpi: hangs under TCG.
    line.two("-M", "microvm,acpi=off,rtc=on,memory-backend=m0");
    line.two("-accel", accelerator.to_string());
    line.two(
        "-cpu",
        match accelerator {
            Accelerator::Kvm => "host",
            // Without these two the guest copies memory by words and not by `rep movsb`, which is
            // translated byte by byte: files and sockets are two to four times as fast.
            Accelerator::Tcg => "max,-erms,-fsrm",
        },
    );
    line.two("-smp", vcpus.to_string());
    line.two("-m", memory_mib.to_string());
    // Shared, because the vsock device's process reads the guest's queues.
    line.two(
        "-object",
        format!("memory-backend-memfd,id=m0,size={memory_mib}M,share=on"),
    );
    line.one("-nodefaults")
        .one("-no-user-config")
        .two("-display", "none")
        .one("-no-reboot");
    line.two("-chardev", "stdio,id=q0,signal=off")
        .two("-mon", "chardev=q0,mode=control");
    line.two("-chardev", format!("pipe,id=c0,path={CONSOLE_PIPE}"));
    let mut buses = BUSES.iter();
    // The limit on disks keeps within the buses.
    let mut on_bus = |device: String| match buses.next() {
        Some(bus) => format!("{device},bus=virtio-mmio-bus.{bus}"),
        None => device,
    };
    line.two("-device", on_bus("virtio-serial-device".to_owned()))
        .two("-device", "virtconsole,chardev=c0");
    line.two("-kernel", kernel)
        .two("-append", kernel_line(kernel_args));
    for (index, disk) in disks.iter().enumerate() {
        let access = disk.access.options();
        let mut drive = OsString::from(format!("if=none,id=d{index},{access},file="));
        drive.push(escape(disk.file.as_os_str()));
        line.two("-drive", drive);
        let serial = disk.serial;
        line.two(
            "-device",
            on_bus(format!("virtio-blk-device,drive=d{index},serial={serial}")),
        );
    }
    line.two("-chardev", format!("socket,id=vu,path={DEVICE_SOCKET}"));
    line.two(
        "-device",
        on_bus("vhost-user-vsock-device,chardev=vu".to_owned()),
    );
    line.0
}

struct Line(Vec<OsString>);

impl Line {
    fn one(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn two(&mut self, flag: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(flag.into());
        self.0.push(value.as_ref().to_owned());
        self
    }
}

/// A value inside a QEMU option list, where a comma is written twice.
fn escape(value: &OsStr) -> OsString {
    let mut out = Vec::with_capacity(value.len());
    for byte in value.as_bytes() {
        out.push(*byte);
        if *byte == b',' {
            out.push(b',');
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Access, OpenDisk, kernel_line, qemu_arguments};
    use crate::options::Accelerator;
    use crate::spec::MachineSpec;

    fn arguments(accelerator: Accelerator) -> Vec<String> {
        let spec = MachineSpec {
            name: "one".to_owned(),
            vcpus: 2,
            memory_mib: 256,
            disks: Vec::new(),
            kernel_args: "a.b=c".to_owned(),
            listen: Vec::new(),
        };
        let disks = [
            OpenDisk {
                serial: "boot",
                file: Path::new("/x,y,/boot"),
                access: Access::Read,
            },
            OpenDisk {
                serial: "image",
                file: Path::new("/i/root.vmdk"),
                access: Access::ReadExtents,
            },
            OpenDisk {
                serial: "scratch",
                file: Path::new("scratch-1.ext4"),
                access: Access::Write,
            },
        ];
        qemu_arguments(&spec, &disks, Path::new("/k,1.elf"), accelerator)
            .into_iter()
            .map(|argument| argument.into_string().expect("utf-8"))
            .collect()
    }

    #[test]
    fn disks_keep_their_order_and_commas_are_doubled() {
        let line = arguments(Accelerator::Tcg);
        let drives: Vec<_> = line.iter().filter(|a| a.starts_with("if=none")).collect();
        assert_eq!(
            drives,
            [
                "if=none,id=d0,format=raw,readonly=on,rerror=report,file=/x,,y,,/boot",
                "if=none,id=d1,format=vmdk,readonly=on,rerror=report,file=/i/root.vmdk",
                "if=none,id=d2,format=raw,cache=unsafe,discard=unmap,werror=report,rerror=report,file=scratch-1.ext4",
            ]
        );
        assert!(
            line.contains(&"/k,1.elf".to_owned()),
            "-kernel takes its value as it is"
        );
    }

    #[test]
    fn accelerator_decides_the_cpu() {
        for (accelerator, name, cpu) in [
            (Accelerator::Tcg, "tcg", "max,-erms,-fsrm"),
            (Accelerator::Kvm, "kvm", "host"),
        ] {
            let line = arguments(accelerator).join(" ");
            assert!(
                line.contains(&format!("-accel {name} -cpu {cpu} -smp 2 -m 256 ")),
                "{line}"
            );
        }
    }

    #[test]
    fn kernel_line_boots_the_first_disk() {
        assert!(kernel_line("").ends_with("init=/init"));
        assert!(kernel_line("a=b").ends_with("root=/dev/vda ro rootfstype=erofs init=/init a=b"));
    }
}
