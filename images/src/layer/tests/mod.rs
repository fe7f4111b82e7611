// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Layers as tools make them and as nobody should, converted and read back.
//!
//! Headers are made by the `tar` crate, which shares no code with the parser. Only what it refuses to write, it is made to.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::{
    Budget, Compression, Converted, Entry, Index, Kind, LayerError, convert, read_content,
};

mod formats;
mod hostile;
mod property;
mod stored;

const MIB: u64 = 1 << 20;

/// More than any sound layer here needs.
const ROOMY: Budget = Budget {
    unpacked_bytes: 64 * MIB,
    file_bytes: 64 * MIB,
    entries: 10_000,
};

/// A layer that was converted.
struct Made {
    converted: Converted,
    entries: Vec<Entry>,
    data: File,
    folder: tempfile::TempDir,
}

impl Made {
    fn index(&self) -> PathBuf {
        self.folder.path().join("index")
    }

    fn bytes(&self) -> [Vec<u8>; 2] {
        ["data", "index"].map(|name| std::fs::read(self.folder.path().join(name)).unwrap())
    }

    fn at(&self, path: &str) -> &Entry {
        self.entries
            .iter()
            .find(|entry| entry.path == path.as_bytes())
            .expect(path)
    }

    fn content(&self, path: &str) -> Vec<u8> {
        let Kind::File { size, extents } = &self.at(path).kind else {
            panic!("{path} is no file");
        };
        read_content(&self.data, *size, extents, 64 << 20).unwrap()
    }
}

/// What a conversion left on the disk, with its end.
struct Tried {
    end: Result<Converted, LayerError>,
    written: u64,
    folder: tempfile::TempDir,
}

fn attempt(blob: impl Read, expect: Option<Compression>, budget: &Budget) -> Tried {
    let folder = tempfile::tempdir().unwrap();
    let [mut data, mut index] =
        ["data", "index"].map(|name| File::create_new(folder.path().join(name)).unwrap());
    let end = convert(blob, expect, &mut data, &mut index, budget, &|| false);
    let written = data.metadata().unwrap().len() + index.metadata().unwrap().len();
    Tried {
        end,
        written,
        folder,
    }
}

/// Converts, and checks what holds for every layer.
fn make(blob: &[u8], expect: Option<Compression>) -> Result<Made, LayerError> {
    let Tried {
        end,
        written,
        folder,
    } = attempt(blob, expect, &ROOMY);
    let converted = end?;
    let index = Index::open(&folder.path().join("index")).unwrap();
    assert_eq!(index.entries(), converted.entries);
    assert_eq!(index.data_blocks(), converted.data_blocks);
    assert_eq!(index.unpacked_bytes(), converted.unpacked_bytes);
    assert_eq!(written, converted.unpacked_bytes);
    let entries = index.collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(entries.len() as u64, converted.entries);
    let data = File::open(folder.path().join("data")).unwrap();
    assert_eq!(
        data.metadata().unwrap().len(),
        converted.data_blocks * super::BLOCK
    );
    Ok(Made {
        converted,
        entries,
        data,
        folder,
    })
}

fn sound(blob: &[u8]) -> Made {
    make(blob, None).unwrap()
}

/// The error that a layer must come to.
fn refused(blob: &[u8]) -> LayerError {
    match make(blob, None) {
        Err(error) => error,
        Ok(made) => panic!("taken: {:?}", made.entries),
    }
}

/// An archive, member by member.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    /// Any member, its header as `shape` makes it.
    fn member(
        mut self,
        name: impl AsRef<[u8]>,
        kind: u8,
        content: &[u8],
        shape: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        let name = name.as_ref();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[156] = kind;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        shape(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.content(content)
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        self.member(name, b'0', content, |_| {})
    }

    fn folder(self, name: impl AsRef<[u8]>) -> Self {
        self.member(name, b'5', b"", |header| header.set_mode(0o755))
    }

    fn link(self, name: impl AsRef<[u8]>, kind: u8, target: &[u8]) -> Self {
        self.member(name, kind, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        })
    }

    fn device(self, name: &str, kind: u8, major: u32, minor: u32) -> Self {
        self.member(name, kind, b"", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    /// Records for the member that follows.
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits);
            let length = rest + length.unwrap();
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.member("pax", b'x', &text, |header| {
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
        })
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let level = flate2::Compression::fast();
    flate2::read::GzEncoder::new(bytes, level)
        .read_to_end(&mut all)
        .unwrap();
    all
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that no two blocks of are alike.
fn noise(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}
