// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The store: a folder of blobs, converted layers and roots, each named by its digest.
//!
//! ```text
//! blobs/sha256/HEX      manifests, configurations, layers as they are transferred
//! layers/HEX.{data,index}   layers by diff id, converted (crate::layer)
//! roots/HEX/            meta, root.vmdk (crate::root), root.json, hold
//! refs/HEX.json         one reference each: what it names, and what that needs
//! partial/HEX-SIZE      downloads under way, which the next one goes on with
//! temp/                 what is being made
//! locks/                empty files
//! ```
//!
//! It owns everything below its folder, and writes nowhere else. It does not know registries nor archives: those
//! hand it streams.
//!
//! **Whole or not there.** Whatever has a name below `blobs`, `layers`, `roots` or `refs` was written under another
//! one, checked against its digest, synced, and then renamed; a reference's record comes last, when all of that lasts.
//! So a process killed at any point, a full disk or a
//! power cut leave what was there before, and leftovers in `partial` and `temp`. What is found later to have another
//! size than it should have counts as not there, and is made again over it; [`Visit::verify`] reads everything.
//!
//! **One download, the others wait.** A blob is received, a layer converted, a root built under the exclusive lock of
//! its digest. Who gets it looks again whether the work is done by now.
//!
//! **Nothing is swept away under anybody.** Whoever looks for something does so in a [`Visit`], which holds the
//! *gate* shared from before the first look until what was found is referred to: by a reference's record, or by a
//! [`Hold`]. Deletion is offered by [`Sweep`] only, which holds the gate exclusively: it begins when no visit is
//! under way, none begins before it ends, and it reads all references and holds in between. So there is no moment
//! at which a sweep could see something as unused that a visit has found: the types do not allow it. Long work
//! (`spawn_blocking`) has its own clone of the visit, and keeps the gate even if its caller is gone. A visit
//! does replace or take away what is damaged, which nobody could have used; whoever has it open does not notice.
//!
//! **In use.** A root that an environment has is held: a shared lock on its `hold` file, in whatever process the
//! environment is. A sweep tries that lock exclusively, and leaves the root and its layers if it does not get it.

mod blobs;
mod error;
mod evict;
mod layers;
mod locks;
mod partial;
mod quota;
mod receive;
mod refs;
mod roots;
mod space;
mod verify;

pub use blobs::Expected;
pub use error::StoreError;
pub use evict::{Policy, Pruned, Sweep};
pub use layers::{Conversion, Layer};
pub use quota::Quota;
pub use receive::{Origin, ReceiveError, Wanted};
pub use refs::{Provenance, Record, RecordLayer};
pub use roots::{Hold, Root};
pub use verify::{Damage, Verified};

use std::convert::Infallible;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::Digest;
use locks::{Lock, Mode};

/// The folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    dir: Arc<Path>,
    /// Bytes that stay free on its file system.
    reserve: u64,
}

/// What lies in the folder.
const FOLDERS: [&str; 8] = [
    "blobs",
    "blobs/sha256",
    "layers",
    "roots",
    "refs",
    "partial",
    "temp",
    "locks",
];

/// Bytes that stay free: enough for whoever else uses the file system to go on, and for our own records.
pub const RESERVE: u64 = 64 << 20;

impl Store {
    /// Makes the folder if it is not there, for nobody but its owner.
    ///
    /// # Errors
    ///
    /// It cannot be made, or others may write to it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Folder {
            dir: dir.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
        // Absolute, since descriptors of disks name it, and others open these.
        let dir = fs::canonicalize(dir).map_err(failed)?;
        let status = fs::metadata(&dir).map_err(failed)?;
        if status.uid() != nix::unistd::geteuid().as_raw() || status.mode() & 0o022 != 0 {
            return Err(StoreError::Exposed { dir });
        }
        for folder in FOLDERS {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir.join(folder))
                .map_err(failed)?;
        }
        Ok(Self {
            dir: dir.into(),
            reserve: RESERVE,
        })
    }

    /// The same with another reserve.
    #[must_use]
    pub fn with_reserve(mut self, bytes: u64) -> Self {
        self.reserve = bytes;
        self
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Begins a visit, as soon as no sweep is under way. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The lock file cannot be opened.
    pub async fn visit(&self) -> Result<Visit, StoreError> {
        let gate = self.gate();
        let lock = Lock::take(&gate, Mode::Shared)
            .await
            .map_err(StoreError::io("lock", &gate))?;
        Ok(Visit {
            store: self.clone(),
            gate: Arc::new(lock),
        })
    }

    /// Like [`Self::visit`], on this thread.
    ///
    /// # Errors
    ///
    /// Also that a sweep takes longer than any should.
    pub fn visit_blocking(&self) -> Result<Visit, StoreError> {
        let gate = self.gate();
        let lock = Lock::take_within(&gate, Mode::Shared, Duration::from_secs(60))
            .map_err(StoreError::io("lock", &gate))?
            .ok_or_else(|| StoreError::Busy {
                dir: self.dir.to_path_buf(),
            })?;
        Ok(Visit {
            store: self.clone(),
            gate: Arc::new(lock),
        })
    }

    /// Begins a sweep on this thread, if all visits end within this time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Busy`] if they do not.
    pub fn sweep(&self, patience: Duration) -> Result<Sweep, StoreError> {
        let gate = self.gate();
        let lock = Lock::take_within(&gate, Mode::Exclusive, patience)
            .map_err(StoreError::io("lock", &gate))?
            .ok_or_else(|| StoreError::Busy {
                dir: self.dir.to_path_buf(),
            })?;
        Ok(Sweep::new(self.clone(), lock))
    }

    fn gate(&self) -> PathBuf {
        self.dir.join("locks").join(GATE)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Also by the size: whoever states a wrong one for somebody else's blob spoils no part but his own.
    fn partial_path(&self, wanted: &Wanted) -> PathBuf {
        let name = format!("{}-{}", wanted.digest.hex(), wanted.size);
        self.dir.join("partial").join(name)
    }

    fn temp(&self) -> PathBuf {
        self.dir.join("temp")
    }

    fn lock_path(&self, kind: &str, digest: &Digest) -> PathBuf {
        self.dir
            .join("locks")
            .join(format!("{kind}-{}", digest.hex()))
    }
}

/// The gate's name among the locks.
const GATE: &str = "gate";

/// Somebody at work in the store: for as long as it lives, nothing is swept away. Cheap to clone; the visit ends with
/// its last clone.
#[derive(Debug, Clone)]
pub struct Visit {
    store: Store,
    #[expect(dead_code, reason = "held for as long as the visit lasts")]
    gate: Arc<Lock>,
}

impl Visit {
    /// The store that is visited.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The exclusive lock of one thing.
    async fn lock(&self, kind: &str, digest: &Digest) -> Result<Lock, StoreError> {
        let path = self.store.lock_path(kind, digest);
        Lock::take(&path, Mode::Exclusive)
            .await
            .map_err(StoreError::io("lock", &path))
    }

    /// The same on this thread, until nobody waits for it any more.
    fn lock_blocking(&self, kind: &str, digest: &Digest, stop: &Stop) -> Result<Lock, StoreError> {
        const ASK_AGAIN: Duration = Duration::from_millis(200);
        let path = self.store.lock_path(kind, digest);
        loop {
            stop.check()?;
            let lock = Lock::take_within(&path, Mode::Exclusive, ASK_AGAIN)
                .map_err(StoreError::io("lock", &path))?;
            if let Some(lock) = lock {
                return Ok(lock);
            }
        }
    }
}

/// Tells work on other threads to end, and waits until it has. Dropping it only tells.
#[derive(Debug)]
pub struct Stopper {
    stop: Stop,
    /// Closed once nobody has a [`Stop`] any more.
    at_work: mpsc::Receiver<Infallible>,
}

/// Whether to end. Cheap to clone; whoever works has one for as long as that takes.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    at_work: Option<mpsc::Sender<Infallible>>,
}

impl Default for Stopper {
    fn default() -> Self {
        let (sender, at_work) = mpsc::channel(1);
        let stop = Stop {
            asked: Arc::default(),
            at_work: Some(sender),
        };
        Self { stop, at_work }
    }
}

impl Stopper {
    /// What to ask.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Tells the work to end, and waits until all of it has: what is left of it then is what it leaves on purpose.
    /// Futures that started some of it, and were not awaited to their ends, must be dropped before.
    pub async fn ended(mut self) {
        self.stop.tell();
        self.stop.at_work = None;
        let _ = self.at_work.recv().await;
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.stop.tell();
    }
}

impl Stop {
    /// Whether nobody waits any more.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// # Errors
    ///
    /// [`StoreError::Stopped`] if nobody waits any more.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.asked() {
            Err(StoreError::Stopped)
        } else {
            Ok(())
        }
    }
}

/// Runs what blocks elsewhere. A panic there goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A new file for nobody else, which has content but no final name yet.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Makes what is written last, and gives it its final rights.
fn seal(file: &File) -> io::Result<()> {
    seal_rights(file)?;
    file.sync_all()
}

/// Nobody writes to it again.
fn seal_rights(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o444))
}

/// Makes renames in a folder last.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A small file, whole or not at all: written in `temp`, synced, renamed to `path`. Its name may not last yet.
fn write_whole(store: &Store, path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    store.room(bytes.len() as u64)?;
    let failed = |error: io::Error| store.failed("write", path, error);
    let mut temp = tempfile::NamedTempFile::new_in(store.temp()).map_err(failed)?;
    temp.write_all(bytes).map_err(failed)?;
    temp.as_file()
        .set_permissions(Permissions::from_mode(mode))
        .map_err(failed)?;
    temp.as_file().sync_all().map_err(failed)?;
    temp.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests;
