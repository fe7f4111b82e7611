// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Which certificates are trusted for which registry, and which registries may do without any.
//!
//! The system's store always counts. On top of it, for all registries, the operator's bundle (`WAGGLE_CA_BUNDLE`), and
//! for one registry the `*.crt` files of its folder, as docker and the containers tools have them
//! (`/etc/docker/certs.d/HOST[:PORT]/ca.crt`). Files that are there and cannot be used are errors: leaving them out
//! would show as an untrusted certificate much later.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::error::RegistryError;

/// Certificates are some kilobytes; a bundle of all public authorities is a quarter of a megabyte.
const LARGEST_FILE: u64 = 16 << 20;

/// Makes the workspace's TLS provider the process' one. Where there is one already, that stays.
pub(super) fn install_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Whether a registry is on this host, so that plain HTTP to it is seen by nobody else: 127.0.0.0/8, ::1, and
/// `localhost`. Other names are not looked up: what they lead to may change.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The certificates that are trusted for `host` on top of the system's, in PEM, one each.
pub(super) fn extra_roots(
    bundle: Option<&Path>,
    folders: &[PathBuf],
    host: &str,
) -> Result<Vec<Vec<u8>>, RegistryError> {
    let mut roots = Vec::new();
    if let Some(bundle) = bundle {
        roots.extend(read_pem(bundle)?);
    }
    for folder in folders {
        // A host is of the grammar of references: it leads nowhere else.
        for file in certificate_files(&folder.join(host)) {
            roots.extend(read_pem(&file)?);
        }
    }
    Ok(roots)
}

/// The `*.crt` files of a folder, sorted. The folder is hardly ever there.
fn certificate_files(folder: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "cannot read the certificates of a registry");
            return Vec::new();
        }
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .collect();
    files.sort();
    files
}

fn read_pem(path: &Path) -> Result<Vec<Vec<u8>>, RegistryError> {
    let broken = |detail: String| RegistryError::Certificates {
        path: path.to_owned(),
        detail,
    };
    let size = fs::metadata(path)
        .map_err(|error| broken(error.to_string()))?
        .len();
    if size > LARGEST_FILE {
        return Err(broken(format!(
            "it has {size} bytes, more than {LARGEST_FILE}"
        )));
    }
    let text = fs::read(path).map_err(|error| broken(error.to_string()))?;
    let certificates = split_pem(&text);
    if certificates.is_empty() {
        return Err(broken("it has no certificate".to_owned()));
    }
    // Checked one by one here, where the file is still known.
    for certificate in &certificates {
        reqwest::Certificate::from_pem(certificate)
            .map_err(|error| broken(super::error::chain(&error)))?;
    }
    Ok(certificates)
}

/// The certificates of a PEM file one by one: what takes them takes one each.
fn split_pem(text: &[u8]) -> Vec<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(text);
    let parts = text.split(BEGIN).skip(1);
    parts
        .filter_map(|part| part.split_once(END))
        .map(|(body, _)| format!("{BEGIN}{body}{END}\n").into_bytes())
        .collect()
}

/// For our own requests.
pub(super) fn for_requests(roots: &[Vec<u8>]) -> Result<Vec<reqwest::Certificate>, reqwest::Error> {
    let each = roots.iter();
    each.map(|pem| reqwest::Certificate::from_pem(pem))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_the_name_alone() {
        for host in [
            "localhost:5000",
            "LOCALHOST:1",
            "127.0.0.1:5000",
            "127.8.9.1",
            "[::1]:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example:5000",
            "127.0.0.1.example",
            "10.0.0.1:5000",
            "registry:5000",
            "0.0.0.0:5000",
            "127.0.0.1:x",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_bundle_without_certificates_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("ca.pem");
        for text in ["", "-----BEGIN CERTIFICATE-----\nnothing"] {
            fs::write(&file, text).expect("a file");
            let error = extra_roots(Some(&file), &[], "r.example").expect_err("no certificates");
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
        let missing = dir.path().join("missing.pem");
        let error = extra_roots(Some(&missing), &[], "r.example").expect_err("no file");
        assert!(error.to_string().contains("missing.pem"), "{error}");
    }

    #[test]
    fn a_registry_without_a_folder_has_no_certificates_of_its_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let roots = extra_roots(None, &[dir.path().to_owned()], "r.example:5000");
        assert_eq!(roots.expect("nothing to read"), Vec::<Vec<u8>>::new());
    }
}
