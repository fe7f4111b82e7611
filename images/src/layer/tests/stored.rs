// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The index on the disk, when the disk is not to be trusted.

use super::*;

fn layer() -> Made {
    sound(
        &Archive::default()
            .folder("a")
            .file("a/f", &noise(10_000))
            .pax(&[("SCHILY.xattr.user.a", b"b")])
            .file("a/g", b"g")
            .link("l", b'2', b"target")
            .end(),
    )
}

fn read(made: &Made, bytes: &[u8]) -> Result<Vec<Entry>, LayerError> {
    std::fs::write(made.index(), bytes).unwrap();
    Index::open(&made.index())?.collect()
}

#[test]
fn a_cut_index_is_noticed_wherever_it_is_cut() {
    let made = layer();
    let [_, index] = made.bytes();
    for length in 0..index.len() {
        let error = read(&made, &index[..length]);
        assert!(
            matches!(error, Err(LayerError::Damaged { .. })),
            "{length}: {error:?}"
        );
    }
    let longer = [index.as_slice(), b"x"].concat();
    assert!(matches!(
        read(&made, &longer),
        Err(LayerError::Damaged { .. })
    ));
    assert_eq!(read(&made, &index).unwrap(), made.entries);
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let made = layer();
    let [_, index] = made.bytes();
    for at in 0..index.len() {
        let mut flipped = index.clone();
        flipped[at] ^= 1 << (at % 8);
        let error = read(&made, &flipped);
        let told = match &error {
            Err(LayerError::Damaged { .. }) => true,
            Err(LayerError::Version { .. }) => (8..12).contains(&at),
            _ => false,
        };
        assert!(told, "{at}: {error:?}");
    }
}

#[test]
fn an_index_that_was_never_finished_is_none() {
    let made = layer();
    let [_, mut index] = made.bytes();
    index[..40].fill(0);
    assert!(matches!(
        read(&made, &index),
        Err(LayerError::Damaged { .. })
    ));
    std::fs::remove_file(made.index()).unwrap();
    let error = Index::open(&made.index());
    assert!(matches!(
        error,
        Err(LayerError::Stored { what: "index", .. })
    ));
}

#[test]
fn after_an_error_nothing_more_is_read() {
    let made = layer();
    let [_, mut index] = made.bytes();
    *index.last_mut().unwrap() ^= 1;
    std::fs::write(made.index(), &index).unwrap();
    let mut entries = Index::open(&made.index()).unwrap();
    let ends: Vec<_> = entries.by_ref().map(|entry| entry.is_ok()).collect();
    assert_eq!(ends, [true, true, true, false]);
    assert!(entries.next().is_none());
}
