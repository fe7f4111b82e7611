// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The folder in which packages are kept: files named by their digest, and small notes about documents.
//!
//! Several servers may share it, and any of them may be killed at any time. So a file appears by one
//! rename, complete and verified; what is half written lies in `temp` and goes with its age; who reads a
//! file holds it open, so that it may be removed meanwhile. A file's access time is set here and is when
//! it was last served, by which the oldest go first; its modification time is the registry's.
//!
//! A file has its room before it has its bytes ([`super::space`]): what is under way counts for the folder's
//! bound and for what is left free on the disk. What other servers add is seen at the next look.
//!
//! All calls block on the local file system, for a moment each, but where the whole folder is looked at.

use std::{
    fs::{self, DirBuilder, File, FileTimes},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use tempfile::NamedTempFile;
use walkdir::WalkDir;

use super::{
    digest::{Algorithm, Digest},
    space::{NoSpace, Share, Space},
};
use crate::lock::lock;

/// How old what a killed server left half written must be. A download that still grows is younger.
const TEMP_AGE: Duration = Duration::from_secs(60 * 60);

/// How long nothing is kept after the folder failed.
const PAUSE: Duration = Duration::from_secs(60);

/// What a file counts at least: its place in the folder costs something, too.
pub(super) const FILE_BYTES: u64 = 4096;

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
    space: Space,
    /// Held by who looks at the whole folder.
    sweeping: Mutex<()>,
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

/// A half-written file, with the room that it takes up. Both are given back if it is dropped.
#[derive(Debug)]
pub(super) struct Temp {
    file: NamedTempFile,
    share: Share,
}

impl Temp {
    /// The same file, to be read while it grows.
    pub(super) fn reader(&self) -> io::Result<File> {
        self.file.reopen()
    }
}

impl Store {
    /// A folder that cannot be made is no error: it is tried again, and until then nothing is kept.
    pub(super) fn open(dir: PathBuf, max_bytes: u64) -> Self {
        let store = Self {
            dir,
            space: Space::new(max_bytes),
            sweeping: Mutex::new(()),
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
    fn pause(&self, what: &str, error: &io::Error) {
        tracing::warn!(folder = %self.dir.display(), %error, "the package cache {what}; packages are passed through without being kept");
        *lock(&self.paused) = Some(Instant::now());
    }

    fn is_paused(&self) -> bool {
        lock(&self.paused).is_some_and(|since| since.elapsed() < PAUSE)
    }

    /// Whether a file whose length is not known yet can be begun.
    pub(super) fn has_room(&self) -> bool {
        !self.is_paused() && self.take(0).is_ok()
    }

    /// The largest file that is kept.
    pub(super) fn largest(&self) -> u64 {
        self.space.largest()
    }

    /// Room for `bytes` more. If there is none in the folder, what was not used for the longest goes.
    fn take(&self, bytes: u64) -> Result<Share, NoSpace> {
        let mut taken = self.space.take(&self.dir, bytes);
        if let Err(NoSpace::Folder) = taken {
            let sweeping = lock(&self.sweeping);
            // Whoever swept meanwhile may have made enough.
            taken = self.space.take(&self.dir, bytes);
            if let Err(NoSpace::Folder) = taken {
                self.sweep(bytes);
                taken = self.space.take(&self.dir, bytes);
            }
            drop(sweeping);
        }
        if let Err(NoSpace::Disk) = taken {
            self.pause("has no room left", &io::ErrorKind::StorageFull.into());
        }
        taken
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

    /// A new half-written file with room for `len` bytes, if that is known, and else for what is written to
    /// it. None if it cannot be kept now.
    pub(super) fn begin(&self, len: Option<u64>) -> Option<Temp> {
        if self.is_paused() {
            return None;
        }
        let share = self.take(len.unwrap_or(0).max(FILE_BYTES)).ok()?;
        let file = self
            .prepare()
            .and_then(|()| NamedTempFile::new_in(self.dir.join(TEMP)));
        let file = file.inspect_err(|error| self.pause("cannot be written to", error));
        Some(Temp {
            file: file.ok()?,
            share,
        })
    }

    /// Writes `bytes` to the end of `temp`.
    ///
    /// # Errors
    ///
    /// The disk's, or that there is no room for them. Nothing is kept for a while then.
    pub(super) fn write(&self, temp: &mut Temp, bytes: &[u8]) -> io::Result<()> {
        let written = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let missing = temp.share.missing(written);
        let room = match missing {
            0 => Ok(()),
            missing => self.take(missing).map(|more| temp.share.join(more)),
        };
        let outcome = match room {
            Ok(()) => temp.file.write_all(bytes),
            Err(error) => Err(io::Error::new(io::ErrorKind::StorageFull, error)),
        };
        outcome.inspect_err(|error| self.pause("cannot be written to", error))?;
        temp.share.wrote(written);
        Ok(())
    }

    /// Keeps `temp`, whose content is verified to be that of `digest`, and says whether it is kept.
    pub(super) fn keep_blob(
        &self,
        temp: Temp,
        digest: &Digest,
        modified: Option<SystemTime>,
    ) -> bool {
        let dated = modified.map_or(Ok(()), |modified| {
            let times = FileTimes::new()
                .set_accessed(SystemTime::now())
                .set_modified(modified);
            temp.file.as_file().set_times(times)
        });
        let path = self.blob_path(digest);
        self.settle(dated.and_then(|()| self.publish(temp, &path)))
    }

    /// Whether something was kept. If it could not be, nothing is for a while.
    fn settle(&self, outcome: io::Result<()>) -> bool {
        let outcome = outcome.inspect_err(|error| self.pause("cannot be written to", error));
        if self.space.is_due()
            && let Ok(_sweeping) = self.sweeping.try_lock()
        {
            self.sweep(0);
        }
        outcome.is_ok()
    }

    fn publish(&self, temp: Temp, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            private_dir(parent)?;
        }
        let Temp { file, share } = temp;
        // Else a file could be there after a power cut, but empty.
        file.as_file().sync_data()?;
        let len = file.as_file().metadata()?.len();
        file.persist(path).map_err(|error| error.error)?;
        share.keep(len.max(FILE_BYTES));
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

    /// Keeps it, and says whether it is kept.
    pub(super) fn keep_document(&self, key: &Digest, note: &[u8]) -> bool {
        self.keep(&self.dir.join(DOCUMENTS).join(key.hex()), note)
    }

    /// Where the tables of a repository are.
    pub(super) fn tables(&self, repository: &Digest) -> PathBuf {
        self.dir.join(TABLES).join(repository.hex())
    }

    /// Keeps one of them, by its name: the digest of the index that it was made of, in hexadecimal. Says
    /// whether it is kept.
    pub(super) fn keep_table(&self, repository: &Digest, name: &str, table: &[u8]) -> bool {
        self.keep(&self.tables(repository).join(name), table)
    }

    fn keep(&self, path: &Path, content: &[u8]) -> bool {
        let Some(mut temp) = self.begin(u64::try_from(content.len()).ok()) else {
            return false;
        };
        if self.write(&mut temp, content).is_err() {
            return false;
        }
        self.settle(self.publish(temp, path))
    }

    /// Looks at the whole folder and removes leftovers, and what was not used for the longest until there is
    /// room for `bytes` more beside what is under way. One at a time.
    fn sweep(&self, bytes: u64) {
        self.space.look();
        let mut files = Vec::new();
        let (mut total, mut half_written): (u64, u64) = (0, 0);
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
            if entry.path().starts_with(self.dir.join(TEMP)) {
                let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let is_old = now.duration_since(written).is_ok_and(|age| age > TEMP_AGE);
                if !is_old || fs::remove_file(entry.path()).is_err() {
                    half_written = half_written.saturating_add(metadata.len());
                }
                continue;
            }
            let used = metadata.accessed().unwrap_or(SystemTime::UNIX_EPOCH);
            let len = metadata.len().max(FILE_BYTES);
            total = total.saturating_add(len);
            files.push((used, len, entry.into_path()));
        }
        let others = half_written.saturating_sub(self.space.written());
        let most = self.space.most_kept(bytes).saturating_sub(others);
        if total > most {
            // Some room below the bound, so that not every new file leads here.
            let wanted = most.saturating_sub(self.space.max_bytes() / 16);
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
        self.space.looked(total.saturating_add(others));
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn keep(store: &Store, content: &[u8], used: SystemTime) -> Digest {
        let mut temp = store.begin(None).expect("a file");
        store.write(&mut temp, content).expect("written");
        let digest = Digest::of(content);
        assert!(store.keep_blob(temp, &digest, Some(SystemTime::UNIX_EPOCH)));
        let file = File::open(store.blob_path(&digest)).expect("there");
        file.set_times(FileTimes::new().set_accessed(used))
            .expect("set");
        digest
    }

    fn size(dir: &Path) -> u64 {
        let entries = WalkDir::new(dir).into_iter().filter_map(Result::ok);
        let files = entries.filter(|entry| entry.file_type().is_file());
        files
            .map(|file| file.metadata().expect("there").len())
            .sum()
    }

    #[test]
    fn what_was_not_used_for_the_longest_goes_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().join("packages"), 64 * 1024);
        let now = SystemTime::now();
        let first = keep(&store, &[100; 8000], now - Duration::from_secs(2000));
        let kept: Vec<Digest> = (0..20_u8)
            .map(|i| {
                assert!(store.blob(&first).is_some(), "and is now the newest");
                let age = Duration::from_secs(1000 - u64::from(i));
                let digest = keep(&store, &[i; 8000], now - age);
                assert!(size(store.dir()) <= 64 * 1024, "never above its bound");
                digest
            })
            .collect();
        assert!(store.blob(&first).is_some());
        let there: Vec<bool> = kept.iter().map(|one| store.blob(one).is_some()).collect();
        let gone = there.iter().filter(|there| !**there).count();
        assert!((12..=15).contains(&gone), "{there:?}");
        assert!(there.is_sorted(), "the oldest went: {there:?}");
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
        store.sweep(0);
        assert!(!old.exists() && young.exists() && foreign.exists());
    }

    #[test]
    fn an_unusable_folder_keeps_nothing_for_a_while() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        fs::write(&path, "in the way").expect("written");
        let store = Store::open(path, 1 << 20);
        assert!(!store.has_room() && store.begin(Some(1)).is_none());
    }

    #[test]
    fn what_is_under_way_does_not_push_all_else_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().to_owned(), 1 << 20);
        assert!(store.begin(Some((1 << 19) + 1)).is_none(), "one");
        let largest = store.begin(Some(1 << 19));
        assert!(largest.is_some() && store.has_room());
        assert!(store.begin(Some(1)).is_none(), "or several");
        drop(largest);
        assert!(store.begin(Some(1)).is_some());
    }

    #[test]
    fn downloads_under_way_count_for_the_bound() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().to_owned(), 1 << 20);
        for i in 0..15_u8 {
            keep(&store, &[i; 64 * 1024], SystemTime::now());
        }
        assert_eq!(size(dir.path()), 15 << 16);
        let mut under_way: Vec<Temp> = (0..8).filter_map(|_| store.begin(Some(1 << 16))).collect();
        assert_eq!(under_way.len(), 8);
        assert!(size(dir.path()) <= 8 << 16, "they have room");
        for temp in &mut under_way {
            store.write(temp, &[1; 1 << 16]).expect("room");
            assert!(size(dir.path()) <= 1 << 20);
        }
        assert!(store.begin(Some(1 << 16)).is_none());
        // Given back when it is kept, and when it is dropped.
        let temp = under_way.pop().expect("eight");
        assert!(store.keep_blob(temp, &Digest::of(b"x"), None));
        under_way.pop();
        assert_eq!(
            (0..3)
                .map_while(|_| store.begin(Some(1 << 16)))
                .collect::<Vec<_>>()
                .len(),
            2
        );
    }

    #[test]
    fn a_download_of_unknown_length_takes_room_as_it_grows() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path().to_owned(), 1 << 20);
        let mut temp = store.begin(None).expect("room");
        for _ in 0..8 {
            store.write(&mut temp, &[7; 1 << 16]).expect("room");
        }
        assert!(store.begin(Some(1)).is_none(), "it has all there is");
        let full = store.write(&mut temp, b"x").expect_err("no room");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(!store.has_room(), "nothing is kept for a while");
        drop(temp);
        assert_eq!(store.space.written(), 0);
    }

    #[test]
    fn what_another_server_writes_counts_at_the_next_look() {
        let dir = tempfile::tempdir().expect("a folder");
        let one = Store::open(dir.path().to_owned(), 1 << 20);
        let other = Store::open(dir.path().to_owned(), 1 << 20);
        let mut temp = other.begin(Some(1 << 19)).expect("room");
        other.write(&mut temp, &[7; 1 << 19]).expect("room");
        for i in 0..16_u8 {
            keep(&one, &[i; 64 * 1024], SystemTime::now());
        }
        assert!(size(dir.path()) <= (1 << 20) + (1 << 15));
    }
}
