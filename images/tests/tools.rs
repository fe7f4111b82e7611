// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Images that skopeo, umoci and buildah make, in Debian's registry, and what becomes of them here: one content is one
//! root, whatever it went through, and nobody needs to be root for it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "this whole program is tests, which is where these are allowed"
)]

mod child;
#[path = "erofs/reader.rs"]
mod reader;
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use child::Task;
use reader::{Snapshot, What, by_erofs_rs};
use support::image::{Layout, buildah, noise};
use support::registry::{Registry as Server, Variant, options};
use support::{have, run};
use waggle_images::Reference;
use waggle_images::config::host_architecture;
use waggle_images::images::{Image, Images, Options, Pull};

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
    .unwrap()
}

async fn pulled(images: &Images, reference: &Reference) -> Image {
    images
        .ensure(reference, Pull::Missing, &|_| ())
        .await
        .unwrap()
}

fn contents(image: &Image) -> Snapshot {
    by_erofs_rs(&reader::disk(&image.disk))
}

fn file(content: &[u8]) -> What {
    What::File(content.to_vec())
}

/// A registry with an image of two layers as umoci makes it, and the layout that it is from.
fn registry() -> (Server, Layout) {
    let server = Server::start(Variant::Plain);
    let layout = Layout::new(server.dir.path(), "layout");
    let files: [(&str, &[u8]); 2] = [("/bin/tool", &noise(100_000)), ("/etc/tool", b"second")];
    layout.image("one", host_architecture(), &files);
    (server, layout)
}

fn skopeo(server: &Server, more: &[&str], from: &str, to: &str) {
    let mut arguments = vec!["copy", "--insecure-policy", "--quiet"];
    arguments.extend(["--src-tls-verify=false", "--dest-tls-verify=false"]);
    arguments.extend(more);
    arguments.extend([from, to]);
    run(server.dir.path(), "skopeo", &arguments);
}

/// The media types of the layers, by the manifest that the registry has.
fn media_types(server: &Server, name: &str) -> Vec<String> {
    let source = server.skopeo(name);
    let arguments = ["inspect", "--raw", "--tls-verify=false", &source];
    let raw = run(server.dir.path(), "skopeo", &arguments).stdout;
    let manifest: serde_json::Value = serde_json::from_slice(&raw).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let types = layers.iter().map(|layer| layer["mediaType"].as_str());
    types.map(|kind| kind.unwrap().to_owned()).collect()
}

/// The same two layers in a registry, compressed by both.
fn both_compressions() -> (Server, [Reference; 2]) {
    let (server, layout) = registry();
    let from = format!("oci:{}:one", layout.path.display());
    for (name, compression) in [("acme/zstd:1", "zstd"), ("acme/gzip:1", "gzip")] {
        let more = ["--dest-compress-format", compression];
        skopeo(&server, &more, &from, &server.skopeo(name));
        let expected = format!("application/vnd.oci.image.layer.v1.tar+{compression}");
        assert_eq!(media_types(&server, name), [&*expected, &*expected]);
    }
    let references = ["acme/zstd:1", "acme/gzip:1"].map(|name| server.reference(name));
    (server, references)
}

#[tokio::test]
async fn zstd_and_gzip_are_the_same_root() {
    if !have(TOOLS) {
        return;
    }
    let (_server, references) = both_compressions();
    let dir = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for (number, reference) in references.iter().enumerate() {
        // A store of its own, so that nothing is taken from the other one.
        let images = images(&dir.path().join(number.to_string()));
        let image = pulled(&images, reference).await;
        let all = contents(&image);
        assert_eq!(all[b"bin/tool".as_slice()].what, file(&noise(100_000)));
        assert_eq!(all[b"etc/tool".as_slice()].what, file(b"second"));
        assert_eq!(images.verify(false).unwrap().damage, []);
        let layers = images.inspect(reference).unwrap().layers;
        let blobs: Vec<_> = layers.iter().map(|layer| layer.digest).collect();
        found.push((image.key, reader::disk(&image.disk), image.manifest, blobs));
    }
    assert_eq!(found[0].0, found[1].0, "one root");
    assert!(found[0].1 == found[1].1, "of the same bytes");
    assert_ne!(found[0].2, found[1].2, "of two images");
    assert!(found[0].3.iter().all(|blob| !found[1].3.contains(blob)));
}

#[tokio::test]
async fn archives_of_what_a_registry_has_are_the_same_root() {
    if !have(TOOLS) {
        return;
    }
    let (server, references) = both_compressions();
    let dir = tempfile::tempdir().unwrap();
    let images = images(&dir.path().join("cache"));
    let expected = pulled(&images, &references[0]).await.key;
    // Docker's archives have plain layers, and skopeo does not make one of zstd.
    for (from, kind, name) in [
        ("acme/gzip:1", "docker-archive", "docker.io/acme/a:1"),
        ("acme/gzip:1", "oci-archive", "localhost/acme/b:1"),
        ("acme/zstd:1", "oci-archive", "localhost/acme/c:1"),
    ] {
        let (_, given) = name.split_once('/').unwrap();
        // Skopeo reads what follows a colon as the name.
        let archive = dir.path().join(given.replace(['/', ':'], "-"));
        let to = format!("{kind}:{}:{given}", archive.display());
        skopeo(&server, &[], &server.skopeo(from), &to);
        let imported = images.import(&archive, None, &|_| ()).await.unwrap();
        let reference = &imported[0].reference;
        assert_eq!(reference.to_string(), name, "{kind}");
        assert_eq!(pulled(&images, reference).await.key, expected, "{name}");
    }
    assert_eq!(images.verify(false).unwrap().layers, 2);
}

#[tokio::test]
async fn what_buildah_builds_is_what_is_in_the_root() {
    if !have(TOOLS) || !have(&["buildah"]) {
        return;
    }
    let server = Server::start(Variant::Plain);
    let dir = server.dir.path();
    let files = dir.join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("tool"), noise(50_000)).unwrap();
    fs::set_permissions(files.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("tool", files.join("link")).unwrap();
    let files = files.display().to_string();

    let base = buildah(dir, &["from", "scratch"]);
    buildah(dir, &["copy", &base, &files, "/opt"]);
    buildah(dir, &["commit", "--quiet", &base, "acme/base:1"]);
    let upper = buildah(dir, &["from", "localhost/acme/base:1"]);
    let own = dir.join("own");
    fs::write(&own, "second").unwrap();
    let own = own.display().to_string();
    buildah(
        dir,
        &["copy", "--chown", "1000:1000", &upper, &own, "/opt/own"],
    );
    let mut config = vec!["config", "--env", "PATH=/opt", "--env", "TOOL=a b=c"];
    config.extend(["--label", "dev.acme.bee=1", "--user", "1000:1000"]);
    config.extend(["--workingdir", "/opt", "--cmd", "--help"]);
    config.extend(["--entrypoint", r#"["/opt/tool"]"#, &upper]);
    buildah(dir, &config);
    buildah(dir, &["commit", "--quiet", &upper, "acme/tool:1"]);
    let cache = tempfile::tempdir().unwrap();
    let images = images(&cache.path().join("cache"));
    let mut keys = Vec::new();
    for format in ["oci", "v2s2"] {
        let name = format!("acme/{format}:1");
        let mut push = vec!["push", "--quiet", "--tls-verify=false", "--format", format];
        let to = server.skopeo(&name);
        push.extend(["acme/tool:1", &to]);
        buildah(dir, &push);
        let docker = media_types(&server, &name)[0].contains("vnd.docker");
        assert_eq!(docker, format == "v2s2", "{format}");
        let image = pulled(&images, &server.reference(&name)).await;
        check_built(&image);
        keys.push(image.key);
    }
    assert_eq!(keys[0], keys[1]);
}

fn check_built(image: &Image) {
    let all = contents(image);
    let names: Vec<_> = all.keys().map(|name| reader::lossy(name)).collect();
    assert_eq!(names, ["", "opt", "opt/link", "opt/own", "opt/tool"]);
    let at = |name: &str| &all[name.as_bytes()];
    assert_eq!(at("opt/tool").what, file(&noise(50_000)));
    assert_eq!((at("opt/tool").mode, at("opt/tool").owner), (0o755, (0, 0)));
    assert_eq!(at("opt/link").what, What::Symlink(b"tool".to_vec()));
    assert_eq!(at("opt/own").owner, (1000, 1000));

    let config = &image.config;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let env = [pair("PATH", "/opt"), pair("TOOL", "a b=c")];
    assert_eq!(config.env, env);
    assert_eq!(config.user.as_deref(), Some("1000:1000"));
    assert_eq!(config.workdir.as_deref(), Some("/opt"));
    assert_eq!(config.entrypoint, ["/opt/tool"]);
    assert_eq!(config.cmd, ["--help"]);
    assert_eq!(config.labels["dev.acme.bee"], "1");
}

#[tokio::test]
async fn an_image_of_sixty_layers_is_one_root() {
    const LAYERS: usize = 60;
    if !have(TOOLS) {
        return;
    }
    let server = Server::start(Variant::Plain);
    let layout = Layout::new(server.dir.path(), "layout");
    // Each second layer replaces the same file.
    let own: Vec<_> = (0..LAYERS)
        .map(|number| match number % 2 {
            0 => (format!("/own/{number}"), format!("own {number}")),
            _ => ("/same".to_owned(), format!("the one of {number}")),
        })
        .collect();
    let files: Vec<_> = own
        .iter()
        .map(|(path, content)| (path.as_str(), content.as_bytes()))
        .collect();
    layout.image("many", host_architecture(), &files);
    server.put(&layout.path, "many", "acme/many:1");
    let reference = server.reference("acme/many:1");
    let dir = tempfile::tempdir().unwrap();
    let images = images(&dir.path().join("cache"));
    let image = pulled(&images, &reference).await;
    let inspection = images.inspect(&reference).unwrap();
    assert_eq!(inspection.layers.len(), LAYERS);
    let all = contents(&image);
    assert_eq!(all[b"same".as_slice()].what, file(b"the one of 59"));
    for number in (0..LAYERS).step_by(2) {
        let seen = &all[format!("own/{number}").as_bytes()];
        assert_eq!(seen.what, file(format!("own {number}").as_bytes()));
    }
    let files = all.values().filter(|seen| seen.what != What::Folder);
    assert_eq!(files.count(), LAYERS / 2 + 1);
}

/// Who owns it, for everything below a folder and the folder itself.
fn owners(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mut all = vec![dir.to_owned()];
    let mut at = 0;
    while let Some(path) = all.get(at).cloned() {
        at += 1;
        if path.is_dir() {
            let entries = fs::read_dir(path).unwrap();
            all.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    let owner = |path: PathBuf| {
        let status = fs::symlink_metadata(&path).unwrap();
        (path, status.uid())
    };
    all.into_iter().map(owner).collect()
}

/// Another process that is an ordinary user, without any privilege, pulls an image and makes a root of it: the one that
/// everybody else makes of it, owners of its files included.
#[tokio::test]
async fn nobody_needs_to_be_root() {
    /// Of user and group `nobody`.
    const NOBODY: u32 = 65_534;
    if !have(TOOLS) {
        return;
    }
    let (_server, references) = both_compressions();
    let dir = tempfile::tempdir().unwrap();
    let own = tempfile::tempdir().unwrap();
    let images = images(&dir.path().join("cache"));
    let expected = pulled(&images, &references[0]).await;

    let root = nix::unistd::Uid::effective().is_root();
    if root {
        chown(own.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let cache = own.path().join("cache");
    let task = Task {
        user: Some(NOBODY),
        ..Task::pull(&cache, &references[0])
    };
    let (ended, said) = task.start().finish();
    assert!(ended, "{said}");
    assert!(said.contains("no capabilities"), "{said}");
    let disk = child::disk(&said).expect("a disk");
    assert!(disk.starts_with(&cache), "{}", disk.display());
    assert!(reader::disk(&disk) == reader::disk(&expected.disk));
    let user = if root {
        NOBODY
    } else {
        nix::unistd::Uid::effective().as_raw()
    };
    for (path, owner) in owners(&cache) {
        assert_eq!(owner, user, "{}", path.display());
    }
}
