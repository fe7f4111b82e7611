// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images from files that skopeo and umoci wrote, and from hostile hands; and out again to a registry.

mod child;
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use support::image::{Layout, noise};
use support::registry::{Registry as Server, Variant, options};
use support::{have, run};
use waggle_images::config::ConfigError;
use waggle_images::images::{Error, Images, Options, Pull};
use waggle_images::source::SourceError;
use waggle_images::store::{Provenance, StoreError};
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

/// One member of a hostile layer: its name, its type, where it leads to.
struct Member<'a>(&'a [u8], tar::EntryType, &'a str);

fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len();
    field
        .get_mut(..length)
        .expect("room for it")
        .copy_from_slice(text);
}

/// A tar of members as they are given: nothing cleans their names.
fn raw_tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Member(name, kind, target) in members {
        let mut header = tar::Header::new_gnu();
        put(&mut header.as_old_mut().name, name);
        header.set_entry_type(*kind);
        header.set_mode(0o4777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let content = if kind.is_file() {
            &b"written by a layer"[..]
        } else {
            b""
        };
        header.set_size(content.len() as u64);
        if !target.is_empty() {
            put(&mut header.as_old_mut().linkname, target.as_bytes());
        }
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// `docker save`, of an image with this layer.
fn saved(path: &Path, layer: &[u8]) {
    let config = serde_json::json!({
        "architecture": waggle_images::config::host_architecture(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer)] },
    });
    let manifest =
        serde_json::json!([{ "Config": "c", "RepoTags": ["hostile:1"], "Layers": ["l"] }]);
    let (config, manifest) = (config.to_string(), manifest.to_string());
    tar(
        path,
        &[
            ("c", config.as_bytes()),
            ("l", layer),
            ("manifest.json", manifest.as_bytes()),
        ],
    );
}

/// Everything below a folder but what is below `but`: kind, size, times, content.
fn listing(dir: &Path, but: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path == but {
                continue;
            }
            let status = fs::symlink_metadata(&path).expect("its status");
            let content = if status.is_file() {
                fs::read(&path).expect("its content")
            } else {
                Vec::new()
            };
            let about = (
                status.mode(),
                status.size(),
                status.mtime(),
                status.mtime_nsec(),
                content,
            );
            if status.is_dir() {
                folders.push(path.clone());
            }
            all.insert(path, about);
        }
    }
    all
}

#[test]
fn nothing_outside_the_cache_is_ever_written() {
    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let victim = dir.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "as it was").unwrap();
    fs::write(dir.path().join("near"), "as it was").unwrap();
    // Made by nobody but this test: the store, so that the other process finds it.
    drop(images(&cache));
    let absolute = victim.join("file").display().to_string();
    let up = "../".repeat(20) + absolute.trim_start_matches('/');
    assert!(
        up.len() < 100 && absolute.len() < 100,
        "the temporary folder is too deep"
    );
    let layers: Vec<(&str, Vec<u8>)> = vec![
        ("up", raw_tar(&[Member(b"../near", Regular, "")])),
        ("far up", raw_tar(&[Member(up.as_bytes(), Regular, "")])),
        (
            "hidden up",
            raw_tar(&[Member(b"a/../../../../near", Regular, "")]),
        ),
        (
            "absolute",
            raw_tar(&[Member(absolute.as_bytes(), Regular, "")]),
        ),
        (
            "through a symlink",
            raw_tar(&[
                Member(b"out", Symlink, &victim.display().to_string()),
                Member(b"out/file", Regular, ""),
                Member(b"out/new", Regular, ""),
            ]),
        ),
        (
            "over a symlink",
            raw_tar(&[
                Member(b"out", Symlink, &absolute),
                Member(b"out", Regular, ""),
            ]),
        ),
        (
            "hard link",
            raw_tar(&[Member(b"out", Link, &absolute), Member(b"out", Regular, "")]),
        ),
        (
            "hard link up",
            raw_tar(&[Member(b"out", Link, &up), Member(b"out", Regular, "")]),
        ),
        (
            "devices",
            raw_tar(&[
                Member(b"null", Char, ""),
                Member(b"disk", Block, ""),
                Member(b"pipe", Fifo, ""),
            ]),
        ),
        (
            "root",
            raw_tar(&[Member(b"/", Directory, ""), Member(b"./", Directory, "")]),
        ),
        (
            "root replaced",
            raw_tar(&[Member(b"/", Symlink, &absolute)]),
        ),
        (
            "whiteout of root",
            raw_tar(&[Member(b".wh..", Regular, ""), Member(b".wh.", Regular, "")]),
        ),
        (
            "whiteout up",
            raw_tar(&[Member(b"../.wh.near", Regular, "")]),
        ),
        (
            "not UTF-8",
            raw_tar(&[Member(b"\xff\xfe/\x80", Regular, "")]),
        ),
        ("garbage", noise(10_000)),
    ];
    let before = listing(dir.path(), &cache);
    let mut imported = 0;
    for (name, layer) in &layers {
        let path = cache.join("temp/hostile.tar");
        saved(&path, layer);
        let other = child::start_import(&cache, &path);
        let (ended, said) = other.finish();
        assert!(ended, "{name}: {said}");
        for line in said.lines().filter_map(|line| line.split_once("waggle: ")) {
            eprintln!("{name}: {}", line.1);
        }
        assert!(
            said.contains("waggle: refused") || said.contains("waggle: imported"),
            "{name}: {said}"
        );
        imported += usize::from(said.contains("waggle: imported"));
        assert!(
            !said.contains("FullyEnforced") || said.contains("PermissionDenied"),
            "{said}"
        );
        assert_eq!(listing(dir.path(), &cache), before, "{name}");
    }
    // Some are strange but legal: they are contained.
    assert!(imported >= 3, "{imported}");
    let images = images(&cache);
    assert_eq!(images.verify(false).unwrap().damage, []);
    images.prune(true).unwrap();
    for folder in ["blobs/sha256", "layers", "roots", "refs", "partial", "temp"] {
        assert_eq!(
            fs::read_dir(cache.join(folder)).unwrap().count(),
            0,
            "{folder}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let cache = images(&dir.path().join("cache"));
    let path = dir.path().join("image");
    let layer = raw_tar(&[Member(b"a", tar::EntryType::Regular, "")]);
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
