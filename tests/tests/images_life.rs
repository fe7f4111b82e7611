// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The life of an image beside environments: what a caller hears of its fetching, which are refused, what a second
//! environment costs, and what stays for as long as one runs.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

mod workshop;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};
use waggle_images::{
    Images,
    images::{Options, Pull},
};
use waggle_tests::{Scene, machines, poll::until, settings};
use workshop::{
    TOOLS, add_layer, layer, our_image, printed, put, settings_of,
    support::{
        have,
        image::{Layout, noise},
        registry::{Registry, Variant},
    },
};

/// How long a client waits for an environment.
const PATIENCE: Duration = Duration::from_secs(240);

/// Bytes that pass a [`Gate`] on each connection before it is opened: more than manifest and configuration have, less
/// than the layer.
const PASSES: u64 = 256 * 1024;

/// A way to a registry, on which a layer gets stuck until the gate is opened.
struct Gate {
    /// `127.0.0.1:PORT`.
    address: String,
    is_open: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Gate {
    async fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let (is_open, opened) = watch::channel(false);
        let beyond = registry.address.clone();
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&beyond).await.expect("a registry");
                let (mut from_client, to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                tokio::spawn(pass(from_server, to_client, opened.clone()));
                tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
            }
        });
        Self {
            address,
            is_open,
            serving,
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Either end may close at any time.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_open: watch::Receiver<bool>,
) -> std::io::Result<()> {
    copy(&mut (&mut from).take(PASSES), &mut to).await?;
    to.flush().await?;
    let _ = is_open.wait_for(|open| *open).await;
    copy(&mut from, &mut to).await.map(drop)
}

/// A client that asked for progress is told how far the fetching is, while it goes on.
#[tokio::test]
async fn a_client_hears_how_far_the_image_is() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = Registry::start(Variant::Plain);
    let layout = Layout::new(registry.dir.path(), "large");
    layout.image("large", "amd64", &[("/large", &noise(8 << 20))]);
    registry.put(&layout.path, "large", "acme/large:1");
    let gate = Gate::before(&registry).await;
    let store = TempDir::new().expect("a folder");
    let settings = settings_of(&registry, &store);
    let settings = settings.with("WAGGLE_IMAGE_ALLOW", format!("{}/**", gate.address));
    let scene = Scene::with(settings).await;
    let image = format!("{}/acme/large:1", gate.address);
    let arguments = json!({"runtime": "shell", "image": image});
    let client = &scene.client;
    let call = client.begin("create_environment", arguments, PATIENCE, true);
    let call = call.await;
    let id = call.id();
    until("the client hears of the fetching", async || {
        let reports = client.progress(id);
        let mut told = reports.iter();
        let fetching = "fetching the image: 0 of 8 MiB";
        told.any(|report| report.message.ends_with(fetching))
            .then_some(())
    })
    .await;
    gate.is_open.send_replace(true);
    let created = call.answer(PATIENCE).await.expect("a result").done();
    assert_eq!(created["status"], "running");
    let reports = client.progress(id);
    assert!(reports.iter().all(|report| !report.late), "{reports:?}");
    let parts = ["looking for", "fetching", "preparing", "booting"];
    let order: Vec<_> = reports
        .iter()
        .map(|report| parts.iter().position(|part| report.message.contains(part)))
        .collect();
    assert!(
        order.iter().all(Option::is_some) && order.is_sorted(),
        "{reports:?}"
    );
    scene.close().await;
}

#[tokio::test]
async fn an_image_that_nobody_allowed_is_refused() {
    let scene = Scene::open().await;
    let refused = async |image: &str| {
        let arguments = json!({"runtime": "python", "image": image});
        let call = scene.client.call("create_environment", arguments);
        call.await.refused()
    };
    let text = refused("python:3.13").await;
    assert!(
        text.contains("WAGGLE_IMAGE_ALLOW") && text.contains("docker.io/library/python:3.13"),
        "{text}"
    );
    let text = refused("Not A Name").await;
    assert!(text.contains("Not A Name"), "{text}");
    assert!(scene.list().await.is_empty());
    scene.close().await;
}

/// Bytes of a file that nobody read before the image was to go.
const LATE: usize = 8 << 20;

/// What an environment uses stays, whoever wants it gone, and goes when the environment is gone.
#[tokio::test]
async fn an_image_in_use_stays() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = Registry::start(Variant::Plain);
    let layout = our_image(&registry);
    let mut late = layer();
    put(&mut late, "opt/late", 0o644, &[b'z'; LATE]);
    add_layer(&layout, "python", late);
    registry.put(&layout, "python", "odd/python:1");
    let store = TempDir::new().expect("a folder");
    let settings = settings_of(&registry, &store);
    let scene = Scene::with(settings.clone()).await;
    let image = format!("{}/odd/python:1", registry.address);
    let id = scene.create("python").await;
    drop(registry);
    let data = TempDir::new().expect("a folder");
    let command = |arguments: &[&str]| settings.command(arguments, data.path());
    let images = async |arguments: &[&str]| -> Value {
        let text = printed(command(arguments)).await;
        serde_json::from_str(&text).expect("JSON")
    };
    let pruned = images(&["image", "prune", "--all", "--json"]).await;
    assert_eq!(pruned["images"], json!([]), "{pruned}");
    let removed = command(&["image", "rm", &image]).output().await;
    let removed = removed.expect("it runs");
    let complaint = String::from_utf8_lossy(&removed.stderr);
    assert!(!removed.status.success(), "{removed:?}");
    let expected = format!("{image} is used by an environment: destroy that first");
    assert!(complaint.contains(&expected), "{complaint}");
    let listed = images(&["image", "ls", "--json"]).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    let read = "text = open('/opt/late').read(); print(len(text), text.count('z'))\nimport decimal, sqlite3";
    assert_eq!(scene.output(&id, read).await, format!("{LATE} {LATE}\n"));

    scene.destroy(&id).await;
    let pruned = images(&["image", "prune", "--all", "--json"]).await;
    assert_eq!(pruned["images"], json!([image]), "{pruned}");
    assert_eq!(images(&["image", "ls", "--json"]).await, json!([]));
    let left: u64 = files(store.path()).values().sum();
    assert!(left < 64 * 1024, "{:#?}", files(store.path()));
    scene.close().await;
}

/// The files below a folder, and how long they are.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("there");
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.path(), metadata.len());
            }
        }
    }
    found
}

/// Most bytes on the disk of a machine that did little: its file system's own, logs and sockets. The image has some
/// hundred MiB.
const OWN: u64 = 64 << 20;

/// Another environment of an image adds nothing to the store, and little beside it.
#[tokio::test]
async fn creating_an_environment_copies_nothing() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(2).await;
    let registry = Registry::start(Variant::Plain);
    registry.put(&our_image(&registry), "python", "odd/python:1");
    let store = TempDir::new().expect("a folder");
    let scene = Scene::with(settings_of(&registry, &store)).await;
    let first = scene.create("python").await;
    let before = files(store.path());
    assert!(before.values().sum::<u64>() > 2 * OWN, "{before:#?}");
    let second = scene.create("python").await;
    for id in [&first, &second] {
        assert_eq!(scene.output(id, "print(6 * 7)").await, "42\n");
    }
    assert_eq!(files(store.path()), before);
    let run = scene.server.run_files();
    for id in [first, second] {
        let own = run
            .iter()
            .filter(|path| path.iter().any(|part| *part == *id));
        let blocks: u64 = own
            .map(|path| fs::symlink_metadata(path).expect("there").blocks())
            .sum();
        assert!(
            (1..OWN).contains(&(blocks * 512)),
            "{blocks} blocks: {run:#?}"
        );
    }
    scene.close().await;
}

/// The files that an image's disk is made of.
async fn pieces(image: &str) -> Vec<PathBuf> {
    let folder = settings::path(settings::IMAGE_CACHE_DIR);
    let images = Images::open(Options::new(folder)).expect("a store");
    let image = image.parse().expect("a reference");
    let image = images.ensure(&image, Pull::Never, &|_| ()).await;
    let disk = image.expect("it is there").disk;
    let text = fs::read_to_string(&disk).expect("a descriptor");
    let folder = disk.parent().expect("a folder");
    let extents = text.lines().filter(|line| line.starts_with("RW "));
    let names = extents.map(|line| line.split('"').nth(1).expect("a name"));
    names.map(|name| folder.join(name)).collect()
}

/// Python and Node lie upon one base, once on the disk and once in the page cache, and both run at once.
#[tokio::test]
async fn python_and_node_share_their_base() {
    let python = pieces("localhost/waggle-python").await;
    let node = pieces("localhost/waggle-node").await;
    let identity = |path: &PathBuf| {
        let metadata = fs::metadata(path).expect("there");
        (metadata.dev(), metadata.ino(), metadata.len())
    };
    let shared: Vec<_> = python
        .iter()
        .filter(|path| {
            let one = identity(path);
            node.iter().any(|other| identity(other) == one)
        })
        .collect();
    // The base and the guest's programs.
    assert_eq!(shared.len(), 2, "{python:?} {node:?}");
    let bytes: u64 = shared.iter().map(|path| identity(path).2).sum();
    assert!(bytes > 50 << 20, "{bytes} bytes are shared");
    let _permit = machines(2).await;
    let scene = Scene::open().await;
    let (python, node) = tokio::join!(scene.create("python"), scene.create("node"));
    assert_eq!(scene.output(&python, "print(6 * 7)").await, "42\n");
    assert_eq!(scene.output(&node, "console.log(6 * 7)").await, "42\n");
    scene.close().await;
}
