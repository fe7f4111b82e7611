// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Documents of npm's registry: the addresses of tarballs made to lead to the mirror.
//!
//! A package's document holds every version that ever was, tens of megabytes for some. Its versions are
//! taken apart one by one and all else is copied as it stands.
//!
//! Pure.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use url::Url;

use super::{
    digest::{Algorithm, Digest},
    links::{Links, Side},
};

type Object<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Most characters of a package's name, with its scope.
const NAME_CHARS: usize = 214;

/// One part of a package's name, or a version or tag.
pub(super) fn is_part(part: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+');
    let starts = part
        .bytes()
        .next()
        .is_some_and(|byte| !matches!(byte, b'.' | b'-'));
    part.len() <= NAME_CHARS && starts && part.bytes().all(plain)
}

/// What a path below the registry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All versions of a package, by its name as the registry wants it in a path.
    Packument(String),
    /// One version, by name and version or tag.
    Manifest(String, String),
    /// A tarball by the registry's own path, as lock files have it: the package, and the path.
    Tarball(String, String),
    /// A package's tags.
    Tags(String),
}

/// Parses a path, which is not decoded.
pub(super) fn parse(path: &str) -> Option<Asked> {
    if let Some(rest) = path.strip_prefix("-/package/") {
        let name = rest.strip_suffix("/dist-tags")?;
        let (name, rest) = split_name(name)?;
        return rest.is_empty().then_some(Asked::Tags(name));
    }
    let (name, rest) = split_name(path)?;
    match rest.split_once('/') {
        None if rest.is_empty() => Some(Asked::Packument(name)),
        None => is_part(rest).then(|| Asked::Manifest(name, rest.to_owned())),
        Some(("-", file)) => is_part(file).then(|| {
            let path = format!("{}/-/{file}", name.replace("%2f", "/"));
            Asked::Tarball(name, path)
        }),
        Some(_) => None,
    }
}

/// A package's name from the start of a path, and the rest behind its slash.
fn split_name(path: &str) -> Option<(String, &str)> {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let Some(scoped) = first.strip_prefix('@') else {
        return is_part(first).then(|| (first.to_owned(), rest));
    };
    let lower = scoped.to_ascii_lowercase();
    let (scope, name, rest) = match lower.find("%2f") {
        Some(at) => (scoped.get(..at)?, scoped.get(at + 3..)?, rest),
        None => {
            let (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
            (scoped, name, rest)
        }
    };
    (is_part(scope) && is_part(name)).then(|| (format!("@{scope}%2f{name}"), rest))
}

/// The digests and the address of a version's tarball.
#[derive(Deserialize)]
struct Dist<'a> {
    #[serde(borrow)]
    tarball: Option<Cow<'a, str>>,
    #[serde(borrow)]
    integrity: Option<Cow<'a, str>>,
    #[serde(borrow)]
    shasum: Option<Cow<'a, str>>,
}

impl Dist<'_> {
    fn digest(&self) -> Option<Digest> {
        let strong = self.integrity.as_deref().and_then(Digest::from_integrity);
        strong.or_else(|| Digest::from_hex(Algorithm::Sha1, self.shasum.as_deref()?))
    }
}

/// A package's document.
pub(super) fn rewrite_packument(links: &Links, body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut document: Object<'_> = serde_json::from_slice(body)?;
    let Some(versions) = document.remove("versions") else {
        return Ok(body.to_vec());
    };
    let versions: Object<'_> = serde_json::from_str(versions.get())?;
    let mut out = serde_json::to_vec(&document)?;
    // Reopens the object.
    out.pop();
    if !document.is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(b"\"versions\":{");
    for (i, (number, version)) in versions.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, number)?;
        out.push(b':');
        out.extend_from_slice(&rewrite_manifest(links, version.get().as_bytes())?);
    }
    out.extend_from_slice(b"}}");
    Ok(out)
}

/// One version.
pub(super) fn rewrite_manifest(links: &Links, body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut version: Object<'_> = serde_json::from_slice(body)?;
    let Some(raw) = version.get("dist") else {
        return Ok(body.to_vec());
    };
    let dist: Dist<'_> = serde_json::from_str(raw.get())?;
    let url = dist
        .tarball
        .as_deref()
        .and_then(|text| Url::parse(text).ok());
    let link = url.and_then(|url| links.file(Side::Npm, &url, dist.digest().as_ref(), None));
    let Some(link) = link else {
        return Ok(body.to_vec());
    };
    let mut fields: Object<'_> = serde_json::from_str(raw.get())?;
    let link = to_raw_value(&link)?;
    fields.insert("tarball".into(), &link);
    let dist = to_raw_value(&fields)?;
    version.insert("dist".into(), &dist);
    serde_json::to_vec(&version)
}

/// What a rewritten document says about the tarball at `url`.
pub(super) fn digest_of(links: &Links, document: &[u8], url: &Url) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Version<'a> {
        #[serde(borrow)]
        dist: Option<Dist<'a>>,
    }
    let document: Object<'_> = serde_json::from_slice(document).ok()?;
    let versions: Object<'_> = serde_json::from_str(document.get("versions")?.get()).ok()?;
    versions.values().find_map(|version| {
        let version: Version<'_> = serde_json::from_str(version.get()).ok()?;
        let dist = version.dist?;
        let digest = dist.digest();
        let link = links.file(Side::Npm, url, digest.as_ref(), None);
        (link.as_deref() == dist.tarball.as_deref()).then_some(digest)?
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::links::tests::links, *};

    const INTEGRITY: &str = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";

    #[test]
    fn paths_are_names_versions_or_tarballs() {
        let packument = |name: &str| Some(Asked::Packument(name.into()));
        let manifest =
            |name: &str, version: &str| Some(Asked::Manifest(name.into(), version.into()));
        let tarball = |name: &str, path: &str| Some(Asked::Tarball(name.into(), path.into()));
        for (path, asked) in [
            ("is-number", packument("is-number")),
            ("@a%2fb", packument("@a%2fb")),
            ("@a%2Fb", packument("@a%2fb")),
            ("@a/b", packument("@a%2fb")),
            ("JSONStream", packument("JSONStream")),
            ("a/1.0.0-rc.1+x", manifest("a", "1.0.0-rc.1+x")),
            ("@a/b/latest", manifest("@a%2fb", "latest")),
            ("a/-/a-1.0.0.tgz", tarball("a", "a/-/a-1.0.0.tgz")),
            (
                "@a/b/-/b-1.0.0.tgz",
                tarball("@a%2fb", "@a/b/-/b-1.0.0.tgz"),
            ),
            (
                "-/package/@a%2fb/dist-tags",
                Some(Asked::Tags("@a%2fb".into())),
            ),
            ("-/package/a/dist-tags", Some(Asked::Tags("a".into()))),
        ] {
            assert_eq!(parse(path), asked, "{path}");
        }
        for path in [
            "",
            ".",
            "..",
            "../a",
            "a/..",
            "a%2f..",
            "@a",
            "@/b",
            "@a%2f",
            "@a%2f..",
            "a/-/../b",
            "a/-/b/c",
            "-/v1/search",
            "-/npm/v1/security/advisories/bulk",
            "a b",
            "a%00",
            "-/package/a",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_document_keeps_all_but_the_tarballs() {
        let document = json!({
            "_id": "a", "dist-tags": {"latest": "1.0.0"}, "time": {"1.0.0": "2020"},
            "versions": {
                "1.0.0": {"name": "a", "bin": {"x": "y"}, "dist": {"integrity": INTEGRITY, "shasum": "0".repeat(40),
                    "tarball": "https://npm.example/a/-/a-1.0.0.tgz", "signatures": [{"sig": "s"}]}},
                "0.2.0": {"name": "a", "dist": {"shasum": "0".repeat(40), "tarball": "https://npm.example/a/-/a-0.2.0.tgz"}},
                "0.1.0": {"name": "a", "dist": {"tarball": "https://elsewhere.example/a.tgz"}},
                "0.0.1": {"name": "a"},
            },
        });
        let body = serde_json::to_vec_pretty(&document).expect("JSON");
        let out = rewrite_packument(&links(), &body).expect("JSON");
        let mut after: Value = serde_json::from_slice(&out).expect("JSON");
        let links = links();
        let mut tarball = |version: &str| after["versions"][version]["dist"]["tarball"].take();
        let hex = Digest::from_integrity(INTEGRITY).expect("a digest");
        let base = "http://127.0.0.1:703/npm/-";
        assert_eq!(
            tarball("1.0.0"),
            json!(format!(
                "{base}/sha512/{}/https/npm.example/a/-/a-1.0.0.tgz",
                hex.hex()
            ))
        );
        assert_eq!(
            tarball("0.2.0"),
            json!(format!(
                "{base}/sha1/{}/https/npm.example/a/-/a-0.2.0.tgz",
                "0".repeat(40)
            ))
        );
        assert_eq!(tarball("0.1.0"), "https://elsewhere.example/a.tgz");
        let mut before = document;
        for version in ["1.0.0", "0.2.0", "0.1.0"] {
            before["versions"][version]["dist"]["tarball"].take();
        }
        assert_eq!(after, before);

        let url =
            |name: &str| Url::parse(&format!("https://npm.example/a/-/{name}")).expect("a URL");
        assert_eq!(digest_of(&links, &out, &url("a-1.0.0.tgz")), Some(hex));
        assert_eq!(digest_of(&links, &out, &url("a-9.tgz")), None);
    }

    #[test]
    fn what_is_no_document_is_an_error_or_left_alone() {
        for body in [
            "",
            "[]",
            "{\"versions\": 1}",
            "{\"versions\": {\"1\": {\"dist\": 7}}}",
        ] {
            assert!(
                rewrite_packument(&links(), body.as_bytes()).is_err(),
                "{body}"
            );
        }
        let error = b"{\"error\": \"not found\"}";
        assert_eq!(rewrite_packument(&links(), error).expect("JSON"), error);
        let out = rewrite_packument(&links(), b"{\"versions\": {}}").expect("JSON");
        assert_eq!(out, b"{\"versions\":{}}");
    }
}
