// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The guest's root: the image, an overlay over it, the kernel's own file systems in it.
//!
//! Owns: every mount, the switch into the new root, the choice of the agent's file (which has to be
//! made while the boot disk is still in reach).
//!
//! Invariant: the boot disk needs the folders `/dev`, `/proc`, `/sys` and `/mnt`, and no others.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};
use waggle_protocol::boot::{AGENT_PATH, IMAGE_DISK, SCRATCH_DISK, TOOL_PATH};

use super::{InitError, console, disks};

/// Where the pieces are put together, in a tmpfs over the boot disk's `/mnt`.
const IMAGE: &str = "/mnt/image";
const SCRATCH: &str = "/mnt/scratch";
const UPPER: &str = "/mnt/scratch/upper";
const WORK: &str = "/mnt/scratch/work";
const ROOT: &str = "/mnt/root";

/// Where the boot disk's agent is copied for an image that has none, in the new root's tmpfs; and the
/// agent's tool beside it.
const INJECTED_AGENT: &str = "/run/waggle/waggle-guest";
const INJECTED_TOOL: &str = "/run/waggle/waggle-tool";

const NO_DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const PLAIN_DATA: MsFlags = NO_DEVICES.union(MsFlags::MS_NOEXEC);

/// The links that devtmpfs does not make, and that shells and libraries expect in `/dev`.
const DEV_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts what init itself needs.
///
/// # Errors
///
/// [`InitError::Mount`].
pub(super) fn mount_early() -> Result<(), InitError> {
    fs_mount("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755")?;
    fs_mount("proc", "/proc", PLAIN_DATA, "")?;
    fs_mount("sysfs", "/sys", PLAIN_DATA, "")
}

/// A root that is ready to be entered.
#[derive(Debug)]
pub(super) struct NewRoot(());

/// Mounts image, scratch disk and overlay, and moves the kernel's file systems in.
///
/// # Errors
///
/// [`InitError`] that names the disk or folder at fault.
pub(super) fn build_root() -> Result<NewRoot, InitError> {
    fs_mount("tmpfs", "/mnt", NO_DEVICES, "mode=0755")?;
    for folder in [IMAGE, SCRATCH, ROOT] {
        make_folder(folder, 0o755)?;
    }
    let image = disks::require(IMAGE_DISK)?;
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    do_mount(&image, IMAGE, "erofs", read_only, "")?;
    match disks::find(SCRATCH_DISK)? {
        Some(scratch) => {
            let flags = MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
            do_mount(&scratch, SCRATCH, "ext4", flags, "")?;
        }
        None => fs_mount("tmpfs", SCRATCH, MsFlags::MS_NODEV, "mode=0755")?,
    }
    make_folder(UPPER, 0o755)?;
    make_folder(WORK, 0o700)?;
    let layers = format!("lowerdir={IMAGE},upperdir={UPPER},workdir={WORK}");
    fs_mount("overlay", ROOT, MsFlags::MS_NODEV, &layers)?;

    for folder in ["dev", "proc", "sys"] {
        let (from, to) = (format!("/{folder}"), format!("{ROOT}/{folder}"));
        make_folder(&to, 0o755)?;
        let moved = mount(
            Some(from.as_str()),
            to.as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        );
        moved.map_err(|errno| mount_error(&from, &to, errno))?;
    }
    Ok(NewRoot(()))
}

/// Mounts what every Linux system has, besides `/dev`, `/proc` and `/sys`. `/tmp` is no tmpfs: large
/// files belong on the scratch disk. Runs inside the new root, so that the image's links lead where
/// the image means.
fn mount_in_root() -> Result<(), InitError> {
    make_folder("/run", 0o755)?;
    fs_mount("tmpfs", "/run", NO_DEVICES, "mode=0755")?;
    make_folder("/tmp", 0o1777)?;
    set_mode("/tmp", 0o1777)?;
    make_folder("/dev/pts", 0o755)?;
    make_folder("/dev/shm", 0o1777)?;
    fs_mount("tmpfs", "/dev/shm", NO_DEVICES, "mode=1777")?;
    // A kernel without them still runs programs.
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "ptmxmode=0666,mode=0620,gid=5";
    for outcome in [
        fs_mount("devpts", "/dev/pts", terminals, options),
        fs_mount("cgroup2", "/sys/fs/cgroup", PLAIN_DATA, ""),
    ] {
        if let Err(error) = outcome {
            console::say(&error.to_string());
        }
    }
    for (target, link) in DEV_LINKS {
        match symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                console::say(&format!("cannot link {link}: {error}"));
            }
            _ => {}
        }
    }
    Ok(())
}

impl NewRoot {
    /// Makes it the root, and returns the agent to run: the image's, unless it has none or `inject`
    /// asks for the boot disk's, which is then copied to where it stays in reach. The boot disk and
    /// the pieces stay mounted beneath, out of reach.
    ///
    /// # Errors
    ///
    /// [`InitError`] that names the folder or file at fault.
    pub(super) fn enter(self, inject: bool) -> Result<PathBuf, InitError> {
        // Opened while the boot disk is still in reach.
        let own_agent = File::open(AGENT_PATH);
        let own_tool = File::open(TOOL_PATH);
        let failed = |errno: Errno| path_error("enter", ROOT, errno.into());
        chdir(ROOT).map_err(failed)?;
        mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|errno| mount_error(ROOT, "/", errno))?;
        chroot(".").map_err(failed)?;
        chdir("/").map_err(failed)?;
        mount_in_root()?;

        let is_baked = fs::metadata(AGENT_PATH).is_ok_and(|found| found.is_file());
        if is_baked && !inject {
            return Ok(AGENT_PATH.into());
        }
        if !is_baked {
            console::say("the image has no agent: running the boot disk's");
        }
        own_agent
            .and_then(|own_agent| install(own_agent, INJECTED_AGENT.as_ref()))
            .map_err(|source| path_error("copy the boot disk's", AGENT_PATH, source))?;
        // Without it the agent does all else.
        let tool = own_tool.and_then(|own_tool| install(own_tool, INJECTED_TOOL.as_ref()));
        if let Err(error) = tool {
            console::say(&format!("cannot copy the boot disk's {TOOL_PATH}: {error}"));
        }
        Ok(INJECTED_AGENT.into())
    }
}

/// Writes `program` to a new executable file.
fn install(mut program: File, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    let mut copy = options
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(path)?;
    io::copy(&mut program, &mut copy).map(drop)
}

/// Mounts a file system that has no device.
fn fs_mount(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<(), InitError> {
    do_mount(Path::new(kind), target, kind, flags, options)
}

fn do_mount(
    source: &Path,
    target: &str,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), InitError> {
    match mount(Some(source), target, Some(kind), flags, Some(options)) {
        // The kernel has mounted its devtmpfs already.
        Err(Errno::EBUSY) if kind == "devtmpfs" => Ok(()),
        outcome => outcome.map_err(|errno| mount_error(&source.to_string_lossy(), target, errno)),
    }
}

fn make_folder(path: impl AsRef<Path>, mode: u32) -> Result<(), InitError> {
    let path = path.as_ref();
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(mode);
    builder
        .create(path)
        .map_err(|source| path_error("make folder", path, source))
}

fn set_mode(path: impl AsRef<Path>, mode: u32) -> Result<(), InitError> {
    let path = path.as_ref();
    let has_it = fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o7777 == mode);
    if has_it {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|source| path_error("set mode of", path, source))
}

fn path_error(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> InitError {
    InitError::Path {
        action,
        path: path.as_ref().to_owned(),
        source,
    }
}

fn mount_error(what: &str, target: &str, errno: Errno) -> InitError {
    InitError::Mount {
        what: what.to_owned(),
        target: target.into(),
        errno,
    }
}
