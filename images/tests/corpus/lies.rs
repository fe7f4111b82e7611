// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Members of the corpus that are not what they are said to be: digests, sizes, media types, and what is cut off.

use waggle_images::Digest;
use waggle_images::images::Error;
use waggle_images::layer::{Compression, LayerError};
use waggle_images::registry::{RegistryError, media};
use waggle_images::source::SourceError;
use waggle_images::store::StoreError;

use crate::archive::{Archive, gzip};
use crate::image::{GZIP, Image, Layer, PLAIN, ZSTD};
use crate::paths::layer;
use crate::{Case, Outcome};

/// An archive with nothing wrong in it, which does not compress to nothing.
fn sound() -> Vec<u8> {
    let noise = crate::support::image::noise(20_000);
    Archive::default().file("a", &noise).end()
}

/// An image with one layer, of which this is said.
fn with(lie: impl FnOnce(&mut Layer)) -> Image {
    let mut layer = Layer::gzip(&sound());
    lie(&mut layer);
    Image::of(vec![layer])
}

macro_rules! refused {
    ($error:pat, $words:expr) => {
        Outcome::Refused(|error| matches!(error, $error), $words)
    };
}

pub(crate) fn cases() -> Vec<Case> {
    [digests(), sizes(), media_types(), cuts()]
        .into_iter()
        .flatten()
        .collect()
}

fn digests() -> Vec<Case> {
    vec![
        Case::new(
            "a layer with another digest",
            |_| with(|layer| layer.digest = Digest::of(b"another")),
            refused!(
                Error::Store(StoreError::Mismatch { .. }),
                &["has the digest", "tampered with"]
            ),
        ),
        Case::new(
            "a layer with another diff id",
            |_| with(|layer| layer.diff_id = Digest::of(b"another")),
            refused!(
                Error::Store(StoreError::DiffId { .. }),
                &["unpacks to", "configuration says"]
            ),
        ),
        Case {
            import: refused!(
                Error::Source(SourceError::Mismatch { .. }),
                &["under the name of"]
            ),
            ..Case::new(
                "a manifest with another digest",
                |_| Image {
                    name: Some(Digest::of(b"another")),
                    ..with(|_| ())
                },
                refused!(
                    Error::Registry(RegistryError::DigestMismatch { .. }),
                    &["the manifest of", "instead of"]
                ),
            )
        },
    ]
}

fn sizes() -> Vec<Case> {
    const OTHER: Outcome = refused!(
        Error::Registry(RegistryError::SizeMismatch { .. }),
        &["bytes instead of"]
    );
    vec![
        Case {
            import: refused!(
                Error::Store(StoreError::TooLong { .. }),
                &["is longer than", "its descriptor states"]
            ),
            ..Case::new(
                "a layer that is longer than it says",
                |_| with(|layer| layer.size -= 1),
                OTHER,
            )
        },
        Case {
            import: refused!(Error::Store(StoreError::Truncated { .. }), &["ends after"]),
            ..Case::new(
                "a layer that is shorter than it says",
                |_| with(|layer| layer.size += 1),
                OTHER,
            )
        },
        // It would not fit, whatever comes. An archive has what it has.
        Case {
            import: refused!(
                Error::Registry(RegistryError::TooLarge { .. }),
                &["the layer"]
            ),
            ..Case::new(
                "a layer that says it is larger than any may be",
                |_| with(|layer| layer.size = 1 << 50),
                refused!(
                    Error::Registry(RegistryError::TooLarge { .. }),
                    &["the layer", "is larger than"]
                ),
            )
        },
    ]
}

fn media_types() -> Vec<Case> {
    vec![
        Case::new(
            "a plain layer that is said to be gzip",
            |_| {
                let layer = Layer::plain(sound());
                Image::of(vec![Layer {
                    media_type: GZIP,
                    ..layer
                }])
            },
            layer!(
                LayerError::Contradiction {
                    expected: Compression::Gzip,
                    found: Compression::Plain
                },
                &["media type says gzip, its content is"]
            ),
        ),
        Case::new(
            "a gzip layer that is said to be zstd",
            |_| with(|layer| layer.media_type = ZSTD),
            layer!(
                LayerError::Contradiction {
                    expected: Compression::Zstd,
                    found: Compression::Gzip
                },
                &["media type says zstd, its content is gzip"]
            ),
        ),
        Case::new(
            "a zstd layer that is said to be plain",
            |_| {
                let layer = Layer::zstd(&sound());
                Image::of(vec![Layer {
                    media_type: PLAIN,
                    ..layer
                }])
            },
            layer!(
                LayerError::Contradiction {
                    found: Compression::Zstd,
                    ..
                },
                &["its content is zstd"]
            ),
        ),
        Case::new(
            "a layer of a type that nobody knows",
            |_| {
                with(|layer| {
                    layer.media_type = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
                })
            },
            refused!(Error::LayerType { .. }, &["encrypted", "cannot be used"]),
        ),
        Case::new(
            "a layer that is elsewhere",
            |_| {
                with(|layer| {
                    layer.media_type =
                        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
                })
            },
            refused!(
                Error::Registry(RegistryError::Foreign { .. }),
                &["never fetched from there"]
            ),
        ),
        Case::new(
            "a configuration that is none",
            |_| Image {
                config_type: "application/vnd.cncf.helm.config.v1+json",
                ..with(|_| ())
            },
            refused!(Error::Artifact { .. }, &["no container image", "helm"]),
        ),
        Case::new(
            "a manifest that is said to be an index",
            |_| Image {
                media_type: media::OCI_INDEX,
                ..with(|_| ())
            },
            refused!(
                Error::Registry(RegistryError::MediaType { .. }),
                &["is no image"]
            ),
        ),
        Case::new(
            "an HTML page instead of a layer",
            |_| {
                let page = b"<html>not found</html>".repeat(100);
                Image::of(vec![Layer::plain(page)])
            },
            layer!(
                LayerError::Malformed { at: 0, .. },
                &["malformed near byte 0"]
            ),
        ),
    ]
}

fn cuts() -> Vec<Case> {
    vec![
        // On its way: the digest is that of the whole.
        Case {
            import: refused!(
                Error::Store(StoreError::Truncated { .. }),
                &["ends after 9000 of"]
            ),
            ..Case::new(
                "a layer that is cut on its way",
                |_| with(|layer| layer.cut = Some(9000)),
                refused!(
                    Error::Registry(RegistryError::Broken { .. }),
                    &["broke off", "after 9000 bytes"]
                ),
            )
        },
        // Before it was named.
        Case::new(
            "a gzip stream that is cut",
            |_| {
                let mut blob = gzip(&*sound());
                blob.truncate(blob.len() / 2);
                Image::of(vec![Layer::endless(blob)])
            },
            layer!(
                LayerError::Cut {
                    compression: Compression::Gzip
                },
                &["gzip stream is cut"]
            ),
        ),
        Case::new(
            "an archive that is cut",
            |_| {
                let mut tar = sound();
                tar.truncate(9000);
                Image::plain(tar)
            },
            layer!(
                LayerError::Truncated { at: 9000, .. },
                &["ends at byte 9000", "in the middle of a file"]
            ),
        ),
    ]
}
