// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Debian's `docker-registry` on loopback, over plain HTTP, with its own folder; dropping it ends it.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::poll::until;

/// A running registry, empty at first.
pub struct ImageRegistry {
    address: SocketAddr,
    _process: Child,
    _folder: TempDir,
}

impl ImageRegistry {
    /// Starts one and waits until it listens; none, with a word about it, if it is not installed.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Option<Self> {
        if !have("docker-registry") {
            return None;
        }
        let folder = TempDir::new().expect("a temporary folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let store = folder.path().join("store");
        let settings = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            store.display()
        );
        std::fs::write(&settings, text).expect("the settings are written");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("docker-registry starts");
        until("the registry listens", async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        Some(Self {
            address,
            _process: process,
            _folder: folder,
        })
    }

    /// What images in it are named: `HOST:PORT/NAME:TAG`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

/// Whether a program is installed; says so if it is not.
///
/// # Panics
/// If there is no shell.
#[must_use]
pub fn have(program: &str) -> bool {
    let found = std::process::Command::new("sh")
        .args(["-c", "command -v \"$0\" >/dev/null", program])
        .status();
    let found = found.expect("sh runs").success();
    if !found {
        eprintln!(
            "skipped: {program} is not installed; `./dev test` installs it where it is packaged"
        );
    }
    found
}
