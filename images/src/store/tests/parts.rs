// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Parts of downloads, and who may spoil or remove what.

use super::*;

/// What is killed, or fails, before a blob has its name leaves a part that the next one can go on with.
#[tokio::test]
async fn a_part_whose_blob_got_no_name_can_be_written_to() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(50_000);
    let in_the_way = store.blob_path(&wanted.digest);
    fs::create_dir(&in_the_way).unwrap();
    let error = receive(&visit, wanted, &Served::new(&bytes))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ReceiveError::Store(StoreError::Io { .. })),
        "{error}"
    );
    let mode = fs::metadata(store.partial_path(&wanted)).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::remove_dir(&in_the_way).unwrap();
    let origin = Served::new(&bytes);
    receive(&visit, wanted, &origin).await.unwrap();
    assert!(origin.opened().is_empty(), "all of it was there");
    assert_eq!(fs::metadata(&in_the_way).unwrap().mode() & 0o777, 0o444);
}

/// Root may write to anything, so this is somebody else.
#[test]
fn a_part_that_may_not_be_written_to_is_begun_anew() {
    use nix::unistd::{Uid, geteuid, setfsuid};
    const NOBODY: u32 = 65_534;
    let (dir, store) = store();
    let (_, wanted) = blob(50_000);
    let path = store.partial_path(&wanted);
    fs::write(&path, [0; 100]).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    let is_root = geteuid().is_root();
    if is_root {
        for path in [dir.path(), store.dir(), &store.dir().join("partial"), &path] {
            std::os::unix::fs::chown(path, Some(NOBODY), None).unwrap();
        }
    }
    // A thread of its own: it ends with this identity.
    let opened = std::thread::spawn(move || {
        if is_root {
            setfsuid(Uid::from_raw(NOBODY));
        }
        assert!(File::options().write(true).open(&path).is_err());
        partial::Partial::open(&store, wanted, &Stop::default()).map(|part| part.length())
    });
    assert_eq!(opened.join().unwrap().unwrap(), 0);
}

/// A manifest may state any size for a blob that is not its own.
#[tokio::test]
async fn a_wrong_size_spoils_no_part_of_the_right_one() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(50_000);
    receive(&visit, wanted, &Served::breaking(&bytes, &[20_000]))
        .await
        .unwrap_err();
    for size in [0, 1, 10_000, 60_000] {
        let lie = Wanted { size, ..wanted };
        receive(&visit, lie, &Served::new(&bytes))
            .await
            .unwrap_err();
    }
    let origin = Served::new(&bytes);
    receive(&visit, wanted, &origin).await.unwrap();
    assert_eq!(origin.opened(), [20_000]);
}

/// What somebody receives in a damaged blob's place is not taken for it.
#[tokio::test]
async fn damage_is_looked_for_while_nobody_receives_the_blob() {
    let (_dir, store) = store();
    let visit = store.visit().await.unwrap();
    let (bytes, wanted) = blob(50_000);
    let path = store.blob_path(&wanted.digest);
    fs::write(&path, [0; 50_000]).unwrap();
    let lock = visit.lock("blob", &wanted.digest).await.unwrap();
    let looks = tokio::task::spawn_blocking({
        let visit = visit.clone();
        move || visit.drop_if_damaged(&wanted.digest, &Stop::default())
    });
    // If it did not wait, it would be done by now.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(path.exists());
    fs::write(&path, &bytes).unwrap();
    drop(lock);
    assert!(!looks.await.unwrap().unwrap());
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
