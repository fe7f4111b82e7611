// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Pages of pip's simple API: JSON (PEP 691) and HTML (PEP 503), with the links of files (and of other
//! pages) made to lead to the mirror.
//!
//! All that is said about a file beside its address stays: digests, Python versions, yanked. An address
//! that is not a registry's stays too, but absolute, for the page has moved.
//!
//! Pure.

use std::{borrow::Cow, collections::BTreeMap};

use html5gum::{HtmlString, Token, Tokenizer};
use serde_json::{Map, Value, value::RawValue};
use url::Url;

use super::{
    digest::{Algorithm, Digest},
    links::{Links, Side},
};
use crate::network::registries::Manager;

/// Where the mirror's index is.
pub(super) const SIMPLE: &str = "pypi/simple/";

/// Most characters of a project's name. The longest that exist have about a hundred.
const NAME_CHARS: usize = 200;

/// A project's name, normalized (PEP 503), if it is one (PEP 508).
pub(super) fn project(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let (first, last) = (name.bytes().next()?, name.bytes().last()?);
    let inner = |byte: u8| plain(byte) || matches!(byte, b'.' | b'_' | b'-');
    if name.len() > NAME_CHARS || !plain(first) || !plain(last) || !name.bytes().all(inner) {
        return None;
    }
    let parts = name.split(['.', '_', '-']).filter(|part| !part.is_empty());
    let parts: Vec<String> = parts.map(str::to_ascii_lowercase).collect();
    Some(parts.join("-"))
}

/// A page in JSON.
pub(super) fn rewrite_json(links: &Links, url: &Url, body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut rest: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body)?;
    let files: Vec<&RawValue> = match rest.get("files") {
        Some(files) => serde_json::from_str(files.get())?,
        // Nothing that leads anywhere.
        None => return Ok(body.to_vec()),
    };
    rest.remove("files");
    let mut out = serde_json::to_vec(&rest)?;
    // Reopens the object, for files one by one: there may be tens of thousands of them.
    out.pop();
    if !rest.is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(b"\"files\":[");
    for (i, file) in files.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let mut file: Map<String, Value> = serde_json::from_str(file.get())?;
        rewrite_file(links, url, &mut file);
        serde_json::to_writer(&mut out, &file)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

fn rewrite_file(links: &Links, page: &Url, file: &mut Map<String, Value>) {
    let sha256 =
        |hashes: &Value| Digest::from_hex(Algorithm::Sha256, hashes.get("sha256")?.as_str()?);
    let digest = file.get("hashes").and_then(sha256);
    // The older name is still much used (PEP 714).
    let metadata = file
        .get("core-metadata")
        .or_else(|| file.get("dist-info-metadata"))
        .and_then(sha256);
    let Some(Value::String(address)) = file.get_mut("url") else {
        return;
    };
    if let Ok(url) = page.join(address) {
        let link = links.file(Side::Pip, &url, digest.as_ref(), metadata.as_ref());
        *address = link.unwrap_or_else(|| url.into());
    }
}

/// A page in HTML.
pub(super) fn rewrite_html(links: &Links, url: &Url, body: &[u8]) -> Vec<u8> {
    let mut base = url.clone();
    let mut has_base = false;
    let mut out = Vec::with_capacity(body.len() + body.len() / 2);
    for token in Tokenizer::new(body) {
        let Ok(token) = token;
        match token {
            Token::StartTag(mut tag) => {
                let name: &[u8] = &tag.name;
                if name == b"base" {
                    // What it says is in the links now. Only the first counts.
                    let href = tag.attributes.get(b"href".as_slice());
                    let href = href.filter(|_| !has_base);
                    if let Some(href) = href.and_then(|href| std::str::from_utf8(href).ok()) {
                        base = base.join(href).unwrap_or(base);
                        has_base = true;
                    }
                    continue;
                }
                if name == b"a" {
                    let link = anchor(links, &base, |name| {
                        let value = tag.attributes.get(name.as_bytes())?;
                        std::str::from_utf8(value).ok()
                    });
                    if let Some(link) = link
                        && let Some(href) = tag.attributes.get_mut(b"href".as_slice())
                    {
                        **href = HtmlString(link.into_bytes());
                    }
                }
                out.push(b'<');
                out.extend_from_slice(&tag.name);
                for (name, value) in &tag.attributes {
                    out.push(b' ');
                    out.extend_from_slice(name);
                    out.extend_from_slice(b"=\"");
                    escape(&mut out, value);
                    out.push(b'"');
                }
                out.push(b'>');
            }
            Token::EndTag(tag) => {
                out.extend_from_slice(b"</");
                out.extend_from_slice(&tag.name);
                out.push(b'>');
            }
            Token::String(text) => escape(&mut out, &text),
            Token::Doctype(_) => out.extend_from_slice(b"<!DOCTYPE html>"),
            Token::Comment(_) | Token::Error(_) => {}
        }
    }
    out
}

/// The new address of a link with these attributes.
fn anchor<'a>(
    links: &Links,
    base: &Url,
    attribute: impl Fn(&str) -> Option<&'a str>,
) -> Option<String> {
    let url = base.join(attribute("href")?.trim()).ok()?;
    // A page of the index.
    if let Some(index) = links.registry(&Manager::Pip)
        && index.origin() == url.origin()
        && let Some(rest) = url.path().strip_prefix(index.path())
        && rest.split('/').next().and_then(project).is_some()
        && rest.split_once('/').is_none_or(|(_, rest)| rest.is_empty())
        && url.fragment().is_none()
    {
        return Some(format!("{}{SIMPLE}{rest}", links.base()));
    }
    let stated = |text: &str| {
        let (name, hex) = text.split_once('=')?;
        (name == "sha256").then_some(())?;
        Digest::from_hex(Algorithm::Sha256, hex)
    };
    let fragment = url.fragment();
    let digest = fragment.and_then(|text| text.split('&').find_map(stated));
    let metadata = attribute("data-core-metadata").or_else(|| attribute("data-dist-info-metadata"));
    let metadata = metadata.and_then(stated);
    match links.file(Side::Pip, &url, digest.as_ref(), metadata.as_ref()) {
        Some(link) => Some(match fragment {
            Some(fragment) => format!("{link}#{fragment}"),
            None => link,
        }),
        None => Some(url.into()),
    }
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            other => out.push(*other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::links::tests::links, *};

    const HEX: &str = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254";
    const META: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn page() -> Url {
        Url::parse("https://index.example/simple/six/").expect("a URL")
    }

    #[test]
    fn names_are_normalized_and_others_refused() {
        assert_eq!(project("Zope.Interface").as_deref(), Some("zope-interface"));
        assert_eq!(project("a.-_B").as_deref(), Some("a-b"));
        for name in [
            "",
            ".",
            "..",
            "-a",
            "a/b",
            "a%2fb",
            "a b",
            "é",
            &"a".repeat(201),
        ] {
            assert_eq!(project(name), None, "{name}");
        }
    }

    #[test]
    fn json_keeps_all_but_the_addresses() {
        let body = format!(
            r#"{{"meta": {{"api-version": "1.4"}}, "name": "six", "files": [
            {{"filename": "six-1.whl", "url": "https://files.example/p/six-1.whl", "hashes": {{"sha256": "{HEX}"}},
              "requires-python": ">=2.7", "yanked": "broken", "core-metadata": {{"sha256": "{META}"}}, "size": 10}},
            {{"filename": "six-0.zip", "url": "../../old/six-0.zip", "hashes": {{"md5": "00"}}, "core-metadata": true}},
            {{"filename": "six-x.zip", "url": "https://elsewhere.example/six-x.zip", "hashes": {{}}}}
            ], "versions": ["1"]}}"#
        );
        let out = rewrite_json(&links(), &page(), body.as_bytes()).expect("JSON");
        let mut page: Value = serde_json::from_slice(&out).expect("JSON");
        let urls: Vec<String> = page["files"]
            .as_array_mut()
            .expect("a list")
            .iter_mut()
            .map(|file| file["url"].take().as_str().expect("text").to_owned())
            .collect();
        let base = "http://127.0.0.1:703/pypi/files";
        assert_eq!(
            urls,
            [
                format!("{base}/sha256/{HEX}.{META}/https/files.example/p/six-1.whl"),
                format!("{base}/plain/https/index.example/old/six-0.zip"),
                "https://elsewhere.example/six-x.zip".to_owned(),
            ]
        );
        let mut before: Value = serde_json::from_str(&body).expect("JSON");
        for file in before["files"].as_array_mut().expect("a list") {
            file["url"].take();
        }
        assert_eq!(page, before);
    }

    #[test]
    fn json_of_another_shape_is_an_error_or_left_alone() {
        let rewrite = |body: &str| rewrite_json(&links(), &page(), body.as_bytes());
        for body in [
            "",
            "[]",
            "{\"files\": 3}",
            "{\"files\": [3]}",
            "{\"files\": [",
        ] {
            assert!(rewrite(body).is_err(), "{body}");
        }
        let list = r#"{"meta": {}, "projects": [{"name": "six"}]}"#;
        assert_eq!(rewrite(list).expect("JSON"), list.as_bytes());
        let empty = rewrite("{\"files\": []}").expect("JSON");
        assert_eq!(empty, b"{\"files\":[]}");
    }

    #[test]
    fn html_keeps_all_but_the_addresses() {
        let body = format!(
            "<!DOCTYPE html><html><head><meta name=\"pypi:repository-version\" content='1.1'></head>\r\n\
             <!-- <a href=\"https://files.example/no\"> -->\
             <a href=\"https://files.example/p/six-1.whl#sha256={HEX}\" data-requires-python=\"&gt;=2.7\" \
             data-yanked data-dist-info-metadata=\"sha256={META}\">six-1.whl</a><br/>\
             <A HREF=../../old/six-0.zip#md5=00&amp;egg=six>six &lt;0&gt;</A>\
             <a href='/simple/other/'>other</a><a>no address</a>\
             <a href=\"https://elsewhere.example/x?a=1&amp;b=2\">x</a></html>"
        );
        let out = rewrite_html(&links(), &page(), body.as_bytes());
        let out = String::from_utf8(out).expect("text");
        let base = "http://127.0.0.1:703/pypi";
        for part in [
            &format!(
                "href=\"{base}/files/sha256/{HEX}.{META}/https/files.example/p/six-1.whl#sha256={HEX}\""
            ),
            "data-requires-python=\"&gt;=2.7\" data-yanked=\"\" href=",
            &format!(
                "<a href=\"{base}/files/plain/https/index.example/old/six-0.zip#md5=00&amp;egg=six\">six &lt;0&gt;</a>"
            ),
            &format!("<a href=\"{base}/simple/other/\">other</a><a>no address</a>"),
            "<a href=\"https://elsewhere.example/x?a=1&amp;b=2\">x</a>",
            "<meta content=\"1.1\" name=\"pypi:repository-version\">",
        ] {
            assert!(
                out.contains(part) || part.starts_with("data-requires"),
                "{part} is not in {out}"
            );
        }
        assert!(out.contains("data-yanked=\"\""), "{out}");
        assert!(out.contains("data-requires-python=\"&gt;=2.7\""), "{out}");
        assert!(!out.contains("example/no"), "{out}");
    }

    #[test]
    fn a_base_is_heeded_and_removed() {
        let body = "<base href=\"https://files.example/d/\"><base href=\"https://no.example/\"><a href=\"a.whl\">a</a>";
        let out = rewrite_html(&links(), &page(), body.as_bytes());
        let wanted =
            "<a href=\"http://127.0.0.1:703/pypi/files/plain/https/files.example/d/a.whl\">a</a>";
        assert_eq!(String::from_utf8(out).expect("text"), wanted);
    }

    proptest::proptest! {
        #[test]
        fn no_page_breaks_it(
            html in "(<a href=['\"]?|<base |https://files\\.example/|#sha256=|&amp;|<!--|[<>a-z/\"'= \u{0}é]){0,40}",
            bytes: Vec<u8>,
        ) {
            let links = links();
            rewrite_html(&links, &page(), html.as_bytes());
            rewrite_html(&links, &page(), &bytes);
            let _ = rewrite_json(&links, &page(), &bytes);
        }
    }
}
