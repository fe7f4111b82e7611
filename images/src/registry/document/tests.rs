// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

use serde_json::{Value, json};

use super::*;

fn blob(content: &str) -> Value {
    json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": Digest::of(content.as_bytes()).to_string(),
        "size": content.len(),
    })
}

fn image() -> Value {
    json!({ "schemaVersion": 2, "config": blob("config"), "layers": [blob("a"), blob("bb")] })
}

fn read(document: &Value, stated: &str) -> Result<Manifest, RegistryError> {
    let bytes = Bytes::from(document.to_string());
    Manifest::read("r.example/x:1", &bytes, stated, &Limits::default())
}

fn entry(platform: Option<(&str, &str, &str)>, name: &str) -> IndexEntry {
    IndexEntry {
        descriptor: Descriptor {
            media_type: media::OCI_MANIFEST.to_owned(),
            digest: Digest::of(name.as_bytes()),
            size: 1,
        },
        platform: platform.map(|(os, architecture, variant)| Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }),
    }
}

fn index(images: impl IntoIterator<Item = IndexEntry>) -> Index {
    Index {
        images: images.into_iter().collect(),
        ..Index::default()
    }
}

fn amd64() -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        variant: String::new(),
    }
}

#[test]
fn reads_images_under_every_name_they_have() {
    for stated in [
        media::OCI_MANIFEST,
        media::DOCKER_MANIFEST,
        "",
        "application/json",
    ] {
        let Ok(Manifest::Image(read)) = read(&image(), stated) else {
            panic!("no image: {stated}");
        };
        assert_eq!(read.config.digest, Digest::of(b"config"));
        let sizes: Vec<_> = read.layers.iter().map(|layer| layer.size).collect();
        assert_eq!(sizes, [1, 2]);
    }
}

#[test]
fn a_document_that_is_two_things_is_none() {
    let mut both = image();
    both["manifests"] = json!([]);
    for stated in [media::OCI_MANIFEST, media::OCI_INDEX, ""] {
        let error = read(&both, stated);
        assert!(
            matches!(error, Err(RegistryError::MediaType { .. })),
            "{error:?}"
        );
    }
}

#[test]
fn the_registry_and_the_document_must_agree() {
    let mut named = image();
    named["mediaType"] = json!(media::OCI_MANIFEST);
    assert!(read(&named, media::OCI_MANIFEST).is_ok());
    assert!(read(&named, "application/octet-stream").is_ok());
    for stated in [media::OCI_INDEX, media::DOCKER_MANIFEST] {
        let error = read(&named, stated);
        assert!(
            matches!(error, Err(RegistryError::MediaType { .. })),
            "{error:?}"
        );
    }
    // A lie about the shape, by either.
    let error = read(&image(), media::OCI_INDEX);
    assert!(
        matches!(error, Err(RegistryError::MediaType { .. })),
        "{error:?}"
    );
    named["mediaType"] = json!("text/html");
    assert!(matches!(
        read(&named, ""),
        Err(RegistryError::MediaType { .. })
    ));
}

#[test]
fn dockers_first_form_is_told_apart() {
    let first = json!({ "schemaVersion": 1, "name": "x", "fsLayers": [] });
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for stated in ["", media::DOCKER_MANIFEST, signed] {
        let error = read(&first, stated).expect_err("refused");
        assert!(matches!(error, RegistryError::Schema1 { .. }), "{error}");
        assert!(error.to_string().contains("skopeo copy"), "{error}");
    }
    let bytes = Bytes::from_static(b"not json");
    let error = Manifest::read("x", &bytes, signed, &Limits::default());
    assert!(matches!(error, Err(RegistryError::Schema1 { .. })));
}

#[test]
fn layers_that_are_elsewhere_are_refused() {
    let mut linked = image();
    linked["layers"][1]["urls"] = json!(["https://vendor.example/layer"]);
    let mut foreign = image();
    foreign["layers"][1]["mediaType"] =
        json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let mut restricted = image();
    restricted["layers"][1]["mediaType"] =
        json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
    for document in [linked, foreign, restricted] {
        match read(&document, media::OCI_MANIFEST) {
            Err(RegistryError::Foreign { digest, .. }) => assert_eq!(digest, Digest::of(b"bb")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_above_the_limits_is_refused() {
    let bytes = Bytes::from(image().to_string());
    let read = |limits: &Limits| Manifest::read("x", &bytes, "", limits);
    let few = Limits {
        layers: 1,
        ..Limits::default()
    };
    let error = read(&few).expect_err("two layers");
    assert!(matches!(
        error,
        RegistryError::TooManyLayers {
            layers: 2,
            limit: 1,
            ..
        }
    ));
    assert!(
        error.to_string().contains("raise WAGGLE_IMAGE_MAX_LAYERS"),
        "{error}"
    );
    let small = Limits {
        blob_bytes: 1,
        ..Limits::default()
    };
    let error = read(&small).expect_err("a larger layer");
    assert!(matches!(error, RegistryError::TooLarge { limit: 1, .. }));
    assert!(
        error
            .to_string()
            .contains("raise WAGGLE_IMAGE_MAX_LAYER_MB"),
        "{error}"
    );
    let config = Limits {
        config_bytes: 5,
        ..Limits::default()
    };
    // No setting raises this one, so none is named.
    assert!(matches!(
        read(&config),
        Err(RegistryError::TooLarge {
            limit: 5,
            setting: None,
            ..
        })
    ));
    let exact = Limits {
        layers: 2,
        blob_bytes: 2,
        config_bytes: 6,
        ..Limits::default()
    };
    assert!(read(&exact).is_ok());
}

#[test]
fn broken_documents_are_errors() {
    let mut sha512 = image();
    sha512["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
    assert!(matches!(
        read(&sha512, ""),
        Err(RegistryError::Digest { .. })
    ));
    let mut negative = image();
    negative["layers"][0]["size"] = json!(-1);
    assert!(matches!(
        read(&negative, ""),
        Err(RegistryError::Malformed { .. })
    ));
    let mut path = image();
    path["layers"][0]["digest"] = json!("sha256:../../etc/passwd");
    assert!(read(&path, "").is_err());
    for text in ["", "{", "[]", "null", "\"x\"", "<html>"] {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let error = Manifest::read("x", &bytes, media::OCI_MANIFEST, &Limits::default());
        assert!(error.is_err(), "{text:?}");
    }
    let deep = Bytes::from("[".repeat(1 << 20));
    assert!(Manifest::read("x", &deep, "", &Limits::default()).is_err());
}

#[test]
fn an_index_gives_the_first_that_runs_here() {
    let entries = [
        entry(Some(("windows", "amd64", "")), "windows"),
        entry(Some(("linux", "arm64", "v8")), "arm"),
        entry(Some(("linux", "amd64", "v3")), "new"),
        entry(Some(("linux", "amd64", "v1")), "old"),
        entry(Some(("linux", "amd64", "")), "plain"),
        entry(Some(("unknown", "unknown", "")), "attestation"),
    ];
    let entries = index(entries);
    let picked = pick("x", &entries, &amd64()).expect("an image");
    assert_eq!(picked.descriptor.digest, Digest::of(b"old"));
    let arm = Platform {
        architecture: "arm64".to_owned(),
        ..amd64()
    };
    let picked = pick("x", &entries, &arm).expect("an image");
    assert_eq!(picked.descriptor.digest, Digest::of(b"arm"));
}

#[test]
fn an_index_without_ours_says_what_it_has() {
    let entries = [
        entry(Some(("linux", "arm64", "v8")), "arm"),
        entry(Some(("linux", "amd64", "v3")), "new"),
        entry(Some(("unknown", "unknown", "")), "attestation"),
        entry(None, "nameless"),
    ];
    let error = pick("r.example/x:1", &index(entries), &amd64()).expect_err("nothing for amd64");
    assert_eq!(
        error.to_string(),
        "r.example/x:1 has no image for linux/amd64, only for: linux/arm64/v8, linux/amd64/v3; \
         build it for linux/amd64"
    );
    let none = pick("x", &Index::default(), &amd64()).expect_err("nothing at all");
    assert!(none.to_string().contains("only for: nothing"), "{none}");
}

#[test]
fn the_only_image_needs_no_platform() {
    let only = index([entry(None, "only")]);
    let picked = pick("x", &only, &amd64()).expect("an image");
    assert_eq!(picked.descriptor.digest, Digest::of(b"only"));
    let document = json!({ "schemaVersion": 2, "manifests": [blob("m")] });
    let Ok(Manifest::Index(read)) = read(&document, media::DOCKER_LIST) else {
        panic!("no index");
    };
    assert!(read.images[0].platform.is_none());
}

#[test]
fn another_algorithm_concerns_only_who_picks_it() {
    let platform = |architecture| json!({ "os": "linux", "architecture": architecture });
    let mut ours = blob("ours");
    ours["platform"] = platform("amd64");
    let mut other = blob("other");
    other["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
    other["platform"] = platform("arm64");
    let document = json!({ "schemaVersion": 2, "manifests": [other, ours] });
    let Ok(Manifest::Index(index)) = read(&document, media::OCI_INDEX) else {
        panic!("no index");
    };
    let picked = pick("x", &index, &amd64()).expect("an image");
    assert_eq!(picked.descriptor.digest, Digest::of(b"ours"));
    let on = |architecture: &str| Platform {
        architecture: architecture.to_owned(),
        ..amd64()
    };
    let error = pick("x", &index, &on("arm64"));
    assert!(
        matches!(error, Err(RegistryError::Digest { .. })),
        "{error:?}"
    );
    let error = pick("x", &index, &on("s390x"));
    assert!(
        matches!(error, Err(RegistryError::NoPlatform { .. })),
        "{error:?}"
    );
    // The only image, and of no stated platform.
    let mut alone = document["manifests"][0].clone();
    alone["platform"] = Value::Null;
    let document = json!({ "schemaVersion": 2, "manifests": [alone] });
    let Ok(Manifest::Index(index)) = read(&document, media::OCI_INDEX) else {
        panic!("no index");
    };
    let error = pick("x", &index, &amd64());
    assert!(
        matches!(error, Err(RegistryError::Digest { .. })),
        "{error:?}"
    );
}
