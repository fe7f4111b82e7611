// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Whether KVM can be trusted on this host.
//!
//! That `/dev/kvm` opens says little: nested and software KVMs accept a machine and then fail on
//! its first unusual instruction. So a probe machine boots the real kernel and the real boot disk,
//! and its init must answer. The verdict is kept in the data folder until the host restarts.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::kernel::{short_hash, write_atomically};
use crate::launch::{LaunchError, launch};
use crate::options::{Accelerator, Options, Probe};
use crate::parts::Parts;
use crate::preflight::open_kvm;
use crate::spec::{Disk, DiskSource, MachineSpec};
use crate::warden::Warden;

/// How long the probe may take to answer: ten times a boot under plain translation.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks at the probe's console.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// `Ok` if KVM works, else why it does not.
type Verdict = Result<(), String>;

/// KVM if it works here, else TCG. Says why in the log.
pub(crate) async fn choose(options: &Options, parts: &Parts, warden: &Warden) -> Accelerator {
    let verdict = match open_kvm() {
        Ok(_) => kept_or_probed(options, parts, warden).await,
        Err(error) => Err(format!("/dev/kvm does not open: {error}")),
    };
    match verdict {
        Ok(()) => Accelerator::Kvm,
        Err(reason) => {
            tracing::info!(reason, "kvm is not usable here, machines run under tcg");
            Accelerator::Tcg
        }
    }
}

async fn kept_or_probed(options: &Options, parts: &Parts, warden: &Warden) -> Verdict {
    let keeper = Keeper::new(options, parts).ok();
    if let Some(verdict) = keeper.as_ref().and_then(Keeper::read) {
        return verdict;
    }
    tracing::info!("testing whether kvm works here, once until the host restarts");
    let verdict = match probe(options, parts, warden).await {
        Ok(verdict) => verdict,
        // It may start the next time: a full disk, a lack of memory.
        Err(error) => return Err(format!("the probe did not start: {error}")),
    };
    if let Some(Err(error)) = keeper.map(|keeper| keeper.write(&verdict)) {
        tracing::warn!(%error, "cannot keep the verdict on kvm; the next start probes again");
    }
    verdict
}

async fn probe(options: &Options, parts: &Parts, warden: &Warden) -> Result<Verdict, LaunchError> {
    let Probe {
        kernel_word,
        answer,
    } = &options.probe;
    let spec = MachineSpec {
        name: "kvm-probe".to_owned(),
        vcpus: 1,
        memory_mib: 256,
        disks: vec![Disk {
            serial: "boot".to_owned(),
            source: DiskSource::ReadOnly(options.boot_disk.clone()),
        }],
        kernel_args: kernel_word.clone(),
        listen: Vec::new(),
    };
    let parts = Arc::new(Parts {
        accelerator: Accelerator::Kvm,
        ..parts.clone()
    });
    let mut machine = launch(warden, &parts, spec).await?;
    let answered = || machine.console.text().contains(answer.as_str());
    let answering = async {
        while !answered() && machine.death.borrow().is_none() {
            sleep(LOOK_AGAIN).await;
        }
    };
    let in_time = timeout(PROBE_TIMEOUT, answering).await.is_ok();
    let verdict = if answered() {
        Ok(())
    } else if in_time {
        let death = machine.death.borrow().clone();
        let status = death
            .map(|death| first_lines(&death.status))
            .unwrap_or_default();
        Err(format!("the probe died: {status}"))
    } else {
        Err(format!(
            "the probe did not answer within {} s",
            PROBE_TIMEOUT.as_secs()
        ))
    };
    machine.ask_to_die.send_replace(true);
    // An error means the supervisor is gone, and the machine with it.
    let _ = machine.gone.wait_for(|gone| *gone).await.is_err();
    Ok(verdict)
}

/// QEMU dumps registers after its message; the log wants the message.
fn first_lines(status: &str) -> String {
    status.lines().take(2).collect::<Vec<_>>().join(" ")
}

/// The file that keeps a verdict: the host's boot id, then `kvm`, or `tcg` and the reason.
struct Keeper {
    file: PathBuf,
    boot_id: String,
}

impl Keeper {
    fn new(options: &Options, parts: &Parts) -> io::Result<Keeper> {
        let facts = format!(
            "{} {}",
            stamp(&options.boot_disk)?,
            stamp(&parts.programs.qemu)?
        );
        let key = short_hash(&[
            parts.kernel.as_os_str(),
            options.boot_disk.as_os_str(),
            parts.programs.qemu.as_os_str(),
            OsStr::new(&facts),
        ]);
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let file = options.data_dir.join(format!("accelerator-{key}"));
        Ok(Keeper {
            file,
            boot_id: boot_id.trim().to_owned(),
        })
    }

    fn read(&self) -> Option<Verdict> {
        let text = fs::read_to_string(&self.file).ok()?;
        let (boot_id, verdict) = text.split_once('\n')?;
        if boot_id != self.boot_id {
            return None;
        }
        match verdict.split_once(' ') {
            Some(("tcg", reason)) => Some(Err(reason.trim_end().to_owned())),
            Some(_) => None,
            None => (verdict.trim_end() == "kvm").then_some(Ok(())),
        }
    }

    fn write(&self, verdict: &Verdict) -> io::Result<()> {
        let word = match verdict {
            Ok(()) => "kvm".to_owned(),
            Err(reason) => format!("tcg {reason}"),
        };
        write_atomically(
            &self.file,
            &[format!("{}\n{word}\n", self.boot_id).as_bytes()],
        )
    }
}

/// Changes when the file does.
fn stamp(file: &Path) -> io::Result<String> {
    let meta = fs::metadata(file)?;
    Ok(format!(
        "{}:{}:{}",
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use super::Keeper;

    #[test]
    fn a_verdict_is_read_back_until_the_host_restarts() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("accelerator-x");
        let mut keeper = Keeper {
            file: file.clone(),
            boot_id: "one".to_owned(),
        };
        assert_eq!(keeper.read(), None);
        for verdict in [Ok(()), Err("the probe died: kvm internal error".to_owned())] {
            keeper.write(&verdict).expect("written");
            assert_eq!(keeper.read(), Some(verdict));
        }
        keeper.boot_id = "two".to_owned();
        assert_eq!(keeper.read(), None);
        std::fs::write(&file, "two\nnonsense here\n").expect("written");
        assert_eq!(keeper.read(), None);
    }
}
