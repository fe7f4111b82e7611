// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Ceilings that all layers of an image share, also those that are converted at the same time.

use futures_util::future::join_all;

use super::*;
use crate::layer::Index;

fn of(visit: &Visit, tar: &[u8]) -> Conversion {
    let digest = visit.put_blob(tar).unwrap();
    Conversion {
        blob: digest,
        diff_id: Some(digest),
        compression: None,
    }
}

/// Converts layers at the same time, and says what came of it and what is on the disk.
async fn at_once(limits: &Limits, tars: &[Vec<u8>]) -> (Vec<StoreError>, u64, u64) {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let quota = Quota::new(limits);
    let stop = Stop::default();
    let made = tars
        .iter()
        .map(|tar| visit.make_layer(of(&visit, tar), &quota, &stop));
    let outcomes = join_all(made).await;
    let (mut bytes, mut entries) = (0, 0);
    for name in files(&store.layers()) {
        let path = store.layers().join(name);
        bytes += fs::metadata(&path).unwrap().len();
        if path.extension().unwrap() == "index" {
            entries += Index::open(&path).unwrap().entries();
        }
    }
    let errors = outcomes.into_iter().filter_map(Result::err).collect();
    (errors, bytes, entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_at_once_have_no_more_entries_than_one_image_may() {
    let limits = Limits {
        entries: 3000,
        ..Limits::default()
    };
    let layer = |layer: usize| {
        let names: Vec<_> = (0..2000).map(|n| format!("{layer}/{n}")).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        tar_of(&files)
    };
    let tars: Vec<_> = (0..4).map(layer).collect();
    let (errors, _, entries) = at_once(&limits, &tars).await;
    assert!(entries <= 3000, "{entries}");
    assert!(errors.len() >= 3, "{errors:?}");
    for error in errors {
        assert!(
            matches!(error, StoreError::BombOfEntries { limit: 3000 }),
            "{error}"
        );
    }
}

/// Layers of attributes alone: their data is empty, their indexes are not.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_count_as_bytes() {
    let limits = Limits {
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    let layer = |letter: u8| {
        let mut builder = tar::Builder::new(Vec::new());
        for n in 0..12 {
            builder
                .append_pax_extensions([("SCHILY.xattr.user.a", vec![letter; 60_000].as_slice())])
                .unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            header.set_mode(0o644);
            let name = format!("{n}");
            builder.append_data(&mut header, name, &b""[..]).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let tars: Vec<_> = (b'a'..=b'd').map(layer).collect();
    let (errors, bytes, _) = at_once(&limits, &tars).await;
    assert!(bytes <= 1 << 20, "{bytes}");
    assert!(errors.len() >= 3, "{errors:?}");
    for error in errors {
        assert!(matches!(error, StoreError::BombOfBytes { .. }), "{error}");
    }
}

/// What nothing is kept of is read to its end all the same.
#[tokio::test]
async fn archives_count_as_bytes() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let limits = Limits {
        unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    let quota = Quota::new(&limits);
    for n in 0..3_u8 {
        let tar = tar_of(&[(".wh..wh.x", &[n; 400_000])]);
        let made = visit
            .make_layer(of(&visit, &tar), &quota, &Stop::default())
            .await;
        match made {
            Ok(layer) => assert!(n < 2 && layer.bytes < 1000, "{layer:?}"),
            Err(StoreError::BombOfBytes { limit }) => assert_eq!((n, limit), (2, 1 << 20)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Another attempt at a layer does not find its room taken by the first one.
#[tokio::test]
async fn a_layer_that_fails_gives_back_what_it_took() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let limits = Limits {
        unpacked_bytes: 70_000,
        entries: 1,
        ..Limits::default()
    };
    let quota = Quota::new(&limits);
    let right = of(&visit, &tar_of(&[("a", &[1; 60_000])]));
    let wrong = Conversion {
        diff_id: Some(Digest::of(b"other")),
        ..right
    };
    for _ in 0..3 {
        let error = visit
            .make_layer(wrong, &quota, &Stop::default())
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::DiffId { .. }), "{error}");
    }
    visit
        .make_layer(right, &quota, &Stop::default())
        .await
        .unwrap();
    // The same layer again is one that is there; it takes as much.
    let error = visit
        .make_layer(right, &quota, &Stop::default())
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::BombOfBytes { .. }), "{error}");
}
