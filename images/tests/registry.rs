// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The registry client against Debian's `docker-registry`, with images that umoci, skopeo and buildah made.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use futures_util::TryStreamExt;
use support::image::{Layout, index, noise};
use support::registry::{PASSWORD, Registry as Server, USER, Variant, options, write_login};
use support::{have, run};
use waggle_images::config::host_architecture;
use waggle_images::images::{Images, Options, Pull};
use waggle_images::registry::{
    Content, CredentialSources, Fetched, Manifest, Mirror, Platform, Push, RegistryOptions, media,
};
use waggle_images::{Digest, Limits, Reference, Registry, RegistryError};

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci"];
const WITH_LOGIN: &[&str] = &["docker-registry", "skopeo", "umoci", "htpasswd"];
const WITH_TLS: &[&str] = &["docker-registry", "skopeo", "umoci", "htpasswd", "openssl"];

/// A registry that has `acme/tool:1`, of two layers.
fn server(variant: Variant) -> Server {
    let server = Server::start(variant);
    let layout = Layout::new(server.dir.path(), "layout");
    let files: [(&str, &[u8]); 2] = [("/bin/tool", b"first"), ("/etc/tool", b"second")];
    layout.image("one", "amd64", &files);
    server.put(&layout.path, "one", "acme/tool:1");
    server
}

fn client(options: RegistryOptions) -> Registry {
    Registry::new(options).expect("a client")
}

fn amd64() -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        variant: String::new(),
    }
}

/// The whole of a blob.
async fn blob(
    client: &Registry,
    of: &Reference,
    digest: Digest,
    size: u64,
    from: u64,
) -> Result<Vec<u8>, RegistryError> {
    let stream = client.blob(of, &digest, size, from).await?;
    let pieces: Vec<_> = stream.try_collect().await?;
    Ok(pieces.concat())
}

/// What a pull reads: the manifest, the configuration and every layer.
async fn pull(client: &Registry, of: &Reference) -> Result<Fetched, RegistryError> {
    let resolved = client.resolve(of, &amd64()).await?;
    let blobs = resolved.image.layers.iter().chain([&resolved.image.config]);
    for descriptor in blobs {
        let bytes = blob(client, of, descriptor.digest, descriptor.size, 0).await?;
        assert_eq!(Digest::of(&bytes), descriptor.digest);
    }
    Ok(resolved.manifest().clone())
}

#[tokio::test]
async fn pulls_by_tag_and_by_digest() {
    if !have(TOOLS) {
        return;
    }
    let server = server(Variant::Plain);
    let client = client(server.options());
    let tagged = server.reference("acme/tool:1");
    let fetched = pull(&client, &tagged).await.expect("an image");
    assert_eq!(fetched.host, server.address);
    assert_eq!(fetched.media_type, media::OCI_MANIFEST);
    let pinned = pull(&client, &tagged.with_digest(fetched.digest)).await;
    assert_eq!(pinned.expect("an image").bytes, fetched.bytes);
    // The digest decides, whatever the tag.
    let both = format!("{}/acme/tool:nosuch@{}", server.address, fetched.digest);
    let both = pull(&client, &both.parse().expect("a reference")).await;
    assert_eq!(both.expect("an image").digest, fetched.digest);
}

#[tokio::test]
async fn a_blob_goes_on_from_any_byte() {
    if !have(TOOLS) {
        return;
    }
    let server = Server::start(Variant::Plain);
    let layout = Layout::new(server.dir.path(), "layout");
    layout.image("big", "amd64", &[("/noise", &noise(3 << 20))]);
    server.put(&layout.path, "big", "acme/big:1");
    let client = client(server.options());
    let reference = server.reference("acme/big:1");
    let resolved = client
        .resolve(&reference, &amd64())
        .await
        .expect("an image");
    let layer = &resolved.image.layers[0];
    let whole = blob(&client, &reference, layer.digest, layer.size, 0)
        .await
        .expect("a layer");
    assert_eq!(Digest::of(&whole), layer.digest);
    for from in [1, layer.size / 2, layer.size - 1, layer.size] {
        let rest = blob(&client, &reference, layer.digest, layer.size, from).await;
        let begin = usize::try_from(from).expect("small");
        assert_eq!(rest.expect("the rest"), whole[begin..], "{from}");
    }
    let beyond = client
        .blob(&reference, &layer.digest, layer.size, layer.size + 1)
        .await;
    assert!(matches!(beyond, Err(RegistryError::SizeMismatch { .. })));
    // What the manifest states is held against what the registry has.
    for size in [layer.size - 1, layer.size + 1] {
        let wrong = client.blob(&reference, &layer.digest, size, 0).await;
        assert!(
            matches!(wrong, Err(RegistryError::SizeMismatch { .. })),
            "{wrong:?}"
        );
    }
}

#[tokio::test]
async fn content_that_is_damaged_in_the_registry_is_noticed() {
    if !have(TOOLS) {
        return;
    }
    let server = server(Variant::Plain);
    let client = client(server.options());
    let reference = server.reference("acme/tool:1");
    let fetched = client.manifest(&reference).await.expect("a manifest");
    let file = server.blob_file(&fetched.digest.hex());
    let text = fs::read_to_string(&file).expect("a manifest");
    fs::write(
        &file,
        text.replace("\"schemaVersion\":2", "\"schemaVersion\": 2"),
    )
    .expect("written");
    let error = client
        .manifest(&reference.with_digest(fetched.digest))
        .await;
    let error = error.expect_err("another manifest");
    // The registry verifies what it has, and fails; another one would hand it out.
    assert!(
        matches!(
            error,
            RegistryError::DigestMismatch { .. }
                | RegistryError::Failed { .. }
                | RegistryError::NotFound { .. }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_index_gives_this_machines_image() {
    if !have(TOOLS) || !have(&["buildah"]) {
        return;
    }
    let server = Server::start(Variant::Plain);
    let layout = Layout::new(server.dir.path(), "layout");
    layout.image("arm", "arm64", &[("/arch", b"arm64")]);
    layout.image("amd", "amd64", &[("/arch", b"amd64")]);
    server.put(&layout.path, "arm", "acme/arm:1");
    server.put(&layout.path, "amd", "acme/amd:1");
    index(&server, "acme/multi:1", &["acme/arm:1", "acme/amd:1"]);
    index(&server, "acme/armonly:1", &["acme/arm:1"]);
    let client = client(server.options());
    let multi = server.reference("acme/multi:1");
    let resolved = client.resolve(&multi, &amd64()).await.expect("an image");
    assert_eq!(resolved.top.media_type, media::OCI_INDEX);
    let ours = client
        .manifest(&server.reference("acme/amd:1"))
        .await
        .expect("a manifest");
    assert_eq!(resolved.manifest().digest, ours.digest);
    pull(&client, &multi).await.expect("all of it");
    let error = client
        .resolve(&server.reference("acme/armonly:1"), &amd64())
        .await;
    match error {
        Err(RegistryError::NoPlatform {
            wanted, available, ..
        }) => {
            assert_eq!(
                (wanted.as_str(), available),
                ("linux/amd64", vec!["linux/arm64".to_owned()])
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn dockers_manifests_are_read() {
    if !have(TOOLS) {
        return;
    }
    let server = server(Variant::Plain);
    let (from, to) = (server.skopeo("acme/tool:1"), server.skopeo("acme/docker:1"));
    let arguments = [
        "copy",
        "--insecure-policy",
        "--quiet",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--format",
        "v2s2",
        &from,
        &to,
    ];
    run(server.dir.path(), "skopeo", &arguments);
    let client = client(server.options());
    let fetched = pull(&client, &server.reference("acme/docker:1"))
        .await
        .expect("an image");
    assert_eq!(fetched.media_type, media::DOCKER_MANIFEST);
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_so() {
    if !have(TOOLS) {
        return;
    }
    let server = server(Variant::Plain);
    let client = client(server.options());
    for name in ["acme/tool:2", "acme/nosuch:1"] {
        let error = client
            .manifest(&server.reference(name))
            .await
            .expect_err(name);
        assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
        assert!(error.to_string().contains(name) && error.to_string().contains("check the name"));
    }
    let missing = Digest::of(b"no such blob");
    let error = client
        .blob(&server.reference("acme/tool:1"), &missing, 5, 0)
        .await;
    assert!(matches!(error, Err(RegistryError::NotFound { .. })));
    let local: Reference = "localhost/waggle-base".parse().expect("a reference");
    let error = client.manifest(&local).await;
    assert!(matches!(error, Err(RegistryError::LocalOnly { .. })));
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("its address");
    drop(free);
    let client = client(options());
    let reference = format!("{address}/x").parse().expect("a reference");
    let error = client.manifest(&reference).await.expect_err("nobody");
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_login_is_found_sent_and_not_shown() {
    if !have(WITH_LOGIN) {
        return;
    }
    let server = server(Variant::Login);
    let reference = server.reference("acme/tool:1");
    let with = |credentials| {
        client(RegistryOptions {
            credentials,
            ..server.options()
        })
    };
    pull(&with(server.credentials(USER, PASSWORD)), &reference)
        .await
        .expect("an image");
    let none = with(CredentialSources::default())
        .manifest(&reference)
        .await;
    match none.expect_err("no login") {
        error @ RegistryError::Unauthorized {
            had_login: false, ..
        } => {
            let text = error.to_string();
            assert!(
                text.contains("docker login") && text.contains(&server.address),
                "{text}"
            );
        }
        error => panic!("{error:?}"),
    }
    let wrong = with(server.credentials(USER, "wrong-secret"));
    match wrong.manifest(&reference).await.expect_err("a wrong login") {
        error @ RegistryError::Unauthorized {
            had_login: true, ..
        } => {
            let text = format!("{error} {error:?} {wrong:?}");
            assert!(
                text.contains("refuses the login") && !text.contains("wrong-secret"),
                "{text}"
            );
        }
        error => panic!("{error:?}"),
    }
    let damaged = server.dir.path().join("damaged.json");
    fs::write(&damaged, "{\"auths\": {").expect("a file");
    let files = vec![damaged];
    let damaged = with(CredentialSources {
        files,
        ..CredentialSources::default()
    });
    let error = damaged.manifest(&reference).await.expect_err("no login");
    assert!(error.to_string().contains("damaged.json"), "{error}");
}

#[tokio::test]
async fn logins_that_other_tools_write_are_read() {
    if !have(WITH_LOGIN) {
        return;
    }
    let server = server(Variant::Login);
    let reference = server.reference("acme/tool:1");
    let dir = server.dir.path();
    let file = dir.join("auth.json");
    let path = file.display().to_string();
    let arguments = [
        "login",
        "--authfile",
        &path,
        "--tls-verify=false",
        "-u",
        USER,
        "-p",
        PASSWORD,
        &server.address,
    ];
    run(dir, "skopeo", &arguments);
    let mut credentials = CredentialSources {
        files: vec![file.clone()],
        ..CredentialSources::default()
    };
    let stored = RegistryOptions {
        credentials: credentials.clone(),
        ..server.options()
    };
    pull(&client(stored), &reference).await.expect("an image");
    // For one repository alone, as the containers tools have it.
    write_login(&file, &format!("{}/acme", server.address), USER, PASSWORD);
    let scoped = client(RegistryOptions {
        credentials: credentials.clone(),
        ..server.options()
    });
    pull(&scoped, &reference).await.expect("an image");
    let other = scoped.manifest(&server.reference("other/tool:1")).await;
    assert!(
        matches!(
            other,
            Err(RegistryError::Unauthorized {
                had_login: false,
                ..
            })
        ),
        "{other:?}"
    );
    helper(
        dir,
        &format!("{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}"),
    );
    fs::write(
        &file,
        serde_json::json!({ "credsStore": "test" }).to_string(),
    )
    .expect("a file");
    credentials.helper_path = Some(format!("{}:/usr/bin:/bin", dir.display()).into());
    let asked = client(RegistryOptions {
        credentials,
        ..server.options()
    });
    pull(&asked, &reference).await.expect("an image");
}

/// A credential helper `test` in that folder. Written by a process of its own: see the unit tests.
fn helper(dir: &Path, answer: &str) {
    let script = format!("#!/bin/sh\ncat > /dev/null\ncat <<'END'\n{answer}\nEND\n");
    fs::write(dir.join("script"), script).expect("a script");
    run(
        dir,
        "install",
        &["-m", "755", "script", "docker-credential-test"],
    );
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_named() {
    if !have(WITH_TLS) {
        return;
    }
    let server = server(Variant::TlsLogin);
    let reference = server.reference("acme/tool:1");
    let credentials = server.credentials(USER, PASSWORD);
    let base = RegistryOptions {
        credentials,
        ..server.options()
    };
    pull(&client(base.clone()), &reference)
        .await
        .expect("an image");
    let unnamed = RegistryOptions {
        ca_bundle: None,
        ..base.clone()
    };
    let error = client(unnamed.clone())
        .manifest(&reference)
        .await
        .expect_err("an unknown authority");
    assert!(matches!(error, RegistryError::Tls { .. }), "{error:?}");
    assert!(error.to_string().contains("WAGGLE_CA_BUNDLE"), "{error}");
    // As docker has it: a folder by the registry's name.
    let folder = server.dir.path().join("certs.d");
    let own = folder.join(&server.address);
    fs::create_dir_all(&own).expect("a folder");
    fs::copy(
        server.ca.as_ref().expect("an authority"),
        own.join("ca.crt"),
    )
    .expect("copied");
    let by_folder = RegistryOptions {
        certificate_folders: vec![folder],
        ..unnamed
    };
    pull(&client(by_folder.clone()), &reference)
        .await
        .expect("an image");
    fs::write(own.join("ca.crt"), "nothing").expect("written");
    let error = client(by_folder)
        .manifest(&reference)
        .await
        .expect_err("a broken file");
    assert!(
        matches!(error, RegistryError::Certificates { .. }),
        "{error:?}"
    );
    let missing = RegistryOptions {
        ca_bundle: Some(folder_of(&server).join("missing.pem")),
        ..base
    };
    assert!(matches!(
        Registry::new(missing),
        Err(RegistryError::Certificates { .. })
    ));
}

fn folder_of(server: &Server) -> &Path {
    server.dir.path()
}

#[tokio::test]
async fn a_whole_image_comes_by_tls_and_with_a_login() {
    if !have(WITH_TLS) {
        return;
    }
    for variant in [Variant::Login, Variant::Tls, Variant::TlsLogin] {
        let server = Server::start(variant);
        let layout = Layout::new(server.dir.path(), "layout");
        let files: [(&str, &[u8]); 2] = [("/bin/tool", b"first"), ("/etc/tool", b"second")];
        layout.image("one", host_architecture(), &files);
        server.put(&layout.path, "one", "acme/tool:1");
        let credentials = match variant {
            Variant::Tls => CredentialSources::default(),
            _ => server.credentials(USER, PASSWORD),
        };
        let images = Images::open(Options {
            registry: RegistryOptions {
                credentials,
                ..server.options()
            },
            ..Options::new(server.dir.path().join("store"))
        });
        let image = images
            .expect("a store")
            .ensure(&server.reference("acme/tool:1"), Pull::Missing, &|_| ())
            .await
            .unwrap_or_else(|error| panic!("{variant:?}: {error}"));
        assert!(image.disk.is_file(), "{variant:?}");
        assert_eq!(image.manifest, manifest_of(&layout.path), "{variant:?}");
        assert_eq!(image.config.diff_ids.len(), 2, "{variant:?}");
    }
}

#[tokio::test]
async fn mirrors_come_first_and_are_not_needed() {
    if !have(TOOLS) {
        return;
    }
    let (home, mirror) = (server(Variant::Plain), Server::start(Variant::Plain));
    let layout = Layout::new(mirror.dir.path(), "layout");
    layout.image("new", "amd64", &[("/mirrored", b"yes")]);
    mirror.put(&layout.path, "new", "hub/acme/new:1");
    let dead = "127.0.0.1:1";
    let list = format!("{0}={dead},{0}={1}/hub", home.address, mirror.address);
    let mirrors = Mirror::parse_list(&list).expect("mirrors");
    let client = client(RegistryOptions {
        mirrors,
        ..options()
    });
    let mirrored = client
        .manifest(&home.reference("acme/new:1"))
        .await
        .expect("an image");
    assert_eq!(mirrored.host, mirror.address);
    pull(&client, &home.reference("acme/new:1"))
        .await
        .expect("all of it");
    // What the mirrors lack is the registry's.
    let fetched = pull(&client, &home.reference("acme/tool:1"))
        .await
        .expect("an image");
    assert_eq!(fetched.host, home.address);
    let error = client.manifest(&home.reference("acme/nosuch:1")).await;
    match error.expect_err("nowhere") {
        RegistryError::NotFound { host, .. } => assert_eq!(host, home.address),
        error => panic!("{error:?}"),
    }
}

/// An image of a layout as a push takes it.
fn push_of(layout: &Path, manifest: Digest, media_type: &str) -> Push {
    let blobs = layout.join("blobs/sha256");
    let bytes = fs::read(blobs.join(manifest.hex())).expect("a manifest");
    let bytes = bytes.into();
    let Ok(Manifest::Image(image)) =
        Manifest::read("layout", &bytes, media_type, &Limits::default())
    else {
        panic!("no image");
    };
    let content = |descriptor: &waggle_images::registry::Descriptor| Content {
        digest: descriptor.digest,
        size: descriptor.size,
        path: blobs.join(descriptor.digest.hex()),
    };
    Push {
        layers: image.layers.iter().map(content).collect(),
        config: content(&image.config),
        manifest: bytes,
        media_type: media_type.to_owned(),
    }
}

/// The manifest of a layout's only image.
fn manifest_of(layout: &Path) -> Digest {
    let index = fs::read(layout.join("index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("json");
    let digest = index.pointer("/manifests/0/digest");
    let digest = digest.and_then(serde_json::Value::as_str);
    digest.expect("an image").parse().expect("a digest")
}

#[tokio::test]
async fn other_tools_read_what_was_pushed() {
    if !have(WITH_TLS) {
        return;
    }
    for variant in [
        Variant::Plain,
        Variant::Login,
        Variant::TlsLogin,
        Variant::Token,
    ] {
        let server = Server::start(variant);
        let dir = server.dir.path();
        let layout = Layout::new(dir, "layout");
        layout.image(
            "one",
            "amd64",
            &[("/noise", &noise(5 << 20)), ("/small", b"x")],
        );
        let digest = manifest_of(&layout.path);
        let image = push_of(&layout.path, digest, media::OCI_MANIFEST);
        let credentials = server.credentials(USER, PASSWORD);
        let client = client(RegistryOptions {
            credentials,
            ..server.options()
        });
        let reference = server.reference("team/pushed:1");
        let events = Mutex::new(Vec::new());
        let done = |content: &Content, there: bool| {
            let mut events = events.lock().expect("no panic");
            events.push((content.digest, there));
        };
        let pushed = client
            .push(&reference, &image, &done)
            .await
            .expect("pushed");
        assert_eq!(pushed, digest);
        // Once more: everything is there.
        client
            .push(&reference, &image, &done)
            .await
            .expect("pushed again");
        let events = events.into_inner().expect("no panic");
        let there: Vec<_> = events.iter().map(|(_, there)| *there).collect();
        assert_eq!(
            there,
            [false, false, false, true, true, true],
            "{variant:?}"
        );
        assert_eq!(
            events[2].0, image.config.digest,
            "the configuration is last"
        );
        let flags = server.flags("src-");
        let source = server.skopeo("team/pushed:1");
        let mut arguments = vec!["copy", "--insecure-policy", "--quiet"];
        arguments.extend(flags.iter().map(String::as_str));
        arguments.extend([source.as_str(), "oci:back:1"]);
        run(dir, "skopeo", &arguments);
        assert_eq!(manifest_of(&dir.join("back")), digest);
        let inspect: Vec<String> = ["inspect".to_owned(), "--format={{.Digest}}".to_owned()]
            .into_iter()
            .chain(server.flags(""))
            .chain([source.clone()])
            .collect();
        let arguments: Vec<_> = inspect.iter().map(String::as_str).collect();
        let output = run(dir, "skopeo", &arguments);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            digest.to_string()
        );
    }
}

#[tokio::test]
async fn tokens_permit_what_the_login_may() {
    if !have(WITH_TLS) {
        return;
    }
    let server = server(Variant::Token);
    let reference = server.reference("acme/tool:1");
    let anonymous = client(server.options());
    pull(&anonymous, &reference)
        .await
        .expect("everybody may pull");
    let layout = server.dir.path().join("layout");
    let image = push_of(&layout, manifest_of(&layout), media::OCI_MANIFEST);
    let to = server.reference("team/new:1");
    let error = anonymous.push(&to, &image, &|_, _| {}).await;
    assert!(
        matches!(
            error,
            Err(RegistryError::Unauthorized {
                had_login: false,
                ..
            })
        ),
        "{error:?}"
    );
    let with = |password| {
        let credentials = server.credentials(USER, password);
        client(RegistryOptions {
            credentials,
            ..server.options()
        })
    };
    with(PASSWORD)
        .push(&to, &image, &|_, _| {})
        .await
        .expect("pushed");
    pull(&anonymous, &to).await.expect("what was pushed");
    let error = with("wrong").manifest(&reference).await;
    assert!(
        matches!(
            error,
            Err(RegistryError::Unauthorized {
                had_login: true,
                ..
            })
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn pushes_that_cannot_be_right_are_refused() {
    if !have(WITH_LOGIN) {
        return;
    }
    let server = Server::start(Variant::Login);
    let layout = Layout::new(server.dir.path(), "layout");
    layout.image("one", "amd64", &[("/small", b"x")]);
    let digest = manifest_of(&layout.path);
    let image = push_of(&layout.path, digest, media::OCI_MANIFEST);
    let anonymous = client(server.options());
    let reference = server.reference("team/pushed:1");
    let error = anonymous.push(&reference, &image, &|_, _| {}).await;
    assert!(
        matches!(error, Err(RegistryError::Unauthorized { .. })),
        "{error:?}"
    );
    let credentials = server.credentials(USER, PASSWORD);
    let client = client(RegistryOptions {
        credentials,
        ..server.options()
    });
    let refused = async |to: &Reference, image: Push| {
        let outcome = client.push(to, &image, &|_, _| {}).await;
        outcome.expect_err("not to be pushed")
    };
    // A manifest without its blobs: the registry's answer is told.
    let early = Push {
        layers: Vec::new(),
        ..image.clone()
    };
    let error = refused(&reference, early).await;
    assert!(error.to_string().contains("blob"), "{error}");
    let config = |config: Content| Push {
        config,
        ..image.clone()
    };
    let lie = config(Content {
        digest: Digest::of(b"other"),
        ..image.config.clone()
    });
    let error = refused(&reference, lie).await;
    assert!(
        matches!(error, RegistryError::Unexpected { .. }),
        "{error:?}"
    );
    let longer = config(Content {
        digest: Digest::of(b"longer"),
        size: image.config.size + 1,
        ..image.config.clone()
    });
    let error = refused(&reference, longer).await;
    assert!(matches!(error, RegistryError::File { .. }), "{error:?}");
    client
        .push(&reference, &image, &|_, _| {})
        .await
        .expect("pushed");
    // By its digest as well, as the images of an index are; by another digest not.
    let pinned = reference.with_digest(digest);
    let by_digest = client.push(&pinned, &image, &|_, _| {}).await;
    assert_eq!(by_digest.expect("pushed"), digest);
    let other = reference.with_digest(Digest::of(b"other"));
    let error = refused(&other, image.clone()).await;
    assert!(
        matches!(error, RegistryError::PushTarget { .. }),
        "{error:?}"
    );
    let error = refused(
        &reference,
        Push {
            media_type: "a\nb".to_owned(),
            ..image.clone()
        },
    )
    .await;
    assert!(
        matches!(error, RegistryError::PushTarget { .. }),
        "{error:?}"
    );
    let local: Reference = "localhost/x".parse().expect("a reference");
    let error = client.push(&local, &image, &|_, _| {}).await;
    assert!(
        matches!(error, Err(RegistryError::LocalOnly { .. })),
        "{error:?}"
    );
}
