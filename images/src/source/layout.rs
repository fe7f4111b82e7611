// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! OCI's layout (image-spec, image-layout.md): `index.json` names the images, `blobs/sha256` has everything.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageIndex};

use super::{Contents, Found, Source, SourceError};
use crate::Digest;
use crate::registry::media;

const INDEX: &str = "index.json";

/// What containerd and docker call an image in full.
const FULL_NAME: &str = "io.containerd.image.name";
/// What OCI's tools call it: often a tag only.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where a blob is. Made of the digest alone, so it leads nowhere else.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The images that `index.json` names. Their documents are not read: there may be many.
pub(super) fn contents(source: &Source) -> Result<Contents, SourceError> {
    let bytes = source.list(INDEX)?;
    let index: ImageIndex = source.parse(INDEX, &bytes)?;
    let entries = index.manifests();
    source.allow(entries.len())?;
    if entries.len() > 1 && entries.iter().all(|entry| name(entry).is_none()) {
        return Ok(whole(Digest::of(&bytes)));
    }
    let mut images: Vec<Found> = Vec::new();
    let mut known = BTreeMap::new();
    for entry in entries {
        let digest = document(source, entry)?;
        let names = name(entry).map(str::to_owned);
        let at = *known.entry(digest).or_insert(images.len());
        match images.get_mut(at) {
            // The same image under another name.
            Some(found) => found.names.extend(names),
            None => images.push(Found {
                names: names.into_iter().collect(),
                digest,
                media_type: entry.media_type().to_string(),
            }),
        }
    }
    Ok(Contents {
        images,
        ..Contents::default()
    })
}

/// One image for several platforms, without an index of its own: `index.json` is that.
fn whole(digest: Digest) -> Contents {
    Contents {
        images: vec![Found {
            names: Vec::new(),
            digest,
            media_type: media::OCI_INDEX.to_owned(),
        }],
        blobs: BTreeMap::from([(digest, INDEX.to_owned())]),
        ..Contents::default()
    }
}

/// The document of an entry, which is there, and as long as the entry says.
fn document(source: &Source, entry: &Descriptor) -> Result<Digest, SourceError> {
    let malformed = |text: String| SourceError::Json {
        path: source.path.clone(),
        name: INDEX.to_owned(),
        source: serde::de::Error::custom(text),
    };
    let digest = entry.digest().to_string();
    let digest: Digest = digest
        .parse()
        .map_err(|error: crate::digest::DigestError| malformed(error.to_string()))?;
    let length = source.blob(&digest)?.len();
    if length != entry.size() {
        let size = entry.size();
        return Err(malformed(format!(
            "{digest} has {length} bytes instead of {size}"
        )));
    }
    Ok(digest)
}

fn name(entry: &Descriptor) -> Option<&str> {
    let annotations = entry.annotations().as_ref()?;
    let name = annotations
        .get(FULL_NAME)
        .or_else(|| annotations.get(REF_NAME))?;
    Some(name.as_str()).filter(|name| !name.is_empty())
}
