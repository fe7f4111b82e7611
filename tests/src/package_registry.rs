// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! A registry of one small package for pip, npm and apt over TLS on this host's loopback, with a certificate
//! of an authority that nobody knows: what a company's network looks like that inspects TLS.
//!
//! Python's own server serves it (`clients/package_registry.py`). Dropping it ends it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::poll::PATIENCE;
use crate::settings;

/// Loopback, but not the address that guests take for their own and never ask the proxy for.
pub const HOST: &str = "127.0.0.2";

/// Its only package, of which it has version 1.0 (for npm 1.0.0).
pub const PACKAGE: &str = "waggle-inspected";
/// What that package says: Python's `waggle_inspected.hello`, npm's module, and apt's file in `/usr/share`.
pub const HELLO: &str = "hello from the inspected side";

/// A running registry.
pub struct PackageRegistry {
    port: u16,
    folder: TempDir,
    _process: Child,
}

impl PackageRegistry {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// If it does not, or if there is no openssl.
    pub async fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        make_authority(folder.path());
        make_certificate(folder.path());
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let python = settings::path("WAGGLE_TEST_VENV_2").join("bin/python");
        let mut process = Command::new(python)
            .arg(scripts.join("package_registry.py"))
            .arg(folder.path())
            .arg(HOST)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python starts");
        let mut lines = BufReader::new(process.stdout.take().expect("stdout is piped")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await;
        let port = line.expect("it starts in time").expect("a line");
        let port = port.expect("a line").parse().expect("a port");
        Self {
            port,
            folder,
            _process: process,
        }
    }

    /// Its address: pip's index is at `simple/`, npm's registry at `npm/`, apt's flat repository at `apt`, and
    /// [`HELLO`] at `hello`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{HOST}:{}", self.port)
    }

    /// The certificate of its authority.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join(BUNDLE)
    }
}

const BUNDLE: &str = "ca.pem";
const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

/// Makes an authority of certificates in `folder`, and gives the path of its own.
///
/// # Panics
/// If there is no openssl.
pub fn make_authority(folder: &Path) -> PathBuf {
    let subject = ["-subj", "/CN=Waggle test authority", "-days", "2"];
    let files = ["-keyout", "ca.key", "-out", BUNDLE];
    let arguments = [&["req", "-x509"], &NEW_KEY[..], &subject, &files].concat();
    openssl(folder, &arguments);
    folder.join(BUNDLE)
}

/// A certificate for [`HOST`], signed by the folder's authority.
fn make_certificate(folder: &Path) {
    let files = ["-keyout", "key.pem", "-out", "request.pem"];
    let subject = ["-subj", "/CN=Waggle test registry"];
    let arguments = [&["req", "-new"], &NEW_KEY[..], &subject, &files].concat();
    openssl(folder, &arguments);
    let extensions = format!("subjectAltName=IP:{HOST}\nbasicConstraints=critical,CA:FALSE\n");
    std::fs::write(folder.join("extensions"), extensions).expect("written");
    let signer = ["-CA", BUNDLE, "-CAkey", "ca.key", "-CAcreateserial"];
    let files = ["-extfile", "extensions", "-out", "chain.pem"];
    let request = ["x509", "-req", "-in", "request.pem", "-days", "2"];
    openssl(folder, &[&request[..], &signer, &files].concat());
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let made = std::process::Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{arguments:?}: {made:?}");
}
