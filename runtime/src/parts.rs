// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Where the programs and the library are that machines are made of.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::options::{Accelerator, Options};
use crate::preflight::MissingPart;

/// What every launch needs, found once.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) programs: Programs,
    pub(crate) kernel: PathBuf,
    pub(crate) accelerator: Accelerator,
    /// The instance's folder, in which each machine gets one of its own.
    pub(crate) run: PathBuf,
}

/// The programs, as absolute paths: they are started from other folders.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) qemu: PathBuf,
    pub(crate) vsock_device: PathBuf,
    pub(crate) mkfs: PathBuf,
}

/// The folders that are searched, in order.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Folders of Waggle's own parts: both programs and libraries.
    pub(crate) own: Vec<PathBuf>,
    /// The system's folders of programs.
    pub(crate) programs: Vec<PathBuf>,
    /// The system's folders of libraries.
    pub(crate) libraries: Vec<PathBuf>,
}

impl Places {
    pub(crate) fn of(options: &Options) -> Places {
        let mut own: Vec<_> = options.lib_dir.iter().cloned().collect();
        own.push(options.data_dir.join("lib"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs: Vec<_> = std::env::split_paths(&path).collect();
        // An ordinary user's PATH leaves out where mkfs lives.
        programs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
        let libraries = [
            "/usr/local/lib64",
            "/usr/local/lib",
            "/usr/lib64",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib",
        ];
        Places {
            own,
            programs,
            libraries: libraries.map(PathBuf::from).to_vec(),
        }
    }

    /// Finds all parts, or says which are missing.
    pub(crate) fn find(&self) -> Result<(Programs, PathBuf), Vec<MissingPart>> {
        let system = || self.programs.iter();
        let found = (
            program("qemu-system-x86_64", system()),
            program("vhost-device-vsock", self.own.iter().chain(system())),
            program("mkfs.ext4", system()),
            krunfw(self.own.iter().chain(&self.libraries)),
        );
        let missing: Vec<MissingPart> = [
            (found.0.is_none(), MissingPart::Qemu),
            (found.1.is_none(), MissingPart::VsockDevice),
            (found.2.is_none(), MissingPart::Mkfs),
            (found.3.is_none(), MissingPart::Krunfw),
        ]
        .into_iter()
        .filter_map(|(absent, part)| absent.then_some(part))
        .collect();
        match found {
            (Some(qemu), Some(vsock_device), Some(mkfs), Some(library)) => Ok((
                Programs {
                    qemu,
                    vsock_device,
                    mkfs,
                },
                library,
            )),
            _ => Err(missing),
        }
    }
}

fn program<'a>(name: &str, mut folders: impl Iterator<Item = &'a PathBuf>) -> Option<PathBuf> {
    folders.find_map(|folder| {
        let path = std::path::absolute(folder).ok()?.join(name);
        let meta = fs::metadata(&path).ok()?;
        (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some(path)
    })
}

/// The newest library of the ABI that `krunfw.rs` declares, in the first folder that has one.
fn krunfw<'a>(mut folders: impl Iterator<Item = &'a PathBuf>) -> Option<PathBuf> {
    folders.find_map(|folder| newest_krunfw(&std::path::absolute(folder).ok()?))
}

fn newest_krunfw(folder: &Path) -> Option<PathBuf> {
    let fits = |name: &str| {
        name == "libkrunfw.so" || name == "libkrunfw.so.5" || name.starts_with("libkrunfw.so.5.")
    };
    fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(fits)
        })
        .filter(|path| path.is_file())
        .max_by_key(|path| version(path))
}

/// The numbers behind `libkrunfw.so`, so that 5.10 comes after 5.6.
fn version(path: &Path) -> Vec<u32> {
    let name = path.file_name().and_then(|name| name.to_str());
    let numbers = name.unwrap_or_default().split('.').skip(2);
    numbers.map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::Places;
    use crate::preflight::{MissingPart, PreflightError};

    #[test]
    fn own_folder_comes_first_and_other_abis_are_left_alone() {
        let root = tempfile::tempdir().expect("temporary folder");
        let (own, system) = (root.path().join("own"), root.path().join("system"));
        for folder in [&own, &system] {
            fs::create_dir(folder).expect("folder");
            for name in ["qemu-system-x86_64", "vhost-device-vsock", "mkfs.ext4"] {
                fs::write(folder.join(name), "").expect("file");
                let executable = fs::Permissions::from_mode(0o700);
                fs::set_permissions(folder.join(name), executable).expect("mode");
            }
            for name in ["libkrunfw.so.4.9", "libkrunfw.so.5.6.1", "libkrunfw.so.6"] {
                fs::write(folder.join(name), "").expect("file");
            }
        }
        let places = Places {
            own: vec![root.path().join("absent"), own.clone()],
            programs: vec![system.clone()],
            libraries: vec![system.clone()],
        };
        let (programs, library) = places.find().expect("all parts");
        assert_eq!(programs.qemu, system.join("qemu-system-x86_64"));
        assert_eq!(programs.vsock_device, own.join("vhost-device-vsock"));
        assert_eq!(library, own.join("libkrunfw.so.5.6.1"));
    }

    #[test]
    fn every_missing_part_gets_one_line_with_its_remedy() {
        let missing = Places::default().find().expect_err("nothing is there");
        assert_eq!(
            missing,
            [
                MissingPart::Qemu,
                MissingPart::VsockDevice,
                MissingPart::Mkfs,
                MissingPart::Krunfw
            ]
        );
        let text = PreflightError::Missing(missing).to_string();
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| line.contains("; run: ")), "{text}");
    }
}
