// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images from files that skopeo and umoci wrote; and out again to a registry.

mod child;
mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use child::BEGINS;
use support::image::{Layout, index, noise};
use support::registry::{Registry as Server, Variant, options};
use support::{have, run};
use waggle_images::config::ConfigError;
use waggle_images::images::{Error, Images, Options, Pull};
use waggle_images::source::SourceError;
use waggle_images::store::{Provenance, Record, StoreError};
use waggle_images::{Digest, Reference};

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci"];

#[test]
fn a_process_of_its_own() {
    child::run(options());
}

fn images(dir: &Path) -> Images {
    Images::open(Options {
        registry: options(),
        ..Options::new(dir.to_owned())
    })
    .expect("a store")
}

fn reference(text: &str) -> Reference {
    text.parse().expect("a reference")
}

async fn key(images: &Images, name: &Reference) -> Digest {
    images
        .ensure(name, Pull::Never, &|_| ())
        .await
        .expect("an image")
        .key
}

/// `dir/layout` with an image of two layers under the tag `one`.
fn layout(dir: &Path) -> Layout {
    let layout = Layout::new(dir, "layout");
    let files: [(&str, &[u8]); 2] = [("/bin/tool", &noise(100_000)), ("/etc/tool", b"second")];
    layout.image("one", waggle_images::config::host_architecture(), &files);
    layout
}

fn skopeo(dir: &Path, from: &str, to: &str, more: &[&str]) {
    let mut arguments = vec!["copy", "--insecure-policy", "--quiet"];
    arguments.extend(more);
    arguments.extend([from, to]);
    run(dir, "skopeo", &arguments);
}

#[tokio::test]
async fn the_same_image_is_the_same_root_wherever_it_comes_from() {
    if !have(TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let from = format!("oci:{}:one", layout.path.display());
    let at = |name: &str| dir.path().join(name).display().to_string();
    skopeo(
        dir.path(),
        &from,
        &format!("docker-archive:{}:acme/tool:1", at("docker.tar")),
        &[],
    );
    skopeo(
        dir.path(),
        &from,
        &format!("oci-archive:{}:acme/tool:2", at("oci.tar")),
        &[],
    );
    let zstd = ["--dest-compress-format", "zstd"];
    skopeo(
        dir.path(),
        &from,
        &format!("oci:{}:acme/tool:3", at("zstd")),
        &zstd,
    );
    let images = images(&dir.path().join("cache"));

    // umoci's tag says nothing of a name.
    let error = images
        .import(&layout.path, None, &|_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Unnamed { tag: Some(tag), .. } if tag == "one"),
        "{error}"
    );
    let given = reference("localhost/given:1");
    let imported = images
        .import(&layout.path, Some(&given), &|_| ())
        .await
        .unwrap();
    assert_eq!((imported.len(), &imported[0].reference), (1, &given));
    assert_eq!(imported[0].provenance, Provenance::Imported);
    let expected = key(&images, &given).await;

    for (file, name) in [
        // skopeo completes docker's names, and a name with a registry stays.
        ("docker.tar", "docker.io/acme/tool:1"),
        ("oci.tar", "localhost/acme/tool:2"),
        ("zstd", "localhost/acme/tool:3"),
    ] {
        let imported = images
            .import(&dir.path().join(file), None, &|_| ())
            .await
            .unwrap();
        assert_eq!(imported[0].reference, reference(name), "{file}");
        assert_eq!(key(&images, &reference(name)).await, expected, "{file}");
    }
    let verified = images.verify(false).unwrap();
    assert_eq!(
        (verified.damage.len(), verified.layers, verified.unproven),
        (0, 2, 0)
    );
    // Imported ones stay, whatever their age.
    images.prune(false).unwrap();
    assert_eq!(images.list().unwrap().len(), 4);
    images.prune(true).unwrap();
    assert_eq!(images.list().unwrap(), []);
}

#[tokio::test]
async fn an_imported_image_is_pushed_and_pulled() {
    if !have(TOOLS) {
        return;
    }
    let server = Server::start(Variant::Plain);
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let cache = images(&dir.path().join("cache"));
    let name = reference("localhost/tool:1");
    cache
        .import(&layout.path, Some(&name), &|_| ())
        .await
        .unwrap();
    let to = server.reference("acme/pushed:1");
    let digest = cache.push(&name, &to, &|_| ()).await.unwrap();
    assert_eq!(digest, cache.inspect(&name).unwrap().summary.manifest);

    // skopeo reads it, and so do we.
    let copy = format!("oci:{}:copy", dir.path().join("copy").display());
    skopeo(
        dir.path(),
        &server.skopeo("acme/pushed:1"),
        &copy,
        &["--src-tls-verify=false"],
    );
    let other = images(&dir.path().join("other"));
    let pulled = other.ensure(&to, Pull::Missing, &|_| ()).await.unwrap();
    assert_eq!(
        (pulled.key, pulled.manifest),
        (key(&cache, &name).await, digest)
    );
    let missing = cache.push(&reference("localhost/none"), &to, &|_| ()).await;
    assert!(matches!(missing, Err(Error::NotThere { .. })));

    // What went to save room comes back from where it was pulled.
    let small = Options {
        max_bytes: Some(1),
        registry: options(),
        ..Options::new(dir.path().join("other"))
    };
    Images::open(small).unwrap().prune(false).unwrap();
    let layers = other.inspect(&to).unwrap().layers;
    assert!(
        layers
            .iter()
            .all(|layer| !layer.kept && layer.bytes.is_some())
    );
    assert_eq!(
        other
            .push(&to, &server.reference("acme/again:1"), &|_| ())
            .await
            .unwrap(),
        digest
    );
}

fn tar(path: &Path, files: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(File::create(path).expect("an archive"));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, *content)
            .expect("a member");
    }
    builder.finish().expect("an archive");
}

#[tokio::test]
async fn a_root_file_system_becomes_the_same_image_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    tar(
        &plain,
        &[("etc/os-release", b"ID=bee"), ("bin/tool", &noise(50_000))],
    );
    let bytes = fs::read(&plain).unwrap();
    let (gzip, zstd) = (dir.path().join("gzip"), dir.path().join("zstd"));
    let mut encoder =
        flate2::write::GzEncoder::new(File::create(&gzip).unwrap(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap();
    fs::write(&zstd, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
    let cache = images(&dir.path().join("cache"));
    assert!(matches!(
        cache.import(&plain, None, &|_| ()).await,
        Err(Error::Unnamed { tag: None, .. })
    ));
    let mut keys = Vec::new();
    let mut manifests = Vec::new();
    for (file, name) in [(&plain, "a"), (&gzip, "b"), (&zstd, "c"), (&plain, "d")] {
        let name = reference(&format!("localhost/{name}"));
        cache.import(file, Some(&name), &|_| ()).await.unwrap();
        keys.push(key(&cache, &name).await);
        manifests.push(cache.inspect(&name).unwrap().summary.manifest);
    }
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(manifests[0], manifests[3]);
    assert_eq!(cache.verify(false).unwrap().damage, []);

    // An archive of images that is compressed looks like one, until it is read.
    tar(&plain, &[("manifest.json", b"[]"), ("layer.tar", b"x")]);
    let mut encoder =
        flate2::write::GzEncoder::new(File::create(&gzip).unwrap(), flate2::Compression::fast());
    encoder.write_all(&fs::read(&plain).unwrap()).unwrap();
    encoder.finish().unwrap();
    let error = cache
        .import(&gzip, Some(&reference("localhost/e")), &|_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Source(SourceError::Compressed { .. })),
        "{error}"
    );
}

/// `docker save`, of an image of that name with this layer.
fn saved(path: &Path, name: &str, layer: &[u8]) {
    saved_layers(path, name, &[layer]);
}

/// The same with several layers.
fn saved_layers(path: &Path, name: &str, layers: &[&[u8]]) {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = serde_json::json!({
        "architecture": waggle_images::config::host_architecture(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let files: Vec<_> = (0..layers.len()).map(|n| format!("l{n}")).collect();
    let manifest = serde_json::json!([{ "Config": "c", "RepoTags": [name], "Layers": files }]);
    let (config, manifest) = (config.to_string(), manifest.to_string());
    let files = files.iter().map(String::as_str);
    let mut members: Vec<(&str, &[u8])> = files.zip(layers.iter().copied()).collect();
    members.extend([
        ("c", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ]);
    tar(path, &members);
}

/// The tar of a root file system with one file.
fn layer(content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_data(&mut header, "file", content)
        .expect("a member");
    builder.into_inner().expect("an archive")
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let cache = images(&dir.path().join("cache"));
    let path = dir.path().join("image");
    let layer = layer(b"a");
    let import = async |config: serde_json::Value| {
        let manifest = serde_json::json!([{ "Config": "c", "RepoTags": ["x:1"], "Layers": ["l"] }]);
        let (config, manifest) = (config.to_string(), manifest.to_string());
        tar(
            &path,
            &[
                ("c", config.as_bytes()),
                ("l", &layer),
                ("manifest.json", manifest.as_bytes()),
            ],
        );
        cache.import(&path, None, &|_| ()).await
    };
    let host = waggle_images::config::host_architecture();
    let rootfs = serde_json::json!({ "type": "layers", "diff_ids": [Digest::of(&layer)] });
    let other = serde_json::json!({ "architecture": "s390x", "os": "linux", "rootfs": rootfs });
    let error = import(other).await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Source(SourceError::Config {
                source: ConfigError::Platform { .. },
                ..
            })
        ),
        "{error}"
    );
    // The layer is another one than the configuration says: found while it is copied.
    let wrong = serde_json::json!({ "type": "layers", "diff_ids": [Digest::of(b"other")] });
    let lie = serde_json::json!({ "architecture": host, "os": "linux", "rootfs": wrong });
    let error = import(lie).await.unwrap_err();
    assert!(
        matches!(error, Error::Store(StoreError::Mismatch { .. })),
        "{error}"
    );
    assert_eq!(cache.list().unwrap(), []);
    let good = serde_json::json!({ "architecture": host, "os": "linux", "rootfs": rootfs });
    let imported = import(good).await.unwrap();
    assert_eq!(imported[0].reference, reference("localhost/x:1"));
}

/// Another name for the image of a layout with one, in `index.json`.
fn rename(layout: &Path, name: &str) {
    let path = layout.join("index.json");
    let index = fs::read(&path).expect("an index");
    let mut index: serde_json::Value = serde_json::from_slice(&index).expect("an index");
    let entry = index.pointer_mut("/manifests/0/annotations");
    *entry.expect("an entry") = serde_json::json!({ "org.opencontainers.image.ref.name": name });
    fs::write(&path, index.to_string()).expect("an index");
}

#[tokio::test]
async fn a_name_with_a_digest_is_that_of_the_image() {
    if !have(TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let cache = images(&dir.path().join("cache"));
    let other = Digest::of(b"other");
    let foreign = format!("ghcr.io/acme/tool@{other}");
    let refused = |error: Error| {
        assert!(
            matches!(&error, Error::OtherContent { reference, .. } if *reference == foreign),
            "{error}"
        );
    };
    rename(&layout.path, &foreign);
    let import = async |name: Option<&Reference>| cache.import(&layout.path, name, &|_| ()).await;
    refused(import(None).await.unwrap_err());
    let given = reference(&foreign);
    refused(import(Some(&given)).await.unwrap_err());
    let file = dir.path().join("file");
    saved(&file, &foreign, &layer(b"x"));
    refused(cache.import(&file, None, &|_| ()).await.unwrap_err());
    fs::write(&file, layer(b"x")).unwrap();
    let root_fs = cache.import(&file, Some(&given), &|_| ()).await;
    refused(root_fs.unwrap_err());
    assert_eq!(cache.list().unwrap(), []);

    // Its own digest is as good a name as any.
    let name = reference("localhost/tool:1");
    let manifest = import(Some(&name)).await.unwrap()[0].manifest;
    let own = name.with_digest(manifest);
    rename(&layout.path, &own.to_string());
    assert_eq!(import(None).await.unwrap()[0].reference, own);
    assert_eq!(key(&cache, &own).await, key(&cache, &name).await);
}

#[tokio::test]
async fn a_record_of_other_content_does_not_keep_a_digest_from_being_pulled() {
    if !have(TOOLS) {
        return;
    }
    let server = Server::start(Variant::Plain);
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    server.put(&layout.path, "one", "acme/tool:1");
    let cache = images(&dir.path().join("cache"));
    let tag = server.reference("acme/tool:1");
    let pulled = cache.ensure(&tag, Pull::Missing, &|_| ()).await.unwrap();
    let file = dir.path().join("file");
    saved(&file, "localhost/other:1", &layer(b"other"));
    let other = cache.import(&file, None, &|_| ()).await.unwrap().remove(0);
    // As a release before this one took it from a file.
    let pinned = tag.with_digest(pulled.manifest);
    let visit = cache.store().visit().await.unwrap();
    let record = visit.record(&other.reference.to_string()).unwrap().unwrap();
    visit
        .remember(&Record {
            reference: pinned.to_string(),
            ..record
        })
        .unwrap();
    drop(visit);
    let missing = cache.ensure(&pinned, Pull::Never, &|_| ()).await;
    assert!(matches!(missing, Err(Error::NotThere { .. })));
    let image = cache.ensure(&pinned, Pull::Missing, &|_| ()).await.unwrap();
    assert_eq!((image.manifest, image.key), (pulled.manifest, pulled.key));
    assert_eq!(
        cache.inspect(&pinned).unwrap().summary.manifest,
        pulled.manifest
    );
}

#[tokio::test]
async fn a_name_that_meant_another_image_is_replaced_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let cache = images(&dir.path().join("cache"));
    let path = dir.path().join("saved");
    let import = async |content: &[u8]| {
        saved(&path, "localhost/tool:1", &layer(content));
        let mut imported = cache.import(&path, None, &|_| ()).await.unwrap();
        assert_eq!(imported.len(), 1);
        imported.remove(0)
    };
    let first = import(b"first").await;
    assert_eq!(first.replaced, None);
    let second = import(b"second").await;
    assert_ne!(second.manifest, first.manifest);
    assert_eq!(second.replaced, Some(first.manifest));
    assert_eq!(import(b"second").await.replaced, None);
    let listed = cache.list().unwrap();
    assert_eq!(
        (listed.len(), listed[0].manifest, listed[0].replaced),
        (1, second.manifest, None)
    );
}

#[tokio::test]
async fn of_a_layout_for_several_platforms_this_hosts_image_is_taken() {
    if !have(TOOLS) || !have(&["buildah"]) {
        return;
    }
    let host = waggle_images::config::host_architecture();
    let server = Server::start(Variant::Plain);
    let layout = Layout::new(server.dir.path(), "layout");
    let names = [("other", "s390x"), ("ours", host)].map(|(tag, architecture)| {
        layout.image(tag, architecture, &[("/arch", architecture.as_bytes())]);
        let name = format!("acme/{tag}:1");
        server.put(&layout.path, tag, &name);
        name
    });
    index(&server, "acme/multi:1", &[&names[0], &names[1]]);
    index(&server, "acme/others:1", &[&names[0]]);
    let dir = tempfile::tempdir().unwrap();
    let cache = images(&dir.path().join("cache"));
    let ours = server.reference(&names[1]);
    let ours = cache.ensure(&ours, Pull::Missing, &|_| ()).await.unwrap();
    let copy = |name: &str, to: &str| {
        let all = ["--all", "--src-tls-verify=false"];
        skopeo(dir.path(), &server.skopeo(name), to, &all);
    };
    let path = dir.path().join("multi");
    copy(
        "acme/multi:1",
        &format!("oci:{}:acme/multi:1", path.display()),
    );
    let archive = dir.path().join("multi.tar");
    copy(
        "acme/multi:1",
        &format!("oci-archive:{}:acme/multi:2", archive.display()),
    );
    for (path, name) in [
        (&path, "localhost/acme/multi:1"),
        (&archive, "localhost/acme/multi:2"),
    ] {
        let imported = cache.import(path, None, &|_| ()).await.unwrap();
        assert_eq!(imported.len(), 1);
        assert_eq!(
            (&imported[0].reference, imported[0].manifest),
            (&reference(name), ours.manifest)
        );
        assert_eq!(key(&cache, &imported[0].reference).await, ours.key);
        // It is known by the index, too.
        let named = cache.inspect(&imported[0].reference).unwrap().named;
        assert_ne!(named, ours.manifest);
        let pinned = imported[0].reference.with_digest(named);
        cache.import(path, Some(&pinned), &|_| ()).await.unwrap();
    }

    // The platforms in `index.json` itself, as some tools write it.
    let entries: serde_json::Value =
        serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
    let digest: Digest = entries["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    fs::copy(
        path.join("blobs/sha256").join(digest.hex()),
        path.join("index.json"),
    )
    .unwrap();
    let flat = reference("localhost/flat:1");
    let imported = cache.import(&path, Some(&flat), &|_| ()).await.unwrap();
    assert_eq!(imported[0].manifest, ours.manifest);

    let path = dir.path().join("others");
    copy(
        "acme/others:1",
        &format!("oci:{}:acme/others:1", path.display()),
    );
    let error = cache.import(&path, None, &|_| ()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Registry(error) if error.to_string().contains("s390x")),
        "{error}"
    );
    assert_eq!(cache.verify(false).unwrap().damage, []);
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder");
    entries.map(|entry| entry.expect("a name").path()).collect()
}

#[tokio::test]
async fn twenty_kills_of_an_import_corrupt_nothing_and_leak_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved");
    let bytes = noise(1_000_000);
    let layers: Vec<_> = (0..3).map(|n| layer(&bytes[n..])).collect();
    let layers: Vec<_> = layers.iter().map(Vec::as_slice).collect();
    saved_layers(&file, "localhost/killed:1", &layers);
    let name = reference("localhost/killed:1");
    // The fastest of three: a slow one would have most kills come when all is done.
    let mut takes = Duration::MAX;
    for run in 0..3 {
        let mut other = child::start_import(&dir.path().join(format!("measured-{run}")), &file);
        assert!(other.says(BEGINS));
        let measured = Instant::now();
        assert!(other.says("waggle: imported"));
        takes = takes.min(measured.elapsed());
    }
    let whole = key(&images(&dir.path().join("measured-0")), &name).await;

    let (mut unfinished, mut seen) = (0, BTreeSet::new());
    for round in 0..100 {
        // Chance decides where they fall: after 20, more come until one has hit the copying.
        if round >= 20 && seen.contains("temp") {
            break;
        }
        // Each store is killed in four times, so that kills also hit what kills left.
        let cache = dir.path().join(format!("killed-{}", round / 4));
        let mut other = child::start_import(&cache, &file);
        assert!(other.says(BEGINS));
        std::thread::sleep(takes.mul_f64(rand::random::<f64>() * 1.2));
        other.kill();
        let images = images(&cache);
        unfinished += usize::from(images.list().unwrap().is_empty());
        for folder in ["temp", "blobs/sha256", "layers", "roots"] {
            if !names(&cache.join(folder)).is_empty() {
                seen.insert(folder);
            }
        }
        if round % 2 == 0 {
            // What was left is gone on with.
            continue;
        }
        let imported = images.import(&file, None, &|_| ()).await.unwrap();
        assert_eq!(
            (imported.len(), imported[0].replaced),
            (1, None),
            "round {round}"
        );
        assert_eq!(key(&images, &name).await, whole, "round {round}");
        let verified = images.verify(false).unwrap();
        assert_eq!(verified.damage, [], "round {round}");
        assert_eq!((verified.layers, verified.roots), (3, 1));
        images.prune(false).unwrap();
        let none: [PathBuf; 0] = [];
        for folder in ["partial", "temp"] {
            assert_eq!(names(&cache.join(folder)), none, "round {round}");
        }
        // The manifest, the configuration, the layers.
        assert_eq!(names(&cache.join("blobs/sha256")).len(), 5);
        assert_eq!(names(&cache.join("layers")).len(), 6);
        assert_eq!(names(&cache.join("roots")).len(), 1);
        images.remove(&name).unwrap();
        assert_eq!(names(&cache.join("blobs/sha256")), none);
    }
    eprintln!("an import takes {takes:?}; {unfinished} kills hit it, with leftovers in {seen:?}");
    assert!(unfinished > 5, "only {unfinished} kills hit an import");
    assert!(seen.contains("temp"), "{seen:?}");
}
