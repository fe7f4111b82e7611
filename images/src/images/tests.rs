// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Moments that other processes cannot be made to meet, one step after the other.

use std::fs;

use super::sweep::forget_unheld;
use super::*;

/// A store with an empty root file system in it as `localhost/x:1`.
async fn images() -> (tempfile::TempDir, Images, Reference) {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(Options::new(dir.path().join("cache"))).unwrap();
    let tar = dir.path().join("root.tar");
    fs::write(&tar, [0; 1024]).unwrap();
    let reference = "localhost/x:1".parse().unwrap();
    images
        .import(&tar, Some(&reference), &|_| ())
        .await
        .unwrap();
    (dir, images, reference)
}

async fn ensure(images: &Images, reference: &Reference) -> Result<Image, Error> {
    images.ensure(reference, Pull::Missing, &|_| ()).await
}

#[tokio::test]
async fn an_image_that_is_taken_while_it_is_removed_keeps_its_name() {
    let (_dir, images, reference) = images().await;
    let visit = images.store.visit().await.unwrap();
    let record = visit.record(&reference.to_string()).unwrap().unwrap();
    // As a removal finds it that has just seen that nobody holds it.
    let held = ensure(&images, &reference).await.unwrap();
    assert!(!forget_unheld(&visit, &record).unwrap());
    let again = visit.record(&record.reference).unwrap();
    assert_eq!(again.as_ref(), Some(&record));
    drop(held);
    assert!(forget_unheld(&visit, &record).unwrap());
    assert_eq!(visit.record(&record.reference).unwrap(), None);
    // Somebody else was faster.
    assert!(forget_unheld(&visit, &record).unwrap());
}

#[tokio::test]
async fn an_image_is_known_by_its_record_and_damage_is_for_its_next_use() {
    let (_dir, images, reference) = images().await;
    let other = "localhost/x:2".parse().unwrap();
    assert!(images.knows(&reference).unwrap() && !images.knows(&other).unwrap());
    let visit = images.store.visit().await.unwrap();
    let record = visit.record(&reference.to_string()).unwrap().unwrap();
    drop(visit);
    fs::remove_file(
        images
            .store
            .dir()
            .join("blobs/sha256")
            .join(record.config.hex()),
    )
    .unwrap();
    assert!(images.inspect(&reference).is_err());
    assert!(images.knows(&reference).unwrap());
}

#[tokio::test]
async fn a_record_of_other_content_than_its_digest_says_is_none() {
    let (_dir, images, reference) = images().await;
    let visit = images.store.visit().await.unwrap();
    let record = visit.record(&reference.to_string()).unwrap().unwrap();
    for (digest, there) in [(record.manifest, true), (Digest::of(b"other"), false)] {
        let pinned = reference.with_digest(digest);
        visit
            .remember(&Record {
                reference: pinned.to_string(),
                ..record.clone()
            })
            .unwrap();
        assert_eq!(images.knows(&pinned).unwrap(), there);
        match ensure(&images, &pinned).await {
            Ok(image) => assert!(there && image.manifest == digest),
            Err(error) => assert!(!there && matches!(error, Error::NotThere { .. })),
        }
    }
}
