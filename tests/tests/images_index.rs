// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The index of images from both ends: what `tools/image_index.py` writes is what the crate reads.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use waggle_images::ImageStore;

fn index(arguments: &[&str]) -> Output {
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/image_index.py");
    let output = Command::new("python3").arg(tool).args(arguments).output();
    output.expect("python3 runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn registries_are_recorded_with_an_image_and_replaced() {
    let folder = TempDir::new().expect("a temporary folder");
    let images = folder.path();
    let (image, records) = (images.join("new"), images.join("records"));
    fs::write(&image, b"an image").expect("written");
    fs::write(
        &records,
        "npm=https://n.example/\n\napt=http://a.example/debian/\napt=http://a.example/debian/\n",
    )
    .expect("written");
    let put = index(&[
        "put",
        text(images),
        "node",
        "key",
        text(&image),
        "agent",
        text(&records),
    ]);
    assert!(put.status.success(), "{put:?}");
    let store = ImageStore::open(images.to_owned()).expect("an index");
    let expected = ["apt=http://a.example/debian/", "npm=https://n.example/"];
    assert_eq!(store.registries().expect("registries"), expected);

    // An image that an older ./dev built has none, until it is asked.
    let path = images.join("index.json");
    let mut old: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    old["images"]["node"]
        .as_object_mut()
        .expect("an entry")
        .remove("registries");
    fs::write(&path, old.to_string()).expect("written");
    assert!(store.registries().expect("registries").is_empty());
    let record = || index(&["record", text(images), "node", text(&records)]);
    assert!(record().status.success());
    assert_eq!(store.registries().expect("registries"), expected);

    fs::write(&records, "npm=http://localhost:8081/\n").expect("written");
    assert!(record().status.success());
    assert_eq!(
        store.registries().expect("registries"),
        ["npm=http://localhost:8081/"]
    );
}

#[test]
fn what_is_no_registry_is_not_recorded() {
    let folder = TempDir::new().expect("a temporary folder");
    let images = folder.path();
    let (image, records) = (images.join("new"), images.join("records"));
    for bad in [
        "npm",
        "npm=ftp://x/",
        "npm=https://me:secret@x/",
        "=https://x/",
        "npm=https://x/ y",
        "N=http://x/",
    ] {
        fs::write(&image, b"an image").expect("written");
        fs::write(&records, bad).expect("written");
        let put = index(&[
            "put",
            text(images),
            "node",
            "key",
            text(&image),
            "agent",
            text(&records),
        ]);
        assert!(!put.status.success(), "{bad}");
        let complaint = String::from_utf8_lossy(&put.stderr).into_owned();
        assert!(complaint.contains(bad), "{complaint}");
        assert!(!images.join("index.json").exists(), "{bad}");
    }
}
