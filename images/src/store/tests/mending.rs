// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Damage while it is in use, and damage that is found by making things once more.

use super::*;

/// Flips a bit of the last byte.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_root_that_is_made_anew_is_held_by_whoever_held_it() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tar = tar_of(&[("a", &[1; 60_000])]);
    let record = image(&visit, "x", &[&tar], Provenance::Pulled).await;
    let hold = visit.hold(&record.root).await.unwrap();
    for name in ["meta", "root.json"] {
        fs::remove_file(store.root_dir(&record.root).join(name)).unwrap();
        assert!(visit.root(&record.root).unwrap().is_none());
        image(&visit, "x", &[&tar], Provenance::Pulled).await;
        assert!(visit.root(&record.root).unwrap().is_some());
        assert!(visit.is_held(&record.root).unwrap(), "{name}");
    }
    visit.forget("x").unwrap();
    drop(visit);
    let all = Policy {
        all: true,
        ..Policy::default()
    };
    let prune = || store.sweep(LATE).unwrap().prune(&all, later()).unwrap();
    prune();
    assert!(store.root(&record.root).unwrap().is_some(), "it is in use");
    drop(hold);
    prune();
    assert!(content(&store).is_empty(), "{:?}", content(&store).keys());
}

#[tokio::test]
async fn a_newer_root_of_another_shape_is_not_taken_for_damage() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let record = image(&visit, "x", &[&tar_of(&[("a", b"a")])], Provenance::Pulled).await;
    let path = store.root_dir(&record.root).join("root.json");
    fs::remove_file(&path).unwrap();
    fs::write(&path, r#"{"version": 2, "pieces": []}"#).unwrap();
    let error = visit.root(&record.root).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
}

#[tokio::test]
async fn verifying_finds_damage_of_layers_whose_blobs_are_gone() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tars = [tar_of(&[("a", b"a")]), tar_of(&[("b", b"b")])];
    let layers = [tars[0].as_slice(), &tars[1]];
    let record = image(&visit, "x", &layers, Provenance::Pulled).await;
    let (limits, stop) = (Limits::default(), Stop::default());
    for layer in &record.layers {
        fs::remove_file(store.blob_path(&layer.digest)).unwrap();
        flip(&store.layer_paths(&layer.diff_id).1);
        let verify = |mend| {
            visit
                .verify(std::slice::from_ref(&record), &limits, mend, &stop)
                .unwrap()
        };
        assert_eq!(verify(true).damage, [Damage::Layer(layer.diff_id)]);
        assert!(visit.layer(&layer.diff_id).unwrap().is_none());
        image(&visit, "x", &layers, Provenance::Pulled).await;
        let mended = verify(false);
        assert_eq!(
            (mended.damage.len(), mended.layers, mended.roots),
            (0, 2, 1)
        );
    }
}

#[tokio::test]
async fn what_lower_ceilings_refuse_is_no_damage() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let tar = tar_of(&[("a", b"a"), ("b", b"b")]);
    let record = image(&visit, "x", &[&tar], Provenance::Pulled).await;
    let limits = Limits {
        entries: 1,
        ..Limits::default()
    };
    let found = visit
        .verify(
            std::slice::from_ref(&record),
            &limits,
            true,
            &Stop::default(),
        )
        .unwrap();
    let expected = Verified {
        blobs: 3,
        unproven: 2,
        ..Verified::default()
    };
    assert_eq!(found, expected, "the layer and the root");
    assert!(visit.root(&record.root).unwrap().is_some());
}

/// Making things once more takes room, too.
#[tokio::test]
async fn verifying_leaves_the_reserve_alone() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let record = image(&visit, "x", &[&tar_of(&[("a", b"a")])], Provenance::Pulled).await;
    let full = store.with_reserve(1 << 60);
    let visit = full.visit().await.unwrap();
    let error = visit
        .verify(&[record], &Limits::default(), false, &Stop::default())
        .unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
}

/// Whatever file it is that grows.
#[test]
fn a_guard_looks_at_all_that_is_written() {
    let (dir, store) = store();
    let [data, index] = ["data", "index"].map(|name| dir.path().join(name));
    let full = store.with_reserve(1 << 60);
    for grows in [&data, &index] {
        let stop = Stop::default();
        let files = vec![data.clone(), index.clone()];
        assert!(space::Guard::new(&full, &stop, files.clone()).is_err());
        let guard = space::Guard::begun(&full, &stop, files);
        assert!(!guard.must_stop());
        let file = create(grows).unwrap();
        file.set_len(space::STEP - 1).unwrap();
        assert!(!guard.must_stop(), "not yet: it is asked often");
        file.set_len(space::STEP).unwrap();
        assert!(guard.must_stop());
        let reason = guard.reason(&io::Error::other("stopped"), &data);
        assert!(matches!(reason, Some(StoreError::NoSpace { .. })));
        fs::remove_file(grows).unwrap();
    }
}
