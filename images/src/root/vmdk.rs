// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The descriptor that makes one disk of a root's pieces: VMware's text format, of which QEMU and libkrun read
//! flat extents.
//!
//! Extents are `RW`, though nothing is ever written: QEMU passes over lines that say `RDONLY`, and would leave a disk
//! without them. Who opens the disk opens it read-only. A comment stands right before the extents: behind an empty line
//! QEMU 7.2 takes the first extent twice.

use super::RootError;
use crate::layer::BLOCK;

const SECTOR: u64 = 512;
/// What the type's name says: an extent has up to 2 GiB. Neither reader insists.
const EXTENT_SECTORS: u64 = (2 << 30) / SECTOR;
/// QEMU keeps a name in 512 bytes.
const NAME_BYTES: usize = 511;

/// A file of the disk.
#[derive(Debug)]
pub(super) struct Piece {
    /// Relative to the descriptor.
    pub(super) name: String,
    pub(super) blocks: u64,
}

/// The descriptor of these pieces in order. Empty ones are left out, since no extent may be.
pub(super) fn descriptor(pieces: &[Piece]) -> Result<String, RootError> {
    use std::fmt::Write as _;
    let mut text = String::from(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID=fffffffe\n\
         parentCID=ffffffff\n\
         createType=\"twoGbMaxExtentFlat\"\n\
         \n\
         # Extent description\n",
    );
    for Piece { name, blocks } in pieces {
        let plain = |c: char| c != '"' && !c.is_control();
        if name.is_empty()
            || name.len() > NAME_BYTES
            || name.trim() != name
            || !name.chars().all(plain)
        {
            return Err(RootError::ExtentName { name: name.clone() });
        }
        let sectors = blocks * (BLOCK / SECTOR);
        let mut from = 0;
        while from < sectors {
            let count = EXTENT_SECTORS.min(sectors - from);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "RW {count} FLAT \"{name}\" {from}");
            from += count;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(name: &str, blocks: u64) -> Piece {
        Piece {
            name: name.to_owned(),
            blocks,
        }
    }

    fn extents(pieces: &[Piece]) -> Vec<String> {
        let text = descriptor(pieces).unwrap();
        text.lines()
            .filter(|line| line.starts_with("RW "))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn pieces_are_extents_in_order_and_empty_ones_none() {
        let pieces = [
            piece("meta", 2),
            piece("../../layers/a.data", 0),
            piece("../../layers/b.data", 1),
        ];
        assert_eq!(
            extents(&pieces),
            [
                r#"RW 16 FLAT "meta" 0"#,
                r#"RW 8 FLAT "../../layers/b.data" 0"#
            ]
        );
    }

    #[test]
    fn no_extent_follows_an_empty_line() {
        let text = descriptor(&[piece("meta", 2), piece("d", 1)]).unwrap();
        assert!(text.contains("\n# Extent description\nRW 16 "), "{text}");
        assert!(!text.contains("\n\nRW"), "{text}");
    }

    #[test]
    fn large_pieces_are_several_extents() {
        let sectors = EXTENT_SECTORS;
        let expected = [
            format!("RW {sectors} FLAT \"d\" 0"),
            format!("RW {sectors} FLAT \"d\" {sectors}"),
            format!("RW 8 FLAT \"d\" {}", 2 * sectors),
        ];
        assert_eq!(extents(&[piece("d", (4 << 30) / BLOCK + 1)]), expected);
    }

    #[test]
    fn names_that_would_end_the_line_or_the_quotes_are_refused() {
        for name in [
            "",
            "a\"b",
            "a\nb",
            "a\rb",
            "a\0b",
            " a",
            "a ",
            &"a".repeat(512),
        ] {
            let refused = descriptor(&[piece(name, 1)]);
            assert!(
                matches!(refused, Err(RootError::ExtentName { .. })),
                "{name:?}"
            );
        }
    }
}
