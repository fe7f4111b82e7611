// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! OCI's layout (image-spec, image-layout.md): `index.json` names the images, `blobs/sha256` has everything.

use oci_spec::image::{Descriptor, ImageIndex};

use super::{Found, Source, SourceError};
use crate::Digest;

/// What containerd and docker call an image in full.
const FULL_NAME: &str = "io.containerd.image.name";
/// What OCI's tools call it: often a tag only.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where a blob is. Made of the digest alone, so it leads nowhere else.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The images that `index.json` names.
pub(super) fn images(source: &Source) -> Result<Vec<Found>, SourceError> {
    let index: ImageIndex = source.json("index.json")?;
    let entries = index.manifests();
    if entries.len() > 1 && entries.iter().all(|entry| name(entry).is_none()) {
        // One image for several platforms, without an index of its own.
        let document = source.read(
            source.file("index.json")?,
            "index.json",
            source.limits.manifest_bytes,
        )?;
        return Ok(vec![Found {
            names: Vec::new(),
            document,
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
        }]);
    }
    let mut images: Vec<Found> = Vec::new();
    for entry in entries {
        let malformed = |text: String| SourceError::Json {
            path: source.path.clone(),
            name: "index.json".to_owned(),
            source: serde::de::Error::custom(text),
        };
        let digest: Digest = entry
            .digest()
            .to_string()
            .parse()
            .map_err(|error: crate::digest::DigestError| malformed(error.to_string()))?;
        let document = source.document(&digest, source.limits.manifest_bytes)?;
        if document.len() as u64 != entry.size() {
            return Err(malformed(format!(
                "{digest} has {} bytes instead of {}",
                document.len(),
                entry.size()
            )));
        }
        let names = name(entry).map(str::to_owned);
        // The same image under another name.
        if let Some(found) = images.iter_mut().find(|found| found.document == document) {
            found.names.extend(names);
            continue;
        }
        images.push(Found {
            names: names.into_iter().collect(),
            document,
            media_type: entry.media_type().to_string(),
        });
    }
    Ok(images)
}

fn name(entry: &Descriptor) -> Option<&str> {
    let annotations = entry.annotations().as_ref()?;
    let name = annotations
        .get(FULL_NAME)
        .or_else(|| annotations.get(REF_NAME))?;
    Some(name.as_str()).filter(|name| !name.is_empty())
}
