// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The folder in which packages are kept: files named by their digest, and small notes about documents.
//!
//! Several servers may share it, and any of them may be killed at any time. So a file appears by one
//! rename, complete and verified; what is half written lies in `temp` and goes with its age; who reads a
//! file holds it open, so that it may be removed meanwhile. A file's access time is set here and is when
//! it was last served, by which the oldest go first; its modification time is the registry's.
//!
//! All calls block on the local file system, for a moment each except [`Store::sweep`].

use std::{
    fs::{self, DirBuilder, File, FileTimes},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tempfile::NamedTempFile;
use walkdir::WalkDir;

use super::digest::{Algorithm, Digest};

/// Left free on the disk for everything else: without it machines' disks would fill up.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// How old what a killed server left half written must be. A download that still grows is younger.
const TEMP_AGE: Duration = Duration::from_secs(60 * 60);

/// How long nothing is kept after the folder failed.
const PAUSE: Duration = Duration::from_secs(60);

/// What a file counts at least: its place in the folder costs something, too.
const FILE_BYTES: u64 = 4096;

/// Where half-written files are.
const TEMP: &str = "temp";
/// Notes about documents.
const DOCUMENTS: &str = "documents";
/// Tables of apt's packages.
const TABLES: &str = "tables";

/// The folder.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    max_bytes: u64,
    /// Added since the last sweep.
    added: AtomicU64,
    sweeping: AtomicBool,
    paused: Mutex<Option<Instant>>,
}

/// A kept file, open.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) file: File,
    pub(super) len: u64,
    /// When the registry says that it was changed.
    pub(super) modified: SystemTime,
}

impl Store {
    /// A folder that cannot be made is no error: it is tried again, and until then nothing is kept.
    pub(super) fn open(dir: PathBuf, max_bytes: u64) -> Self {
        let store = Self {
            dir,
            max_bytes,
            // The first file that is kept looks how full the folder is.
            added: AtomicU64::new(max_bytes),
            sweeping: AtomicBool::new(false),
            paused: Mutex::new(None),
        };
        if let Err(error) = store.prepare() {
            store.pause("cannot be prepared", &error);
        }
        store
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn prepare(&self) -> io::Result<()> {
        private_dir(&self.dir.join(TEMP))
    }

    /// Keeps nothing for a while, and says why.
    pub(super) fn pause(&self, what: &str, error: &io::Error) {
        tracing::warn!(folder = %self.dir.display(), %error, "the package cache {what}; packages are passed through without being kept");
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(Instant::now());
    }

    /// Whether a file of `len` bytes, if that is known, can be kept now.
    pub(super) fn has_room(&self, len: Option<u64>) -> bool {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.is_some_and(|since| since.elapsed() < PAUSE) {
            return false;
        }
        drop(paused);
        // One file must not push everything else out.
        let len = len.unwrap_or(0);
        if len > self.max_bytes / 2 {
            return false;
        }
        match nix::sys::statvfs::statvfs(&self.dir) {
            Ok(stat) => {
                let free = stat.blocks_available().saturating_mul(stat.fragment_size());
                let room = free > len.saturating_add(RESERVE_BYTES);
                if !room {
                    self.pause("has no room left", &io::ErrorKind::StorageFull.into());
                }
                room
            }
            // Creating a file tells what is wrong.
            Err(_) => true,
        }
    }

    /// The largest file that is kept.
    pub(super) fn largest(&self) -> u64 {
        self.max_bytes / 2
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let start = digest.hex().get(..2).unwrap_or_default();
        let dir = self.dir.join(digest.algorithm().name()).join(start);
        dir.join(digest.hex())
    }

    /// The file of `digest`, if it is kept, and notes that it was used.
    pub(super) fn blob(&self, digest: &Digest) -> Option<Blob> {
        let file = File::open(self.blob_path(digest)).ok()?;
        let metadata = file.metadata().ok()?;
        touch(&file);
        Some(Blob {
            len: metadata.len(),
            modified: metadata.modified().ok()?,
            file,
        })
    }

    /// A new half-written file. It is removed if it is dropped.
    pub(super) fn temp(&self) -> io::Result<NamedTempFile> {
        self.prepare()?;
        NamedTempFile::new_in(self.dir.join(TEMP))
    }

    /// Keeps `temp`, whose content is verified to be that of `digest`.
    pub(super) fn keep_blob(
        &self,
        temp: NamedTempFile,
        digest: &Digest,
        modified: Option<SystemTime>,
    ) -> io::Result<()> {
        if let Some(modified) = modified {
            let times = FileTimes::new()
                .set_accessed(SystemTime::now())
                .set_modified(modified);
            temp.as_file().set_times(times)?;
        }
        self.publish(temp, &self.blob_path(digest))
    }

    fn publish(&self, temp: NamedTempFile, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            private_dir(parent)?;
        }
        // Else a file could be there after a power cut, but empty.
        temp.as_file().sync_data()?;
        let len = temp.as_file().metadata()?.len();
        temp.persist(path).map_err(|error| error.error)?;
        self.added.fetch_add(len.max(FILE_BYTES), Ordering::Relaxed);
        Ok(())
    }

    /// The note about the document `key`.
    pub(super) fn document(&self, key: &Digest) -> Option<Vec<u8>> {
        let mut file = File::open(self.dir.join(DOCUMENTS).join(key.hex())).ok()?;
        touch(&file);
        let mut note = Vec::new();
        io::Read::read_to_end(&mut file, &mut note).ok()?;
        Some(note)
    }

    pub(super) fn keep_document(&self, key: &Digest, note: &[u8]) -> io::Result<()> {
        self.write(&self.dir.join(DOCUMENTS).join(key.hex()), note)
    }

    /// Where the tables of a repository are.
    pub(super) fn tables(&self, repository: &Digest) -> PathBuf {
        self.dir.join(TABLES).join(repository.hex())
    }

    /// Keeps one of them, by its name: the digest of the index that it was made of, in hexadecimal.
    pub(super) fn keep_table(
        &self,
        repository: &Digest,
        name: &str,
        table: &[u8],
    ) -> io::Result<()> {
        self.write(&self.tables(repository).join(name), table)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut temp = self.temp()?;
        io::Write::write_all(&mut temp, content)?;
        self.publish(temp, path)
    }

    /// Whether so much was added that [`Store::sweep`] should run. If it says so, the caller must call it.
    pub(super) fn is_due(&self) -> bool {
        let due = self.added.load(Ordering::Relaxed) > self.max_bytes / 32;
        due && !self.sweeping.swap(true, Ordering::AcqRel)
    }

    /// Removes leftovers, and what was not used for the longest until the folder is within its bound.
    /// Reads the whole folder.
    pub(super) fn sweep(&self) {
        self.added.store(0, Ordering::Relaxed);
        let mut files = Vec::new();
        let mut total: u64 = 0;
        let now = SystemTime::now();
        for entry in WalkDir::new(&self.dir).follow_links(false) {
            // Another server may be removing it.
            let Ok(entry) = entry else { continue };
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if !metadata.is_file() || !self.is_ours(entry.path()) {
                continue;
            }
            let used = metadata.accessed().unwrap_or(SystemTime::UNIX_EPOCH);
            if entry.path().starts_with(self.dir.join(TEMP)) {
                let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                if now.duration_since(written).is_ok_and(|age| age > TEMP_AGE) {
                    let _ = fs::remove_file(entry.path());
                }
                continue;
            }
            let len = metadata.len().max(FILE_BYTES);
            total = total.saturating_add(len);
            files.push((used, len, entry.into_path()));
        }
        if total > self.max_bytes {
            // Some room below the bound, so that not every new file leads here.
            let wanted = self.max_bytes - self.max_bytes / 16;
            files.sort_unstable();
            let mut removed: u32 = 0;
            for (_, len, path) in files {
                if total <= wanted {
                    break;
                }
                if fs::remove_file(&path).is_ok() {
                    removed = removed.saturating_add(1);
                }
                total = total.saturating_sub(len);
            }
            tracing::info!(folder = %self.dir.display(), removed, bytes = total, "removed packages that were not used for the longest");
        }
        self.sweeping.store(false, Ordering::Release);
    }

    /// The folder is the operator's choice, and may hold other things.
    fn is_ours(&self, path: &Path) -> bool {
        let names = Algorithm::ALL.map(Algorithm::name);
        let names = names.into_iter().chain([TEMP, DOCUMENTS, TABLES]);
        path.strip_prefix(&self.dir)
            .is_ok_and(|path| names.into_iter().any(|name| path.starts_with(name)))
    }
}

/// Notes that `file` was used now. If it cannot be noted, the file only goes sooner.
pub(super) fn touch(file: &File) {
    let _ = file.set_times(FileTimes::new().set_accessed(SystemTime::now()));
}

/// A folder for this user only, with its parents.
fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn keep(store: &Store, content: &[u8], used: SystemTime) -> Digest {
        let mut temp = store.temp().expect("a file");
        temp.write_all(content).expect("written");
        let digest = Digest::of(content);
        store
            .keep_blob(temp, &digest, Some(SystemTime::UNIX_EPOCH))
            .expect("kept");
        let file = File::open(store.blob_path(&digest)).expect("there");
        file.set_times(FileTimes::new().set_accessed(used))
            .expect("set");
        digest
    }

    #[test]
    fn what_was_not_used_for_the_longest_goes_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().join("packages"), 64 * 1024);
        let now = SystemTime::now();
        let kept: Vec<Digest> = (0..20_u8)
            .map(|i| {
                let age = Duration::from_secs(1000 - u64::from(i));
                keep(&store, &[i; 8000], now - age)
            })
            .collect();
        let first = kept.first().expect("twenty");
        assert!(store.blob(first).is_some(), "and is now the newest");
        assert!(store.is_due());
        assert!(!store.is_due(), "one sweep at a time");
        store.sweep();
        assert!(store.blob(first).is_some());
        let gone = kept.iter().filter(|digest| store.blob(digest).is_none());
        assert_eq!(gone.count(), 13, "7 of 8000 bytes are below 60 KiB");
        assert!(store.blob(kept.last().expect("twenty")).is_some());
        assert!(!store.is_due());
    }

    #[test]
    fn only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().join("packages"), 1 << 20);
        let digest = keep(&store, b"honey", SystemTime::now());
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&store.blob_path(&digest)), 0o600);
        assert_eq!(mode(store.dir()), 0o700);
        assert_eq!(mode(&store.dir().join("sha256")), 0o700);
        let blob = store.blob(&digest).expect("kept");
        assert_eq!((blob.len, blob.modified), (5, SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn leftovers_of_the_killed_go_and_other_files_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().to_owned(), 1 << 20);
        let (old, young) = (dir.path().join("temp/old"), dir.path().join("temp/young"));
        let foreign = dir.path().join("notes.txt");
        for path in [&old, &young, &foreign] {
            fs::write(path, "half").expect("written");
        }
        let hours = SystemTime::now() - 2 * TEMP_AGE;
        let times = FileTimes::new().set_modified(hours).set_accessed(hours);
        for path in [&old, &foreign] {
            let file = File::options().write(true).open(path).expect("there");
            file.set_times(times).expect("set");
        }
        store.sweep();
        assert!(!old.exists() && young.exists() && foreign.exists());
    }

    #[test]
    fn an_unusable_folder_keeps_nothing_for_a_while() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        fs::write(&path, "in the way").expect("written");
        let store = Store::open(path, 1 << 20);
        assert!(!store.has_room(Some(1)));
        assert!(store.temp().is_err());
    }

    #[test]
    fn one_file_does_not_push_all_others_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().to_owned(), 1 << 20);
        assert!(store.has_room(Some(1 << 19)) && store.has_room(None));
        assert!(!store.has_room(Some((1 << 19) + 1)));
    }
}
