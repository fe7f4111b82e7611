// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From a description to a running machine, or to nothing at all.
//!
//! The steps run as one task on the warden's thread. Whatever step fails, and also when the caller
//! stops waiting, the task kills, reaps and removes what the steps before it made.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::command::{
    Access, CONSOLE_PIPE, DEVICE_SOCKET, GUEST_SOCKET, OpenDisk, device_arguments, qemu_arguments,
};
use crate::console::{CONSOLE_LIMIT, Log};
use crate::link;
use crate::parts::Parts;
use crate::qmp::Qmp;
use crate::scratch;
use crate::spawn::Streams;
use crate::spec::{DiskSource, MachineSpec, SpecError};
use crate::supervise::{Death, Process, Reports, Running, Tree, supervise};
use crate::warden::{Busy, Warden};

/// How long the vsock device may take to open its sockets, and QEMU to start the virtual CPUs. Both
/// take some 50 ms; the rest is for loaded hosts.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks for the device's sockets.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Why a machine was not launched. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The description is impossible.
    #[error("impossible machine")]
    Spec(#[from] SpecError),
    /// A live machine has this name.
    #[error("machine {name} exists already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A disk's file cannot be read.
    #[error("cannot open disk {serial} at {}", path.display())]
    Disk {
        /// The disk.
        serial: String,
        /// Its file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something in the machine's folder could not be made.
    #[error("cannot make {what} in {}", folder.display())]
    Folder {
        /// What was being made.
        what: &'static str,
        /// The machine's folder.
        folder: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program failed; the text holds its own words.
    #[error("{0}")]
    Ended(String),
    /// A program neither started its work nor failed.
    #[error("{program} was not ready after {} s{complaint}", after.as_secs())]
    NotReady {
        /// The program.
        program: &'static str,
        /// How long it was given.
        after: Duration,
        /// What it wrote to stderr, with a colon before it, or nothing.
        complaint: String,
    },
    /// The thread that supervises machines is gone.
    #[error("the thread that supervises machines is gone")]
    Unsupervised,
}

/// A running machine, before it is tied to its caller. Dropping it kills the machine.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) folder: File,
    pub(crate) listeners: Vec<(u32, StdListener)>,
    pub(crate) console: Log,
    pub(crate) pids: Vec<u32>,
    pub(crate) death: watch::Receiver<Option<Death>>,
    pub(crate) gone: watch::Receiver<bool>,
    pub(crate) ask_to_die: watch::Sender<bool>,
}

/// Launches a machine on the warden's thread. Dropping the future undoes it.
pub(crate) async fn launch(
    warden: &Warden,
    parts: &Arc<Parts>,
    spec: MachineSpec,
) -> Result<Launched, LaunchError> {
    spec.validate()?;
    let (reply, result) = oneshot::channel();
    let parts = Arc::clone(parts);
    warden.spawn(move |busy| run(parts, spec, reply, busy));
    result.await.unwrap_or(Err(LaunchError::Unsupervised))
}

type Reply = oneshot::Sender<Result<Launched, LaunchError>>;

async fn run(parts: Arc<Parts>, spec: MachineSpec, mut reply: Reply, busy: Option<Busy>) {
    let folder = parts.run.join(&spec.name);
    if let Err(source) = DirBuilder::new().mode(0o700).create(&folder) {
        let error = match source.kind() {
            io::ErrorKind::AlreadyExists => LaunchError::NameTaken { name: spec.name },
            _ => LaunchError::Folder {
                what: "itself",
                folder,
                source,
            },
        };
        // Nobody waits any more: then nobody needs to know.
        let _ = reply.send(Err(error));
        return;
    }
    let mut tree = Tree {
        folder,
        device: None,
        vmm: None,
    };
    let built = tokio::select! {
        biased;
        () = reply.closed() => Err(LaunchError::Unsupervised),
        built = build(&parts, &spec, &mut tree) => built,
    };
    match built {
        Ok(built) => {
            let (launched, running, reports) = built.split(tree);
            // If nobody waits any more, this drops `launched`, which asks the machine to die.
            let _ = reply.send(Ok(launched));
            supervise(running, reports, busy).await;
        }
        Err(error) => {
            tree.kill().await;
            tree.remove_folder().await;
            let _ = reply.send(Err(error));
            drop(busy);
        }
    }
}

struct Built {
    folder: File,
    listeners: Vec<(u32, StdListener)>,
    qmp: Qmp,
    console: pipe::Receiver,
}

impl Built {
    fn split(self, tree: Tree) -> (Launched, Running, Reports) {
        let (ask_to_die, asked_to_die) = watch::channel(false);
        let (death, died) = watch::channel(None);
        let (gone, is_gone) = watch::channel(false);
        let console = Log::new(CONSOLE_LIMIT);
        let console_reader = tokio::spawn(console.clone().fill_from(self.console));
        let processes = [&tree.vmm, &tree.device];
        let launched = Launched {
            folder: self.folder,
            listeners: self.listeners,
            console: console.clone(),
            pids: processes
                .into_iter()
                .flatten()
                .filter_map(|p| p.child.id())
                .collect(),
            death: died,
            gone: is_gone,
            ask_to_die,
        };
        let running = Running {
            tree,
            qmp: self.qmp,
            console,
            console_reader,
        };
        (
            launched,
            running,
            Reports {
                asked_to_die,
                death,
                gone,
            },
        )
    }
}

async fn build(parts: &Parts, spec: &MachineSpec, tree: &mut Tree) -> Result<Built, LaunchError> {
    let path = tree.folder.clone();
    let in_folder = |what| {
        let folder = path.clone();
        move |source| LaunchError::Folder {
            what,
            folder,
            source,
        }
    };
    let files = disk_files(parts, spec, &path).await?;
    let folder = File::open(&path).map_err(in_folder("a handle"))?;
    let mut listeners = Vec::with_capacity(spec.listen.len());
    for port in &spec.listen {
        listeners.push((
            *port,
            link::bind(&folder, *port).map_err(in_folder("a listener"))?,
        ));
    }

    let program = &parts.programs.vsock_device;
    let arguments = device_arguments();
    let device = Process::start(
        "vhost-device-vsock",
        program,
        arguments,
        &path,
        Streams::Errors,
    )
    .map_err(|source| LaunchError::Spawn {
        program: program.clone(),
        source,
    })?;
    sockets_open(tree.device.insert(device), &path).await?;

    let console = open_console(&path).map_err(in_folder("the console's pipes"))?;
    let disks: Vec<_> = spec
        .disks
        .iter()
        .zip(&files)
        .map(|(disk, (file, access))| OpenDisk {
            serial: &disk.serial,
            file,
            access: *access,
        })
        .collect();
    let program = &parts.programs.qemu;
    let arguments = qemu_arguments(spec, &disks, &parts.kernel, parts.accelerator);
    let vmm =
        Process::start("qemu", program, arguments, &path, Streams::All).map_err(|source| {
            LaunchError::Spawn {
                program: program.clone(),
                source,
            }
        })?;
    let qmp = cpus_running(tree.vmm.insert(vmm)).await?;
    Ok(Built {
        folder,
        listeners,
        qmp,
        console,
    })
}

/// The file of each disk and how it is used. Makes the scratch disks.
async fn disk_files(
    parts: &Parts,
    spec: &MachineSpec,
    folder: &Path,
) -> Result<Vec<(PathBuf, Access)>, LaunchError> {
    let mut files = Vec::with_capacity(spec.disks.len());
    for (index, disk) in spec.disks.iter().enumerate() {
        files.push(match &disk.source {
            DiskSource::ReadOnly(path) => (readable(&disk.serial, path)?, Access::Read),
            DiskSource::Extents(path) => (readable(&disk.serial, path)?, Access::ReadExtents),
            DiskSource::Scratch { mib } => {
                let name = format!("scratch-{index}.ext4");
                scratch::format(&parts.programs.mkfs, folder, &name, *mib).await?;
                (PathBuf::from(name), Access::Write)
            }
        });
    }
    Ok(files)
}

/// The absolute path of a file that can be read. QEMU would say so too, but later and in other words.
fn readable(serial: &str, path: &Path) -> Result<PathBuf, LaunchError> {
    let absolute = File::open(path).and_then(|_| std::path::absolute(path));
    absolute.map_err(|source| LaunchError::Disk {
        serial: serial.to_owned(),
        path: path.to_owned(),
        source,
    })
}

/// Waits until the device has bound both of its sockets. It listens right after it binds, long
/// before a QEMU started now could dial.
async fn sockets_open(device: &mut Process, folder: &Path) -> Result<(), LaunchError> {
    let (first, second) = (folder.join(GUEST_SOCKET), folder.join(DEVICE_SOCKET));
    let open = async {
        while !(first.exists() && second.exists()) {
            sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        how = device.ended() => return Err(LaunchError::Ended(how)),
        opened = timeout(START_TIMEOUT, open) => if opened.is_ok() { return Ok(()) },
    }
    Err(not_ready(device, START_TIMEOUT))
}

/// Makes the console's pipes and opens the end that is read.
fn open_console(folder: &Path) -> io::Result<pipe::Receiver> {
    let owner = Mode::S_IRUSR | Mode::S_IWUSR;
    let output = folder.join(format!("{CONSOLE_PIPE}.out"));
    mkfifo(&folder.join(format!("{CONSOLE_PIPE}.in")), owner)?;
    mkfifo(&output, owner)?;
    // It reads as ended until QEMU has opened it: begin only when the machine runs.
    pipe::OpenOptions::new().open_receiver(output)
}

/// Waits until QEMU has started the virtual CPUs.
async fn cpus_running(vmm: &mut Process) -> Result<Qmp, LaunchError> {
    let streams = vmm.child.stdin.take().zip(vmm.child.stdout.take());
    let (input, output) = streams.ok_or(LaunchError::Unsupervised)?;
    let mut qmp = Qmp::new(input, output);
    match timeout(START_TIMEOUT, qmp.wait_until_running()).await {
        Ok(Ok(())) => Ok(qmp),
        // It closes its end by ending.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            match timeout(START_TIMEOUT, vmm.ended()).await {
                Ok(how) => Err(LaunchError::Ended(how)),
                Err(_) => Err(not_ready(vmm, START_TIMEOUT)),
            }
        }
        Ok(Err(error)) => {
            vmm.kill().await;
            let complaint = vmm.complaint();
            Err(LaunchError::Ended(format!(
                "qemu did not start the machine: {error}{complaint}"
            )))
        }
        Err(_) => Err(not_ready(vmm, START_TIMEOUT)),
    }
}

pub(crate) fn not_ready(process: &Process, after: Duration) -> LaunchError {
    let complaint = process.complaint();
    LaunchError::NotReady {
        program: process.name,
        after,
        complaint,
    }
}
