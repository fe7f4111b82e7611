// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The store without a registry: streams that break, disks that lie, sweeps beside visits.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::*;
use crate::Limits;
use crate::root::key;

mod mending;
mod parts;
mod shared;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cache")).unwrap();
    (dir, store)
}

/// A blob that is handed out in pieces, and how.
struct Served {
    bytes: Vec<u8>,
    /// The stream breaks after so many bytes of the blob, once each.
    breaks: Mutex<Vec<usize>>,
    /// It hangs after so many bytes.
    hangs: Option<usize>,
    opened: Mutex<Vec<u64>>,
}

impl Served {
    fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            breaks: Mutex::default(),
            hangs: None,
            opened: Mutex::default(),
        }
    }

    fn breaking(bytes: &[u8], at: &[usize]) -> Self {
        let mut breaks = at.to_vec();
        breaks.reverse();
        Self {
            breaks: Mutex::new(breaks),
            ..Self::new(bytes)
        }
    }

    fn opened(&self) -> Vec<u64> {
        self.opened.lock().unwrap().clone()
    }
}

impl Origin for Served {
    type Error = io::Error;
    type Stream = BoxStream<'static, io::Result<Bytes>>;

    async fn open(&self, _: &Wanted, from: u64) -> io::Result<Self::Stream> {
        self.opened.lock().unwrap().push(from);
        let from = usize::try_from(from).unwrap();
        let broken = self.breaks.lock().unwrap().pop();
        let end = broken.or(self.hangs).unwrap_or(self.bytes.len());
        let pieces: Vec<io::Result<Bytes>> = self.bytes[from..end]
            .chunks(1000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .chain(broken.map(|_| Err(io::ErrorKind::ConnectionReset.into())))
            .collect();
        let pieces = stream::iter(pieces);
        Ok(if self.hangs.is_some() {
            pieces.chain(stream::pending()).boxed()
        } else {
            pieces.boxed()
        })
    }
}

fn blob(length: usize) -> (Vec<u8>, Wanted) {
    let bytes: Vec<u8> = (0..length).map(|n| (n * n / 7).to_le_bytes()[0]).collect();
    let wanted = Wanted {
        digest: Digest::of(&bytes),
        size: length as u64,
    };
    (bytes, wanted)
}

async fn receive(
    visit: &Visit,
    wanted: Wanted,
    origin: &Served,
) -> Result<u64, ReceiveError<io::Error>> {
    let count = AtomicU64::new(0);
    let on_bytes = |bytes| {
        count.fetch_add(bytes, Ordering::Relaxed);
    };
    visit
        .receive(wanted, origin, &Stop::default(), &on_bytes)
        .await?;
    Ok(count.into_inner())
}

/// Receives a blob, and drops that once so much of it has come.
async fn drop_at(visit: &Visit, wanted: Wanted, origin: &Served, bytes: u64) {
    let (count, reached) = (AtomicU64::new(0), tokio::sync::Notify::new());
    let on_bytes = |more| {
        if count.fetch_add(more, Ordering::Relaxed) + more >= bytes {
            reached.notify_one();
        }
    };
    let stop = Stop::default();
    tokio::select! {
        received = visit.receive(wanted, origin, &stop, &on_bytes) => panic!("{received:?}"),
        () = reached.notified() => {}
    }
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_folder_is_its_owners_alone() {
    let (dir, store) = store();
    for folder in FOLDERS {
        let mode = fs::metadata(store.dir().join(folder)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
    assert_eq!(fs::metadata(store.dir()).unwrap().mode() & 0o777, 0o700);
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::Exposed { .. })
    ));
}

#[tokio::test]
async fn a_blob_is_received_once() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(100_000);
    let origin = Served::new(&bytes);
    assert_eq!(receive(&visit, wanted, &origin).await.unwrap(), 100_000);
    assert_eq!(receive(&visit, wanted, &origin).await.unwrap(), 100_000);
    assert_eq!(origin.opened(), [0]);
    assert_eq!(
        visit
            .read_blob(&wanted.digest, wanted.size)
            .unwrap()
            .unwrap(),
        bytes
    );
    let mode = fs::metadata(store.blob_path(&wanted.digest))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o777, 0o444);
    assert!(files(&store.dir().join("partial")).is_empty());
}

#[tokio::test]
async fn many_who_want_a_blob_receive_it_once() {
    let (_dir, store) = store();
    let (bytes, wanted) = blob(300_000);
    let origin = Arc::new(Served::new(&bytes));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (store, origin) = (store.clone(), Arc::clone(&origin));
            tokio::spawn(async move {
                let visit = store.visit().await.unwrap();
                receive(&visit, wanted, &origin).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 300_000);
    }
    assert_eq!(origin.opened(), [0]);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(100_000);
    let origin = Served::breaking(&bytes, &[10_000, 50_000]);
    for _ in 0..2 {
        let error = receive(&visit, wanted, &origin).await.unwrap_err();
        assert!(matches!(error, ReceiveError::Origin(_)), "{error}");
        // The thread lets go of the lock a moment later; the next attempt waits for that.
        assert!(!visit.has_blob(&wanted.digest, None).unwrap());
    }
    receive(&visit, wanted, &origin).await.unwrap();
    assert_eq!(origin.opened(), [0, 10_000, 50_000]);
    assert_eq!(
        visit
            .read_blob(&wanted.digest, wanted.size)
            .unwrap()
            .unwrap(),
        bytes
    );
}

#[tokio::test]
async fn a_dropped_download_lets_go_and_stays_for_the_next() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(100_000);
    let hanging = Served {
        hangs: Some(30_000),
        ..Served::new(&bytes)
    };
    drop_at(&visit, wanted, &hanging, 30_000).await;
    let origin = Served::new(&bytes);
    receive(&visit, wanted, &origin).await.unwrap();
    assert_eq!(origin.opened(), [30_000]);
}

#[tokio::test]
async fn wrong_content_leaves_nothing() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(50_000);
    let mut other = bytes.clone();
    other[40_000] ^= 1;
    let error = receive(&visit, wanted, &Served::new(&other))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ReceiveError::Store(StoreError::Mismatch { expected, .. }) if *expected == wanted.digest),
        "{error}"
    );
    assert!(files(&store.dir().join("partial")).is_empty());

    let longer = [bytes.as_slice(), b"!"].concat();
    let error = receive(&visit, wanted, &Served::new(&longer))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ReceiveError::Store(StoreError::TooLong { size: 50_000, .. })
        ),
        "{error}"
    );
    assert!(files(&store.dir().join("partial")).is_empty());

    let error = receive(&visit, wanted, &Served::new(&bytes[..49_999]))
        .await
        .unwrap_err();
    let ReceiveError::Store(StoreError::Truncated {
        received: 49_999, ..
    }) = error
    else {
        panic!("{error}");
    };
    assert!(files(&store.dir().join("blobs/sha256")).is_empty());
    // What came was right: it is gone on with.
    let origin = Served::new(&bytes);
    receive(&visit, wanted, &origin).await.unwrap();
    assert_eq!(origin.opened(), [49_999]);
}

#[tokio::test]
async fn a_damaged_part_is_received_anew() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(50_000);
    // As after a power cut: as long as it was, but zeros. And one that is too long.
    for part in [vec![0; 20_000], vec![1; 60_000]] {
        fs::write(store.partial_path(&wanted), part).unwrap();
        let origin = Served::new(&bytes);
        receive(&visit, wanted, &origin).await.unwrap();
        assert_eq!(*origin.opened().last().unwrap(), 0);
        fs::remove_file(store.blob_path(&wanted.digest)).unwrap();
    }
}

#[tokio::test]
async fn a_blob_of_another_size_is_received_anew() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(50_000);
    let origin = Served::new(&bytes);
    receive(&visit, wanted, &origin).await.unwrap();
    let path = store.blob_path(&wanted.digest);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(100)
        .unwrap();
    receive(&visit, wanted, &origin).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn nothing_is_begun_without_room() {
    let (_dir, store) = store();
    let (bytes, wanted) = blob(50_000);
    let full = store.clone().with_reserve(1 << 60);
    let visit = full.visit().await.unwrap();
    let origin = Served::new(&bytes);
    let error = receive(&visit, wanted, &origin).await.unwrap_err();
    let ReceiveError::Store(StoreError::NoSpace { dir, needed, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!((dir.as_path(), needed), (store.dir(), (1 << 60) + 50_000));
    assert!(origin.opened().is_empty());
    assert!(visit.put_blob(b"x").is_err());
    assert!(files(&store.dir().join("partial")).is_empty());
    assert!(files(&store.dir().join("temp")).is_empty());
}

/// A layer of these files, as a tar.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An image of these layers in the store, under this name.
async fn image(visit: &Visit, name: &str, layers: &[&[u8]], provenance: Provenance) -> Record {
    let quota = Quota::new(&Limits::default());
    let (mut made, mut records) = (Vec::new(), Vec::new());
    for tar in layers {
        let digest = visit.put_blob(tar).unwrap();
        let conversion = Conversion {
            blob: digest,
            diff_id: Some(digest),
            compression: None,
        };
        made.push(
            visit
                .make_layer(conversion, &quota, &Stop::default())
                .await
                .unwrap(),
        );
        let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        records.push(RecordLayer {
            digest,
            size: tar.len() as u64,
            media_type,
            diff_id: digest,
        });
    }
    let root = visit
        .make_root(made, &Limits::default(), &Stop::default())
        .await
        .unwrap();
    let manifest = visit
        .put_blob(format!("manifest of {name}").as_bytes())
        .unwrap();
    let record = Record {
        reference: name.to_owned(),
        named: manifest,
        manifest,
        config: visit
            .put_blob(format!("configuration of {name}").as_bytes())
            .unwrap(),
        layers: records,
        root: root.key,
        provenance,
        resolved_at: 1,
        created: None,
    };
    visit.remember(&record).unwrap();
    record
}

/// Everything in the store but locks, with its content.
fn content(store: &Store) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else {
                into.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    for folder in ["blobs", "layers", "roots", "refs", "partial", "temp"] {
        walk(&store.dir().join(folder), &mut found);
    }
    found
}

/// Tests beside this one start processes, which keep a freed lock for a moment.
const LATE: Duration = Duration::from_secs(5);

const DAY: Duration = Duration::from_secs(24 * 3600);

fn later() -> SystemTime {
    SystemTime::now() + DAY
}

#[tokio::test]
async fn layers_and_roots_are_made_once_and_are_the_same_each_time() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let base = tar_of(&[("etc/os", b"base"), ("bin/sh", &[7; 9000])]);
    let top = tar_of(&[("srv/app", &[3; 5000])]);
    let record = image(&visit, "a/b:c", &[&base, &top], Provenance::Pulled).await;
    let before = content(&store);
    let root = visit.root(&record.root).unwrap().unwrap();
    assert_eq!(
        root.key,
        key(&[record.layers[0].diff_id, record.layers[1].diff_id])
    );
    assert!(
        fs::read_to_string(&root.disk)
            .unwrap()
            .contains("../../layers/")
    );

    // Without their blobs, they can only be what is there.
    for layer in &record.layers {
        fs::remove_file(store.blob_path(&layer.digest)).unwrap();
    }
    let quota = Quota::new(&Limits::default());
    for layer in &record.layers {
        let conversion = Conversion {
            blob: layer.digest,
            diff_id: Some(layer.diff_id),
            compression: None,
        };
        visit
            .make_layer(conversion, &quota, &Stop::default())
            .await
            .unwrap();
    }
    drop(visit);

    // All of it once more from nothing: the same bytes.
    let other = Store::open(&store.dir().join("temp/other")).unwrap();
    let visit = other.visit().await.unwrap();
    image(&visit, "a/b:c", &[&base, &top], Provenance::Pulled).await;
    let strip = |store: &Store, all: BTreeMap<PathBuf, Vec<u8>>| -> BTreeMap<PathBuf, Vec<u8>> {
        all.into_iter()
            .map(|(path, bytes)| (path.strip_prefix(store.dir()).unwrap().to_owned(), bytes))
            .collect()
    };
    assert_eq!(strip(&other, content(&other)), strip(&store, before));
}

#[tokio::test]
async fn a_layer_must_be_what_the_configuration_says() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tar = tar_of(&[("a", b"a")]);
    let digest = visit.put_blob(&tar).unwrap();
    let quota = Quota::new(&Limits::default());
    let other = Digest::of(b"other");
    let conversion = Conversion {
        blob: digest,
        diff_id: Some(other),
        compression: None,
    };
    let error = visit
        .make_layer(conversion, &quota, &Stop::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::DiffId { expected, found, .. } if expected == other && found == digest)
    );
    let garbage = visit.put_blob(&[9; 5000]).unwrap();
    let conversion = Conversion {
        blob: garbage,
        diff_id: Some(garbage),
        compression: None,
    };
    let error = visit
        .make_layer(conversion, &quota, &Stop::default())
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Layer { .. }), "{error}");
    assert!(files(&store.dir().join("layers")).is_empty());
    assert!(files(&store.dir().join("temp")).is_empty());
}

#[tokio::test]
async fn all_layers_together_keep_to_the_limit() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let limits = Limits {
        unpacked_bytes: 150_000,
        ..Limits::default()
    };
    let quota = Quota::new(&limits);
    let mut outcomes = Vec::new();
    for n in 0..3_u8 {
        let tar = tar_of(&[("a", &[n; 60_000])]);
        let digest = visit.put_blob(&tar).unwrap();
        let conversion = Conversion {
            blob: digest,
            diff_id: Some(digest),
            compression: None,
        };
        outcomes.push(visit.make_layer(conversion, &quota, &Stop::default()).await);
    }
    assert!(outcomes[0].is_ok() && outcomes[1].is_ok());
    let error = outcomes[2].as_ref().unwrap_err();
    assert!(
        matches!(error, StoreError::BombOfBytes { limit: 150_000 }),
        "{error}"
    );
}

#[tokio::test]
async fn a_stopper_waits_for_the_work_that_it_ends() {
    let stopper = Stopper::default();
    let (stop, ended) = (stopper.stop(), Arc::new(AtomicBool::new(false)));
    let work = tokio::task::spawn_blocking({
        let ended = Arc::clone(&ended);
        move || {
            while !stop.asked() {
                std::thread::yield_now();
            }
            ended.store(true, Ordering::SeqCst);
            drop(stop);
        }
    });
    stopper.ended().await;
    assert!(ended.load(Ordering::SeqCst));
    work.await.unwrap();
    Stopper::default().ended().await;
}

#[tokio::test]
async fn what_is_stopped_leaves_nothing() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tar = tar_of(&[("a", &[1; 600_000])]);
    let digest = visit.put_blob(&tar).unwrap();
    let stopper = Stopper::default();
    let stop = stopper.stop();
    drop(stopper);
    let conversion = Conversion {
        blob: digest,
        diff_id: Some(digest),
        compression: None,
    };
    let quota = Quota::new(&Limits::default());
    let error = visit
        .make_layer(conversion, &quota, &stop)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Stopped), "{error}");
    assert!(files(&store.dir().join("layers")).is_empty());
    assert!(files(&store.dir().join("temp")).is_empty());
}

#[tokio::test]
async fn what_is_damaged_counts_as_not_there_and_is_made_again() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tar = tar_of(&[("a", &[1; 60_000])]);
    let record = image(&visit, "x", &[&tar], Provenance::Pulled).await;
    let whole = content(&store);
    let diff_id = record.layers[0].diff_id;
    let (data, index) = store.layer_paths(&diff_id);
    let meta = store.root_dir(&record.root).join("meta");
    let disk = store.root_dir(&record.root).join("root.vmdk");
    let description = store.root_dir(&record.root).join("root.json");
    for (path, bytes) in [
        (&data, &b""[..]),
        (&index, b"short"),
        (&meta, b"short"),
        (&disk, b""),
        (&description, b"{}"),
    ] {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
        assert!(
            visit.root(&record.root).unwrap().is_none(),
            "{}",
            path.display()
        );
        image(&visit, "x", &[&tar], Provenance::Pulled).await;
        assert!(
            visit.root(&record.root).unwrap().is_some(),
            "{}",
            path.display()
        );
        assert_eq!(content(&store), whole, "{}", path.display());
    }
}

#[tokio::test]
async fn verifying_finds_each_flipped_bit_and_mends_it() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tar = tar_of(&[("a", &[1; 60_000]), ("b/c", b"d")]);
    let record = image(&visit, "x", &[&tar], Provenance::Pulled).await;
    let (limits, stop) = (Limits::default(), Stop::default());
    let verify = |mend| {
        visit
            .verify(std::slice::from_ref(&record), &limits, mend, &stop)
            .unwrap()
    };
    let good = verify(false);
    assert_eq!(
        (good.blobs, good.layers, good.roots, good.unproven),
        (3, 1, 1, 0)
    );
    assert!(good.damage.is_empty());

    let diff_id = record.layers[0].diff_id;
    let (data, index) = store.layer_paths(&diff_id);
    let dir = store.root_dir(&record.root);
    for (path, damage) in [
        (store.blob_path(&diff_id), Damage::Blob(diff_id)),
        (data, Damage::Layer(diff_id)),
        (index, Damage::Layer(diff_id)),
        (dir.join("meta"), Damage::Root(record.root)),
        (dir.join("root.vmdk"), Damage::Root(record.root)),
    ] {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let found = verify(true).damage;
        assert!(found.contains(&damage), "{}: {found:?}", path.display());
        image(&visit, "x", &[&tar], Provenance::Pulled).await;
        assert!(verify(false).damage.is_empty(), "{}", path.display());
    }
}

#[tokio::test]
async fn records_are_found_by_their_names_and_damage_is_no_record() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let record = image(&visit, "docker.io/library/x:1", &[], Provenance::Imported).await;
    assert_eq!(
        visit.record("docker.io/library/x:1").unwrap(),
        Some(record.clone())
    );
    assert_eq!(visit.record("docker.io/library/x:2").unwrap(), None);
    let path = store
        .dir()
        .join("refs")
        .join(&files(&store.dir().join("refs"))[0]);
    File::open(&path)
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH)
        .unwrap();
    visit.touch(&record.reference).unwrap();
    assert!(store.records().unwrap()[0].1 > SystemTime::now() - DAY);

    let newer = fs::read_to_string(&path)
        .unwrap()
        .replace("\"version\": 1", "\"version\": 2");
    fs::write(&path, newer).unwrap();
    assert!(matches!(
        visit.record(&record.reference),
        Err(StoreError::Newer { .. })
    ));
    drop(visit);
    // Nothing goes that a newer release might need.
    let sweep = store.sweep(LATE).unwrap();
    let all = Policy {
        all: true,
        ..Policy::default()
    };
    assert!(matches!(
        sweep.prune(&all, later()),
        Err(StoreError::Newer { .. })
    ));
    drop(sweep);
    fs::write(&path, "{").unwrap();
    let visit = store.visit().await.unwrap();
    assert_eq!(visit.record(&record.reference).unwrap(), None);
    assert!(visit.forget(&record.reference).unwrap());
    assert!(!visit.forget(&record.reference).unwrap());
}

#[tokio::test]
async fn a_sweep_waits_for_visits_and_visits_for_a_sweep() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let clone = visit.clone();
    drop(visit);
    assert!(matches!(
        store.sweep(Duration::ZERO),
        Err(StoreError::Busy { .. })
    ));
    drop(clone);
    let sweep = store.sweep(LATE).unwrap();
    let mut waiting = Box::pin(store.visit());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop(sweep);
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_download_keeps_its_visit_until_its_thread_ends() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(100_000);
    let hanging = Served {
        hangs: Some(30_000),
        ..Served::new(&bytes)
    };
    drop_at(&visit, wanted, &hanging, 30_000).await;
    drop(visit);
    // The thread lets go on its own.
    let sweep = blocking(move || store.sweep(Duration::from_secs(5)).map(|_| ())).await;
    sweep.unwrap();
}

#[tokio::test]
async fn age_spares_what_is_held_and_what_is_imported() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tars: Vec<_> = (0..4_u8).map(|n| tar_of(&[("f", &[n; 10_000])])).collect();
    image(&visit, "old", &[&tars[0], &tars[1]], Provenance::Pulled).await;
    let held = image(&visit, "held", &[&tars[1], &tars[2]], Provenance::Pulled).await;
    image(&visit, "imported", &[&tars[3]], Provenance::Imported).await;
    let hold = visit.hold(&held.root).await.unwrap();
    drop(visit);
    let policy = Policy {
        max_age: Some(DAY / 2),
        ..Policy::default()
    };
    let sweep = || store.sweep(LATE).unwrap();
    assert!(
        sweep()
            .prune(&policy, SystemTime::now())
            .unwrap()
            .images
            .is_empty()
    );
    let pruned = sweep().prune(&policy, later()).unwrap();
    assert_eq!(pruned.images, ["old"]);
    let names = |store: &Store| -> Vec<String> {
        store
            .records()
            .unwrap()
            .into_iter()
            .map(|(record, _)| record.reference)
            .collect()
    };
    assert_eq!(names(&store), ["held", "imported"]);
    assert_eq!(
        files(&store.dir().join("layers")).len(),
        6,
        "what the held one shares stays"
    );
    assert_eq!(files(&store.dir().join("roots")).len(), 2);

    let everything = Policy {
        all: true,
        ..Policy::default()
    };
    assert_eq!(
        sweep().prune(&everything, later()).unwrap().images,
        ["imported"]
    );
    // Without a name as well: the hold alone keeps it.
    let visit = store.visit().await.unwrap();
    assert!(visit.is_held(&held.root).unwrap());
    visit.forget("held").unwrap();
    drop(visit);
    sweep().prune(&everything, later()).unwrap();
    let visit = store.visit().await.unwrap();
    assert!(visit.root(&held.root).unwrap().is_some());
    drop(visit);
    drop(hold);
    sweep().prune(&everything, later()).unwrap();
    assert!(content(&store).is_empty(), "{:?}", content(&store).keys());
}

#[tokio::test]
async fn size_takes_blobs_first_then_what_was_used_longest_ago() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tars: Vec<_> = (0..3_u8).map(|n| tar_of(&[("f", &[n; 100_000])])).collect();
    for (name, tar) in ["first", "second", "local"].iter().zip(&tars) {
        let provenance = if *name == "local" {
            Provenance::Imported
        } else {
            Provenance::Pulled
        };
        image(&visit, name, &[tar], provenance).await;
    }
    let age = |name: &str, days: u32| {
        let path = store
            .dir()
            .join("refs")
            .join(format!("{}.json", Digest::of(name.as_bytes()).hex()));
        File::open(path)
            .unwrap()
            .set_modified(SystemTime::now() - DAY * days)
            .unwrap();
    };
    age("first", 1);
    age("second", 3);
    drop(visit);
    let prune = |max_bytes| {
        let policy = Policy {
            max_bytes: Some(max_bytes),
            ..Policy::default()
        };
        store
            .sweep(LATE)
            .unwrap()
            .prune(&policy, SystemTime::now())
            .unwrap()
    };
    let full = store.used_bytes().unwrap();
    assert_eq!(prune(full), Pruned::default());
    // One blob is enough: that of the image used longest ago.
    let pruned = prune(full - 1);
    assert_eq!((pruned.images.len(), pruned.files), (0, 1));
    let there = |tar: &[u8]| store.blob_path(&Digest::of(tar)).exists();
    assert!(there(&tars[0]) && !there(&tars[1]) && there(&tars[2]));
    // Both blobs, then that image.
    let pruned = prune(full - 250_000);
    assert_eq!(pruned.images, ["second"]);
    // The other one, and no more: the local one cannot be pulled again.
    assert_eq!(prune(0).images, ["first"]);
    assert_eq!(store.records().unwrap().len(), 1);
    assert!(there(&tars[2]));
}

#[tokio::test]
async fn leftovers_go_once_nobody_is_at_work() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (_, wanted) = blob(10);
    let partial = store.partial_path(&wanted);
    fs::write(&partial, b"some").unwrap();
    fs::create_dir(store.temp().join("x")).unwrap();
    fs::write(store.temp().join("x/data"), b"half").unwrap();
    fs::write(store.temp().join("y"), b"half").unwrap();
    drop(visit.lock("blob", &wanted.digest).await.unwrap());
    drop(visit);
    let sweep = || store.sweep(LATE).unwrap();
    let pruned = sweep()
        .prune(&Policy::default(), SystemTime::now())
        .unwrap();
    assert_eq!((pruned.files, pruned.bytes), (2, 8));
    assert!(partial.exists(), "somebody may go on with it");
    assert_eq!(files(&store.dir().join("locks")), [GATE]);
    sweep().prune(&Policy::default(), later()).unwrap();
    assert!(!partial.exists());
    fs::write(&partial, b"some").unwrap();
    let policy = Policy {
        partials: true,
        ..Policy::default()
    };
    sweep().prune(&policy, SystemTime::now()).unwrap();
    assert!(content(&store).is_empty());
}

/// Says so when it is dropped.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Visits that find, make and remember, sweeps that take everything that nobody holds: whoever has a root, has all of
/// it, for as long as it holds it.
#[tokio::test(flavor = "multi_thread")]
async fn sweeps_take_nothing_from_under_visits() {
    let (_dir, store) = store();
    let tars: Arc<Vec<_>> = Arc::new((0..3_u8).map(|n| tar_of(&[("f", &[n; 20_000])])).collect());
    let (made, over) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    // Also if a visitor fails: the sweeper must not go on for ever.
    let ends = Ends(Arc::clone(&over));
    let visitors: Vec<_> = (0..4_usize)
        .map(|n| {
            let (store, tars, made) = (store.clone(), Arc::clone(&tars), Arc::clone(&made));
            tokio::spawn(async move {
                for round in 0..10 {
                    let visit = store.visit().await.unwrap();
                    let (one, other) = (&tars[(n + round) % 3], &tars[round % 3]);
                    let record =
                        image(&visit, &format!("i{n}"), &[one, other], Provenance::Pulled).await;
                    let hold = visit.hold(&record.root).await.unwrap();
                    drop(visit);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let root = store.root(&record.root).unwrap();
                    assert!(root.is_some(), "a sweep took what was held");
                    made.fetch_add(1, Ordering::Relaxed);
                    drop(hold);
                }
            })
        })
        .collect();
    let sweeper = std::thread::spawn({
        let store = store.clone();
        move || {
            let policy = Policy {
                all: true,
                partials: true,
                ..Policy::default()
            };
            let mut swept = 0;
            while made.load(Ordering::Relaxed) < 40 && !over.load(Ordering::Relaxed) {
                if let Ok(sweep) = store.sweep(Duration::from_millis(50)) {
                    swept += sweep.prune(&policy, SystemTime::now()).unwrap().files;
                }
            }
            swept
        }
    });
    for visitor in visitors {
        visitor.await.unwrap();
    }
    drop(ends);
    assert!(sweeper.join().unwrap() > 0);
}
