// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Sources that a hostile or clumsy hand made. Those that tools make are in the tests of the whole crate.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::config::host_architecture;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn open(path: &Path) -> Result<Source, SourceError> {
    Source::open(path, &Limits::default(), &|| false)
}

fn open_within(path: &Path, limits: &Limits) -> Result<Source, SourceError> {
    Source::open(path, limits, &|| false)
}

/// The document of the first image, as long as it may be.
fn document(source: &Source) -> Result<Vec<u8>, SourceError> {
    let limit = source.limits.manifest_bytes;
    source.document(&source.images()[0].digest, limit)
}

fn config(diff_ids: &[Digest]) -> Vec<u8> {
    let host = host_architecture();
    serde_json::json!({
        "architecture": host, "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes()
}

/// A layout whose `index.json` names one document, with this annotation.
fn layout(dir: &Path, document: &[u8], media_type: &str, annotations: &serde_json::Value) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let digest = put(dir, document);
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": media_type, "digest": digest, "size": document.len(), "annotations": annotations,
        }],
    });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

fn put(dir: &Path, blob: &[u8]) -> Digest {
    let digest = Digest::of(blob);
    fs::write(dir.join("blobs/sha256").join(digest.hex()), blob).unwrap();
    digest
}

fn whole(content: Content) -> Vec<u8> {
    let mut bytes = Vec::new();
    { content }.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_layout_is_read_without_following_links() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout");
    let named = serde_json::json!({ "org.opencontainers.image.ref.name": "acme/x:1" });
    layout(&path, b"{}", INDEX, &named);
    let blob = put(&path, b"content");
    let source = open(&path).unwrap();
    assert_eq!(source.kind(), Kind::OciLayout);
    assert_eq!(source.images()[0].names, ["acme/x:1"]);
    assert_eq!(document(&source).unwrap(), b"{}");
    assert_eq!(whole(source.blob(&blob).unwrap()), b"content");

    let secret = dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let digest = Digest::of(b"secret");
    assert!(matches!(
        source.blob(&digest),
        Err(SourceError::Missing { .. })
    ));
    let at = path.join("blobs/sha256").join(digest.hex());
    symlink(&secret, &at).unwrap();
    assert!(matches!(
        source.blob(&digest),
        Err(SourceError::Link { .. })
    ));
    fs::remove_file(&at).unwrap();
    // Opening a pipe would wait for ever.
    nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(matches!(
        source.blob(&digest),
        Err(SourceError::Link { .. })
    ));
    fs::remove_file(&at).unwrap();
    fs::create_dir(&at).unwrap();
    assert!(matches!(
        source.blob(&digest),
        Err(SourceError::Link { .. })
    ));
    fs::rename(path.join("blobs"), dir.path().join("blobs")).unwrap();
    symlink("../blobs", path.join("blobs")).unwrap();
    assert!(matches!(source.blob(&blob), Err(SourceError::Link { .. })));
    fs::rename(path.join("index.json"), dir.path().join("index.json")).unwrap();
    symlink("../index.json", path.join("index.json")).unwrap();
    assert!(matches!(open(&path), Err(SourceError::Link { .. })));
}

#[test]
fn documents_are_what_they_are_named_by_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    layout(path, b"{}", INDEX, &serde_json::json!({}));
    assert!(open(path).unwrap().images()[0].names.is_empty());
    let at = path.join("blobs/sha256").join(Digest::of(b"{}").hex());
    fs::write(&at, b"[]").unwrap();
    assert!(matches!(
        document(&open(path).unwrap()),
        Err(SourceError::Mismatch { .. })
    ));
    fs::write(&at, b"{} ").unwrap();
    assert!(matches!(open(path), Err(SourceError::Json { .. })));
    let limits = Limits {
        manifest_bytes: 100,
        ..Limits::default()
    };
    assert!(matches!(
        open_within(path, &limits),
        Err(SourceError::TooLong { limit: 100, .. })
    ));
    let limits = Limits {
        manifest_bytes: 1000,
        ..Limits::default()
    };
    let long = vec![b' '; 1001];
    layout(path, &long, INDEX, &serde_json::json!({}));
    assert!(matches!(
        document(&open_within(path, &limits).unwrap()),
        Err(SourceError::TooLong { limit: 1000, .. })
    ));
    for bad in [
        "",
        "[]",
        "{",
        r#"{"schemaVersion":2,"manifests":[{"digest":"../../x","size":1}]}"#,
    ] {
        fs::write(path.join("index.json"), bad).unwrap();
        assert!(matches!(open(path), Err(SourceError::Json { .. })), "{bad}");
    }
    fs::write(
        path.join("index.json"),
        r#"{"schemaVersion":2,"manifests":[]}"#,
    )
    .unwrap();
    assert!(matches!(open(path), Err(SourceError::NoImage { .. })));
}

#[test]
fn an_index_of_unnamed_images_is_one_image() {
    let dir = tempfile::tempdir().unwrap();
    layout(dir.path(), b"{}", INDEX, &serde_json::json!({}));
    let (one, other) = (put(dir.path(), b"{\"a\":1}"), put(dir.path(), b"{\"a\":2}"));
    let entry = |digest| serde_json::json!({ "mediaType": INDEX, "digest": digest, "size": 7 });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry(one), entry(other)] });
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
    let source = open(dir.path()).unwrap();
    assert_eq!(source.images().len(), 1);
    assert_eq!(document(&source).unwrap(), index.to_string().into_bytes());
}

#[test]
fn images_of_a_layout_are_as_many_as_their_digests_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    layout(dir.path(), b"{}", INDEX, &serde_json::json!({}));
    let (one, other) = (put(dir.path(), b"{\"a\":1}"), put(dir.path(), b"{\"a\":2}"));
    let opened = |entries: &[(Digest, String)]| {
        let entry = |(digest, name): &(Digest, String)| {
            serde_json::json!({
                "mediaType": INDEX, "digest": digest, "size": 7,
                "annotations": { "org.opencontainers.image.ref.name": name },
            })
        };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": entries });
        fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
        open(dir.path())
    };
    let named = |digest, name: &str| (digest, name.to_owned());
    let source = opened(&[named(one, "x:1"), named(other, "x:2"), named(one, "x:3")]).unwrap();
    let names: Vec<_> = source.images().iter().map(|found| &found.names).collect();
    assert_eq!(names, [&vec!["x:1", "x:3"], &vec!["x:2"]]);
    let many: Vec<_> = (0..=MOST_IMAGES)
        .map(|n| named(one, &format!("x:{n}")))
        .collect();
    assert!(matches!(
        opened(&many),
        Err(SourceError::TooManyImages { images: 1001, .. })
    ));
    assert_eq!(opened(&many[1..]).unwrap().images().len(), 1);
}

enum Item<'a> {
    File(&'a str, &'a [u8]),
    Symlink(&'a str, &'a str),
    Hardlink(&'a str, &'a str),
}

fn archive(path: &Path, items: &[Item<'_>]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        match item {
            Item::File(name, content) => {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, *content).unwrap();
            }
            Item::Symlink(name, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, name, target).unwrap();
            }
            Item::Hardlink(name, target) => {
                header.set_entry_type(tar::EntryType::Link);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    builder.finish().unwrap();
}

fn docker(config: &str, layers: &[&str]) -> Vec<u8> {
    serde_json::json!([{ "Config": config, "RepoTags": ["acme/x:1"], "Layers": layers }])
        .to_string()
        .into_bytes()
}

#[test]
fn dockers_archive_is_read_in_place_with_links_within_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    let (one, two) = (
        b"the first layer".as_slice(),
        b"the second layer".as_slice(),
    );
    let config = config(&[
        Digest::of(one),
        Digest::of(two),
        Digest::of(one),
        Digest::of(two),
    ]);
    let manifest = docker(
        "c.json",
        &["a/layer.tar", "b.tar", "c/layer.tar", "d/layer.tar"],
    );
    let long = format!("{}/layer.tar", "n".repeat(150));
    archive(
        &path,
        &[
            Item::File("a/layer.tar", b"an older one of this name"),
            Item::File("./a/layer.tar", one),
            Item::File(&long, b"GNU's long names are read"),
            Item::File("b.tar", two),
            Item::Symlink("c/layer.tar", "../a/layer.tar"),
            Item::Hardlink("d/layer.tar", "b.tar"),
            Item::File("c.json", &config),
            Item::File("manifest.json", &manifest),
        ],
    );
    let source = open(&path).unwrap();
    assert_eq!(source.kind(), Kind::DockerArchive);
    let [found] = source.images() else {
        panic!("one image")
    };
    assert_eq!(found.names, ["acme/x:1"]);
    assert_eq!(whole(source.blob(&Digest::of(one)).unwrap()), one);
    assert_eq!(whole(source.blob(&Digest::of(two)).unwrap()), two);
    assert_eq!(whole(source.blob(&Digest::of(&config)).unwrap()), config);
    let read = document(&source).unwrap();
    assert_eq!(Digest::of(&read), found.digest);
    let read: serde_json::Value = serde_json::from_slice(&read).unwrap();
    assert_eq!(read["layers"][2]["digest"], Digest::of(one).to_string());
    assert_eq!(read["layers"][1]["size"], two.len());
    assert_eq!(open(&path).unwrap().images(), source.images());
}

#[test]
fn links_that_lead_out_of_an_archive_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    let layer = Digest::of(b"x");
    let config = config(&[layer]);
    for target in [
        "../../../../etc/passwd",
        "/etc/passwd",
        "layer.tar",
        "../b/layer.tar",
    ] {
        let manifest = docker("c.json", &["a/layer.tar"]);
        archive(
            &path,
            &[
                Item::Symlink("a/layer.tar", target),
                Item::Symlink("b/layer.tar", "../a/layer.tar"),
                Item::File("c.json", &config),
                Item::File("manifest.json", &manifest),
            ],
        );
        assert!(
            matches!(open(&path), Err(SourceError::Link { .. })),
            "{target}"
        );
    }
    for name in ["../../../../etc/passwd", "a/../../x"] {
        let manifest = docker(name, &[]);
        archive(&path, &[Item::File("manifest.json", &manifest)]);
        assert!(
            matches!(open(&path), Err(SourceError::Link { .. })),
            "{name}"
        );
    }
    // Absolute names mean the archive's own root.
    archive(
        &path,
        &[Item::File("manifest.json", &docker("/etc/passwd", &[]))],
    );
    assert!(matches!(open(&path), Err(SourceError::Missing { .. })));
}

#[test]
fn dockers_archive_must_fit_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    let config = config(&[Digest::of(b"x")]);
    let opened = |manifest: &[u8]| {
        archive(
            &path,
            &[
                Item::File("c.json", &config),
                Item::File("x", b"x"),
                Item::File("manifest.json", manifest),
            ],
        );
        open(&path)
    };
    let error = opened(&docker("c.json", &["x", "x"]));
    assert!(matches!(error, Err(SourceError::Config { .. })));
    let many: Vec<_> = std::iter::repeat_n("x", 128).collect();
    let error = opened(&docker("c.json", &many));
    assert!(matches!(
        error,
        Err(SourceError::TooManyLayers { layers: 128, .. })
    ));
    assert!(matches!(
        opened(&docker("c.json", &["y"])),
        Err(SourceError::Missing { .. })
    ));
    assert!(matches!(opened(b"[]"), Err(SourceError::NoImage { .. })));
}

/// A layer that is compressed: by its first bytes, which is all that is looked at here.
fn compressed(length: usize) -> Vec<u8> {
    let mut bytes = vec![7; length];
    bytes[..4].copy_from_slice(b"\x1f\x8b\x08\x00");
    bytes
}

#[test]
fn a_compressed_layer_is_read_once_whoever_names_it() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    // Some chunks, so that the reads can be told from all else that is asked about.
    let layer = compressed(8 << 20);
    let config = config(&[Digest::of(b"x")]);
    let saved = |images: usize| {
        let names = ["l.tar", "link.tar", "hard.tar"].iter().cycle();
        let images: Vec<_> = names
            .take(images)
            .map(|name| serde_json::json!({ "Config": "c.json", "Layers": [name] }))
            .collect();
        let manifest = serde_json::Value::from(images).to_string();
        archive(
            &path,
            &[
                Item::File("l.tar", &layer),
                Item::Symlink("link.tar", "l.tar"),
                Item::Hardlink("hard.tar", "l.tar"),
                Item::File("c.json", &config),
                Item::File("manifest.json", manifest.as_bytes()),
            ],
        );
        let asked = AtomicUsize::new(0);
        let stop = || {
            asked.fetch_add(1, Ordering::Relaxed);
            false
        };
        let source = Source::open(&path, &Limits::default(), &stop).unwrap();
        let blob = source.blob(&Digest::of(&layer)).unwrap();
        assert_eq!(blob.len(), layer.len() as u64);
        asked.into_inner()
    };
    let (one, ten) = (saved(1), saved(10));
    assert!(one > 32 && ten - one < 32, "{one} and {ten}");

    let limits = Limits {
        blob_bytes: 1 << 20,
        ..Limits::default()
    };
    assert!(matches!(
        open_within(&path, &limits),
        Err(SourceError::TooLong { name, limit: 0x10_0000, .. }) if name == "l.tar"
    ));
    // Nobody waits any more: while it is looked through, and while a layer is read.
    for (asked_before, read) in [(0, "headers"), (20, "a layer")] {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= asked_before;
        let error = Source::open(&path, &Limits::default(), &stop).unwrap_err();
        assert!(
            matches!(error, SourceError::Stopped { .. }),
            "{read}: {error}"
        );
        assert_eq!(asked.into_inner(), asked_before + 1, "{read}");
    }
}

#[test]
fn images_of_dockers_archive_are_bounded_with_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    let config = config(&[]);
    let opened = |images: Vec<serde_json::Value>| {
        let manifest = serde_json::Value::from(images).to_string();
        archive(
            &path,
            &[
                Item::File("c.json", &config),
                Item::File("manifest.json", manifest.as_bytes()),
            ],
        );
        open(&path)
    };
    let image = |tags: usize| {
        let tags: Vec<_> = (0..tags).map(|n| format!("x:{n}")).collect();
        serde_json::json!({ "Config": "c.json", "RepoTags": tags, "Layers": [] })
    };
    let source = opened(vec![image(MOST_IMAGES)]).unwrap();
    assert_eq!(source.images()[0].names.len(), MOST_IMAGES);
    for many in [
        vec![image(0); MOST_IMAGES + 1],
        vec![image(MOST_IMAGES), image(0)],
    ] {
        assert!(matches!(
            opened(many),
            Err(SourceError::TooManyImages { images: 1001, .. })
        ));
    }
}

#[test]
fn names_and_links_that_are_too_long_are_nothing_of_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    let config = config(&[Digest::of(b"x")]);
    let longest = "n".repeat(4096);
    let opened = |name: &str, target: &str| {
        let manifest = docker("c.json", &[name]);
        archive(
            &path,
            &[
                Item::File("c.json", &config),
                Item::File(&longest, b"x"),
                Item::File(&format!("{longest}n"), b"x"),
                Item::File("x", b"x"),
                Item::Symlink("link", target),
                Item::File("manifest.json", &manifest),
            ],
        );
        open(&path).map(drop)
    };
    opened(&longest, "x").unwrap();
    assert!(matches!(
        opened(&format!("{longest}n"), "x"),
        Err(SourceError::Missing { .. })
    ));
    opened("link", "n/../x").unwrap();
    assert!(matches!(
        opened("link", &format!("{}x", "n/../".repeat(820))),
        Err(SourceError::Link { name, .. }) if name == "link"
    ));
}

#[test]
fn what_it_is_is_told_by_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar.gz");
    archive(
        &path,
        &[
            Item::File("etc/os-release", b"ID=x"),
            Item::File("etc/manifest.json", b"{}"),
        ],
    );
    let source = open(&path).unwrap();
    assert_eq!(source.kind(), Kind::RootFs);
    assert_eq!(whole(source.tar().unwrap()), fs::read(&path).unwrap());
    for magic in [b"\x1f\x8b\x08\x00".as_slice(), b"\x28\xb5\x2f\xfd"] {
        fs::write(&path, magic).unwrap();
        assert_eq!(open(&path).unwrap().kind(), Kind::RootFs);
    }
    for unknown in [
        &b"text that is long enough to be a header".repeat(20)[..],
        b"",
        b"short",
    ] {
        fs::write(&path, unknown).unwrap();
        let error = open(&path).unwrap_err();
        assert!(
            matches!(
                error,
                SourceError::Unknown { .. } | SourceError::Truncated { .. }
            ),
            "{error}"
        );
    }
    assert!(matches!(open(dir.path()), Err(SourceError::Unknown { .. })));
    assert!(matches!(
        open(Path::new("/dev/null")),
        Err(SourceError::Unknown { .. })
    ));
    assert!(matches!(
        open(&dir.path().join("none")),
        Err(SourceError::Io { .. })
    ));
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(matches!(open(&pipe), Err(SourceError::Unknown { .. })));
}

#[test]
fn cut_and_broken_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved");
    archive(
        &path,
        &[
            Item::File("a", &[1; 3000]),
            Item::File("manifest.json", b"[]"),
        ],
    );
    let bytes = fs::read(&path).unwrap();
    for length in [512, 2000, 3584 + 100, 4096] {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = open(&path).unwrap_err();
        assert!(
            matches!(error, SourceError::Truncated { .. }),
            "{length}: {error}"
        );
    }
    let mut broken = bytes.clone();
    broken[3584 + 10] ^= 1;
    fs::write(&path, &broken).unwrap();
    assert!(matches!(
        open(&path),
        Err(SourceError::Tar { at: 3584, .. })
    ));
    let limits = Limits {
        entries: 1,
        ..Limits::default()
    };
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        open_within(&path, &limits),
        Err(SourceError::TooMany { limit: 1, .. })
    ));
}
