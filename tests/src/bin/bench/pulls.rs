// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An image of 1 GiB from a registry on this host: `waggle image pull`, to a root that a machine can boot
//! from, against `skopeo copy` and `umoci unpack`, to a folder.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::process::Command;
use waggle_tests::image_registry::{ImageRegistry, have};
use waggle_tests::report::Row;
use waggle_tests::settings;

use super::say;

/// Bytes of all files of the image.
const BYTES: u64 = 1 << 30;
/// Its layers: how many files of which size in each. One of few large files, as of libraries and models; one of
/// files in between; and the many small ones of packages.
const LAYERS: [(u64, u64); 6] = [
    (8, 32 << 20),
    (64, 4 << 20),
    (2048, 128 << 10),
    (8192, 16 << 10),
    (16_384, 4 << 10),
    (32_768, 2 << 10),
];
const _: () = assert!(all_bytes() == BYTES);

const fn all_bytes() -> u64 {
    let [a, b, c, d, e, f] = LAYERS;
    a.0 * a.1 + b.0 * b.1 + c.0 * c.1 + d.0 * d.1 + e.0 * e.1 + f.0 * f.1
}

/// Files of a folder.
const FOLDER: u64 = 256;
/// The image is pulled so often by either.
const ROUNDS: u32 = 3;
/// Pause between two looks at a process.
const PAUSE: Duration = Duration::from_millis(5);

/// What they took, and the most memory that each of them held, in KiB.
pub(crate) struct Pulls {
    pub(crate) rows: [Row; 2],
    pub(crate) peaks: [(&'static str, u64); 2],
}

/// None if tools that it takes are not installed.
pub(crate) async fn pulls() -> anyhow::Result<Option<Pulls>> {
    if !["skopeo", "umoci"].into_iter().all(have) {
        return Ok(None);
    }
    let Some(registry) = ImageRegistry::start().await else {
        return Ok(None);
    };
    let reference = registry.reference("bench/image:1g");
    publish(&reference).await?;

    let mut ours = Row::stream("pull_root_1g", BYTES);
    let mut theirs = Row::stream("skopeo_umoci_1g", BYTES);
    let (mut our_peak, mut their_peak) = (0, 0);
    for _ in 0..ROUNDS {
        let folder = TempDir::new()?;
        let mut pull = Command::new(settings::path(settings::BIN));
        pull.args(["image", "pull", &reference]);
        pull.env(settings::IMAGE_CACHE_DIR, folder.path());
        let pulled = run(&mut pull).await?;
        has_root(folder.path())?;
        ours.add(pulled.took);
        our_peak = our_peak.max(pulled.peak_kib);
        drop(folder);

        let folder = TempDir::new()?;
        let copied = run(&mut skopeo(
            &format!("docker://{reference}"),
            "oci:layout:1g",
            folder.path(),
        ))
        .await?;
        // As what it is: only root may set owners.
        let rootless = format!("--rootless={}", !nix::unistd::geteuid().is_root());
        let unpack = ["unpack", &rootless, "--image", "layout:1g", "bundle"];
        let unpacked = run(&mut umoci(&unpack, folder.path())).await?;
        theirs.add(copied.took + unpacked.took);
        their_peak = their_peak.max(copied.peak_kib).max(unpacked.peak_kib);
    }
    Ok(Some(Pulls {
        rows: [ours, theirs],
        peaks: [
            ("pull_root_1g_rss", our_peak),
            ("skopeo_umoci_1g_rss", their_peak),
        ],
    }))
}

/// A store with one image has one disk.
fn has_root(store: &Path) -> anyhow::Result<()> {
    let roots = std::fs::read_dir(store.join("roots"))?;
    let roots: Vec<_> = roots.collect::<Result<_, _>>()?;
    let [root] = roots.as_slice() else {
        anyhow::bail!("one root, not {roots:?}");
    };
    ensure!(root.path().join("root.vmdk").exists(), "{root:?}");
    Ok(())
}

/// Makes the image, by tools that are not ours, and puts it into the registry.
async fn publish(reference: &str) -> anyhow::Result<()> {
    say("making an image of 1 GiB");
    let folder = TempDir::new()?;
    run(&mut umoci(&["init", "--layout", "layout"], folder.path())).await?;
    run(&mut umoci(&["new", "--image", "layout:1g"], folder.path())).await?;
    let mut noise = Noise(1);
    for (number, (files, bytes)) in LAYERS.into_iter().enumerate() {
        let layer = folder.path().join("layer.tar");
        write_layer(&layer, number, files, bytes, &mut noise)?;
        let add = ["raw", "add-layer", "--image", "layout:1g", "layer.tar"];
        run(&mut umoci(&add, folder.path())).await?;
    }
    run(&mut skopeo(
        "oci:layout:1g",
        &format!("docker://{reference}"),
        folder.path(),
    ))
    .await?;
    Ok(())
}

fn write_layer(
    path: &Path,
    number: usize,
    files: u64,
    bytes: u64,
    noise: &mut Noise,
) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(BufWriter::new(File::create(path)?));
    for file in 0..files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        let name = format!("layer-{number}/{}/{file}", file / FOLDER);
        archive.append_data(&mut header, name, noise.by_ref().take(bytes))?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// Bytes that compress to about half, as most images do.
struct Noise(u64);

impl std::io::Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for part in buffer.chunks_mut(8) {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            // Half of the bits of each byte.
            let bytes = (self.0 >> 4 & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes();
            part.copy_from_slice(bytes.get(..part.len()).unwrap_or_default());
        }
        Ok(buffer.len())
    }
}

fn skopeo(from: &str, to: &str, directory: &Path) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["copy", "-q", "--insecure-policy"]);
    command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
    command.args([from, to]).current_dir(directory);
    command
}

fn umoci(arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new("umoci");
    command.args(arguments).current_dir(directory);
    command
}

/// What a program took.
struct Ran {
    took: Duration,
    peak_kib: u64,
}

/// Runs a program to its end, which must be a good one.
async fn run(command: &mut Command) -> anyhow::Result<Ran> {
    let said = tempfile::tempfile()?;
    command
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .kill_on_drop(true);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    let pid = child.id().context("it runs")?;
    let mut peak_kib = 0;
    let status = loop {
        // The kernel keeps the peak: only what a program gains in its last moment is missed.
        peak_kib = peak(pid).unwrap_or(peak_kib);
        tokio::select! {
            status = child.wait() => break status?,
            () = tokio::time::sleep(PAUSE) => {}
        }
    };
    let took = start.elapsed();
    if !status.success() {
        let mut text = String::new();
        let mut said = said;
        std::io::Seek::rewind(&mut said)?;
        said.read_to_string(&mut text)?;
        anyhow::bail!("{command:?} ended with {status}: {text}");
    }
    Ok(Ran { took, peak_kib })
}

/// The most resident memory that a process had so far, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
