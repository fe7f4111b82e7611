// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Patterns for file names: one meaning for listing and searching.
//!
//! Owns: which patterns are acceptable, and whether against a name or a path they are matched. The
//! matching itself is `fast-glob`'s: `*`, `?` (one byte), `[a-z]`, `[!a-z]`, `{a,b}`, `**` as a whole part of a
//! path, `\` before what stands for itself, and `!` in front of a pattern that is to be turned round.
//! A leading dot is nothing special.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use waggle_protocol::limits::GLOB_MAX;
use waggle_protocol::message::{Failure, FailureCode};

use crate::failure::{failure, shown};

/// Most patterns without braces that one may stand for: each is matched by itself.
const ALTERNATIVES_MAX: usize = 1000;

/// An acceptable pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    pattern: String,
    /// Matched against the last part of a path only.
    names_only: bool,
}

impl Glob {
    /// Takes `pattern` as one.
    ///
    /// # Errors
    ///
    /// [`FailureCode::InvalidRequest`] that quotes the pattern and says what is wrong with it.
    pub fn parse(pattern: &str) -> Result<Self, Failure> {
        let negations = pattern.len() - pattern.trim_start_matches('!').len();
        let (negations, plain) = pattern.split_at(negations);
        let reason = if plain.is_empty() {
            "it is empty".to_owned()
        } else if pattern.len() > GLOB_MAX {
            format!("its length {} exceeds limit {GLOB_MAX}", pattern.len())
        } else if plain.starts_with('/') {
            "it is matched against paths relative to the folder, which begin with no slash"
                .to_owned()
        } else if plain.ends_with('/') {
            "it ends with a slash; what a folder holds is FOLDER/**".to_owned()
        } else if let Err(error) = fast_glob::validate(plain) {
            error.to_string()
        } else if alternatives(plain.as_bytes()) > ALTERNATIVES_MAX {
            format!("it stands for more than {ALTERNATIVES_MAX} patterns")
        } else {
            return Ok(Self {
                names_only: !plain.contains('/'),
                // `./*.c` is how one writes a pattern for the folder itself.
                pattern: format!("{negations}{}", plain.trim_start_matches("./")),
            });
        };
        let text = format!("glob '{}': {reason}", shown(pattern.as_bytes()));
        Err(failure(FailureCode::InvalidRequest, &text))
    }

    /// Whether `path`, relative to the folder that is listed or searched, fits.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        let subject = if self.names_only {
            path.file_name().unwrap_or_default()
        } else {
            path.as_os_str()
        };
        fast_glob::glob_match(&self.pattern, subject.as_bytes())
    }
}

/// How many patterns without braces an acceptable one stands for. With groups within groups it may be
/// fewer.
fn alternatives(pattern: &[u8]) -> usize {
    let mut product: usize = 1;
    // Of each group that is open, how many there were so far.
    let mut open: Vec<usize> = Vec::new();
    let mut bytes = pattern.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'[' => {
                // As in fast-glob: a bracket at once after the opening one stands for itself.
                bytes.next_if(|next| matches!(next, b'!' | b'^'));
                bytes.next_if_eq(&&b']');
                while let Some(byte) = bytes.next().filter(|byte| **byte != b']') {
                    if *byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            b'{' => open.push(1),
            b',' => {
                if let Some(count) = open.last_mut() {
                    *count += 1;
                }
            }
            b'}' => product = product.saturating_mul(open.pop().unwrap_or(1)),
            _ => {}
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn fits(pattern: &str, path: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(Path::new(path))
    }

    #[test]
    fn a_pattern_without_a_slash_is_for_names() {
        assert!(fits("*.py", "a/b/c.py"));
        assert!(fits("*.py", ".py"));
        assert!(!fits("*.py", "a.py/b"));
        assert!(fits("[a-c]?{.c,.h}", "deep/bx.h"));
        assert!(!fits("[!a-c]*", "deep/bx.h"));
        assert!(fits("!*.py", "a.rs"));
        assert!(!fits("!*.py", "a.py"));
        assert!(fits("**", "a/b"));
    }

    #[test]
    fn a_pattern_with_a_slash_is_for_paths() {
        assert!(fits("src/*.rs", "src/a.rs"));
        assert!(!fits("src/*.rs", "src/b/a.rs"));
        assert!(!fits("src/*.rs", "x/src/a.rs"));
        for path in ["a.rs", "src/a.rs", "src/b/a.rs"] {
            assert!(fits("**/*.rs", path));
        }
        assert!(fits("src/**", "src/b/a.rs"));
        assert!(fits("src/**/x/*", "src/x/y"));
        assert!(fits("./*.rs", "a.rs"));
        assert!(!fits("./*.rs", "src/a.rs"));
    }

    #[test]
    fn names_are_bytes() {
        let name = Path::new(OsStr::from_bytes(b"\xff\n.txt"));
        assert!(Glob::parse("*.txt").unwrap().matches(name));
        // A character may be several.
        assert!(fits("caf??", "café"));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let long = "a".repeat(GLOB_MAX + 1);
        for bad in ["", "!", "/etc/*", "src/", "[a", "{a,b", "a\\", &long] {
            let failure = Glob::parse(bad).unwrap_err();
            assert_eq!(failure.code, FailureCode::InvalidRequest);
            assert!(failure.message.starts_with("glob '"), "{failure}");
        }
        let failure = Glob::parse("*.{c,h").unwrap_err();
        assert!(
            failure.message.starts_with("glob '*.{c,h': unclosed"),
            "{failure}"
        );
    }

    #[test]
    fn hard_patterns_come_to_an_end() {
        let path = "a".repeat(255);
        let stars = "*a".repeat(500) + "b";
        let braces = "{*a*,*aa*,*}".repeat(6) + "b";
        let nested = "{,".repeat(9) + "*" + &"a".repeat(128) + "b" + &"}".repeat(9);
        let many = "{,}".repeat(9) + "*" + &"a".repeat(128) + "b";
        let folders = "**/".repeat(300) + "b";
        for pattern in [&stars, &braces, &nested, &many, &folders] {
            assert!(!fits(pattern, &path));
        }
        // Each of these would be tried.
        for bad in ["{,,,,,,,,,}".repeat(10), "{a,{b,c}}".repeat(5)] {
            let failure = Glob::parse(&(bad + "b")).unwrap_err();
            let reason = "it stands for more than 1000 patterns";
            assert!(failure.message.ends_with(reason), "{failure}");
        }
        // What stands for itself is none.
        for (pattern, count) in [
            ("{a,b}{c,d,e},f", 6),
            ("\\{a,b[{,}]{a,[],]}", 2),
            ("[!],{]{a,{b,c}}", 4),
            ("[^\\],]x", 1),
        ] {
            assert_eq!(alternatives(pattern.as_bytes()), count, "{pattern}");
            assert!(Glob::parse(pattern).is_ok(), "{pattern}");
        }
    }
}
