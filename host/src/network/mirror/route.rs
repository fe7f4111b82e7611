// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What a request is for.
//!
//! Pure. A request that is for nothing here has no [`Route`], whatever it holds.

use std::time::Duration;

use hyper::{HeaderMap, Method, Uri, header, http::request::Parts};
use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    digest::{Algorithm, Digest},
    document::Wanted,
    links::{Form, Linked, Links, Side},
    npm, pypi,
};
use crate::network::registries::Manager;

/// What pip asks for, and gets if it understands JSON.
const PIP_JSON: &str = "application/vnd.pypi.simple.v1+json, text/html; q=0.01";
const PIP_HTML: &str = "application/vnd.pypi.simple.v1+html, text/html; q=0.9";
/// What npm asks for when it installs: without readmes and the like.
const NPM_SHORT: &str = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*";
const NPM_FULL: &str = "application/json";
const ANY: &str = "*/*";

/// Longest address that is asked for, in bytes. Registries' own are far shorter, signed ones included.
const URL_BYTES: usize = 8 * 1024;

/// How long an index is fresh if the registry does not say. The large ones say five and ten minutes.
const INDEX: Duration = Duration::from_secs(600);
/// The same of apt's, whose files refer to each other.
const APT: Duration = Duration::from_secs(120);

/// What a request is for.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// A registry's index, or something else that changes.
    Document(Wanted),
    /// A file with the digest that an index stated.
    File(Digest, Url),
    /// A file of which no digest is known.
    Unknown(Url),
    /// A tarball by the registry's own path: its digest is in that document.
    Tarball(Wanted, Url),
    /// Of apt's.
    Apt(Apt),
}

/// A file of an apt repository.
#[derive(Debug, Clone)]
pub(super) struct Apt {
    pub(super) url: Url,
    /// Stands for the repository.
    pub(super) repository: Digest,
    pub(super) kind: AptKind,
}

/// What kind of file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AptKind {
    /// Named by its digest; perhaps a list of packages.
    Hashed(Digest, bool),
    /// A package, by its path in the repository.
    Package(String),
    /// Anything else; perhaps a list of packages.
    Document(bool),
}

impl Apt {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            url: self.url.clone(),
            accept: ANY,
            form: Form::Verbatim,
            fresh_for: APT,
        }
    }
}

impl Route {
    /// What `parts` is for, if it is for the mirror.
    pub(super) fn of(links: &Links, parts: &Parts) -> Option<Self> {
        let route = Self::any(links, parts)?;
        (route.url().as_str().len() <= URL_BYTES).then_some(route)
    }

    /// The same, whatever the length of its address.
    fn any(links: &Links, parts: &Parts) -> Option<Self> {
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return None;
        }
        if parts.uri.scheme().is_some() {
            return apt(links, &parts.uri).map(Self::Apt);
        }
        let path = parts.uri.path().strip_prefix('/')?;
        if let Some(rest) = path.strip_prefix(pypi::SIMPLE) {
            return simple(links, rest, &parts.headers).map(Self::Document);
        }
        for side in [Side::Pip, Side::Npm] {
            if let Some(Linked { url, digest }) = links.linked(side, &parts.uri) {
                return Some(match digest {
                    Some(digest) => Self::File(digest, url),
                    None => Self::Unknown(url),
                });
            }
        }
        package(links, path.strip_prefix("npm/")?, &parts.headers)
    }

    /// What it concerns at the registry.
    pub(super) fn url(&self) -> &Url {
        match self {
            Self::Document(wanted) => &wanted.url,
            Self::File(_, url) | Self::Unknown(url) | Self::Tarball(_, url) => url,
            Self::Apt(apt) => &apt.url,
        }
    }
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let mut texts = headers.get_all(header::ACCEPT).iter();
    texts.any(|text| text.to_str().is_ok_and(|text| text.contains(kind)))
}

fn simple(links: &Links, rest: &str, headers: &HeaderMap) -> Option<Wanted> {
    let index = links.registry(&Manager::Pip)?;
    // The list of all projects, tens of megabytes, is none: no install asks for it.
    let name = pypi::project(rest.strip_suffix('/').unwrap_or(rest))?;
    let url = index.join(&format!("{name}/")).ok()?;
    let json = accepts(headers, "application/vnd.pypi.simple.v1+json")
        || accepts(headers, "application/vnd.pypi.simple.latest+json");
    Some(Wanted {
        url,
        accept: if json { PIP_JSON } else { PIP_HTML },
        form: Form::Simple,
        fresh_for: INDEX,
    })
}

fn package(links: &Links, path: &str, headers: &HeaderMap) -> Option<Route> {
    let registry = links.registry(&Manager::Npm)?;
    let wanted = |path: &str, accept, form| {
        // Not joined: a name is no relative address.
        let url = Url::parse(&format!("{registry}{path}")).ok()?;
        Some(Wanted {
            url,
            accept,
            form,
            fresh_for: INDEX,
        })
    };
    let document = match npm::parse(path)? {
        npm::Asked::Packument(name) => {
            let short = accepts(headers, "application/vnd.npm.install-v1+json");
            let accept = if short { NPM_SHORT } else { NPM_FULL };
            wanted(&name, accept, Form::Packument)?
        }
        npm::Asked::Manifest(name, version) => {
            wanted(&format!("{name}/{version}"), NPM_FULL, Form::Manifest)?
        }
        npm::Asked::Tags(name) => wanted(
            &format!("-/package/{name}/dist-tags"),
            NPM_FULL,
            Form::Verbatim,
        )?,
        npm::Asked::Tarball(name, path) => {
            let url = Url::parse(&format!("{registry}{path}")).ok()?;
            return Some(Route::Tarball(
                wanted(&name, NPM_SHORT, Form::Packument)?,
                url,
            ));
        }
    };
    Some(Route::Document(document))
}

/// The file of a recorded repository that `uri` names.
fn apt(links: &Links, uri: &Uri) -> Option<Apt> {
    let url = Url::parse(&uri.to_string()).ok()?;
    let below = |root: &&Url| root.origin() == url.origin() && url.path().starts_with(root.path());
    // One repository may lie within another.
    let root = links
        .of(&Manager::Apt)
        .filter(below)
        .max_by_key(|root| root.path().len())?;
    // With a query, one file would be any number of documents.
    if url.query().is_some()
        || url.scheme() != "http"
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return None;
    }
    let path = url.path().strip_prefix(root.path())?;
    let path = percent_decode_str(path).decode_utf8().ok()?.into_owned();
    let kind = kind(&path);
    Some(Apt {
        repository: Digest::of(root.as_str().as_bytes()),
        url,
        kind,
    })
}

fn kind(path: &str) -> AptKind {
    let mut names = path.rsplit('/');
    let name = names.next().unwrap_or_default();
    let algorithm = match names.next() {
        Some("SHA256") => Some(Algorithm::Sha256),
        Some("SHA512") => Some(Algorithm::Sha512),
        _ => None,
    };
    let hashed = algorithm.filter(|_| names.next() == Some("by-hash"));
    if let Some(digest) = hashed.and_then(|algorithm| Digest::from_hex(algorithm, name)) {
        let packages = names
            .next()
            .is_some_and(|folder| folder.starts_with("binary-"));
        return AptKind::Hashed(digest, packages);
    }
    if name.ends_with(".deb") || name.ends_with(".udeb") {
        return AptKind::Package(path.to_owned());
    }
    let packages = ["Packages", "Packages.xz", "Packages.gz", "Packages.zst"];
    AptKind::Document(packages.contains(&name))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::{super::links::tests::links, *};

    fn parts(method: &str, uri: &str, accept: &str) -> Parts {
        let request = Request::builder().method(method).uri(uri);
        let request = request.header(header::ACCEPT, accept).body(());
        request.expect("a request").into_parts().0
    }

    fn upstream(uri: &str) -> Option<String> {
        let route = Route::of(&links(), &parts("GET", uri, "*/*"))?;
        Some(route.url().to_string())
    }

    #[test]
    fn each_path_is_about_one_address() {
        let hex = "0".repeat(64);
        for (uri, wanted) in [
            ("/pypi/simple/Six/", "https://index.example/simple/six/"),
            ("/pypi/simple/a_b", "https://index.example/simple/a-b/"),
            (
                &format!("/pypi/files/sha256/{hex}/https/files.example/a.whl"),
                "https://files.example/a.whl",
            ),
            ("/npm/is-number", "https://npm.example/is-number"),
            ("/npm/@a/b", "https://npm.example/@a%2fb"),
            ("/npm/@a/b/-/b-1.tgz", "https://npm.example/@a/b/-/b-1.tgz"),
            (
                "/npm/-/package/a/dist-tags",
                "https://npm.example/-/package/a/dist-tags",
            ),
            (
                "http://deb.example/debian/dists/x/InRelease",
                "http://deb.example/debian/dists/x/InRelease",
            ),
            (
                "http://deb.example:80/debian/pool/a.deb",
                "http://deb.example/debian/pool/a.deb",
            ),
        ] {
            assert_eq!(upstream(uri).as_deref(), Some(wanted), "{uri}");
        }
        for uri in [
            "/",
            "/pypi",
            "/pypi/simple",
            "/pypi/simple/",
            "/pypi/simple/../",
            "/pypi/simple/a/b/",
            "/npm/",
            "/npm/-/v1/search?text=a",
            "/other",
            "http://deb.example/ubuntu/x",
            "http://deb.example/debian/Packages?1",
            "http://deb.example/debian/../ubuntu/x",
            "http://deb.example/debian/%2e%2e/ubuntu/x",
            "http://deb.example:8080/debian/x",
            "https://deb.example/debian/x",
            "http://other.example/debian/x",
            "http://index.example/simple/six/",
        ] {
            assert_eq!(upstream(uri), None, "{uri}");
        }
        let long = format!("http://deb.example/debian/{}", "%20".repeat(URL_BYTES));
        assert_eq!(upstream(&long), None, "too long");
        let post = parts("POST", "/npm/is-number", "*/*");
        assert!(Route::of(&links(), &post).is_none());
    }

    #[test]
    fn what_is_accepted_is_one_of_two() {
        let accept = |uri: &str, accept: &str| match Route::of(&links(), &parts("GET", uri, accept))
        {
            Some(Route::Document(wanted)) => wanted.accept,
            other => panic!("{other:?}"),
        };
        let json = "application/vnd.pypi.simple.v1+json, text/html; q=0.01, x/y";
        assert_eq!(accept("/pypi/simple/six/", json), PIP_JSON);
        assert_eq!(accept("/pypi/simple/six/", "text/html"), PIP_HTML);
        let short = "application/vnd.npm.install-v1+json; q=1.0, */*";
        assert_eq!(accept("/npm/a", short), NPM_SHORT);
        assert_eq!(accept("/npm/a", "*/*"), NPM_FULL);
    }

    #[test]
    fn apts_files_are_of_three_kinds() {
        let digest = Digest::of(b"");
        let hex = digest.hex();
        let packages = format!("dists/x/main/binary-amd64/by-hash/SHA256/{hex}");
        assert_eq!(kind(&packages), AptKind::Hashed(digest.clone(), true));
        let sources = format!("dists/x/main/source/by-hash/SHA256/{hex}");
        assert_eq!(kind(&sources), AptKind::Hashed(digest, false));
        let md5 = "dists/x/main/source/by-hash/MD5Sum/d41d8cd98f00b204e9800998ecf8427e";
        assert_eq!(kind(md5), AptKind::Document(false));
        assert_eq!(kind("dists/x/InRelease"), AptKind::Document(false));
        assert_eq!(kind("Packages.gz"), AptKind::Document(true));
        assert_eq!(
            kind("pool/a/a_1.deb"),
            AptKind::Package("pool/a/a_1.deb".into())
        );
    }

    proptest::proptest! {
        #[test]
        fn every_address_is_below_a_registry(
            path in "/(pypi/|simple/|files/|npm/|-/|plain/|sha256/|https/|http/|files\\.example|@|%2[fe]|\\.\\.|/|[a-z0-9?:]){0,12}",
            proxied in "http://deb\\.example(:80)?/(debian|%2e%2e|\\.\\.|/|pool|[a-z?%]){0,8}",
        ) {
            for uri in [path, proxied] {
                if uri.parse::<Uri>().is_ok() && let Some(url) = upstream(&uri) {
                    let roots = ["https://index.example/", "https://files.example/", "https://npm.example/", "http://deb.example/debian/"];
                    proptest::prop_assert!(roots.iter().any(|root| url.starts_with(root)), "{} {}", uri, url);
                }
            }
        }
    }
}
