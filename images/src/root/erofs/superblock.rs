// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The superblock (`erofs_super_block` in Linux' `erofs_fs.h`), alone in block 0.

use crc::{CRC_32_ISCSI, Crc};

use super::BLOCK_BYTES;
use crate::Digest;

const MAGIC: u32 = 0xe0f5_e1e2;
/// Where it begins: what is before it is for boot loaders.
const OFFSET: usize = 1024;
/// Compatible features: the checksum, and that an inode's time is its mtime.
const COMPAT: u32 = 0x1 | 0x2;
/// The incompatible feature of files with maps of their blocks.
const CHUNKED_FILE: u32 = 0x4;

/// What a superblock says that differs between roots.
#[derive(Debug)]
pub(super) struct Superblock {
    pub(super) key: Digest,
    pub(super) root: u16,
    pub(super) inodes: u64,
    /// Of the whole disk, the layers' data included.
    pub(super) blocks: u32,
    /// Whether any file has a map.
    pub(super) maps: bool,
}

impl Superblock {
    /// Block 0.
    pub(super) fn block(&self) -> Vec<u8> {
        let mut block = vec![0; OFFSET];
        self.write(&mut block, 0);
        block.resize(BLOCK_BYTES, 0);
        // Linux and fsck.erofs take the whole rest of the block, and leave out the inversion at the end.
        let covered = block.get(OFFSET..).unwrap_or_default();
        let checksum = !Crc::<u32>::new(&CRC_32_ISCSI).checksum(covered);
        block.truncate(OFFSET);
        self.write(&mut block, checksum);
        block.resize(BLOCK_BYTES, 0);
        block
    }

    fn write(&self, out: &mut Vec<u8>, checksum: u32) {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(self.key.bytes().first_chunk::<16>().unwrap_or(&[0; 16]));
        // RFC 9562, version 8: of one's own making.
        let [.., version, _, variant, _, _, _, _, _, _, _] = &mut uuid;
        *version = *version & 0x0f | 0x80;
        *variant = *variant & 0x3f | 0x80;

        out.extend(MAGIC.to_le_bytes());
        out.extend(checksum.to_le_bytes());
        out.extend(COMPAT.to_le_bytes());
        out.push(12); // blkszbits: 4096
        out.push(0); // sb_extslots
        out.extend(self.root.to_le_bytes());
        out.extend(self.inodes.to_le_bytes());
        out.extend([0; 8 + 4]); // build time, which must not vary
        out.extend(self.blocks.to_le_bytes());
        out.extend([0; 4]); // meta_blkaddr: inodes are counted from the disk's beginning
        out.extend([0; 4]); // xattr_blkaddr: no attributes are shared
        out.extend(uuid);
        out.extend([0; 16]); // volume_name
        out.extend(if self.maps { CHUNKED_FILE } else { 0 }.to_le_bytes());
        // Compression, further devices, larger folder blocks, name prefixes, packed inodes: none of these.
        out.extend([0; 44]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_is_128_bytes_and_its_uuid_is_one() {
        let superblock = Superblock {
            key: Digest::of(b"root"),
            root: 128,
            inodes: 1,
            blocks: 2,
            maps: true,
        };
        let mut out = Vec::new();
        superblock.write(&mut out, 0);
        assert_eq!(out.len(), 128);
        assert_eq!(
            &out[80..84],
            &CHUNKED_FILE.to_le_bytes(),
            "where erofs_fs.h has feature_incompat"
        );
        assert_eq!((out[48 + 6] >> 4, out[48 + 8] >> 6), (8, 2));
        assert_eq!(superblock.block().len(), BLOCK_BYTES);
    }
}
