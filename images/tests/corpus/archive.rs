// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Archives with whatever in them: headers are made by the `tar` crate, names and types as they are given.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An archive, member by member.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    /// Any member, its header as `shape` makes it.
    pub(crate) fn member(
        mut self,
        name: impl AsRef<[u8]>,
        kind: u8,
        content: &[u8],
        shape: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        let name = name.as_ref();
        let field = &mut header.as_old_mut().name;
        if name.len() > field.len() {
            return self
                .pax(&[("path", name)])
                .member("long", kind, content, shape);
        }
        field[..name.len()].copy_from_slice(name);
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

    /// Bytes, filled up as contents are.
    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        self.member(name, b'0', content, |_| {})
    }

    pub(crate) fn folder(self, name: impl AsRef<[u8]>) -> Self {
        self.member(name, b'5', b"", |header| header.set_mode(0o755))
    }

    pub(crate) fn symlink(self, name: &str, target: impl AsRef<Path>) -> Self {
        self.link(name, b'2', target.as_ref())
    }

    pub(crate) fn hard_link(self, name: &str, target: impl AsRef<Path>) -> Self {
        self.link(name, b'1', target.as_ref())
    }

    fn link(self, name: &str, kind: u8, target: &Path) -> Self {
        let target = target.as_os_str().as_bytes();
        let this = if target.len() > 100 {
            self.pax(&[("linkpath", target)])
        } else {
            self
        };
        this.member(name, kind, b"", |header| {
            let short = target.get(..100).unwrap_or(target);
            header.as_old_mut().linkname[..short.len()].copy_from_slice(short);
        })
    }

    pub(crate) fn device(self, name: &str, kind: u8, major: u32, minor: u32) -> Self {
        self.member(name, kind, b"", |header| {
            header.set_device_major(major).expect("a number");
            header.set_device_minor(minor).expect("a number");
        })
    }

    /// Records for the member that follows.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut digits = (1..).filter(|digits| (rest + digits).to_string().len() == *digits);
            let length = rest + digits.next().expect("a length");
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.member("pax", b'x', &text, |header| {
            header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
        })
    }

    /// A sparse file of `size` bytes, with this content at its end.
    pub(crate) fn sparse(self, name: &str, size: u64, content: &[u8]) -> Self {
        let map = format!("{},{}", size - content.len() as u64, content.len());
        let size = size.to_string();
        self.pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ])
        .file(name, content)
    }

    /// So far, without an end.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn gzip(bytes: impl Read) -> Vec<u8> {
    let level = flate2::Compression::fast();
    let mut encoder = flate2::read::GzEncoder::new(bytes, level);
    let mut all = Vec::new();
    encoder.read_to_end(&mut all).expect("a stream");
    all
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.write_all(bytes).expect("a stream");
    encoder.finish().expect("a stream")
}
