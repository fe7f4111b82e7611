// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The guest kernel as an ELF file that both VMMs boot: a pure function from image to header.
//!
//! One `PT_LOAD` holds the image at its load address. `e_entry` is the 64-bit entry, which libkrun
//! jumps to. A `PT_NOTE` carries the PVH entry (Xen note `XEN_ELFNOTE_PHYS32_ENTRY`, see
//! `xen/include/public/elfnote.h`), which QEMU's `-kernel` looks for. Fields: the ELF-64 object
//! file format, System V ABI.

/// Where the image starts in the file: the header's page, so that the image stays page-aligned.
const IMAGE_OFFSET: u64 = 4096;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: physical address of the 32-bit PVH entry.
const NOTE_PHYS32_ENTRY: u32 = 18;
const NOTE_NAME: &[u8; 4] = b"Xen\0";

const FILE_HEADER_SIZE: u16 = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
const NOTE_SIZE: u64 = 24;
const NOTE_OFFSET: u64 = FILE_HEADER_SIZE as u64 + 2 * PROGRAM_HEADER_SIZE as u64;

const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
const FLAGS_READ: u32 = 4;
const FLAGS_ALL: u32 = 7;

/// The bytes that precede the image in the file.
pub(crate) fn header(load_address: u64, entry: u64, pvh_entry: u64, image_size: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    // 64-bit, little-endian, version 1, System V.
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&TYPE_EXECUTABLE.to_le_bytes());
    out.extend_from_slice(&MACHINE_X86_64.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&entry.to_le_bytes());
    out.extend_from_slice(&u64::from(FILE_HEADER_SIZE).to_le_bytes()); // program headers
    out.extend_from_slice(&0u64.to_le_bytes()); // no section headers
    out.extend_from_slice(&0u32.to_le_bytes());
    for half in [FILE_HEADER_SIZE, PROGRAM_HEADER_SIZE, 2, 0, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    let load = [
        IMAGE_OFFSET,
        load_address,
        load_address,
        image_size,
        image_size,
        4096,
    ];
    program_header(&mut out, SEGMENT_LOAD, FLAGS_ALL, load);
    let note = [NOTE_OFFSET, 0, 0, NOTE_SIZE, NOTE_SIZE, 4];
    program_header(&mut out, SEGMENT_NOTE, FLAGS_READ, note);
    for word in [4u32, 8, NOTE_PHYS32_ENTRY] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(NOTE_NAME);
    out.extend_from_slice(&pvh_entry.to_le_bytes());
    out.resize(4096, 0);
    out
}

/// `fields` are offset, virtual address, physical address, size in file, size in memory, alignment.
fn program_header(out: &mut Vec<u8>, kind: u32, flags: u32, fields: [u64; 6]) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    for field in fields {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

/// The PVH entry the kernel was built with, from the note inside its own image.
///
/// The image is flat (libkrunfw drops the ELF headers), so the note is found by its name, type and
/// size; a kernel built without `CONFIG_PVH` has none.
pub(crate) fn pvh_entry(image: &[u8]) -> Option<u64> {
    let mut rest = image;
    loop {
        let at = find(rest, NOTE_NAME)?;
        let (before, after) = rest.split_at(at);
        let after = after.get(NOTE_NAME.len()..)?;
        if let Some(value) = phys32_entry(before, after) {
            return Some(value);
        }
        rest = after;
    }
}

/// The value of a note whose name lies between `before` and `after`, if it is the PVH entry.
fn phys32_entry(before: &[u8], after: &[u8]) -> Option<u64> {
    let header = before.last_chunk::<12>()?;
    let word = |at: usize| {
        header
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_le_bytes)
    };
    if word(0)? != 4 || word(8)? != NOTE_PHYS32_ENTRY {
        return None;
    }
    match word(4)? {
        4 => after
            .first_chunk()
            .map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
        8 => after.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        _ => None,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::{header, pvh_entry};

    #[test]
    fn header_is_one_page_and_its_own_note_is_found() {
        let bytes = header(0x100_0000, 0x100_0123, 0x100_0000, 12_345);
        assert_eq!(bytes.len(), 4096);
        assert_eq!(&bytes[24..32], &0x100_0123u64.to_le_bytes());
        assert_eq!(&bytes[64 + 32..64 + 40], &12_345u64.to_le_bytes());
        assert_eq!(pvh_entry(&bytes), Some(0x100_0000));
    }

    #[test]
    fn notes_of_other_types_sizes_or_cut_ones_are_not_the_entry() {
        let note = |name: u32, size: u32, kind: u32| {
            let mut out = vec![0xaa; 7];
            for word in [name, size, kind] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(b"Xen\0\x10\x20\x30\x40\0\0\0\0");
            out
        };
        assert_eq!(pvh_entry(&note(4, 8, 19)), None);
        assert_eq!(pvh_entry(&note(5, 8, 18)), None);
        assert_eq!(pvh_entry(&note(4, 12, 18)), None);
        assert_eq!(pvh_entry(b"Xen\0"), None);
        assert_eq!(pvh_entry(&note(4, 8, 18)[..24]), None);
        let mut both = note(4, 8, 19);
        both.extend(note(4, 4, 18));
        assert_eq!(pvh_entry(&both), Some(0x4030_2010));
    }
}
