// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An image as its maker states it, whether that is true or not: as an archive in OCI's layout, and as a registry
//! would have it that lies as well.

use std::fs::File;
use std::io::{Read, repeat};
use std::path::Path;

use serde_json::{Value, json};
use waggle_images::registry::media;
use waggle_images::{Digest, Reference};

use crate::archive::{gzip, zstd};
use crate::support::liar::{Answer, Liar, head, response};

pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layer, and what is said of it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// What is handed out, but for what is cut off.
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// In the configuration.
    pub(crate) diff_id: Digest,
    /// So many bytes are handed out of those that there should be.
    pub(crate) cut: Option<usize>,
}

impl Layer {
    /// Bytes that are what they are said to be, of an archive with that digest.
    pub(crate) fn blob(media_type: &'static str, bytes: Vec<u8>, diff_id: Digest) -> Self {
        Self {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            cut: None,
            bytes,
            media_type,
            diff_id,
        }
    }

    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        let digest = Digest::of(&tar);
        Self {
            digest,
            size: tar.len() as u64,
            cut: None,
            bytes: tar,
            media_type: PLAIN,
            diff_id: digest,
        }
    }

    pub(crate) fn gzip(tar: &[u8]) -> Self {
        Self::blob(GZIP, gzip(tar), Digest::of(tar))
    }

    pub(crate) fn zstd(tar: &[u8]) -> Self {
        Self::blob(ZSTD, zstd(tar), Digest::of(tar))
    }

    /// One whose archive nobody gets to the end of, so that its digest may be anything.
    pub(crate) fn endless(blob: Vec<u8>) -> Self {
        Self::blob(GZIP, blob, Digest::of(b"never read to its end"))
    }
}

/// An image, and what is said of it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    /// What whoever hands it out says of the manifest.
    pub(crate) media_type: &'static str,
    /// What the manifest says of the configuration.
    pub(crate) config_type: &'static str,
    /// What the manifest is asked for by, if not by its own digest.
    pub(crate) name: Option<Digest>,
    /// Spaces behind the manifest, which JSON may have.
    pub(crate) padding: u64,
}

impl Image {
    pub(crate) fn of(layers: Vec<Layer>) -> Self {
        Self {
            layers,
            media_type: media::OCI_MANIFEST,
            config_type: CONFIG,
            name: None,
            padding: 0,
        }
    }

    /// Of one archive, as it is.
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self::of(vec![Layer::plain(tar)])
    }

    fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| layer.diff_id).collect();
        let config = json!({
            "architecture": waggle_images::config::host_architecture(), "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        config.to_string().into_bytes()
    }

    fn manifest(&self) -> Vec<u8> {
        let blob = |media_type: &str, digest: Digest, size: u64| -> Value {
            json!({ "mediaType": media_type, "digest": digest, "size": size })
        };
        let config = self.config();
        let layers = self.layers.iter();
        let layers: Vec<_> = layers
            .map(|layer| blob(layer.media_type, layer.digest, layer.size))
            .collect();
        let config = blob(self.config_type, Digest::of(&config), config.len() as u64);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        manifest.to_string().into_bytes()
    }

    /// Writes an archive of an OCI layout with the image.
    pub(crate) fn archive(&self, path: &Path) {
        let mut archive = tar::Builder::new(File::create(path).expect("an archive"));
        let mut add = |name: &str, size: u64, content: &mut dyn Read| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o644);
            let added = archive.append_data(&mut header, name, content);
            added.expect("a member");
        };
        let (config, manifest) = (self.config(), self.manifest());
        // Longer ones are refused before anybody asks for their digest.
        let digest = self.name.unwrap_or_else(|| Digest::of(&manifest));
        let size = manifest.len() as u64 + self.padding;
        let index = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": self.media_type, "digest": digest, "size": size,
            "annotations": { "org.opencontainers.image.ref.name": "hostile:1" },
        }]});
        let index = index.to_string();
        let layout = r#"{"imageLayoutVersion":"1.0.0"}"#;
        for (name, text) in [("oci-layout", layout), ("index.json", &index)] {
            add(name, text.len() as u64, &mut text.as_bytes());
        }
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let mut padded = manifest.as_slice().chain(repeat(b' ').take(self.padding));
        add(&blob(&digest), size, &mut padded);
        let config_name = blob(&Digest::of(&config));
        add(&config_name, config.len() as u64, &mut config.as_slice());
        for layer in &self.layers {
            let bytes = &layer.bytes[..layer.cut.unwrap_or(layer.bytes.len())];
            add(&blob(&layer.digest), bytes.len() as u64, &mut &*bytes);
        }
        archive.finish().expect("an archive");
    }

    /// Writes what `docker save` would of its layers, which has no other manifest than this one.
    pub(crate) fn saved(&self, path: &Path) {
        let mut archive = tar::Builder::new(File::create(path).expect("an archive"));
        let names: Vec<_> = (0..self.layers.len()).map(|n| format!("{n}.tar")).collect();
        let list = json!([{ "Config": "c", "RepoTags": ["hostile:1"], "Layers": names }]);
        let (config, list) = (self.config(), list.to_string().into_bytes());
        let layers = self.layers.iter().map(|layer| layer.bytes.as_slice());
        let mut members: Vec<_> = names.iter().map(String::as_str).zip(layers).collect();
        members.extend([("c", &*config), ("manifest.json", &*list)]);
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            let added = archive.append_data(&mut header, name, content);
            added.expect("a member");
        }
        archive.finish().expect("an archive");
    }

    /// A registry that has it, and what it is called there.
    pub(crate) async fn serve(self) -> (Liar, Reference) {
        let name = self.name;
        let liar = Liar::start(move |asked, _| self.answer(&asked.line)).await;
        let reference: Reference = format!("{}/hostile:1", liar.address)
            .parse()
            .expect("a reference");
        let reference = match name {
            Some(digest) => reference.with_digest(digest),
            None => reference,
        };
        (liar, reference)
    }

    fn answer(&self, line: &str) -> Answer {
        let Some((_, digest)) = line.split_once("/blobs/") else {
            return self.answer_manifest();
        };
        let config = self.config();
        if digest == Digest::of(&config).to_string() {
            return Answer::Bytes(response(200, &[], &config));
        }
        let layer = self.layers.iter();
        let layer = layer
            .clone()
            .find(|layer| layer.digest.to_string() == digest);
        let Some(layer) = layer else {
            return Answer::Bytes(response(404, &[], b""));
        };
        let length = layer.bytes.len().to_string();
        let head = head(200, &[("Content-Length", &length)]);
        let sent = &layer.bytes[..layer.cut.unwrap_or(layer.bytes.len())];
        Answer::Bytes([&head, sent].concat())
    }

    fn answer_manifest(&self) -> Answer {
        let manifest = self.manifest();
        let length = (manifest.len() as u64 + self.padding).to_string();
        let headers = [
            ("Content-Type", self.media_type),
            ("Content-Length", &length),
        ];
        let answer = [head(200, &headers), manifest].concat();
        match self.padding {
            0 => Answer::Bytes(answer),
            _ => Answer::Endless(answer),
        }
    }
}
