// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the tests of images make them with: a real registry, our own image in it, layers upon that, and settings of a
//! server whose store is empty.

// Each test program has the whole of it and uses its part.
#![allow(dead_code, reason = "every test program compiles all of it")]

#[path = "../../../images/tests/support/mod.rs"]
pub(crate) mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use support::{registry::Registry, run};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;
use tokio::process::Command;
use waggle_tests::{Scene, Settings, settings};

/// What these tests need of Debian's packages.
pub(crate) const TOOLS: [&str; 3] = ["docker-registry", "skopeo", "umoci"];

/// When everything in these layers was changed last.
pub(crate) const MTIME: u64 = 1_000_000_000;

/// An archive in the making.
pub(crate) type Layer = Builder<Vec<u8>>;

/// An empty one.
pub(crate) fn layer() -> Layer {
    Builder::new(Vec::new())
}

pub(crate) fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(MTIME);
    header
}

pub(crate) fn put(layer: &mut Layer, path: impl AsRef<Path>, mode: u32, content: &[u8]) {
    let mut header = header(EntryType::Regular, content.len() as u64, mode);
    let appended = layer.append_data(&mut header, path, content);
    appended.expect("appended");
}

pub(crate) fn link(layer: &mut Layer, kind: EntryType, path: &str, target: &str) {
    let mut header = header(kind, 0, 0o777);
    let appended = layer.append_link(&mut header, path, target);
    appended.expect("appended");
}

pub(crate) fn folder(layer: &mut Layer, path: &str) {
    let mut header = header(EntryType::Directory, 0, 0o755);
    let appended = layer.append_data(&mut header, path, &[][..]);
    appended.expect("appended");
}

/// Our own image, pushed by `waggle image push`, as skopeo gets it back: a layout, and `python` in it.
pub(crate) fn our_image(registry: &Registry) -> PathBuf {
    let dir = registry.dir.path();
    let waggle = settings::path(settings::BIN).display().to_string();
    let plain = format!("{}/waggle/python:1", registry.address);
    let push = ["image", "push", "localhost/waggle-python", &plain];
    run(dir, &waggle, &push);
    let layout = dir.join("ours");
    let copy = [
        "copy",
        "--insecure-policy",
        "--quiet",
        "--src-tls-verify=false",
        &registry.skopeo("waggle/python:1"),
        &format!("oci:{}:python", layout.display()),
    ];
    run(dir, "skopeo", &copy);
    layout
}

/// Puts a layer upon the image `tag` of a layout, by umoci.
pub(crate) fn add_layer(layout: &Path, tag: &str, layer: Layer) {
    let dir = layout.parent().expect("a folder");
    let file = dir.join("layer.tar");
    fs::write(&file, layer.into_inner().expect("a layer")).expect("a layer");
    let (image, file) = (image_of(layout, tag), file.display().to_string());
    let arguments = ["raw", "add-layer", "--image", &image, &file];
    run(dir, "umoci", &arguments);
}

/// Changes the configuration of the image `tag` of a layout, by umoci.
pub(crate) fn configure(layout: &Path, tag: &str, changes: &[&str]) {
    let (dir, image) = (layout.parent().expect("a folder"), image_of(layout, tag));
    let arguments = [&["config", "--image", &image], changes].concat();
    run(dir, "umoci", &arguments);
}

fn image_of(layout: &Path, tag: &str) -> String {
    format!("{}:{tag}", layout.display())
}

/// The layers of the one image of a layout, the lowest first: what the manifest calls each, and its file.
pub(crate) fn layers(layout: &Path) -> Vec<(String, PathBuf)> {
    let json = |path: PathBuf| -> Value {
        serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON")
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let index = json(layout.join("index.json"));
    let manifest = json(blob(&index["manifests"][0]));
    let layers = manifest["layers"].as_array().expect("a list").iter();
    layers
        .map(|layer| {
            let media_type = layer["mediaType"].as_str().expect("a type");
            (media_type.to_owned(), blob(layer))
        })
        .collect()
}

/// What a file of an image's layers holds, by GNU tar.
pub(crate) fn content(layout: &Path, path: &str) -> Vec<u8> {
    let script =
        "for layer in \"$@\"; do tar -xzOf \"$layer\" \"$0\" 2>/dev/null && exit; done; exit 1";
    // The highest that has it counts.
    let files: Vec<_> = layers(layout)
        .iter()
        .rev()
        .map(|(_, file)| file.display().to_string())
        .collect();
    let mut arguments = vec!["-c", script, path];
    arguments.extend(files.iter().map(String::as_str));
    run(layout, "sh", &arguments).stdout
}

/// Settings of a server whose store is empty, and whose images are all `odd/python:1` of `registry`. Callers may name
/// others that are there.
pub(crate) fn settings_of(registry: &Registry, store: &TempDir) -> Settings {
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

/// What a command printed that must have worked.
pub(crate) async fn printed(mut command: Command) -> String {
    let output = command.output().await.expect("it starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Creates an environment of an image.
pub(crate) async fn create_of(scene: &Scene, runtime: &str, image: &str) -> Value {
    let arguments = json!({"runtime": runtime, "image": image});
    let created = scene.client.call("create_environment", arguments).await;
    created.done()
}

/// The id that such a result names.
pub(crate) fn id_of(created: &Value) -> String {
    created["environment_id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

/// Runs code as root, and gives what it printed, which is JSON.
pub(crate) async fn as_root(scene: &Scene, environment: &str, code: &str) -> Value {
    let arguments = json!({"code": code, "user": "root"});
    let result = scene.call(environment, "execute", arguments).await.done();
    assert_eq!(result["exit_code"], 0, "{result}");
    let printed = result["stdout"].as_str().expect("a text");
    serde_json::from_str(printed).expect("JSON")
}
