// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the second and the hundredth environment of an image cost, in time and on the disk.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use waggle_tests::http::Connection;
use waggle_tests::report::Row;
use waggle_tests::settings;

use super::calls::create;
use super::host::Host;

/// Environments, one after the other: a host of two cores has no place for so many at once.
const ENVIRONMENTS: u32 = 100;
/// Of how many a row is made: those from the second on, and those up to the hundredth.
const NEAR: u32 = 5;

/// What creating took, and KiB on the disk.
pub(crate) struct Creates {
    pub(crate) rows: [Row; 2],
    pub(crate) sizes: [(&'static str, u64); 3],
}

pub(crate) async fn creates(host: &Host) -> anyhow::Result<Creates> {
    let server = host.serve().await;
    let images = settings::path(settings::IMAGE_CACHE_DIR);
    let mut mcp = Connection::open(server.authority()).await?;
    let mut second = Row::new("create_2nd");
    let mut hundredth = Row::new("create_100th");
    let (mut second_kib, mut hundredth_kib) = (0, 0);
    let mut first_image_kib = 0;
    for number in 1..=ENVIRONMENTS {
        let before = kib_on_disk(server.data_dir())?;
        let start = Instant::now();
        let environment = create(&mut mcp).await?;
        let took = start.elapsed();
        let own = kib_on_disk(server.data_dir())?.saturating_sub(before);
        if number == 1 {
            first_image_kib = kib_on_disk(&images)?;
        } else if number <= 1 + NEAR {
            second.add(took);
            second_kib = second_kib.max(own);
        } else if number > ENVIRONMENTS - NEAR {
            hundredth.add(took);
            hundredth_kib = hundredth_kib.max(own);
        }
        destroy(&mut mcp, &environment).await?;
    }
    let grown = kib_on_disk(&images)?.saturating_sub(first_image_kib);
    server.stop(Signal::SIGTERM).await;
    ensure!(
        grown == 0,
        "creating environments copied {grown} KiB of an image"
    );
    ensure!(
        hundredth_kib <= 2 * second_kib,
        "the hundredth environment takes {hundredth_kib} KiB, the second {second_kib}"
    );
    Ok(Creates {
        rows: [second, hundredth],
        sizes: [
            ("create_2nd_disk", second_kib),
            ("create_100th_disk", hundredth_kib),
            ("images_grown_by_99", grown),
        ],
    })
}

async fn destroy(mcp: &mut Connection, environment: &Value) -> anyhow::Result<()> {
    let arguments = json!({"environment_id": environment});
    let result = mcp.call("destroy_environment", &arguments).await?;
    let status = result.pointer("/structuredContent/status");
    ensure!(status == Some(&json!("destroyed")), "destroyed: {result}");
    Ok(())
}

/// What all files of a folder take of the disk: holes take nothing.
fn kib_on_disk(folder: &Path) -> anyhow::Result<u64> {
    let mut kib = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            kib += metadata.blocks() / 2;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(kib)
}
