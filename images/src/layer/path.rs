// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Names in an archive, brought to the one form that [`super::Entry`] has, or refused.
//!
//! Leading slashes are stripped, as by every tool: an absolute path is legal, and means a place in the root.
//! `..` is refused wherever it stands, also where it would stay inside: `a/../b` means something else once `a` is
//! a symbolic link.

/// Bytes of a name's part: `NAME_MAX` of Linux.
const PART_MAX: usize = 255;
/// Bytes of a path: `PATH_MAX` of Linux.
const PATH_MAX: usize = 4096;
/// Bytes of a symbolic link's target: `PATH_MAX` less the NUL that follows it in the kernel.
const TARGET_MAX: usize = PATH_MAX - 1;

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// A part is `..`.
    #[error("it has a part that leads upwards (..)")]
    Parent,
    /// There is a NUL in it.
    #[error("it has a NUL byte")]
    Nul,
    /// A part is too long.
    #[error("it has a part of {0} bytes, the limit is {PART_MAX}")]
    Part(usize),
    /// It is too long.
    #[error("it has {0} bytes, the limit is {PATH_MAX}")]
    Long(usize),
    /// It is empty, or names the root, where that cannot be.
    #[error("it names nothing")]
    Empty,
    /// A whiteout of nothing, of the root, or of what cannot be.
    #[error("it is a whiteout that hides no name (.wh. stands before the name of one file)")]
    Whiteout,
}

/// Where an entry belongs, by its name alone (image-spec, layer.md, "Whiteouts").
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An entry at this path.
    At(Vec<u8>),
    /// The whiteout of this path.
    Whiteout(Vec<u8>),
    /// What hides all that lower layers have in this folder.
    Opaque(Vec<u8>),
    /// A file of AUFS' own, such as `.wh..wh.plnk`: it is no part of the image.
    Skip,
}

/// A path or a hard link's target in normal form. Empty for the root.
pub(super) fn normal(raw: &[u8]) -> Result<Vec<u8>, PathFault> {
    if raw.contains(&0) {
        return Err(PathFault::Nul);
    }
    let mut path = Vec::with_capacity(raw.len().min(PATH_MAX));
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(PathFault::Parent),
            _ if part.len() > PART_MAX => return Err(PathFault::Part(part.len())),
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    if path.len() > PATH_MAX {
        return Err(PathFault::Long(path.len()));
    }
    Ok(path)
}

/// Checks the target of a symbolic link, which is kept as it is.
pub(super) fn target(raw: &[u8]) -> Result<(), PathFault> {
    match raw.len() {
        0 => Err(PathFault::Empty),
        length if length > TARGET_MAX => Err(PathFault::Long(length)),
        _ if raw.contains(&0) => Err(PathFault::Nul),
        _ => Ok(()),
    }
}

/// Where the entry of this name belongs.
pub(super) fn place(raw: &[u8]) -> Result<Place, PathFault> {
    let path = normal(raw)?;
    let parent_length = path.iter().rposition(|byte| *byte == b'/');
    let (folder, last) = match parent_length {
        Some(slash) => path.split_at(slash),
        None => path.split_at(0),
    };
    let last = last.strip_prefix(b"/").unwrap_or(last);
    for part in folder.split(|byte| *byte == b'/') {
        if part.starts_with(b".wh..wh.") {
            return Ok(Place::Skip);
        }
        // Names of that kind cannot be in an image (layer.md), so a folder of that name has nothing in it.
        if part.starts_with(b".wh.") {
            return Err(PathFault::Whiteout);
        }
    }
    let Some(hidden) = last.strip_prefix(b".wh.") else {
        return Ok(Place::At(path));
    };
    match hidden {
        b".wh..opq" => Ok(Place::Opaque(folder.to_vec())),
        _ if hidden.starts_with(b".wh.") => Ok(Place::Skip),
        b"" | b"." | b".." => Err(PathFault::Whiteout),
        _ if folder.is_empty() => Ok(Place::Whiteout(hidden.to_vec())),
        _ => Ok(Place::Whiteout([folder, b"/", hidden].concat())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normal_or_refused() {
        for (raw, path) in [
            ("", ""),
            ("/", ""),
            ("./", ""),
            (".", ""),
            ("/etc/passwd", "etc/passwd"),
            ("./etc//./passwd/", "etc/passwd"),
            ("///a", "a"),
            ("a/...", "a/..."),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(
                normal(raw.as_bytes()),
                Ok(path.as_bytes().to_vec()),
                "{raw}"
            );
        }
        for raw in ["..", "../a", "a/../b", "/..", "a/..", "./../a"] {
            assert_eq!(normal(raw.as_bytes()), Err(PathFault::Parent), "{raw}");
        }
        assert_eq!(normal(b"a\0b"), Err(PathFault::Nul));
        assert_eq!(normal(&[b'a'; 256]), Err(PathFault::Part(256)));
        assert_eq!(normal(&[b'a'; 255]), Ok(vec![b'a'; 255]));
        assert_eq!(normal(b"\xff/\xfe"), Ok(b"\xff/\xfe".to_vec()));
        let long = [b'a', b'/'].repeat(2049);
        assert_eq!(normal(&long), Err(PathFault::Long(4097)));
        let slashes = vec![b'/'; 1 << 20];
        assert_eq!(normal(&slashes), Ok(Vec::new()));
    }

    #[test]
    fn whiteouts_are_told_by_their_names() {
        let at = |path: &str| Ok(Place::At(path.as_bytes().to_vec()));
        let whiteout = |path: &str| Ok(Place::Whiteout(path.as_bytes().to_vec()));
        let opaque = |path: &str| Ok(Place::Opaque(path.as_bytes().to_vec()));
        for (raw, place_of_it) in [
            ("a/.whx", at("a/.whx")),
            ("a/.wh.b", whiteout("a/b")),
            (".wh.b", whiteout("b")),
            ("./.wh.b/", whiteout("b")),
            ("a/.wh....", whiteout("a/...")),
            ("a/b/.wh..wh..opq", opaque("a/b")),
            (".wh..wh..opq", opaque("")),
            (".wh..wh.plnk", Ok(Place::Skip)),
            (".wh..wh.plnk/12.34", Ok(Place::Skip)),
            ("a/.wh..wh.aufs", Ok(Place::Skip)),
            (".wh.", Err(PathFault::Whiteout)),
            (".wh..", Err(PathFault::Whiteout)),
            (".wh...", Err(PathFault::Whiteout)),
            ("a/.wh.", Err(PathFault::Whiteout)),
            ("a/.wh..", Err(PathFault::Whiteout)),
            ("a/.wh...", Err(PathFault::Whiteout)),
            (".wh.a/b", Err(PathFault::Whiteout)),
            ("../.wh.a", Err(PathFault::Parent)),
        ] {
            assert_eq!(place(raw.as_bytes()), place_of_it, "{raw}");
        }
    }
}
