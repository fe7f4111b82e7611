// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What apt's lists of packages say about packages: their digests, by their paths.
//!
//! apt asks for a package by its path alone. The list that names its digest came through the mirror before,
//! and was made into a table then: sorted records of a fixed size in a file of the store, searched where it
//! lies, so that a list of a hundred thousand packages costs no memory. A package that no table knows is
//! only passed through.
//!
//! A list is not believed: apt itself checks it, and the package, against what the distributor signed. A
//! table is made only of what the repository itself has, and a digest that turns out wrong is taken
//! out of it, so that a wrong one makes a download fail once.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_compression::tokio::bufread::{GzipDecoder, XzDecoder, ZstdDecoder};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::{io::StreamReader, sync::CancellationToken};

use super::{
    answer::Source,
    digest::{Algorithm, Digest},
    store::{Store, touch},
};

/// Most bytes of a list, unpacked. Debian's largest has 60 MB.
const LIST_BYTES: u64 = 512 * 1024 * 1024;
/// Most packages of a list.
const PACKAGES: usize = 500_000;
/// What is looked at of a line. Those that count here are shorter.
const LINE_BYTES: usize = 4096;
/// Of a path's digest, enough that no two are the same.
const PATH_BYTES: usize = 16;
/// A record: the start of the path's digest, and the package's.
const RECORD_BYTES: usize = PATH_BYTES + 32;
/// How long a list may take to come and be read.
const LEARNING: Duration = Duration::from_secs(300);
/// How long a package waits for lists that are being read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most tables of a repository that are searched, newest first.
const TABLES: usize = 64;
/// Most lists that are read or wait for it. An update has a few; what is more is learned another time.
const LISTS: usize = 16;

/// The tables.
pub(super) struct Tables {
    store: Arc<Store>,
    /// The lists that are being read: each with its repository first.
    learning: watch::Sender<HashSet<(Digest, Digest)>>,
    at_once: Arc<Semaphore>,
    stop: CancellationToken,
}

/// One list that is being read.
struct Learning {
    list: (Digest, Digest),
    all: watch::Sender<HashSet<(Digest, Digest)>>,
}

impl Drop for Learning {
    fn drop(&mut self) {
        self.all.send_modify(|all| {
            all.remove(&self.list);
        });
    }
}

impl Tables {
    pub(super) fn new(store: Arc<Store>, stop: CancellationToken) -> Self {
        Self {
            store,
            learning: watch::Sender::new(HashSet::new()),
            at_once: Arc::new(Semaphore::new(1)),
            stop,
        }
    }

    /// Makes a table of the list `digest` of `repository`, if there is none yet.
    ///
    /// `list` must be the repository's, and not only have that digest: `is_theirs` says so, and is asked
    /// only if there is no table.
    pub(super) fn learn<F>(&self, repository: &Digest, digest: &Digest, list: Source, is_theirs: F)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let path = self.store.tables(repository).join(digest.hex());
        if let Ok(table) = File::open(&path) {
            touch(&table);
            return;
        }
        let key = (repository.clone(), digest.clone());
        let begun = self
            .learning
            .send_if_modified(|all| all.len() < LISTS && all.insert(key.clone()));
        if !begun {
            return;
        }
        let learning = Learning {
            list: key,
            all: self.learning.clone(),
        };
        let (store, at_once) = (Arc::clone(&self.store), Arc::clone(&self.at_once));
        let (repository, digest) = (repository.clone(), digest.clone());
        let work = async move {
            let _learning = learning;
            if !is_theirs.await {
                return;
            }
            let _permit = at_once.acquire().await;
            // Another server may have been here.
            if path.exists() {
                return;
            }
            let table = timeout(LEARNING, read(list)).await;
            match table.map_err(io::Error::from).flatten() {
                Ok(table) => {
                    let keeping = move || store.keep_table(&repository, digest.hex(), &table);
                    let _ = spawn_blocking(keeping).await;
                }
                Err(error) => tracing::debug!(%error, "a list of apt's packages was not read"),
            }
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(work).await });
    }

    /// The digest of the package at `path` in `repository`.
    pub(super) async fn digest(&self, repository: &Digest, path: &str) -> Option<Digest> {
        let mut learning = self.learning.subscribe();
        let known = |all: &HashSet<(Digest, Digest)>| all.iter().all(|(of, _)| of != repository);
        let _ = timeout(PATIENCE, learning.wait_for(known)).await;
        let dir = self.store.tables(repository);
        let key = key(path.as_bytes());
        let search = move || search(dir, &key);
        spawn_blocking(search).await.ok().flatten()
    }

    /// Takes the package at `path` out of the tables of `repository`: its digest is wrong.
    pub(super) async fn forget(&self, repository: &Digest, path: &str) {
        let (store, repository) = (Arc::clone(&self.store), repository.clone());
        let key = key(path.as_bytes());
        let forgetting = move || forget(&store, &repository, &key);
        let forgotten = spawn_blocking(forgetting).await;
        if let Err(error) = forgotten.map_err(io::Error::from).flatten() {
            tracing::debug!(%error, "a wrong digest of an apt package stays");
        }
    }
}

fn forget(store: &Store, repository: &Digest, key: &[u8]) -> io::Result<()> {
    for entry in fs::read_dir(store.tables(repository))? {
        let entry = entry?;
        if find(&File::open(entry.path())?, key)?.is_none() {
            continue;
        }
        let table = fs::read(entry.path())?;
        let records = table.chunks(RECORD_BYTES);
        let rest: Vec<&[u8]> = records.filter(|record| !record.starts_with(key)).collect();
        if let Some(name) = entry.file_name().to_str() {
            store.keep_table(repository, name, &rest.concat());
        }
    }
    Ok(())
}

/// What a path is found by.
fn key(path: &[u8]) -> Vec<u8> {
    let mut key = Digest::of(path).to_bytes();
    key.truncate(PATH_BYTES);
    key
}

fn search(dir: PathBuf, key: &[u8]) -> Option<Digest> {
    let mut tables: Vec<(SystemTime, PathBuf)> = fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .collect();
    tables.sort_unstable();
    tables.into_iter().rev().take(TABLES).find_map(|(_, path)| {
        let table = File::open(path).ok()?;
        let found = find(&table, key).ok()??;
        touch(&table);
        Digest::from_sha256(&found)
    })
}

/// Binary search in a file.
fn find(table: &File, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let record = u64::try_from(RECORD_BYTES).unwrap_or(u64::MAX);
    let (mut low, mut high) = (0, table.metadata()?.len() / record);
    let mut found = [0; RECORD_BYTES];
    while low < high {
        let middle = low + (high - low) / 2;
        table.read_exact_at(&mut found, middle * record)?;
        let (path, digest) = found.split_at(PATH_BYTES);
        match path.cmp(key) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Ok(Some(digest.to_vec())),
        }
    }
    Ok(None)
}

/// Reads a list, however it is packed, and makes its table.
async fn read(list: Source) -> io::Result<Vec<u8>> {
    let mut packed = StreamReader::new(list.body(None).into_data_stream());
    let start = packed.fill_buf().await?;
    let plain: Box<dyn AsyncRead + Send + Unpin> = match start {
        [0x1f, 0x8b, ..] => {
            let mut decoder = GzipDecoder::new(packed);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', ..] => {
            let mut decoder = XzDecoder::new(packed);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = ZstdDecoder::new(packed);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        _ => Box::new(packed),
    };
    let mut plain = BufReader::with_capacity(256 * 1024, plain.take(LIST_BYTES));
    let mut list = List::default();
    loop {
        let bytes = plain.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(list.table());
        }
        let read = bytes.len();
        list.feed(bytes);
        plain.consume(read);
        if list.records.len() > PACKAGES {
            return Err(io::Error::other("it has too many packages"));
        }
        tokio::task::yield_now().await;
    }
}

/// A list that is being read: stanzas of `Name: value` lines, apart by empty lines (deb822(5)).
#[derive(Default)]
struct List {
    /// The line so far, cut.
    line: Vec<u8>,
    path: Option<Vec<u8>>,
    digest: Option<Vec<u8>>,
    records: Vec<Vec<u8>>,
}

impl List {
    fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = LINE_BYTES.saturating_sub(self.line.len());
            self.line
                .extend_from_slice(text.get(..room).unwrap_or(text));
            if ends {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = self.line.trim_ascii_end();
        if line.is_empty() {
            self.end_stanza();
        } else if let Some(path) = line.strip_prefix(b"Filename:") {
            let path = path.trim_ascii();
            self.path = Some(key(path.strip_prefix(b"./").unwrap_or(path)));
        } else if let Some(hex) = line.strip_prefix(b"SHA256:") {
            let hex = std::str::from_utf8(hex.trim_ascii()).unwrap_or_default();
            let digest = Digest::from_hex(Algorithm::Sha256, hex);
            self.digest = digest.map(|digest| digest.to_bytes());
        }
        self.line.clear();
    }

    fn end_stanza(&mut self) {
        if let (Some(mut record), Some(digest)) = (self.path.take(), self.digest.take()) {
            record.extend_from_slice(&digest);
            self.records.push(record);
        }
    }

    fn table(mut self) -> Vec<u8> {
        self.end_line();
        self.end_stanza();
        self.records.sort_unstable();
        self.records.dedup();
        self.records.concat()
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use async_compression::tokio::write::{GzipEncoder, XzEncoder, ZstdEncoder};
    use bytes::Bytes;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn list(packages: u32) -> (Vec<u8>, impl Fn(u32) -> Digest) {
        let digest = |i: u32| Digest::of(&i.to_le_bytes());
        let mut text = String::new();
        for i in 0..packages {
            let hex = digest(i);
            let long = "x".repeat(9000);
            text.push_str(&format!(
                "Package: p{i}\nDescription: {long}\n more\nFilename: pool/p/p{i}_1%2b.deb\nSize: 3\nSHA256: {}\n\n",
                hex.hex()
            ));
        }
        (text.trim_end().as_bytes().to_vec(), digest)
    }

    #[tokio::test]
    async fn a_table_tells_every_package_of_its_list_however_it_is_packed() {
        let (plain, digest) = list(50);
        let mut gzip = GzipEncoder::new(Vec::new());
        let mut xz = XzEncoder::new(Vec::new());
        let mut zstd = ZstdEncoder::new(Vec::new());
        for encoder in [
            &mut gzip as &mut (dyn tokio::io::AsyncWrite + Unpin),
            &mut xz,
            &mut zstd,
        ] {
            encoder.write_all(&plain).await.expect("packed");
            encoder.shutdown().await.expect("packed");
        }
        let packed = [plain, gzip.into_inner(), xz.into_inner(), zstd.into_inner()];
        for list in packed {
            let dir = tempfile::tempdir().expect("a folder");
            let store = Arc::new(Store::open(dir.path().to_owned(), 1 << 30));
            let tables = Tables::new(store, CancellationToken::new());
            let repository = Digest::of(b"repository");
            let index = Digest::of(&list);
            tables.learn(&repository, &index, Source::Bytes(list.into()), ready(true));
            for i in 0..50 {
                let path = format!("pool/p/p{i}_1%2b.deb");
                let found = tables.digest(&repository, &path).await;
                assert_eq!(found, Some(digest(i)), "waits for the list");
            }
            assert_eq!(tables.digest(&repository, "pool/p/p50_1.deb").await, None);
            assert_eq!(tables.digest(&index, "pool/p/p1_1%2b.deb").await, None);
        }
    }

    #[tokio::test]
    async fn a_list_is_read_once_and_hinders_no_other_repository() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Store::open(dir.path().to_owned(), 1 << 30));
        let tables = Tables::new(store, CancellationToken::new());
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let busy = tables.at_once.acquire().await.expect("open");
        for i in 0..100_u32 {
            let index = Digest::of(&(i / 2).to_le_bytes());
            tables.learn(&one, &index, Source::Bytes(Bytes::new()), ready(true));
        }
        assert_eq!(tables.learning.borrow().len(), LISTS);
        let now = timeout(Duration::from_secs(1), tables.digest(&other, "a.deb"));
        assert_eq!(now.await.expect("without waiting"), None);
        drop(busy);
        tables.digest(&one, "a.deb").await;
        assert!(tables.learning.borrow().is_empty());
    }

    #[tokio::test]
    async fn what_is_forgotten_is_in_no_table() {
        let (text, digest) = list(3);
        let dir = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Store::open(dir.path().to_owned(), 1 << 30));
        let tables = Tables::new(store, CancellationToken::new());
        let repository = Digest::of(b"repository");
        let index = Digest::of(&text);
        tables.learn(&repository, &index, Source::Bytes(text.into()), ready(true));
        let path = |i: u32| format!("pool/p/p{i}_1%2b.deb");
        assert!(tables.digest(&repository, &path(1)).await.is_some());
        tables.forget(&repository, &path(1)).await;
        assert_eq!(tables.digest(&repository, &path(1)).await, None);
        for i in [0, 2] {
            assert_eq!(tables.digest(&repository, &path(i)).await, Some(digest(i)));
        }
    }

    #[tokio::test]
    async fn a_broken_list_teaches_nothing() {
        for list in [
            &b"\xfd7zXZ\0garbage"[..],
            b"\x1f\x8b",
            b"",
            b"Filename: a\n\nSHA256: 00\n",
        ] {
            let table = read(Source::Bytes(Bytes::copy_from_slice(list))).await;
            assert!(table.is_err() || table.is_ok_and(|table| table.is_empty()));
        }
    }

    #[test]
    fn a_list_may_come_in_any_pieces() {
        let (text, _) = list(3);
        let whole = {
            let mut list = List::default();
            list.feed(&text);
            list.table()
        };
        assert_eq!(whole.len(), 3 * RECORD_BYTES);
        let mut list = List::default();
        for byte in text.chunks(7) {
            list.feed(byte);
        }
        assert_eq!(list.table(), whole);
    }
}
