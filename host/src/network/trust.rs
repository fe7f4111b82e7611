// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Whom this host trusts to sign for others: its system store, or the file that the operator names.
//!
//! Owns the certificates. They serve twice: for the host's own TLS to registries ([`TrustStore::roots`]),
//! and for the guests, which get those that they lack ([`TrustStore::missing_from`]). Certificates alone
//! are taken from a file: a key that lies in it goes nowhere.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject as _},
    },
};

/// Characters of a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// The certificates that this host trusts.
#[derive(Debug, Clone)]
pub struct TrustStore {
    certificates: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
    /// The operator named the file that they are from.
    is_named: bool,
}

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The operator's file cannot be read.
    #[error("WAGGLE_CA_BUNDLE: cannot read {}; name a file of PEM certificates, or leave it out for the system's store", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operator's file is damaged.
    #[error("WAGGLE_CA_BUNDLE: certificate {number} of {} is damaged ({source}); write the file anew", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which certificate, from 1.
        number: usize,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// There is nothing of use in the operator's file.
    #[error("WAGGLE_CA_BUNDLE: {} holds no certificate that TLS can use; name a file with the PEM certificates (BEGIN CERTIFICATE) of authorities", path.display())]
    Nothing {
        /// Which file.
        path: PathBuf,
    },
    /// TLS does not take the store.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl TrustStore {
    /// The certificates in `bundle`, or those of the system (which `SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// replace).
    ///
    /// # Errors
    ///
    /// [`TrustError`] if `bundle` is of no use. A system without certificates is none: TLS fails later,
    /// and a warning says so now.
    pub fn load(bundle: Option<&Path>) -> Result<Self, TrustError> {
        match bundle {
            Some(path) => {
                let bytes = std::fs::read(path).map_err(|source| TrustError::Unreadable {
                    path: path.to_owned(),
                    source,
                })?;
                Self::parse(&bytes, path)
            }
            None => Ok(Self::of_system()),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, TrustError> {
        let mut certificates = Vec::new();
        for (index, certificate) in CertificateDer::pem_slice_iter(bytes).enumerate() {
            certificates.push(certificate.map_err(|source| TrustError::Damaged {
                path: path.to_owned(),
                number: index + 1,
                source,
            })?);
        }
        let store = Self {
            is_named: true,
            ..Self::new(certificates)
        };
        if store.roots.is_empty() {
            return Err(TrustError::Nothing {
                path: path.to_owned(),
            });
        }
        Ok(store)
    }

    fn of_system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a part of the system's certificates could not be read");
        }
        let store = Self::new(found.certs);
        if store.roots.is_empty() {
            tracing::warn!(
                "this system has no certificates of authorities, so registries cannot be reached by https; install \
                 ca-certificates, or set WAGGLE_CA_BUNDLE"
            );
        }
        store
    }

    fn new(all: Vec<CertificateDer<'static>>) -> Self {
        let mut seen = HashSet::new();
        let unique = all
            .into_iter()
            .filter(|certificate| seen.insert(certificate.clone()));
        let certificates: Vec<_> = unique.collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        Self {
            certificates: certificates.into(),
            roots: Arc::new(roots),
            is_named: false,
        }
    }

    /// For the host's own TLS.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }

    /// TLS of a client that trusts this store, without client certificates.
    ///
    /// # Errors
    ///
    /// [`TrustError::Tls`]
    pub fn client_config(&self) -> Result<rustls::ClientConfig, TrustError> {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(ring);
        let config = config.with_safe_default_protocol_versions()?;
        Ok(config
            .with_root_certificates(self.roots())
            .with_no_client_auth())
    }

    /// Whether they are from a file that the operator named, and not the system's.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.is_named
    }

    /// All certificates, as PEM.
    #[must_use]
    pub fn pem(&self) -> Bytes {
        pem_of(self.certificates.iter())
    }

    /// The certificates that `store`, a file of PEM, does not hold, as PEM; empty if it holds all.
    #[must_use]
    pub fn missing_from(&self, store: &[u8]) -> Bytes {
        let known: HashSet<_> = CertificateDer::pem_slice_iter(store)
            .filter_map(Result::ok)
            .collect();
        let missing = self.certificates.iter();
        pem_of(missing.filter(|certificate| !known.contains(*certificate)))
    }
}

fn pem_of<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> Bytes {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut base64 = BASE64.encode(certificate);
        while !base64.is_empty() {
            // Base64 is ASCII, so any place is between characters.
            let rest = base64.split_off(PEM_LINE.min(base64.len()));
            text.push_str(&base64);
            text.push('\n');
            base64 = rest;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PEM of something that is no certificate, but as good as one where only bytes are compared.
    fn pem(bytes: &[u8]) -> String {
        let certificate = CertificateDer::from(bytes.to_vec());
        String::from_utf8(pem_of([&certificate].into_iter()).to_vec()).expect("ASCII")
    }

    fn store(all: &[&[u8]]) -> TrustStore {
        let all = all.iter().map(|bytes| CertificateDer::from(bytes.to_vec()));
        TrustStore::new(all.collect())
    }

    #[test]
    fn pem_goes_there_and_back() {
        for length in [1, 47, 48, 49, 1000] {
            let bytes = vec![7; length];
            let text = pem(&bytes);
            assert!(text.lines().all(|line| line.len() <= PEM_LINE), "{text}");
            let back = CertificateDer::from_pem_slice(text.as_bytes()).expect("PEM");
            assert_eq!(back.as_ref(), bytes);
        }
    }

    #[test]
    fn a_guest_gets_what_it_lacks_each_once() {
        let host = store(&[b"one", b"two", b"one", b"three"]);
        let guest = format!("# a comment\n{}\r\n{}", pem(b"two"), pem(b"four"));
        let missing = host.missing_from(guest.as_bytes());
        assert_eq!(missing, format!("{}{}", pem(b"one"), pem(b"three")));
        assert!(host.missing_from(&host.pem()).is_empty());
        // A damaged store of the guest's is no reason to give up.
        let damaged = format!("-----BEGIN CERTIFICATE-----\n!\n{}", pem(b"one"));
        assert!(!host.missing_from(damaged.as_bytes()).is_empty());
    }

    #[test]
    fn a_bundle_of_no_use_is_named_with_what_to_do() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path();
        let complaint = |text: &str| {
            std::fs::write(path, text).expect("written");
            let error = TrustStore::load(Some(path)).expect_err(text).to_string();
            assert!(error.contains("WAGGLE_CA_BUNDLE"), "{error}");
            assert!(error.contains(path.to_str().expect("UTF-8")), "{error}");
            error
        };
        complaint("");
        complaint("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        complaint(&pem(b"no certificate"));
        let error = complaint(&format!(
            "{}-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
            pem(b"x")
        ));
        assert!(error.contains("certificate 2"), "{error}");
        assert!(TrustStore::load(Some(Path::new("/nowhere/ca.pem"))).is_err());
    }
}
