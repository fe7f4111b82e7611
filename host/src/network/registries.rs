// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The package registries: what the package managers of our own recipes said when `./dev images` built
//! them, or what the operator says instead.
//!
//! Pure. No registry is named in the source.

use std::{fmt, str::FromStr};

use url::Url;

/// A program that fetches packages, by the name under which its registry is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manager {
    /// pip's index, the "simple" API (PEP 503, PEP 691).
    Pip,
    /// Where pip's index keeps its files.
    PipFiles,
    /// npm's registry.
    Npm,
    /// A repository of apt's.
    Apt,
    /// Any other, which is only reached, not mirrored.
    Other(String),
}

/// One registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Whose.
    pub manager: Manager,
    /// Where: http or https, with a host, its path ending in a slash.
    pub url: Url,
}

/// What is no registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No name of a package manager before the `=`.
    #[error("{0:?} names no package manager; write it like pip=https://pypi.example/simple/")]
    Manager(String),
    /// Not a URL of the web.
    #[error("{0:?} has no http or https URL with a host behind the =")]
    Url(String),
    /// A password would show up in logs and errors.
    #[error("the URL of {0} carries a user or password, which Waggle does not take")]
    Credentials(Manager),
    /// The text may hold a password, so nobody repeats it.
    #[error(
        "a package registry with an @ is not like pip=https://pypi.example/simple/, and Waggle takes no user or password; the entry is not repeated here"
    )]
    Unshown,
}

impl FromStr for Manager {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let plain = |c: char| c.is_ascii_lowercase() || c == '-';
        match text {
            "pip" => Ok(Self::Pip),
            "pip-files" => Ok(Self::PipFiles),
            "npm" => Ok(Self::Npm),
            "apt" => Ok(Self::Apt),
            other if !other.is_empty() && other.chars().all(plain) => Ok(Self::Other(other.into())),
            other => Err(RegistryError::Manager(other.to_owned())),
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pip => "pip",
            Self::PipFiles => "pip-files",
            Self::Npm => "npm",
            Self::Apt => "apt",
            Self::Other(name) => name,
        })
    }
}

/// `manager=URL`.
impl FromStr for Registry {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let shown = |error: fn(String) -> RegistryError| match text.contains('@') {
            true => RegistryError::Unshown,
            false => error(text.to_owned()),
        };
        let (manager, url) = text
            .split_once('=')
            .ok_or_else(|| shown(RegistryError::Manager))?;
        let manager: Manager = manager
            .trim()
            .parse()
            .map_err(|_| shown(RegistryError::Manager))?;
        let refused = || shown(RegistryError::Url);
        let mut url = Url::parse(url.trim()).map_err(|_| refused())?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(refused());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(RegistryError::Credentials(manager));
        }
        url.set_query(None);
        url.set_fragment(None);
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(Self { manager, url })
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.manager, self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_a_manager_and_a_url() {
        let registry: Registry = "pip=https://index.example/simple".parse().expect("one");
        assert_eq!(registry.manager, Manager::Pip);
        assert_eq!(registry.to_string(), "pip=https://index.example/simple/");
    }

    #[test]
    fn managers_that_are_not_mirrored_are_taken_by_any_name() {
        for (text, name, url) in [
            ("cargo=https://c.example", "cargo", "https://c.example/"),
            (
                "cargo-files=https://f.example:443/a/crates",
                "cargo-files",
                "https://f.example/a/crates/",
            ),
            ("go=https://go.example", "go", "https://go.example/"),
            ("apk=http://a.example/main", "apk", "http://a.example/main/"),
        ] {
            let registry: Registry = text.parse().expect(text);
            assert_eq!(registry.manager, Manager::Other(name.into()));
            assert_eq!(registry.to_string(), format!("{name}={url}"));
        }
    }

    #[test]
    fn what_is_none_is_named() {
        for text in ["", "pip", "=https://a.example", "P!p=https://a.example"] {
            let error = text.parse::<Registry>().expect_err(text);
            assert!(matches!(error, RegistryError::Manager(_)), "{error}");
        }
        for text in ["pip=", "pip=ftp://a.example/", "pip=a.example"] {
            let error = text.parse::<Registry>().expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
        for text in [
            "npm=https://me:secret#s@a.example/",
            "npm=me:secret@a.example",
            "https://me:secret=s@a.example/",
            "me:secret@a.example",
        ] {
            let error = text.parse::<Registry>().expect_err(text);
            assert_eq!(error, RegistryError::Unshown);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let error = "npm=https://me:secret@a.example/".parse::<Registry>();
        let error = error.expect_err("a password").to_string();
        assert!(
            error.contains("npm") && !error.contains("secret"),
            "{error}"
        );
    }
}
