// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Environments made of images from a real registry, which tools that are not ours made or changed: what the
//! guest's kernel sees of their layers, what of their configuration programs get, and what is refused.

#![allow(
    clippy::indexing_slicing,
    reason = "JSON gives null for what is absent; anything else that is missing fails the test"
)]

#[path = "../../images/tests/support/mod.rs"]
mod support;

use std::{fs, fs::File, os::unix::fs::MetadataExt as _, path::PathBuf};

use serde_json::{Value, json};
use support::{
    have,
    image::Layout,
    registry::{Registry, Variant},
    run,
};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;
use waggle_images::{
    Images,
    images::{Options, Pull},
};
use waggle_tests::{Scene, Settings, machines, settings};

/// What these tests need of Debian's packages.
const TOOLS: [&str; 3] = ["docker-registry", "skopeo", "umoci"];

/// A registry with `odd/python:1`: our own image, pushed by `waggle image push`, and upon it two layers with what layers
/// may have, and another configuration.
fn odd_image() -> Registry {
    let registry = Registry::start(Variant::Plain);
    let dir = registry.dir.path();
    let waggle = settings::path(settings::BIN).display().to_string();
    let plain = format!("{}/waggle/python:1", registry.address);
    let push = ["image", "push", "localhost/waggle-python", &plain];
    run(dir, &waggle, &push);
    let layout = dir.join("odd");
    let image = format!("{}:odd", layout.display());
    let copy = [
        "copy",
        "--insecure-policy",
        "--quiet",
        "--src-tls-verify=false",
        &registry.skopeo("waggle/python:1"),
        &format!("oci:{image}"),
    ];
    run(dir, "skopeo", &copy);
    for (name, layer) in [("lower.tar", lower()), ("upper.tar", upper())] {
        let file = dir.join(name);
        fs::write(&file, layer).expect("a layer");
        let file = file.display().to_string();
        run(
            dir,
            "umoci",
            &["raw", "add-layer", "--image", &image, &file],
        );
    }
    let config = [
        "config",
        "--image",
        &image,
        "--config.env=GREETING=hello from the image",
        "--config.env=PATH=/opt/bin:/home/sandbox/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "--config.workingdir=/opt/work",
        "--config.user=1234:1234",
        "--config.entrypoint=/bin/false",
    ];
    run(dir, "umoci", &config);
    registry.put(&layout, "odd", "odd/python:1");
    registry
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(1_000_000_000);
    header
}

fn put(layer: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) {
    let mut header = header(EntryType::Regular, content.len() as u64, mode);
    let appended = layer.append_data(&mut header, path, content);
    appended.expect("appended");
}

fn link(layer: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, target: &str) {
    let mut header = header(kind, 0, 0o777);
    let appended = layer.append_link(&mut header, path, target);
    appended.expect("appended");
}

fn folder(layer: &mut Builder<Vec<u8>>, path: &str) {
    let mut header = header(EntryType::Directory, 0, 0o755);
    let appended = layer.append_data(&mut header, path, &[][..]);
    appended.expect("appended");
}

/// What the upper layer changes.
fn lower() -> Vec<u8> {
    let mut layer = Builder::new(Vec::new());
    for path in ["opt/work/", "opt/bin/", "opt/hidden/", "opt/to-file/"] {
        folder(&mut layer, path);
    }
    put(&mut layer, "opt/gone", 0o644, b"of the lower layer");
    put(&mut layer, "opt/hidden/one", 0o644, b"of the lower layer");
    put(
        &mut layer,
        "opt/to-file/below",
        0o644,
        b"of the lower layer",
    );
    link(&mut layer, EntryType::Symlink, "opt/to-folder", "/etc");
    put(
        &mut layer,
        "opt/bin/greet",
        0o755,
        b"#!/bin/sh\necho \"$GREETING\"\n",
    );
    layer.into_inner().expect("a layer")
}

fn upper() -> Vec<u8> {
    let mut layer = Builder::new(Vec::new());
    put(&mut layer, "opt/.wh.gone", 0, b"");
    put(&mut layer, "opt/hidden/two", 0o644, b"of the upper layer");
    put(&mut layer, "opt/hidden/.wh..wh..opq", 0, b"");
    put(&mut layer, "opt/to-file", 0o644, b"a file now");
    folder(&mut layer, "opt/to-folder/");
    put(&mut layer, "opt/to-folder/mine", 0o644, b"not in /etc");
    put(
        &mut layer,
        "opt/large",
        0o604,
        &vec![b'x'; 3 * 1024 * 1024 + 17],
    );
    link(&mut layer, EntryType::Link, "opt/also-large", "opt/large");
    put(
        &mut layer,
        &format!("opt/{}", "long-".repeat(50)),
        0o644,
        b"long",
    );
    put(&mut layer, "opt/set-uid", 0o4755, b"#!/bin/sh\n");
    let mut fifo = header(EntryType::Fifo, 0, 0o600);
    let appended = layer.append_data(&mut fifo, "opt/pipe", &[][..]);
    appended.expect("appended");
    let mut sparse = header(EntryType::Regular, 0, 0o644);
    let holes = TempDir::new().expect("a folder");
    let path = holes.path().join("holes");
    let file = File::create(&path).expect("a file");
    file.set_len(5 << 30).expect("a hole");
    std::os::unix::fs::FileExt::write_all_at(&file, b"honey", 4 << 30).expect("written");
    drop(file);
    let mut file = File::open(&path).expect("there");
    sparse.set_size(0);
    layer.sparse(true);
    layer.append_file("opt/holes", &mut file).expect("appended");
    layer.into_inner().expect("a layer")
}

/// What is in `/opt`, as the guest's kernel has it.
const LOOK: &str = r#"
import json, os, stat, sys
def text(path):
    with open(path, "rb") as file:
        return file.read().decode()
def about(path):
    status = os.lstat(path)
    return [stat.filemode(status.st_mode), status.st_size, status.st_nlink, int(status.st_mtime)]
with open("/opt/holes", "rb") as file:
    file.seek((4 << 30) - 3)
    around = file.read(11)
with open("/opt/large", "rb") as file:
    large = file.read()
print(json.dumps({
    "names": sorted(name for name in os.listdir("/opt") if not name.startswith("long-")),
    "hidden": os.listdir("/opt/hidden"),
    "to_file": text("/opt/to-file"),
    "to_folder": os.listdir("/opt/to-folder"),
    "etc": os.path.exists("/etc/mine"),
    "long": [text("/opt/" + "long-" * 50)],
    "large": [len(large), large.count(b"x")] + about("/opt/large"),
    "same": os.path.samefile("/opt/large", "/opt/also-large"),
    "set_uid": about("/opt/set-uid"),
    "pipe": about("/opt/pipe")[0],
    "holes": [os.path.getsize("/opt/holes"), around.decode()],
    "greeting": os.environ["GREETING"],
    "greet": os.popen("greet").read(),
    "cwd": os.getcwd(),
    "user": os.getuid(),
}))
"#;

/// Settings of a server whose store is empty, which may use all of `registry`.
fn settings_of(registry: &Registry, store: &TempDir) -> Settings {
    let image = format!("{}/odd/python:1", registry.address);
    let mut settings = Settings::default()
        .with(settings::IMAGE_CACHE_DIR, store.path())
        .with("WAGGLE_NETWORK", "none")
        .with("WAGGLE_IMAGE_ALLOW", format!("{}/**", registry.address));
    for runtime in ["PYTHON", "NODE", "SHELL"] {
        settings = settings.with(&format!("WAGGLE_IMAGE_{runtime}"), &image);
    }
    settings
}

#[tokio::test]
async fn what_layers_hold_is_what_the_guest_sees() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = odd_image();
    let store = TempDir::new().expect("a folder");
    let scene = Scene::with(settings_of(&registry, &store)).await;
    let image = format!("{}/odd/python:1", registry.address);
    let arguments = json!({"runtime": "python", "image": image});
    let created = scene.client.call("create_environment", arguments).await;
    let created = created.done();
    assert_eq!(created["image"], image);
    let digest = created["image_digest"].as_str().expect("a digest");
    assert!(digest.starts_with("sha256:"), "{created}");
    assert_eq!(created["image_user"], "1234");
    let id = created["environment_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let seen: Value = serde_json::from_str(&scene.output(&id, LOOK).await).expect("JSON");
    let large = 3 * 1024 * 1024 + 17;
    let expected = json!({
        "names": ["also-large", "bin", "hidden", "holes", "large", "pipe", "set-uid", "to-file", "to-folder", "work"],
        "hidden": ["two"],
        "to_file": "a file now",
        "to_folder": ["mine"],
        "etc": false,
        "long": ["long"],
        "large": [large, large, "-rw----r--", large, 2, 1_000_000_000],
        "same": true,
        "set_uid": ["-rwsr-xr-x", 10, 1, 1_000_000_000],
        "pipe": "prw-------",
        "holes": [5_u64 << 30, "\0\0\0honey\0\0\0"],
        "greeting": "hello from the image",
        "greet": "hello from the image\n",
        "cwd": "/opt/work",
        "user": 1000,
    });
    assert_eq!(seen, expected);
    // The second one needs no registry any more.
    drop(registry);
    scene.destroy(&id).await;
    let again = scene.create("python").await;
    assert_eq!(scene.output(&again, "print(6 * 7)").await, "42\n");
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

/// An image of one file: the agent is the one that the server carries, and there is nothing to run programs with.
#[tokio::test]
async fn an_image_without_an_agent_or_a_shell_still_has_files() {
    if !have(&TOOLS) {
        return;
    }
    let _permit = machines(1).await;
    let registry = Registry::start(Variant::Plain);
    let layout = Layout::new(registry.dir.path(), "bare");
    layout.image("bare", "amd64", &[("/etc/os-release", b"ID=bare\n")]);
    registry.put(&layout.path, "bare", "acme/bare:1");
    let store = TempDir::new().expect("a folder");
    let scene = Scene::with(settings_of(&registry, &store)).await;
    let image = format!("{}/acme/bare:1", registry.address);
    let arguments = json!({"runtime": "shell", "image": image});
    let created = scene.client.call("create_environment", arguments).await;
    let created = created.done();
    let id = created["environment_id"].as_str().expect("an id");
    let read = json!({"path": "/etc/os-release"});
    let read = scene.call(id, "read_file", read).await.done();
    assert_eq!(read["content"], "ID=bare\n", "{read}");
    let run = json!({"code": "echo hello"});
    let text = scene.call(id, "execute", run).await.refused();
    assert!(text.contains("'sh' not found"), "{text}");
    scene.destroy(id).await;
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
