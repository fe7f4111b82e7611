// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A disk made of several files: the guest sees their bytes one after the other, whatever they look like.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use waggle_runtime::{Disk, DiskSource, Machine};

use crate::support::{House, turn, until_console_says};

/// Bytes of a sector, which extents are counted in.
const SECTOR: usize = 512;

/// Files below `root` with a descriptor of them in a folder of its own, as the image store has them.
fn extents(root: &Path, parts: &[Vec<u8>]) -> PathBuf {
    let (layers, folder) = (root.join("layers"), root.join("roots").join("one, two"));
    fs::create_dir_all(&layers).expect("folder");
    fs::create_dir_all(&folder).expect("folder");
    // No blank line before an extent's: QEMU 7.2 would take the extent twice.
    let mut text = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                    createType=\"monolithicFlat\"\n# Extents\n"
        .to_owned();
    for (number, part) in parts.iter().enumerate() {
        fs::write(layers.join(format!("{number}.data")), part).expect("extent");
        let sectors = part.len() / SECTOR;
        let name = format!("../../layers/{number}.data");
        writeln!(text, "RW {sectors} FLAT \"{name}\" 0").expect("text");
    }
    let path = folder.join("root.vmdk");
    fs::write(&path, text).expect("descriptor");
    path
}

/// Sum of a disk's words, as `init.c` reckons it.
fn sum(parts: &[Vec<u8>]) -> u64 {
    let all = parts.concat();
    let (words, _) = all.as_chunks::<8>();
    words.iter().fold(0_u64, |sum, word| {
        sum.wrapping_mul(31).wrapping_add(u64::from_le_bytes(*word))
    })
}

/// Bytes that differ from place to place.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let words =
        (0..length as u64 / 8).map(|word| (word + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// The head of a qcow2 image that is backed by a file of the host: what whoever made an image would put first if
/// the VMM guessed formats.
fn qcow2(backing: &Path) -> Vec<u8> {
    let name = backing.to_str().expect("UTF-8").as_bytes();
    let mut head = b"QFI\xfb\0\0\0\x02".to_vec();
    head.extend(104_u64.to_be_bytes());
    head.extend(u32::try_from(name.len()).expect("short").to_be_bytes());
    head.extend(16_u32.to_be_bytes());
    head.extend((1_u64 << 20).to_be_bytes());
    head.resize(104, 0);
    head.extend(name);
    head.resize(4096, 0);
    head
}

async fn launch(house: &House, name: &str, descriptor: &Path) -> Machine {
    let vmm = house.open().await;
    let mut spec = house.spec(name, "test=sum");
    spec.disks.push(Disk {
        serial: "image".to_owned(),
        source: DiskSource::Extents(descriptor.to_owned()),
    });
    vmm.launch(spec).await.expect("launch")
}

#[tokio::test]
async fn a_guest_reads_several_files_as_one_disk_and_two_may_share_them() {
    let _turn = turn().await;
    let house = House::new().with_guest();
    let secret = house.root.path().join("secret");
    fs::write(&secret, vec![b's'; 1 << 20]).expect("file");
    // Neither a whole number of pages nor of the pieces that the guest reads.
    let parts = [
        [qcow2(&secret), noise(5 * SECTOR, 1)].concat(),
        noise(1_000 * 4096 + SECTOR, 2),
        noise(SECTOR, 3),
    ];
    let descriptor = extents(house.root.path(), &parts);
    let length: usize = parts.iter().map(Vec::len).sum();
    let expected = format!("length {length} sum {:016x}", sum(&parts));
    let (one, two) = tokio::join!(
        launch(&house, "one", &descriptor),
        launch(&house, "two", &descriptor)
    );
    until_console_says(&one, &expected).await;
    until_console_says(&two, &expected).await;
}
