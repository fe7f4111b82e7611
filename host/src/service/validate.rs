// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Arguments, parsed into what the use cases work with. Pure.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde_bytes::ByteBuf;
use waggle_images::{Reference, ReferenceError};
use waggle_protocol::{
    limits::{CODE_MAX, EDIT_TEXT_MAX, PATH_MAX},
    message::EnvVar,
};

use super::{
    packages::{PACKAGES_MAX, example},
    process::MalformedProcessId,
    run::OUTPUT_MAX,
};
use crate::environment::{MalformedId, Runtime};

/// Longest name of an environment, in characters.
pub const NAME_MAX: usize = 64;
/// Longest name of an image, in bytes: registry, repository (255), tag (128) and digest.
pub const IMAGE_MAX: usize = 512;
/// Longest pattern, of names or of text, in bytes: more than anybody writes, and quick to compile.
pub const PATTERN_MAX: usize = 1000;
/// Longest idle time, in minutes.
pub const TIMEOUT_MINUTES_MAX: u32 = 60;

/// Longest deadline of a program in the background, in seconds: a week.
pub const BACKGROUND_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;
/// Most bytes of input that a program may be started with.
pub const INPUT_MAX: usize = 1024 * 1024;
/// Most bytes of input in one write to a process: what does not read holds two of them.
pub const PROCESS_INPUT_MAX: usize = 256 * 1024;
/// Most environment variables of a program.
pub const VARIABLES_MAX: usize = 256;
/// Most bytes of environment variables: with the longest program they fit into one request.
pub const VARIABLES_BYTES_MAX: usize = 128 * 1024;
/// Longest idempotency key, in bytes.
pub const KEY_MAX: usize = 200;

/// An argument that is not acceptable: which, why, and what would be.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    /// Not an id.
    #[error("{0}; call list_environments to see the ids that exist")]
    Id(#[from] MalformedId),
    /// Not an image's name.
    #[error("argument image: {0}")]
    Image(#[from] ReferenceError),
    /// An empty, long or unprintable name.
    #[error("name must be 1 to {NAME_MAX} printable characters; leave it out to use the id")]
    Name,
    /// An idle time out of range.
    #[error("timeout_minutes {0} is out of range; give 1 to {TIMEOUT_MINUTES_MAX}")]
    TimeoutMinutes(u32),
    /// A deadline out of range.
    #[error("timeout_seconds {given} is out of range; give 1 to {}", max.as_secs())]
    TimeoutSeconds {
        /// What was given.
        given: u64,
        /// The longest allowed.
        max: Duration,
    },
    /// Too long a program.
    #[error(
        "code has {length} bytes, the limit is {CODE_MAX}; write the program with write_file in parts or as data, and execute a short program that runs it"
    )]
    CodeTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// No program.
    #[error("code is empty; give the program to run")]
    CodeEmpty,
    /// A path that is not absolute.
    #[error("path {path:?} is relative; give an absolute path such as /home/sandbox/{hint}")]
    PathRelative {
        /// The path, shortened.
        path: String,
        /// What to show behind the home folder.
        hint: String,
    },
    /// A path with a NUL byte.
    #[error("path holds a NUL byte, which no Linux path can; remove it")]
    PathNul,
    /// Too long a path.
    #[error("path has {length} bytes, the limit is {PATH_MAX}; give a shorter one")]
    PathTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Content that is not base64.
    #[error("content is not base64 ({0}); give standard base64, or leave encoding out for text")]
    Base64(base64::DecodeError),
    /// A port out of range.
    #[error("{argument} {given} is no TCP port; give 1 to 65535{}", if *.argument == "host_port" { ", or leave it out to get a free one" } else { "" })]
    Port {
        /// Which argument.
        argument: &'static str,
        /// What was given.
        given: u32,
    },
    /// Not a process's id.
    #[error("{0}; call process with action list to see those that exist")]
    ProcessId(MalformedProcessId),
    /// A budget out of range.
    #[error(
        "max_output_bytes {0} is out of range; give 1 to {OUTPUT_MAX}, and call read_file on the log in the environment for more"
    )]
    OutputBytes(u64),
    /// A background deadline out of range.
    #[error(
        "timeout_seconds {0} is out of range; give 1 to {BACKGROUND_SECONDS_MAX} for a program in the background, or leave it out for none"
    )]
    BackgroundSeconds(u64),
    /// A wait out of range.
    #[error("timeout_seconds {given} is out of range; give 0 to {}, and call again to wait longer", max.as_secs())]
    WaitSeconds {
        /// What was given.
        given: u64,
        /// The longest allowed.
        max: Duration,
    },
    /// Too much input.
    #[error(
        "the input has {length} bytes, the limit is {max}; write it with write_file, and read the file in the program"
    )]
    InputTooLong {
        /// Its length in bytes.
        length: usize,
        /// Most bytes.
        max: usize,
    },
    /// A cursor that no read can have returned.
    #[error(
        "cursor {given} is beyond the output's end at {end}; give the cursor that the last read of this process returned, or none"
    )]
    Cursor {
        /// What was given.
        given: u64,
        /// Where the output ends.
        end: u64,
    },
    /// Neither input nor its end.
    #[error("nothing to write; give input, or close_input true to end the process's input")]
    NoInput,
    /// An environment variable's name that is none.
    #[error(
        "env has the name {0:?}, which no variable can have; a name is not empty and holds neither = nor NUL"
    )]
    VariableName(String),
    /// An environment variable's value that is none.
    #[error("env variable {0} holds a NUL byte, which no variable can; remove it")]
    VariableNul(String),
    /// Too many or too long variables.
    #[error(
        "env has {count} variables and {bytes} bytes, the limits are {VARIABLES_MAX} and {VARIABLES_BYTES_MAX}; write the data with write_file"
    )]
    Variables {
        /// How many.
        count: usize,
        /// How many bytes, names and values together.
        bytes: usize,
    },
    /// A key that is empty or long.
    #[error(
        "idempotency_key has {0} bytes; give 1 to {KEY_MAX}, for example a random UUID for each program that must not run twice"
    )]
    Key(usize),
    /// A depth or limit of zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A number out of range.
    #[error("{name} {given} is out of range; give {min} to {max}")]
    Range {
        /// Which argument.
        name: &'static str,
        /// What was given.
        given: u32,
        /// The least allowed.
        min: u32,
        /// The most allowed.
        max: u32,
    },
    /// Two arguments that exclude each other.
    #[error("{0} and {1} exclude each other; give one of them")]
    Both(&'static str, &'static str),
    /// A text that must not be empty.
    #[error("{0} is empty; {1}")]
    Empty(&'static str, &'static str),
    /// A text that is too long.
    #[error("{name} has {length} bytes, the limit is {limit}; {hint}")]
    TooLong {
        /// Which argument.
        name: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The most allowed.
        limit: usize,
        /// What to do instead.
        hint: &'static str,
    },
    /// Permission bits that are none.
    #[error("mode {0:?} is not octal permission bits; give them like \"0644\" or \"755\"")]
    Mode(String),
    /// A hash that is none.
    #[error("sha256 {0:?} is not 64 hexadecimal digits; leave it out to edit the file as it is")]
    Sha256(String),
    /// An edit that changes nothing.
    #[error("old_text and new_text are the same, so nothing would change")]
    SameText,
    /// No package.
    #[error("packages is empty; give names separated by spaces, such as {}", example(*.0))]
    PackagesEmpty(Runtime),
    /// Too many packages.
    #[error(
        "{count} packages in one call, the limit is {PACKAGES_MAX}; call install_packages several times"
    )]
    PackagesTooMany {
        /// How many.
        count: usize,
    },
    /// A package name that is not one.
    #[error(
        "{name:?} is not a package name: {why}; a valid form is {}", example(*.runtime)
    )]
    Package {
        /// What was given, shortened.
        name: String,
        /// What is wrong with it.
        why: &'static str,
        /// For which runtime.
        runtime: Runtime,
    },
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

/// An environment's name.
///
/// # Errors
///
/// [`ArgumentError::Name`].
pub fn name(text: String) -> Result<String, ArgumentError> {
    let length = text.chars().count();
    if (1..=NAME_MAX).contains(&length) && !text.chars().any(char::is_control) {
        Ok(text)
    } else {
        Err(ArgumentError::Name)
    }
}

/// A TCP port, from `argument`.
///
/// # Errors
///
/// [`ArgumentError::Port`].
pub fn port(argument: &'static str, given: u32) -> Result<u16, ArgumentError> {
    u16::try_from(given)
        .ok()
        .filter(|port| *port != 0)
        .ok_or(ArgumentError::Port { argument, given })
}

/// Idle minutes.
///
/// # Errors
///
/// [`ArgumentError::TimeoutMinutes`].
pub fn timeout_minutes(minutes: u32) -> Result<u32, ArgumentError> {
    if (1..=TIMEOUT_MINUTES_MAX).contains(&minutes) {
        Ok(minutes)
    } else {
        Err(ArgumentError::TimeoutMinutes(minutes))
    }
}

/// A deadline.
///
/// # Errors
///
/// [`ArgumentError::TimeoutSeconds`].
pub fn timeout_seconds(given: u64, max: Duration) -> Result<Duration, ArgumentError> {
    if (1..=max.as_secs().max(1)).contains(&given) {
        Ok(Duration::from_secs(given))
    } else {
        Err(ArgumentError::TimeoutSeconds { given, max })
    }
}

/// A deadline of a program in the background.
///
/// # Errors
///
/// [`ArgumentError::BackgroundSeconds`].
pub fn background_seconds(given: u64) -> Result<Duration, ArgumentError> {
    if (1..=BACKGROUND_SECONDS_MAX).contains(&given) {
        Ok(Duration::from_secs(given))
    } else {
        Err(ArgumentError::BackgroundSeconds(given))
    }
}

/// A time to wait.
///
/// # Errors
///
/// [`ArgumentError::WaitSeconds`].
pub fn wait_seconds(given: u64, max: Duration) -> Result<Duration, ArgumentError> {
    if given <= max.as_secs() {
        Ok(Duration::from_secs(given))
    } else {
        Err(ArgumentError::WaitSeconds { given, max })
    }
}

/// A budget for output.
///
/// # Errors
///
/// [`ArgumentError::OutputBytes`].
pub fn output_bytes(given: u64) -> Result<usize, ArgumentError> {
    usize::try_from(given)
        .ok()
        .filter(|bytes| (1..=OUTPUT_MAX).contains(bytes))
        .ok_or(ArgumentError::OutputBytes(given))
}

/// What a program reads.
///
/// # Errors
///
/// [`ArgumentError::InputTooLong`].
pub fn stdin(text: String) -> Result<Bytes, ArgumentError> {
    input(text, INPUT_MAX)
}

/// What a process that runs reads next.
///
/// # Errors
///
/// [`ArgumentError::InputTooLong`].
pub fn process_input(text: String) -> Result<Bytes, ArgumentError> {
    input(text, PROCESS_INPUT_MAX)
}

fn input(text: String, max: usize) -> Result<Bytes, ArgumentError> {
    match text.len() {
        length if length > max => Err(ArgumentError::InputTooLong { length, max }),
        _ => Ok(Bytes::from(text)),
    }
}

/// Environment variables.
///
/// # Errors
///
/// [`ArgumentError`] naming the first that is not acceptable.
pub fn env(variables: BTreeMap<String, String>) -> Result<Vec<EnvVar>, ArgumentError> {
    let bytes = variables
        .iter()
        .map(|(name, value)| name.len() + value.len());
    let (count, bytes) = (variables.len(), bytes.sum());
    if count > VARIABLES_MAX || bytes > VARIABLES_BYTES_MAX {
        return Err(ArgumentError::Variables { count, bytes });
    }
    let variable = |(name, value): (String, String)| {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ArgumentError::VariableName(shortened(&name)));
        }
        if value.contains('\0') {
            return Err(ArgumentError::VariableNul(shortened(&name)));
        }
        Ok(EnvVar {
            name: ByteBuf::from(name),
            value: ByteBuf::from(value),
        })
    };
    variables.into_iter().map(variable).collect()
}

/// An idempotency key.
///
/// # Errors
///
/// [`ArgumentError::Key`].
pub fn idempotency_key(text: &str) -> Result<(), ArgumentError> {
    match text.len() {
        1..=KEY_MAX => Ok(()),
        length => Err(ArgumentError::Key(length)),
    }
}

/// A program's text.
///
/// # Errors
///
/// [`ArgumentError::CodeEmpty`], [`ArgumentError::CodeTooLong`].
pub fn code(text: String) -> Result<ByteBuf, ArgumentError> {
    match text.len() {
        0 => Err(ArgumentError::CodeEmpty),
        length if length > CODE_MAX => Err(ArgumentError::CodeTooLong { length }),
        _ => Ok(ByteBuf::from(text)),
    }
}

/// A path in the guest.
///
/// # Errors
///
/// [`ArgumentError`] if it is relative, too long or holds a NUL.
pub fn path(text: &str) -> Result<ByteBuf, ArgumentError> {
    path_bytes(text.as_bytes().to_vec())
}

/// A path in the guest, which need not be text.
///
/// # Errors
///
/// As [`path`].
pub fn path_bytes(bytes: Vec<u8>) -> Result<ByteBuf, ArgumentError> {
    if bytes.contains(&0) {
        return Err(ArgumentError::PathNul);
    }
    if !bytes.starts_with(b"/") {
        let text = String::from_utf8_lossy(&bytes);
        let hint = shortened(text.trim_start_matches("./").trim_start_matches("~/"));
        return Err(ArgumentError::PathRelative {
            path: shortened(&text),
            hint,
        });
    }
    if bytes.len() > PATH_MAX {
        let length = bytes.len();
        return Err(ArgumentError::PathTooLong { length });
    }
    Ok(ByteBuf::from(bytes))
}

/// A number from 1 to `max`.
///
/// # Errors
///
/// [`ArgumentError::Range`].
pub fn within(name: &'static str, given: u32, max: u32) -> Result<u32, ArgumentError> {
    in_range(name, given, 1, max)
}

/// A number from 0 to `max`.
///
/// # Errors
///
/// [`ArgumentError::Range`].
pub fn at_most(name: &'static str, given: u32, max: u32) -> Result<u32, ArgumentError> {
    in_range(name, given, 0, max)
}

fn in_range(name: &'static str, given: u32, min: u32, max: u32) -> Result<u32, ArgumentError> {
    if (min..=max).contains(&given) {
        Ok(given)
    } else {
        Err(ArgumentError::Range {
            name,
            given,
            min,
            max,
        })
    }
}

fn short_enough(
    name: &'static str,
    text: String,
    limit: usize,
    hint: &'static str,
) -> Result<String, ArgumentError> {
    match text.len() {
        length if length > limit => Err(ArgumentError::TooLong {
            name,
            length,
            limit,
            hint,
        }),
        _ => Ok(text),
    }
}

/// An image's name.
///
/// # Errors
///
/// [`ArgumentError::TooLong`], [`ArgumentError::Image`].
pub fn image(text: String) -> Result<Reference, ArgumentError> {
    let text = short_enough("image", text, IMAGE_MAX, "name an image like python:3.13")?;
    Ok(text.parse()?)
}

/// A pattern of file names.
///
/// # Errors
///
/// [`ArgumentError::Empty`], [`ArgumentError::TooLong`].
pub fn glob(text: String) -> Result<String, ArgumentError> {
    if text.is_empty() {
        return Err(ArgumentError::Empty(
            "glob",
            "give a pattern such as **/*.py, or leave it out",
        ));
    }
    short_enough("glob", text, PATTERN_MAX, "give a shorter one")
}

/// What to search for.
///
/// # Errors
///
/// [`ArgumentError::Empty`], [`ArgumentError::TooLong`].
pub fn pattern(text: String) -> Result<String, ArgumentError> {
    if text.is_empty() {
        return Err(ArgumentError::Empty("pattern", "give what to search for"));
    }
    short_enough("pattern", text, PATTERN_MAX, "search for a part of it")
}

/// Text to replace.
///
/// # Errors
///
/// [`ArgumentError::Empty`], [`ArgumentError::TooLong`].
pub fn old_text(text: String) -> Result<String, ArgumentError> {
    if text.is_empty() {
        return Err(ArgumentError::Empty(
            "old_text",
            "give text that is in the file, or call write_file with append to add at its end",
        ));
    }
    edit_text("old_text", text)
}

/// A text of an edit.
///
/// # Errors
///
/// [`ArgumentError::TooLong`].
pub fn edit_text(name: &'static str, text: String) -> Result<String, ArgumentError> {
    short_enough(
        name,
        text,
        EDIT_TEXT_MAX,
        "make several smaller edits, or replace the file with write_file",
    )
}

/// Permission bits in octal.
///
/// # Errors
///
/// [`ArgumentError::Mode`].
pub fn mode(text: &str) -> Result<u32, ArgumentError> {
    let refused = || ArgumentError::Mode(shortened(text));
    let digits = text.strip_prefix("0o").unwrap_or(text);
    // `from_str_radix` takes a sign.
    if digits.is_empty() || digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refused());
    }
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(refused()),
    }
}

/// A SHA-256 in hexadecimal.
///
/// # Errors
///
/// [`ArgumentError::Sha256`].
pub fn sha256(text: &str) -> Result<[u8; 32], ArgumentError> {
    let refused = || ArgumentError::Sha256(shortened(text));
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_whole() {
        assert_eq!(path("/a\nb").expect("a newline is fine").as_ref(), b"/a\nb");
        let error = path("./notes.txt").expect_err("relative").to_string();
        assert!(error.contains("/home/sandbox/notes.txt"), "{error}");
        assert!(matches!(path("/a\0b"), Err(ArgumentError::PathNul)));
        assert!(matches!(path(""), Err(ArgumentError::PathRelative { .. })));
        assert!(path(&format!("/{}", "x".repeat(PATH_MAX - 1))).is_ok());
        assert!(path(&format!("/{}", "x".repeat(PATH_MAX))).is_err());
    }

    #[test]
    fn an_image_is_named_as_everywhere() {
        let long = "a/".repeat(IMAGE_MAX);
        let name = image("python".to_owned()).expect("a name").to_string();
        assert_eq!(name, "docker.io/library/python:latest");
        for bad in ["", "Python", "a b", "../x", &long] {
            let error = image(bad.to_owned()).expect_err(bad).to_string();
            assert!(error.contains("image") && error.len() < 2000, "{error}");
        }
    }

    #[test]
    fn modes_are_octal() {
        for (text, bits) in [
            ("0644", 0o644),
            ("755", 0o755),
            ("0o600", 0o600),
            ("07777", 0o7777),
        ] {
            assert_eq!(mode(text).expect(text), bits);
        }
        for text in [
            "",
            "0o",
            "888",
            "+644",
            "-1",
            "rw-r--r--",
            "17777",
            "000644",
        ] {
            let error = mode(text).expect_err(text).to_string();
            assert!(error.contains("0644"), "{error}");
        }
    }

    #[test]
    fn hashes_are_64_hexadecimal_digits() {
        let text = "00fF".repeat(16);
        assert_eq!(sha256(&text).expect("a hash")[..2], [0, 0xff]);
        for text in [
            "",
            "00",
            &"0".repeat(63),
            &"0".repeat(66),
            &"0g".repeat(32),
            &"\u{e9}".repeat(32),
        ] {
            assert!(sha256(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_that_are_no_text_are_paths() {
        assert_eq!(
            path_bytes(b"/a\xff".to_vec()).expect("bytes").as_ref(),
            b"/a\xff"
        );
        assert!(path_bytes(b"a\xff".to_vec()).is_err());
    }

    #[test]
    fn limits_are_inclusive() {
        assert!(within("n", 1, 5).is_ok() && within("n", 5, 5).is_ok());
        assert!(within("n", 0, 5).is_err() && within("n", 6, 5).is_err());
        assert!(at_most("n", 0, 5).is_ok() && at_most("n", 6, 5).is_err());
        assert!(
            pattern("x".repeat(PATTERN_MAX)).is_ok()
                && pattern("x".repeat(PATTERN_MAX + 1)).is_err()
        );
        assert!(glob(String::new()).is_err() && old_text(String::new()).is_err());
        assert!(edit_text("new_text", String::new()).is_ok());
        assert!(code("x".repeat(CODE_MAX)).is_ok());
        assert!(matches!(
            code("x".repeat(CODE_MAX + 1)),
            Err(ArgumentError::CodeTooLong { .. })
        ));
        assert!(timeout_minutes(60).is_ok() && timeout_minutes(61).is_err());
        let max = Duration::from_secs(300);
        assert!(timeout_seconds(300, max).is_ok() && timeout_seconds(301, max).is_err());
        assert!(timeout_minutes(0).is_err() && timeout_seconds(0, max).is_err());
        assert!(name("x".repeat(64)).is_ok() && name("x".repeat(65)).is_err());
        assert!(name(String::new()).is_err() && name("a\u{1b}[0m".into()).is_err());
    }
}
