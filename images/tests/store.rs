// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images from a real registry into the store: once, by many, interrupted, on a full disk, and out again.

mod child;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use child::{BEGINS, HOLDS};
use support::image::{Layout, noise};
use support::registry::{Registry as Server, Variant, options};
use support::{have, run};
use waggle_images::images::{Error, Images, Options, Progress, Pull, Stage};
use waggle_images::store::{Conversion, Expected, Quota, Stop, StoreError};
use waggle_images::{Digest, Limits, Reference};

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci"];

#[test]
fn a_process_of_its_own() {
    child::run(options());
}

/// A registry, a layout to fill it from, and room for stores.
struct World {
    server: Server,
    layout: Layout,
    dir: tempfile::TempDir,
}

fn world() -> Option<World> {
    if !have(TOOLS) {
        return None;
    }
    let server = Server::start(Variant::Plain);
    let layout = Layout::new(server.dir.path(), "layout");
    Some(World {
        server,
        layout,
        dir: tempfile::tempdir().expect("a folder"),
    })
}

impl World {
    /// An image of these layers.
    fn put(&self, name: &str, files: &[(&str, &[u8])]) -> Reference {
        let tag = name.replace(['/', ':'], "-");
        self.layout.image(&tag, architecture(), files);
        self.server.put(&self.layout.path, &tag, name);
        self.server.reference(name)
    }

    fn cache(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn images(&self, name: &str) -> Images {
        Images::open(self.options(name)).expect("a store")
    }

    fn options(&self, name: &str) -> Options {
        Options {
            registry: options(),
            ..Options::new(self.cache(name))
        }
    }

    /// The requests so far, such as `GET /v2/acme/tool/blobs/sha256:…`.
    fn requests(&self) -> Vec<String> {
        let log =
            fs::read_to_string(self.server.dir.path().join("log")).expect("the registry's log");
        log.lines()
            .filter_map(|line| line.split('"').find(|part| part.contains(" /v2/")))
            .filter_map(|request| request.strip_suffix(" HTTP/1.1"))
            .filter(|request| !request.ends_with(" /v2/"))
            .map(str::to_owned)
            .collect()
    }

    /// Requests for blobs, once there are so many: the registry logs a request when it is done with it, which may be
    /// after its client is.
    async fn blob_requests(&self, count: usize) -> Vec<String> {
        let of_blobs = || {
            let mut requests = self.requests();
            requests.retain(|request| request.starts_with("GET ") && request.contains("/blobs/"));
            requests
        };
        until(LOGGED, || of_blobs().len() >= count).await;
        of_blobs()
    }
}

/// More than a registry needs to log what it has done.
const LOGGED: Duration = Duration::from_secs(10);

/// Waits until something is so, for so long at most. What comes of it is for the caller to say.
async fn until(patience: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !is_so() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn architecture() -> &'static str {
    waggle_images::config::host_architecture()
}

async fn ensure(images: &Images, reference: &Reference) -> waggle_images::images::Image {
    images
        .ensure(reference, Pull::Missing, &|_| ())
        .await
        .expect("an image")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("a name")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_second_pull_asks_for_no_blob() {
    let Some(world) = world() else { return };
    let reference = world.put("acme/tool:1", &[("/a", b"a"), ("/b", &noise(100_000))]);
    let images = world.images("cache");
    let reports = Mutex::new(Vec::new());
    let report = |progress: Progress| reports.lock().unwrap().push(progress);
    let image = images
        .ensure(&reference, Pull::Missing, &report)
        .await
        .unwrap();
    assert_eq!(image.config.architecture, architecture());
    assert!(image.disk.ends_with("root.vmdk") && image.disk.is_absolute());
    // The configuration and two layers.
    assert_eq!(world.blob_requests(3).await.len(), 3);
    let pulled = world.requests().len();
    let again = ensure(&images, &reference).await;
    assert_eq!((again.key, again.manifest), (image.key, image.manifest));
    assert_eq!(world.requests().len(), pulled, "nobody was asked");
    // Another process of the same store, which has seen nothing.
    ensure(&world.images("cache"), &reference).await;
    assert_eq!(world.requests().len(), pulled);
    images
        .ensure(&reference, Pull::Always, &|_| ())
        .await
        .unwrap();
    until(LOGGED, || world.requests().len() > pulled).await;
    let requests = world.requests().split_off(pulled);
    assert!(!requests.is_empty() && requests.iter().all(|line| line.contains("/manifests/")));

    let summary = &images.list().unwrap()[0];
    assert_eq!(summary.reference, reference);
    assert!(summary.own_bytes > 100_000 && summary.shared_bytes == 0);
    let inspection = images.inspect(&reference).unwrap();
    assert_eq!(inspection.layers.len(), 2);
    assert!(inspection.in_use && inspection.layers.iter().all(|layer| layer.kept));
}

#[tokio::test]
async fn a_newer_image_replaces_and_an_unreachable_registry_does_not() {
    let Some(world) = world() else { return };
    let reference = world.put("acme/tool:1", &[("/a", b"a")]);
    let images = world.images("cache");
    let first = ensure(&images, &reference).await;
    // umoci does not write over a tag's image: another one, under the same name.
    world.layout.image("newer", architecture(), &[("/a", b"b")]);
    world.server.put(&world.layout.path, "newer", "acme/tool:1");
    assert_eq!(ensure(&images, &reference).await.key, first.key);
    let newer = images
        .ensure(&reference, Pull::Always, &|_| ())
        .await
        .unwrap();
    assert_ne!(newer.key, first.key);
    let pinned = reference.with_digest(newer.manifest);
    assert_eq!(ensure(&images, &pinned).await.key, newer.key);
    assert!(
        images
            .list()
            .unwrap()
            .iter()
            .any(|each| each.shared_bytes > 0)
    );

    let World {
        server, dir: _dir, ..
    } = world;
    drop(server);
    let kept = images
        .ensure(&reference, Pull::Always, &|_| ())
        .await
        .unwrap();
    assert_eq!(kept.key, newer.key);
    let other: Reference = reference
        .to_string()
        .replace("tool", "none")
        .parse()
        .unwrap();
    let error = images
        .ensure(&other, Pull::Always, &|_| ())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Registry(_)), "{error}");
    for (reference, pull) in [
        (other, Pull::Never),
        ("localhost/x".parse().unwrap(), Pull::Always),
    ] {
        let error = images.ensure(&reference, pull, &|_| ()).await.unwrap_err();
        assert!(matches!(error, Error::NotThere { .. }), "{error}");
    }
}

#[tokio::test]
async fn images_share_their_layers() {
    let Some(world) = world() else { return };
    let base: (&str, &[u8]) = ("/base", &noise(200_000));
    let one = world.put("acme/one:1", &[base, ("/one", b"1")]);
    // The same layer: umoci adds to a copy.
    run(
        world.server.dir.path(),
        "umoci",
        &[
            "tag",
            "--image",
            &format!("{}:acme-one-1", world.layout.path.display()),
            "two",
        ],
    );
    let content = world.server.dir.path().join("two");
    fs::write(&content, "2").unwrap();
    let image = format!("{}:two", world.layout.path.display());
    let insert = [
        "insert",
        "--rootless",
        "--image",
        &image,
        &content.display().to_string(),
        "/two",
    ];
    run(world.server.dir.path(), "umoci", &insert);
    world.server.put(&world.layout.path, "two", "acme/two:1");
    let two = world.server.reference("acme/two:1");

    let images = world.images("cache");
    ensure(&images, &one).await;
    // The configuration and two layers.
    assert_eq!(world.blob_requests(3).await.len(), 3);
    ensure(&images, &two).await;
    // Its configuration and its third layer.
    let blobs = world.blob_requests(5).await;
    assert_eq!(blobs.len(), 5, "{blobs:?}");
    for summary in images.list().unwrap() {
        assert!(summary.shared_bytes > 400_000, "{summary:?}");
        assert!(summary.own_bytes < 100_000, "{summary:?}");
    }
    assert_eq!(names(&world.cache("cache").join("layers")).len(), 6);
}

#[tokio::test]
async fn eight_processes_download_once() {
    let Some(world) = world() else { return };
    let bytes = noise(3_000_000);
    let files: Vec<(&str, &[u8])> = vec![("/a", &bytes), ("/b", &bytes[1..]), ("/c", b"c")];
    let reference = world.put("acme/tool:1", &files);
    let mut others: Vec<_> = (0..8)
        .map(|_| child::start(&world.cache("cache"), &reference))
        .collect();
    for other in &mut others {
        assert!(other.says(HOLDS));
    }
    let blobs = world.blob_requests(4).await;
    let distinct: BTreeSet<_> = blobs.iter().collect();
    assert_eq!((blobs.len(), distinct.len()), (4, 4), "{blobs:?}");
    let images = world.images("cache");
    assert!(matches!(
        images.remove(&reference),
        Err(Error::InUse { .. })
    ));
    for other in others {
        assert!(other.finish().0);
    }
    let verified = images.verify(false).unwrap();
    assert_eq!((verified.damage.len(), verified.layers), (0, 3));
    images.remove(&reference).unwrap();
}

/// Whether something of a blob has come.
fn receives(cache: &Path) -> bool {
    let partial = cache.join("partial");
    let mut names = names(&partial).into_iter();
    names.any(|name| fs::metadata(partial.join(name)).is_ok_and(|status| status.len() > 0))
}

#[tokio::test]
async fn fifty_kills_corrupt_nothing_and_leak_nothing() {
    let Some(world) = world() else { return };
    // One blob takes a while to come: some kills are aimed at that.
    let bytes = noise(3_000_000);
    let files: Vec<(&str, &[u8])> = vec![
        ("/a", &bytes),
        ("/b", &bytes[..300_000]),
        ("/c", &bytes[..200_000]),
    ];
    let reference = world.put("acme/tool:1", &files);
    let begun = Instant::now();
    // The fastest of three: a slow one would have most kills come when all is done.
    let mut takes = Duration::MAX;
    for run in 0..3 {
        let mut other = child::start(&world.cache(&format!("measured-{run}")), &reference);
        assert!(other.says(BEGINS));
        let measured = Instant::now();
        assert!(other.says(HOLDS));
        takes = takes.min(measured.elapsed());
    }
    let key = ensure(&world.images("measured-0"), &reference).await.key;

    let (mut unfinished, mut seen) = (0, BTreeSet::new());
    for round in 0..50 {
        // Each store is killed in five times, then used, so that kills also hit the resuming of what kills left.
        let name = format!("killed-{}", round / 5);
        let mut other = child::start(&world.cache(&name), &reference);
        assert!(other.says(BEGINS));
        if round % 5 == 0 {
            // The first one in a store hits the download; chance decides where the others fall.
            let cache = world.cache(&name);
            let begun = || receives(&cache) || !names(&cache.join("refs")).is_empty();
            until(Duration::from_secs(60), begun).await;
        } else {
            std::thread::sleep(takes.mul_f64(rand::random::<f64>() * 1.2));
        }
        other.kill();
        let images = world.images(&name);
        let cache = world.cache(&name);
        unfinished += usize::from(images.list().unwrap().is_empty());
        for folder in ["partial", "temp", "blobs/sha256", "layers", "roots"] {
            if !names(&cache.join(folder)).is_empty() {
                seen.insert(folder);
            }
        }
        if round % 5 < 4 && round % 2 == 0 {
            // What was left is gone on with.
            continue;
        }
        assert_eq!(ensure(&images, &reference).await.key, key);
        let verified = images.verify(false).unwrap();
        assert_eq!(verified.damage, [], "round {round}");
        assert_eq!((verified.layers, verified.roots), (3, 1));
        images.prune(false).unwrap();
        for folder in ["partial", "temp"] {
            assert_eq!(names(&cache.join(folder)), [""; 0], "round {round}");
        }
        assert_eq!(names(&cache.join("blobs/sha256")).len(), 5);
        assert_eq!(names(&cache.join("layers")).len(), 6);
        assert_eq!(names(&cache.join("roots")).len(), 1);
        if round % 5 < 4 {
            images.remove(&reference).unwrap();
            assert_eq!(names(&cache.join("blobs/sha256")), [""; 0]);
        }
    }
    eprintln!(
        "a pull takes {takes:?}; {unfinished} kills hit it, with leftovers in {seen:?}; {:?} in all",
        begun.elapsed()
    );
    assert!(unfinished > 5, "only {unfinished} kills hit a pull");
    assert!(seen.contains("partial"), "{seen:?}");
}

#[tokio::test]
async fn a_dropped_pull_ends_and_the_next_goes_on_with_it() {
    let Some(world) = world() else { return };
    // More than all the buffers on the way hold.
    let bytes = noise(24_000_000);
    let reference = world.put("acme/tool:1", &[("/a", &bytes)]);
    let images = world.images("cache");
    let partial = world.cache("cache").join("partial");
    let dropped = async {
        // As soon as something has come.
        loop {
            let begun = names(&partial).iter().any(|name| {
                fs::metadata(partial.join(name)).is_ok_and(|status| status.len() > 100_000)
            });
            if begun {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = ensure(&images, &reference) => panic!("it was to be dropped"),
        () = dropped => {}
    }
    // All its threads end by themselves: a sweep finds nobody at work.
    let store = images.store().clone();
    let sweep =
        tokio::task::spawn_blocking(move || store.sweep(Duration::from_secs(5)).map(|_| ()));
    sweep.await.unwrap().unwrap();
    assert_eq!(names(&world.cache("cache").join("temp")), [""; 0]);
    ensure(&images, &reference).await;
    let log = || fs::read_to_string(world.server.dir.path().join("log")).unwrap();
    let went_on = || log().contains("HTTP/1.1\" 206 ");
    until(LOGGED, went_on).await;
    assert!(went_on(), "it began anew");
    assert_eq!(images.verify(false).unwrap().damage, []);
}

#[tokio::test]
async fn damage_is_mended_by_the_next_use() {
    let Some(world) = world() else { return };
    let bytes = noise(50_000);
    let reference = world.put("acme/tool:1", &[("/a", &bytes), ("/b", b"b")]);
    let images = world.images("cache");
    let key = ensure(&images, &reference).await.key;
    let inspection = images.inspect(&reference).unwrap();
    let cache = world.cache("cache");
    let blob = cache
        .join("blobs/sha256")
        .join(inspection.layers[0].digest.hex());
    let data = cache
        .join("layers")
        .join(format!("{}.data", inspection.layers[0].diff_id.hex()));
    let config = cache
        .join("blobs/sha256")
        .join(inspection.config_digest.hex());
    // The layer is cut off and its blob has a flipped bit, so neither can be made of the other.
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for damaged in [
        vec![&blob, &data],
        vec![&config],
        vec![&config, &blob, &data],
    ] {
        for path in damaged {
            if *path == data {
                fs::remove_file(path).unwrap();
                fs::write(path, b"").unwrap();
            } else {
                flip(path);
            }
        }
        assert_eq!(ensure(&images, &reference).await.key, key);
        assert_eq!(images.verify(false).unwrap().damage, []);
    }
    flip(&data);
    assert_eq!(images.verify(true).unwrap().damage.len(), 1);
    assert_eq!(ensure(&images, &reference).await.key, key);
    assert_eq!(images.verify(false).unwrap().damage, []);
}

#[tokio::test]
async fn what_another_process_holds_is_neither_evicted_nor_removed() {
    let Some(world) = world() else { return };
    let bytes = noise(300_000);
    let one = world.put("acme/one:1", &[("/a", &bytes)]);
    let two = world.put("acme/two:1", &[("/b", &bytes[1..])]);
    let mut other = child::start(&world.cache("cache"), &one);
    assert!(other.says(HOLDS));
    let options = Options {
        max_bytes: Some(700_000),
        max_age: Some(Duration::ZERO),
        ..world.options("cache")
    };
    let images = Images::open(options).unwrap();
    assert_eq!(images.prune(true).unwrap().images, [""; 0]);
    assert!(matches!(images.remove(&one), Err(Error::InUse { .. })));
    let held = ensure(&images, &two).await;
    let there = || -> Vec<String> {
        images
            .list()
            .unwrap()
            .iter()
            .map(|each| each.reference.to_string())
            .collect()
    };
    assert_eq!(there(), [one.to_string(), two.to_string()], "both are used");
    drop(held);
    evict_until(&images, || there() == [one.to_string()]).await;
    assert_eq!(there(), [one.to_string()]);
    assert_eq!(images.verify(false).unwrap().damage, []);
    other.kill();
    evict_until(&images, || there().is_empty()).await;
    assert_eq!(there(), [""; 0]);
    for folder in ["blobs/sha256", "layers", "roots", "refs"] {
        assert_eq!(
            names(&world.cache("cache").join(folder)),
            [""; 0],
            "{folder}"
        );
    }
}

/// Evicts until it is so: a process that another test starts has copies of this one's locks for a moment, and evicting
/// does not wait.
async fn evict_until(images: &Images, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        images.evict().await;
        if is_so() || Instant::now() > end {
            return;
        }
    }
}

/// A small file system of its own; gone with the value.
struct Disk(PathBuf);

impl Disk {
    fn new(at: PathBuf, bytes: u64) -> Option<Self> {
        fs::create_dir(&at).expect("a folder");
        let mounted = std::process::Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={bytes},mode=0700"),
                "tmpfs",
            ])
            .arg(&at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        support::skip("a file system cannot be mounted here");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmount = |flags: &[&str]| {
            let mut command = std::process::Command::new("umount");
            let ended = command.args(flags).arg(&self.0).output();
            ended.is_ok_and(|output| output.status.success())
        };
        // A process that another test starts has copies of this one's files for a moment.
        for _ in 0..50 {
            if unmount(&[]) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let gone = unmount(&["-l"]);
        assert!(
            gone || std::thread::panicking(),
            "{} stays mounted",
            self.0.display()
        );
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let Some(world) = world() else { return };
    let reserve = waggle_images::store::RESERVE;
    let Some(disk) = Disk::new(world.cache("disk"), reserve + (4 << 20)) else {
        return;
    };
    let random = noise(5_000_000);
    // What does not fit as it is transferred, and what does not fit once it is unpacked.
    let large = world.put("acme/large:1", &[("/a", &random)]);
    let zeros = vec![b'z'; 8 << 20];
    let unpacked = world.put(
        "acme/unpacked:1",
        &[("/a", &random[..2_000_000]), ("/z", &zeros)],
    );
    let small = world.put("acme/small:1", &[("/a", &random[..500_000])]);
    let images = world.images("disk");
    ensure(&images, &small).await;
    for reference in [large, unpacked] {
        let error = images
            .ensure(&reference, Pull::Missing, &|_| ())
            .await
            .unwrap_err();
        let Error::Store(StoreError::NoSpace { dir, needed, free }) = &error else {
            panic!("{error:?}")
        };
        assert!(*dir == disk.0 && needed > free, "{error}");
        assert!(error.to_string().contains("waggle image prune"), "{error}");
        assert_eq!(names(&disk.0.join("temp")), [""; 0]);
        images.prune(false).unwrap();
        assert_eq!(names(&disk.0.join("partial")), [""; 0]);
        assert_eq!(names(&disk.0.join("layers")).len(), 2);
        assert_eq!(images.verify(false).unwrap().damage, []);
    }
    // Without the reserve, too: the file system itself has no more room, in the middle of a layer.
    let store = images.store().clone().with_reserve(0);
    let visit = store.visit().await.unwrap();
    let stop = Stop::default();
    let tar = {
        let mut header = tar::Header::new_gnu();
        header.set_size(reserve + (8 << 20));
        header.set_mode(0o644);
        let mut builder = tar::Builder::new(Vec::new());
        let content = std::io::repeat(b'z').take(header.size().unwrap());
        builder.append_data(&mut header, "z", content).unwrap();
        builder.into_inner().unwrap()
    };
    let blob = visit
        .put_blob(&zstd::encode_all(&tar[..], 1).unwrap())
        .unwrap();
    let conversion = Conversion {
        blob,
        diff_id: Some(Digest::of(&tar)),
        compression: None,
    };
    let quota = Quota::new(&Limits::default());
    let error = visit
        .make_layer(conversion, &quota, &stop)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert_eq!(names(&disk.0.join("temp")), [""; 0]);

    let filler = disk.0.join("filler");
    let full = fs::write(&filler, &tar).unwrap_err();
    assert!(StoreError::is_full(&full), "{full}");
    let error = visit.put_blob(&random).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    let expected = Expected {
        digest: None,
        size: None,
        limit: 1 << 30,
    };
    let copied = visit.copy_blob(&random[1..], expected, Path::new("noise"), &stop, &|_| ());
    let error = copied.unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
    assert_eq!(names(&disk.0.join("temp")), [""; 0]);
    drop(visit);
    fs::remove_file(&filler).unwrap();
    images.prune(false).unwrap();
    assert_eq!(images.verify(false).unwrap().damage, []);
    ensure(&images, &small).await;
}

#[tokio::test]
async fn progress_is_told_at_a_bounded_rate() {
    let Some(world) = world() else { return };
    let reference = world.put("acme/tool:1", &[("/a", &noise(6_000_000))]);
    let images = world.images("cache");
    let reports = Mutex::new(Vec::new());
    let report = |progress: Progress| reports.lock().unwrap().push(progress);
    let begun = Instant::now();
    images
        .ensure(&reference, Pull::Missing, &report)
        .await
        .unwrap();
    let most = begun.elapsed().as_millis() / 100 + 1;
    let reports = reports.into_inner().unwrap();
    assert!(reports.len() as u128 <= most, "{}", reports.len());
    for progress in &reports {
        assert!(progress.done <= progress.total, "{progress:?}");
    }
    let download = |progress: &&Progress| progress.stage == Stage::Download;
    let downloads: Vec<_> = reports
        .iter()
        .filter(download)
        .map(|each| each.done)
        .collect();
    assert!(downloads.is_sorted(), "{downloads:?}");
}
