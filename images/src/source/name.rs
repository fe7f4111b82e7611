// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What imported images are called here.

/// What a name in a file or folder comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// This reference, in full.
    Full(String),
    /// A tag without a name, which says nothing on its own.
    Tag(String),
}

impl Name {
    /// A name without a registry is local: nobody promises that Docker Hub has the same image under it.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let Some((first, _)) = name.split_once('/') else {
            return if name.contains([':', '@']) {
                Self::Full(format!("localhost/{name}"))
            } else {
                Self::Tag(name.to_owned())
            };
        };
        if first == "localhost" || first.contains(['.', ':']) {
            Self::Full(name.to_owned())
        } else {
            Self::Full(format!("localhost/{name}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_registry_are_local() {
        for (name, full) in [
            ("alpine:3", "localhost/alpine:3"),
            ("acme/tool:1", "localhost/acme/tool:1"),
            ("localhost/x", "localhost/x"),
            ("docker.io/library/alpine:3", "docker.io/library/alpine:3"),
            ("localhost:5000/x:y", "localhost:5000/x:y"),
        ] {
            assert_eq!(Name::of(name), Name::Full(full.to_owned()));
        }
        for tag in ["latest", "3.20"] {
            assert_eq!(Name::of(tag), Name::Tag(tag.to_owned()));
        }
    }
}
