// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Links: where a registry's file is in the mirror, and which registry's file a path of the mirror is.
//!
//! A rewritten link holds all that is needed to serve it: the digest that the index states, and the
//! registry's own address, `pypi/files/sha256/HEX/https/HOST/PATH`. So nothing must be remembered between an
//! index and its files. Only links to a registry's own origin are rewritten, and only such are served.
//!
//! Pure.

use hyper::Uri;
use url::Url;

use super::{
    digest::{Algorithm, Digest},
    npm, pypi,
};
use crate::network::registries::{Manager, Registry};

/// What is rewritten in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing.
    Verbatim,
    /// A page of pip's simple API, JSON or HTML by its type.
    Simple,
    /// All versions of a package of npm's.
    Packument,
    /// One version.
    Manifest,
}

/// Whose files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Pip,
    Npm,
}

impl Side {
    fn prefix(self) -> &'static str {
        match self {
            Self::Pip => "pypi/files/",
            Self::Npm => "npm/-/",
        }
    }
}

/// A registry's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) url: Url,
    /// If the index states one.
    pub(super) digest: Option<Digest>,
}

/// Stands where a digest would, if there is none.
const PLAIN: &str = "plain";
/// What PEP 658 appends to a file's address for its metadata.
const METADATA: &str = ".metadata";

/// The registries, and the mirror's own address.
#[derive(Debug)]
pub(super) struct Links {
    base: Url,
    registries: Vec<Registry>,
}

impl Links {
    pub(super) fn new(base: Url, registries: Vec<Registry>) -> Self {
        Self { base, registries }
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The first registry of `manager`.
    pub(super) fn registry(&self, manager: &Manager) -> Option<&Url> {
        let mut ours = self.registries.iter();
        ours.find(|registry| registry.manager == *manager)
            .map(|registry| &registry.url)
    }

    /// All registries of `manager`.
    pub(super) fn of<'a>(&'a self, manager: &'a Manager) -> impl Iterator<Item = &'a Url> {
        let ours = self.registries.iter();
        ours.filter(move |registry| registry.manager == *manager)
            .map(|registry| &registry.url)
    }

    /// Whether files are served from where `url` is.
    fn is_known(&self, side: Side, url: &Url) -> bool {
        let managers: &[Manager] = match side {
            Side::Pip => &[Manager::Pip, Manager::PipFiles],
            Side::Npm => &[Manager::Npm],
        };
        let same = |registry: &Url| registry.origin() == url.origin();
        let known = managers.iter().any(|manager| self.of(manager).any(same));
        known && url.username().is_empty() && url.password().is_none()
    }

    /// The mirror's link for the file at `url`, without a fragment, or none if that is no registry's.
    /// `metadata` is the digest of the file's metadata (PEP 658).
    pub(super) fn file(
        &self,
        side: Side,
        url: &Url,
        digest: Option<&Digest>,
        metadata: Option<&Digest>,
    ) -> Option<String> {
        if !self.is_known(side, url) {
            return None;
        }
        let digest = match (digest, metadata) {
            (Some(digest), Some(metadata)) => format!(
                "{}/{}.{}",
                digest.algorithm().name(),
                digest.hex(),
                metadata.hex()
            ),
            (Some(digest), None) => format!("{}/{}", digest.algorithm().name(), digest.hex()),
            (None, _) => PLAIN.to_owned(),
        };
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let rest = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let (base, prefix, scheme) = (&self.base, side.prefix(), url.scheme());
        Some(format!("{base}{prefix}{digest}/{scheme}/{host}{rest}"))
    }

    /// The file that [`Links::file`] made a link for.
    pub(super) fn linked(&self, side: Side, uri: &Uri) -> Option<Linked> {
        let path = uri.path().strip_prefix('/')?.strip_prefix(side.prefix())?;
        let (first, rest) = path.split_once('/')?;
        let (digests, rest) = match first {
            PLAIN => (None, rest),
            name => {
                let (hex, rest) = rest.split_once('/')?;
                (Some((Algorithm::parse(name)?, hex)), rest)
            }
        };
        let (scheme, rest) = rest.split_once('/')?;
        let query = uri
            .query()
            .map_or(String::new(), |query| format!("?{query}"));
        let (host, rest) = rest.split_once('/')?;
        // pip quotes the colon before a port.
        let host = host.replace("%3A", ":");
        let url = Url::parse(&format!("{scheme}://{host}/{rest}{query}")).ok()?;
        if !self.is_known(side, &url) {
            return None;
        }
        let digest = match digests {
            None => None,
            Some((algorithm, hex)) => {
                let (file, metadata) = hex
                    .split_once('.')
                    .map_or((hex, None), |(file, metadata)| (file, Some(metadata)));
                let file = Digest::from_hex(algorithm, file)?;
                let metadata = match metadata {
                    Some(hex) => Some(Digest::from_hex(Algorithm::Sha256, hex)?),
                    None => None,
                };
                if side == Side::Pip && url.path().ends_with(METADATA) {
                    metadata
                } else {
                    Some(file)
                }
            }
        };
        Some(Linked { url, digest })
    }

    /// `body` with its links to the mirror.
    pub(super) fn rewrite(
        &self,
        form: Form,
        url: &Url,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, String> {
        let json = |error: serde_json::Error| format!("it is not what it should be: {error}");
        match form {
            Form::Verbatim => Ok(body),
            Form::Simple if content_type.contains("json") => {
                pypi::rewrite_json(self, url, &body).map_err(json)
            }
            Form::Simple if content_type.contains("html") => {
                Ok(pypi::rewrite_html(self, url, &body))
            }
            Form::Simple => Err(format!("it is neither HTML nor JSON, but {content_type}")),
            Form::Packument => npm::rewrite_packument(self, &body).map_err(json),
            Form::Manifest => npm::rewrite_manifest(self, &body).map_err(json),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn links() -> Links {
        let registries = [
            "pip=https://index.example/simple/",
            "pip-files=https://files.example/",
            "pip-files=https://ports.example:8443/",
            "npm=https://npm.example/",
            "apt=http://deb.example/debian/",
        ];
        let registries = registries.map(|text| text.parse().expect("a registry"));
        let base = Url::parse("http://127.0.0.1:703/").expect("a URL");
        Links::new(base, registries.to_vec())
    }

    #[test]
    fn a_link_leads_back_to_its_file() {
        let links = links();
        let (digest, metadata) = (Digest::of(b"a"), Digest::of(b"b"));
        for address in [
            "https://files.example/packages/a%20b/six-1.0.tar.gz",
            "https://index.example/files/six-1.0.tar.gz?token=a/b",
            "https://ports.example:8443/six-1.0.tar.gz",
        ] {
            let url = Url::parse(address).expect("a URL");
            for (digest, metadata) in [
                (None, None),
                (Some(&digest), None),
                (Some(&digest), Some(&metadata)),
            ] {
                let link = links.file(Side::Pip, &url, digest, metadata);
                let link = link.expect("a registry's");
                // Both as it is and as pip writes it.
                let quoted = link.replace("example:", "example%3A");
                for link in [link, quoted] {
                    let uri: Uri = link.parse().expect("a URI");
                    let linked = links.linked(Side::Pip, &uri).expect("a file");
                    assert_eq!((linked.url, linked.digest.as_ref()), (url.clone(), digest));
                }
            }
        }
    }

    #[test]
    fn metadata_has_its_own_digest_or_none() {
        let links = links();
        let url = Url::parse("https://files.example/six-1.0-py3-none-any.whl").expect("a URL");
        let (digest, metadata) = (Digest::of(b"a"), Digest::of(b"b"));
        for stated in [None, Some(&metadata)] {
            let link = links.file(Side::Pip, &url, Some(&digest), stated);
            let link = format!("{}.metadata", link.expect("a registry's"));
            let linked = links.linked(Side::Pip, &link.parse().expect("a URI"));
            assert_eq!(linked.expect("a file").digest.as_ref(), stated);
        }
    }

    #[test]
    fn other_hosts_are_left_alone() {
        let links = links();
        for address in [
            "https://elsewhere.example/six.whl",
            "http://files.example/six.whl",
            "https://files.example:444/six.whl",
            "https://me@files.example/six.whl",
            "https://npm.example/six.whl",
        ] {
            let url = Url::parse(address).expect("a URL");
            assert_eq!(links.file(Side::Pip, &url, None, None), None, "{address}");
        }
        let hex = "0".repeat(64);
        for path in [
            "/pypi/files/plain/https/elsewhere.example/a",
            "/pypi/files/plain/https/files.example@elsewhere.example/a",
            "/pypi/files/plain/file//etc/passwd",
            "/pypi/files/plain/https/",
            "/pypi/files/plain",
            "/pypi/files/sha256/../https/files.example/a",
            "/pypi/files/md5/00/https/files.example/a",
            &format!("/pypi/files/sha256/{hex}/https"),
            &format!("/pypi/files/sha256/{hex}.x/https/files.example/a"),
            &format!("/npm/-/sha256/{hex}/https/npm.example/a"),
        ] {
            let uri: Uri = path.parse().expect("a URI");
            assert_eq!(links.linked(Side::Pip, &uri), None, "{path}");
        }
    }
}
