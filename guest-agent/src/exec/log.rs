// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Long output kept in the guest: `/tmp/waggle_<id>.stdout.log` and `.stderr.log`.
//!
//! Owns: the files, how many there are and how much is in them. Does not own: the sending of the same
//! bytes to the host, which nothing here can hold up or break.
//!
//! Invariants: a stream that stays short costs no file; a file holds the stream's first bytes without
//! a gap, and ends where its limit, the disk or the room for all logs ends; logs of running programs
//! are not removed, the oldest others make room.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde_bytes::ByteBuf;
use waggle_protocol::frame::Kind;
use waggle_protocol::message::{ExecLogged, Log, Logs};

use super::code_file::{PREFIX, id_in_name};
use crate::agent::CONNECTIONS_MAX;
use crate::files::{WRITEBACK_BYTES, start_writeback};
use crate::identity::Identity;

/// Most bytes of a stream that are held in memory before it gets a file. A request for more gets its
/// file here.
const HEAD_MAX: u64 = 64 * 1024;
/// Most logs: two of each program that can run, so that none is without because others run.
const LOGS_MAX: usize = 2 * CONNECTIONS_MAX;
/// Most bytes in all of them: a part of the scratch disk that a program will not miss.
const BYTES_MAX: u64 = 512 * 1024 * 1024;

const STDOUT: &str = "stdout.log";
const STDERR: &str = "stderr.log";

/// All logs there are.
#[derive(Debug)]
pub struct LogStore {
    bytes_max: u64,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// The oldest first.
    logs: VecDeque<Shelved>,
    bytes: u64,
}

#[derive(Debug)]
struct Shelved {
    path: PathBuf,
    bytes: u64,
    /// Whether its program runs: then it stays.
    running: bool,
}

impl LogStore {
    /// Without any logs.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with_room_for(BYTES_MAX)
    }

    fn with_room_for(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            shelf: Mutex::default(),
        })
    }

    /// Takes over what a crashed agent left in `folder`.
    pub fn adopt(&self, folder: &Path) {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(is_log) {
                continue;
            }
            let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) else {
                continue;
            };
            let age = metadata.modified().ok();
            found.insert((age, entry.path()), metadata.len());
            if found.len() > LOGS_MAX
                && let Some(((_, path), _)) = found.pop_first()
            {
                let _ = fs::remove_file(path);
            }
        }
        let mut shelf = self.shelf();
        for ((_, path), bytes) in found {
            shelf.bytes = shelf.bytes.saturating_add(bytes);
            shelf.logs.push_back(Shelved {
                path,
                bytes,
                running: false,
            });
        }
        while shelf.bytes > self.bytes_max && shelf.remove_oldest() {}
    }

    /// Makes room for one more log, and enters it.
    fn enter(&self, path: &Path) -> bool {
        let mut shelf = self.shelf();
        while shelf.logs.len() >= LOGS_MAX {
            if !shelf.remove_oldest() {
                return false;
            }
        }
        shelf.logs.push_back(Shelved {
            path: path.to_owned(),
            bytes: 0,
            running: true,
        });
        true
    }

    /// Takes back what was entered for a file that could not be made.
    fn leave(&self, path: &Path) {
        self.shelf().logs.retain(|log| log.path != path);
    }

    /// Makes room for `count` more bytes in a log, and returns how many it may have.
    fn grow(&self, path: &Path, count: u64) -> u64 {
        let mut shelf = self.shelf();
        while shelf.bytes.saturating_add(count) > self.bytes_max {
            if !shelf.remove_oldest() {
                break;
            }
        }
        let granted = count.min(self.bytes_max.saturating_sub(shelf.bytes));
        shelf.bytes += granted;
        if let Some(log) = shelf.find(path) {
            log.bytes += granted;
        }
        granted
    }

    /// Gives back `count` bytes that were granted to a log and not written.
    fn shrink(&self, path: &Path, count: u64) {
        let mut shelf = self.shelf();
        shelf.bytes = shelf.bytes.saturating_sub(count);
        if let Some(log) = shelf.find(path) {
            log.bytes = log.bytes.saturating_sub(count);
        }
    }

    /// The program of a log is gone. A file that remained empty goes too.
    fn close(&self, path: &Path) {
        let mut shelf = self.shelf();
        let Some(log) = shelf.find(path) else {
            return;
        };
        log.running = false;
        if log.bytes == 0 {
            shelf.logs.retain(|log| log.path != path);
            let _ = fs::remove_file(path);
        }
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// Whether there was one that may go.
    fn remove_oldest(&mut self) -> bool {
        let oldest = self.logs.iter().position(|log| !log.running);
        let Some(log) = oldest.and_then(|index| self.logs.remove(index)) else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(log.bytes);
        // Its owner may have removed it before.
        let _ = fs::remove_file(log.path);
        true
    }

    fn find(&mut self, path: &Path) -> Option<&mut Shelved> {
        self.logs.iter_mut().rev().find(|log| log.path == path)
    }
}

/// When to begin a log, and when to end it.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// A stream that gets longer than this gets one.
    from: usize,
    /// Most bytes in one.
    max: u64,
}

impl LogLimits {
    /// What `request` asks for.
    #[must_use]
    pub fn of(request: &ExecLogged) -> Self {
        let from = request.log_from.min(HEAD_MAX);
        Self {
            from: usize::try_from(from).unwrap_or_default(),
            max: request.log_max,
        }
    }
}

/// The logs of one program's two streams.
#[derive(Debug)]
pub(super) struct StreamLogs {
    stdout: StreamLog,
    stderr: StreamLog,
}

impl StreamLogs {
    /// Whose files will be `owner`'s, in `folder`.
    #[must_use]
    pub(super) fn new(
        store: &Arc<LogStore>,
        limits: LogLimits,
        folder: &Path,
        id: u64,
        owner: &Identity,
    ) -> Self {
        let stream = |name| StreamLog {
            limits,
            place: Place {
                path: folder.join(format!("{}{id:016x}.{name}", PREFIX)),
                owner: owner.clone(),
                store: Arc::clone(store),
            },
            state: State::Short(Vec::new()),
        };
        Self {
            stdout: stream(STDOUT),
            stderr: stream(STDERR),
        }
    }

    /// Takes what the program wrote to one of its streams.
    pub(super) fn take(&mut self, kind: Kind, bytes: &[u8]) {
        match kind {
            Kind::Stdout => self.stdout.take(bytes),
            Kind::Stderr => self.stderr.take(bytes),
            Kind::Control | Kind::Stdin | Kind::File => {}
        }
    }

    /// Where the output is, once there will be no more.
    #[must_use]
    pub(super) fn finish(self) -> Logs {
        Logs {
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
        }
    }
}

#[derive(Debug)]
struct StreamLog {
    limits: LogLimits,
    place: Place,
    state: State,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    owner: Identity,
    store: Arc<LogStore>,
}

#[derive(Debug)]
enum State {
    /// All of the stream.
    Short(Vec<u8>),
    Long(OpenLog),
    /// No file could be made.
    Refused,
}

impl StreamLog {
    fn take(&mut self, bytes: &[u8]) {
        let head = match &mut self.state {
            State::Short(head) if head.len() + bytes.len() <= self.limits.from => {
                return head.extend_from_slice(bytes);
            }
            State::Short(head) => std::mem::take(head),
            State::Long(log) => return log.append(bytes, &self.place, self.limits.max),
            State::Refused => return,
        };
        self.state = match OpenLog::create(&self.place) {
            Some(mut log) => {
                log.append(&head, &self.place, self.limits.max);
                log.append(bytes, &self.place, self.limits.max);
                State::Long(log)
            }
            None => State::Refused,
        };
    }

    fn finish(self) -> Option<Log> {
        let State::Long(log) = &self.state else {
            return None;
        };
        (log.written > 0).then(|| Log {
            path: ByteBuf::from(self.place.path.as_os_str().as_bytes()),
            bytes: log.written,
        })
    }
}

impl Drop for StreamLog {
    fn drop(&mut self) {
        if matches!(self.state, State::Long(_)) {
            self.place.store.close(&self.place.path);
        }
    }
}

/// A log that has a file.
#[derive(Debug)]
struct OpenLog {
    /// `None` once there will be no more.
    file: Option<File>,
    written: u64,
    /// Bytes whose write-back has begun.
    flushed: u64,
}

impl OpenLog {
    fn create(place: &Place) -> Option<Self> {
        if !place.store.enter(&place.path) {
            return None;
        }
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
        let Ok(file) = place.owner.act(|| open(&place.path, flags, mode)) else {
            place.store.leave(&place.path);
            return None;
        };
        Some(Self {
            file: Some(file.into()),
            written: 0,
            flushed: 0,
        })
    }

    /// Writes what there is room for. The log ends with the first byte that finds none.
    fn append(&mut self, bytes: &[u8], place: &Place, max: u64) {
        let Some(file) = &self.file else {
            return;
        };
        let length = bytes.len() as u64;
        let wanted = length.min(max.saturating_sub(self.written));
        let granted = place.store.grow(&place.path, wanted);
        let fitting = usize::try_from(granted).unwrap_or(usize::MAX);
        let fitting = bytes.get(..fitting).unwrap_or_default();
        // With the user's permissions: the part of the disk that is reserved for root stays root's.
        let written = place.owner.act(|| write_some(file, fitting));
        place.store.shrink(&place.path, granted - written);
        self.written += written;
        if self.written - self.flushed >= WRITEBACK_BYTES {
            // Nobody is promised that a log is on disk.
            start_writeback(file, self.flushed, self.written - self.flushed);
            self.flushed = self.written;
        }
        if written < length {
            self.file = None;
        }
    }
}

/// As `write_all`, and tells how much was written before an error.
fn write_some(mut file: &File, mut bytes: &[u8]) -> u64 {
    let mut written = 0;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(count) if count > 0 => {
                written += count as u64;
                bytes = bytes.get(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    written
}

fn is_log(name: &str) -> bool {
    id_in_name(name).is_some_and(|(_, rest)| rest == STDOUT || rest == STDERR)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::testing::current_user;

    fn logs(store: &Arc<LogStore>, folder: &Path, id: u64, from: usize, max: u64) -> StreamLogs {
        let limits = LogLimits { from, max };
        StreamLogs::new(store, limits, folder, id, &current_user(folder))
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    fn text(log: Option<Log>) -> Vec<u8> {
        let log = log.unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(&log.path)).to_owned();
        assert!(is_log(path.file_name().unwrap().to_str().unwrap()));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        let bytes = fs::read(path).unwrap();
        assert_eq!(bytes.len() as u64, log.bytes);
        bytes
    }

    #[test]
    fn a_log_begins_behind_its_threshold_and_ends_at_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::new();
        let mut logs = logs(&store, folder.path(), 1, 4, 7);
        logs.take(Kind::Stdout, b"12");
        logs.take(Kind::Stderr, b"abcd");
        logs.take(Kind::Stdout, b"34");
        assert_eq!(count(folder.path()), 0);
        logs.take(Kind::Stdout, b"5");
        logs.take(Kind::Stdout, b"6789");
        logs.take(Kind::Stdout, b"10");
        let logs = logs.finish();
        assert_eq!(text(logs.stdout), b"1234567");
        assert_eq!(logs.stderr, None);
        assert_eq!(count(folder.path()), 1);
        assert_eq!(store.shelf().bytes, 7);
    }

    #[test]
    fn both_streams_have_their_own_and_a_dropped_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::new();
        let mut both = logs(&store, folder.path(), 1, 0, 100);
        both.take(Kind::Stdout, b"out");
        both.take(Kind::Stderr, b"err");
        drop(both);
        assert_eq!(count(folder.path()), 2);
        assert!(store.shelf().logs.iter().all(|log| !log.running));
        // Nothing to write: no file.
        let mut none = logs(&store, folder.path(), 2, 0, 0);
        none.take(Kind::Stdout, b"out");
        assert_eq!(none.finish(), Logs::default());
        assert_eq!(count(folder.path()), 2);
        assert_eq!(store.shelf().bytes, 6);
    }

    #[test]
    fn the_oldest_finished_logs_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::with_room_for(400);
        let mut running = logs(&store, folder.path(), 0, 0, 1000);
        running.take(Kind::Stdout, b"first");
        for id in 1..=400 {
            let mut logs = logs(&store, folder.path(), id, 0, 100);
            logs.take(Kind::Stdout, b"1");
            assert!(logs.finish().stdout.is_some());
        }
        assert_eq!(count(folder.path()), LOGS_MAX);
        running.take(Kind::Stdout, &[b'x'; 90]);
        running.take(Kind::Stderr, &[b'y'; 400]);
        // What is left is the running program's own, and ends at the room for all.
        assert_eq!(count(folder.path()), 2);
        let logs = running.finish();
        assert_eq!(text(logs.stdout).len(), 95);
        assert_eq!(text(logs.stderr).len(), 305);
    }

    #[test]
    fn running_logs_are_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::with_room_for(10);
        let mut running: Vec<_> = (0..128)
            .map(|id| logs(&store, folder.path(), id, 0, 1000))
            .collect();
        for logs in &mut running {
            logs.take(Kind::Stdout, b"123");
        }
        let found = running
            .into_iter()
            .filter_map(|logs| logs.finish().stdout)
            .map(|log| log.bytes)
            .collect::<Vec<_>>();
        assert_eq!(found, [3, 3, 3, 1]);
        assert_eq!(count(folder.path()), 4);
    }

    #[test]
    fn a_log_that_cannot_be_made_or_written_breaks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::new();
        let mut missing = logs(&store, Path::new("/no/such/folder"), 1, 0, 100);
        missing.take(Kind::Stdout, b"123");
        missing.take(Kind::Stdout, b"456");
        assert_eq!(missing.finish(), Logs::default());
        // A link that waits at its place is not followed.
        let mut linked = logs(&store, folder.path(), 2, 0, 100);
        let elsewhere = folder.path().join("elsewhere");
        symlink(&elsewhere, &linked.stdout.place.path).unwrap();
        linked.take(Kind::Stdout, b"123");
        assert_eq!(linked.finish(), Logs::default());
        assert!(!elsewhere.exists());
        assert!(store.shelf().logs.is_empty());
        // The disk is full.
        let mut full = logs(&store, folder.path(), 3, 0, 100);
        full.take(Kind::Stdout, b"123");
        if let State::Long(log) = &mut full.stdout.state {
            log.file = Some(File::options().write(true).open("/dev/full").unwrap());
        }
        full.take(Kind::Stdout, b"456");
        full.take(Kind::Stdout, b"789");
        assert_eq!(text(full.finish().stdout), b"123");
        assert_eq!(store.shelf().bytes, 3);
    }

    #[test]
    fn what_a_crashed_agent_left_is_kept_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        for id in 0..300 {
            let name = format!("waggle_{id:016x}.stdout.log");
            fs::write(folder.path().join(name), "1234").unwrap();
        }
        fs::write(folder.path().join("waggle_1.stdout.log"), "").unwrap();
        let store = LogStore::with_room_for(20);
        store.adopt(folder.path());
        assert_eq!(store.shelf().logs.len(), 5);
        assert_eq!(store.shelf().bytes, 20);
        assert_eq!(count(folder.path()), 6);
    }
}
