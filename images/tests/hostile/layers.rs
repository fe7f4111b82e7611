// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Layers of one image, from a peer that answers only who asks for them side by side.

use std::sync::Arc;

use tokio::sync::Barrier;
use waggle_images::Digest;
use waggle_images::images::{Images, Options, Pull};

use crate::support::liar::{Answer, Asked, Liar, response};
use crate::{impatient, reference};

/// The tar of one file.
fn tar_of(name: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, name, b"text".as_slice())
        .expect("a tar");
    tar.into_inner().expect("a tar")
}

/// What a registry has for an image of these layers, by path.
fn documents(layers: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let blob = |media_type: &str, content: &[u8]| {
        serde_json::json!({
            "mediaType": media_type,
            "digest": Digest::of(content).to_string(),
            "size": content.len(),
        })
    };
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| Digest::of(layer).to_string())
        .collect();
    let config = serde_json::json!({
        "architecture": waggle_images::config::host_architecture(),
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let descriptors: Vec<_> = layers
        .iter()
        .map(|layer| blob("application/vnd.oci.image.layer.v1.tar", layer))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": blob("application/vnd.oci.image.config.v1+json", &config),
        "layers": descriptors,
    });
    let blobs = layers.iter().chain([&config]);
    blobs
        .map(|content| (format!("/blobs/{}", Digest::of(content)), content.clone()))
        .chain([("/manifests/1".to_owned(), manifest.to_string().into_bytes())])
        .collect()
}

#[tokio::test]
async fn layers_are_fetched_side_by_side() {
    let layers = [tar_of("a"), tar_of("b")];
    let documents = documents(&layers);
    let paths = layers.map(|layer| format!("/blobs/{}", Digest::of(&layer)));
    // No layer comes before both were asked for.
    let both = Arc::new(Barrier::new(2));
    let liar = Liar::start(move |asked: &Asked, _| {
        let mut all = documents.iter();
        let found = all.find(|(path, _)| asked.line.ends_with(path.as_str()));
        let (path, content) = found.expect("something of the image");
        let answer = response(200, &[], content);
        if paths.contains(path) {
            Answer::Together(Arc::clone(&both), answer)
        } else {
            Answer::Bytes(answer)
        }
    })
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut registry = impatient();
    registry.retries.attempts = 1;
    let images = Images::open(Options {
        registry,
        ..Options::new(dir.path().join("store"))
    });
    images
        .expect("a store")
        .ensure(&reference(&liar, "x:1"), Pull::Missing, &|_| ())
        .await
        .expect("an image");
    assert_eq!(liar.asked().len(), 4);
}
