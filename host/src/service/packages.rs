// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Names of packages, as callers give them: checked, so that a package manager can take each for nothing
//! but the name of a package in its registry. Pure.
//!
//! Invariant: what passes is one word of ASCII that does not begin with `-` and holds no `://`. It names
//! no option, no URL and no file, whatever files lie in the folder where the manager runs.

use serde_bytes::ByteBuf;

use super::validate::ArgumentError;
use crate::environment::Runtime;

/// Most packages in one call: far more than anybody types, far less than an argument list holds.
pub(super) const PACKAGES_MAX: usize = 100;
/// Longest package name with its version, in bytes.
pub(super) const PACKAGE_MAX: usize = 200;

/// Ends of words that managers take for a file, if there is one of that name.
const ARCHIVES: [&str; 16] = [
    ".whl",
    ".egg",
    ".zip",
    ".tar",
    ".tgz",
    ".tbz",
    ".tlz",
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.lz",
    ".tar.lzma",
    ".txz",
    ".deb",
    ".rpm",
    ".apk",
];

/// Names of packages, separated by white space, as arguments for a package manager.
///
/// # Errors
///
/// [`ArgumentError`] naming the first that is not acceptable.
pub(super) fn packages(text: &str, runtime: Runtime) -> Result<Vec<ByteBuf>, ArgumentError> {
    let names: Vec<_> = text.split_whitespace().collect();
    match names.len() {
        0 => return Err(ArgumentError::PackagesEmpty(runtime)),
        count if count > PACKAGES_MAX => return Err(ArgumentError::PackagesTooMany { count }),
        _ => {}
    }
    let check = |name: &&str| match package(name, runtime) {
        Ok(()) => Ok(ByteBuf::from(name.as_bytes())),
        Err(why) => Err(ArgumentError::Package {
            name: name.chars().take(100).collect(),
            why,
            runtime,
        }),
    };
    names.iter().map(check).collect()
}

/// A valid form, for error texts.
pub(super) fn example(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => "\"requests pandas[excel]==2.2.* six>=1.16,<2\"",
        Runtime::Node => "\"lodash @types/node@20 is-number@^7\"",
        Runtime::Shell => "\"jq libssl3:amd64 curl=7.88.1-10+deb12u5\"",
    }
}

type Verdict = Result<(), &'static str>;

fn package(word: &str, runtime: Runtime) -> Verdict {
    if word.len() > PACKAGE_MAX {
        return Err("it is too long");
    }
    if word.starts_with('-') {
        return Err("options are not allowed, only names");
    }
    if word.contains("://") || word.starts_with("git+") {
        return Err("URLs are not allowed, only names of packages in the registry");
    }
    if !word.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it holds a character that names of packages do not have");
    }
    let lower = word.to_ascii_lowercase();
    // pip takes `x.whl[extra]` for the file in front of the bracket.
    let front = lower.split('[').next().unwrap_or_default();
    if ARCHIVES
        .iter()
        .any(|end| lower.ends_with(end) || front.ends_with(end))
    {
        return Err("it names a file, and only names of packages in the registry are allowed");
    }
    match runtime {
        Runtime::Python => python(word),
        Runtime::Node => node(word),
        Runtime::Shell => system(word),
    }
}

/// `name`, `name[extra,extra]`, each with versions: PEP 508 without URLs, markers and spaces.
fn python(word: &str) -> Verdict {
    if word.contains(';') {
        return Err("environment markers are not allowed; leave out what begins at the semicolon");
    }
    if word.contains('@') || word.contains('/') {
        return Err("URLs and paths are not allowed, only names of packages in the index");
    }
    if word.starts_with(['<', '>', '=', '!', '~', ',', '[']) {
        return Err("it is a part of another one; write name, extras and version without spaces");
    }
    let end = word.find(['[', '<', '>', '=', '!', '~']);
    let (name, mut rest) = word.split_at(end.unwrap_or(word.len()));
    name_of(name, "._-")?;
    if let Some(behind) = rest.strip_prefix('[') {
        let (extras, behind) = behind
            .split_once(']')
            .ok_or("its extras lack a closing bracket")?;
        for extra in extras.split(',') {
            name_of(extra, "._-").map_err(|_| "its extras are not names separated by commas")?;
        }
        rest = behind;
    }
    if rest.is_empty() {
        return Ok(());
    }
    for clause in rest.split(',') {
        let version = ["===", "==", "!=", "<=", ">=", "~=", "<", ">"]
            .into_iter()
            .find_map(|operator| clause.strip_prefix(operator))
            .ok_or("a version is given like ==2.2.* or >=1.16,<2")?;
        version_of(version, "._-+!*")?;
    }
    Ok(())
}

/// `name` or `@scope/name`, each with `@` and a version, range or tag.
fn node(word: &str) -> Verdict {
    const PATH: &str =
        "URLs, paths and repositories are not allowed, only names of packages in the registry";
    let (scope, rest) = match word.strip_prefix('@') {
        Some(scoped) => {
            let (scope, rest) = scoped
                .split_once('/')
                .ok_or("a scoped name has a slash behind its scope")?;
            (Some(scope), rest)
        }
        None => (None, word),
    };
    if rest.contains(['/', ':', '#']) {
        return Err(PATH);
    }
    if let Some(scope) = scope {
        name_of(scope, "._-~").map_err(|_| "its scope is not a name")?;
    }
    let (name, range) = match rest.split_once('@') {
        Some((name, range)) => (name, Some(range)),
        None => (rest, None),
    };
    name_of(name, "._-~")?;
    match range {
        None => Ok(()),
        // npm takes a dot for a folder.
        Some(range) if range.starts_with('.') => Err(PATH),
        Some(range) => version_of(range, "._-+~^*<>=|"),
    }
}

/// `name`, `name:architecture`, each with a version as apt (`=`), apk (also `~`, `>=`, ...) or zypper
/// take it.
fn system(word: &str) -> Verdict {
    if word.contains('/') {
        return Err("paths and releases are not allowed, only names of packages");
    }
    if word.ends_with('-') {
        return Err("apt takes a minus at the end for the wish to remove the package");
    }
    let end = word.find(['=', '<', '>', '~']);
    let (name, rest) = word.split_at(end.unwrap_or(word.len()));
    let (name, architecture) = match name.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (name, None),
    };
    name_of(name, "._-+")?;
    if let Some(architecture) = architecture {
        name_of(architecture, "-_").map_err(|_| "behind the colon is no architecture")?;
    }
    if rest.is_empty() {
        return Ok(());
    }
    let version = ["~=", ">=", "<=", "=", "~", ">", "<"]
        .into_iter()
        .find_map(|operator| rest.strip_prefix(operator))
        .ok_or("a version is given like =1.6-2.1")?;
    version_of(version, "._-+~:^")
}

/// ASCII letters, digits, and `more` behind the first.
fn name_of(name: &str, more: &str) -> Verdict {
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("a name starts with a letter or digit");
    }
    if name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    {
        Ok(())
    } else {
        Err("it holds a character that names of packages do not have")
    }
}

fn version_of(version: &str, more: &str) -> Verdict {
    if version.is_empty() {
        return Err("its version is missing; write it without spaces");
    }
    if version
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    {
        Ok(())
    } else {
        Err("it holds a character that versions do not have")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    #[test]
    fn names_that_managers_know_pass() {
        for (text, runtime) in [
            (
                "requests six zope.interface ruamel.yaml Flask-SQLAlchemy",
                Runtime::Python,
            ),
            (
                "pandas[excel]==2.2.* numpy>=1.26,<3 six~=1.16 a!=1,!=2 b===1!2.0+local.1",
                Runtime::Python,
            ),
            ("pkg[a,b-c]>=1.0rc1 uvicorn[standard]", Runtime::Python),
            (
                "lodash @types/node@^20 is-number@7.0.0 @scope/x is-number@^7 react@latest a@1||2",
                Runtime::Node,
            ),
            (
                "left-pad@>=1.2 b@~1.0 c@1.x d@* lodash.merge JSONStream",
                Runtime::Node,
            ),
            (
                "jq libstdc++6 g++ curl=7.88.1-10+deb12u5 python3:any libc6:amd64=2.36-9+deb12u9",
                Runtime::Shell,
            ),
            (
                "python3.11 bash>=5 busybox~1.36 foo=1:2.3~rc1-1 jq-1.6-17.el9.x86_64",
                Runtime::Shell,
            ),
        ] {
            let names = packages(text, runtime).expect(text);
            assert_eq!(names.len(), text.split(' ').count());
        }
    }

    #[test]
    fn what_a_manager_could_misread_is_refused_by_name() {
        let everywhere = [
            "--index-url=x",
            "-r",
            "-",
            "--",
            "a;b",
            "$(id)",
            "`id`",
            "https://x/y.whl",
            "./local",
            ".",
            "..",
            "/etc/passwd",
            "../up",
            "a|b",
            "git+https://x",
            "git+ssh",
            "@scope",
            "@/x",
            "@a/b/c",
            "caf\u{e9}",
            "x.tar.gz",
            "X.TGZ",
            "a/b",
            "~",
            "~/x",
            "",
            "=1",
            "a=",
            "a==",
            "*",
            "a?",
            "!a",
            "a\0b",
        ];
        for runtime in Runtime::ALL {
            for text in everywhere.into_iter().filter(|text| !text.is_empty()) {
                let error = packages(&format!("jq {text}"), runtime).expect_err(text);
                let error = error.to_string();
                let shown = format!("{text:?}");
                assert!(
                    error.contains(&shown) && error.contains("valid form"),
                    "{error}"
                );
            }
            assert!(packages("  ", runtime).is_err());
            assert!(packages(&"a ".repeat(PACKAGES_MAX + 1), runtime).is_err());
            assert!(packages(&"a".repeat(PACKAGE_MAX + 1), runtime).is_err());
        }
        for (text, runtime, word) in [
            ("six >= 1.16", Runtime::Python, "without spaces"),
            ("six; python_version<'3'", Runtime::Python, "marker"),
            ("six@file", Runtime::Python, "URLs"),
            ("file:six", Runtime::Python, "character"),
            ("file:six", Runtime::Node, "paths"),
            ("six[a", Runtime::Python, "bracket"),
            ("six[]", Runtime::Python, "extras"),
            ("six>=", Runtime::Python, "version"),
            ("six=1", Runtime::Python, "=="),
            ("a.whl", Runtime::Python, "file"),
            ("foo-1.0-py3-none-any.whl[x]", Runtime::Python, "file"),
            ("foo.ZIP[x]", Runtime::Python, "file"),
            ("foo.zip[x]==1", Runtime::Python, "file"),
            ("a@.", Runtime::Node, "paths"),
            ("a@npm:b", Runtime::Node, "repositories"),
            ("user/repo", Runtime::Node, "repositories"),
            ("a@x.tgz", Runtime::Node, "file"),
            ("jq-", Runtime::Shell, "remove"),
            ("jq=1.0-", Runtime::Shell, "remove"),
            ("jq/stable", Runtime::Shell, "releases"),
            ("jq.deb", Runtime::Shell, "file"),
        ] {
            let error = packages(text, runtime).expect_err(text).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_option_no_url_no_path_passes(
            text in "(-|--|@|[a-z])?[a-z@/:=~<>.,!+*^|;\\[\\]\\-]{0,20}(://|/|\\.whl|\\.deb)?[a-z0-9.-]{0,8}",
            noise in any::<String>(),
        ) {
            for text in [text.as_str(), noise.as_str()] {
                for runtime in Runtime::ALL {
                    for word in packages(text, runtime).unwrap_or_default() {
                        let word = String::from_utf8(word.into_vec()).expect("ASCII");
                        prop_assert!(!word.starts_with('-') && !word.contains("://"), "{word:?}");
                        prop_assert!(!word.starts_with(['/', '.', '~']), "{word:?}");
                        prop_assert!(word.bytes().all(|byte| byte.is_ascii_graphic()), "{word:?}");
                        let slashes = word.matches('/').count();
                        let scoped = runtime == Runtime::Node && word.starts_with('@');
                        prop_assert!(slashes == usize::from(scoped), "{word:?}");
                    }
                }
            }
        }
    }
}
