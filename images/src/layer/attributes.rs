// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What an entry says of itself beyond its name: owner, time, extended attributes, and the PAX records
//! (POSIX.1-2001, pax, "Extended Header") that say it.
//!
//! The parser is told to pass over PAX values that it cannot read, since it knows no negative times. So each
//! record is checked here first, and nothing is ever passed over in silence.
//!
//! Of the extended attributes only those stay that belong to the image. The rest is the building host's: a
//! `security.selinux` label of its policy means nothing in the guest, and `trusted.overlay.*` would steer the
//! guest's own overlayfs. They are dropped and counted.

use std::collections::BTreeMap;

use tar_core::{Header, PaxExtensions};

/// Bytes of all attributes of one entry, names and values: what Linux takes for one value (`XATTR_SIZE_MAX`).
const XATTRS_MAX: usize = 64 << 10;
/// Bytes of an attribute's name: `XATTR_NAME_MAX` of Linux.
const XATTR_NAME_MAX: usize = 255;

/// What is wrong with what an entry says of itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeFault {
    /// The PAX header is not a sequence of records.
    #[error("its PAX header is malformed")]
    Records,
    /// A PAX record's value cannot be read.
    #[error("its PAX record {key:?} has the value {value:?}, which cannot be")]
    Record {
        /// The record.
        key: String,
        /// Its value.
        value: String,
    },
    /// The size in the header cannot be.
    #[error("its size cannot be")]
    Size,
    /// Another type than a regular file is said to be sparse.
    #[error("it is sparse and no regular file")]
    SparseType,
    /// The map of a sparse file does not fit the file.
    #[error("it is sparse, and its map {0}")]
    SparseMap(&'static str),
    /// The name of an extended attribute cannot be.
    #[error("it has an extended attribute with a name that cannot be: {0:?}")]
    XattrName(String),
    /// The extended attributes are too long.
    #[error("it has {0} bytes of extended attributes, the limit is {XATTRS_MAX}")]
    Xattrs(usize),
}

/// What the PAX records say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    /// Sorted, no name twice: the last one counts.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many attributes were dropped.
    pub(super) dropped: u64,
}

/// Reads the records of one entry.
pub(super) fn records(pax: &[u8]) -> Result<Records, AttributeFault> {
    let mut found = Records::default();
    let mut xattrs = BTreeMap::new();
    let mut length = 0;
    for record in PaxExtensions::new(pax) {
        let record = record.map_err(|_| AttributeFault::Records)?;
        let (key, value) = (record.key_bytes(), record.value_bytes());
        length += record_length(key.len() + value.len());
        match key {
            b"size" | b"uid" | b"gid" => number(key, value)?,
            b"GNU.sparse.name" => {}
            b"GNU.sparse.map" if value.is_ascii() => {}
            _ if key.starts_with(b"GNU.sparse.") => number(key, value)?,
            // An empty value takes a record back.
            b"mtime" if value.is_empty() => found.mtime = None,
            b"mtime" => found.mtime = Some(time(value).ok_or_else(|| broken(key, value))?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if belongs(name) {
                        xattr_name(name)?;
                        xattrs.insert(name.to_vec(), value.to_vec());
                    } else {
                        found.dropped += 1;
                    }
                }
            }
        }
    }
    // The iterator ends silently where no length is to be read.
    if length != pax.len() {
        return Err(AttributeFault::Records);
    }
    let bytes = xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > XATTRS_MAX {
        return Err(AttributeFault::Xattrs(bytes));
    }
    found.xattrs = xattrs.into_iter().collect();
    Ok(found)
}

/// The length of a whole record, `LENGTH KEY=VALUE\n`, whose key and value have this many bytes.
fn record_length(content: usize) -> usize {
    let rest = content + " =\n".len();
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    length
}

fn broken(key: &[u8], value: &[u8]) -> AttributeFault {
    let shown = value.get(..64).unwrap_or(value);
    AttributeFault::Record {
        key: String::from_utf8_lossy(key).into_owned(),
        value: String::from_utf8_lossy(shown).into_owned(),
    }
}

/// Checks that the parser will have read this number, and not passed over it.
fn number(key: &[u8], value: &[u8]) -> Result<(), AttributeFault> {
    let text = std::str::from_utf8(value).map_err(|_| broken(key, value))?;
    if !text.is_empty() && text.parse::<u64>().is_err() {
        return Err(broken(key, value));
    }
    Ok(())
}

/// A time as PAX writes it: decimal seconds, perhaps negative, perhaps with a fraction. Digits below a nanosecond are
/// cut. Seconds beyond 64 bits become the last that there are: no tool means them, and no guest can tell.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let seconds = whole.parse::<i64>().unwrap_or(i64::MAX);
    let nanos: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(9)
        .collect();
    let nanos = nanos.parse::<u32>().ok()?;
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        // Nanoseconds count forwards, so that the second before is the one to name.
        (true, _) => ((-seconds).saturating_sub(1), 1_000_000_000 - nanos),
    })
}

/// The time in the header itself: octal, or in base 256 with a sign, as GNU tar writes times before 1970.
pub(super) fn header_time(header: &Header) -> i64 {
    let Some(field) = header.as_bytes().get(136..148) else {
        return 0;
    };
    let Some((first, rest)) = field.split_first() else {
        return 0;
    };
    if first & 0x80 == 0 {
        // The parser has read it already, and 12 octal digits are far within bounds.
        return header
            .mtime()
            .map_or(0, |time| i64::try_from(time).unwrap_or(i64::MAX));
    }
    // Below the mark, the next bit is the sign.
    let high = i128::from(first & 0x3f) - if first & 0x40 == 0 { 0 } else { 0x40 };
    let value = rest
        .iter()
        .fold(high, |value, byte| value << 8 | i128::from(*byte));
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Checks the size in the header: in base 256 it has more room than 64 bits, which the parser would cut off.
pub(super) fn header_size(header: &Header) -> Result<(), AttributeFault> {
    match header.as_bytes().get(124..128) {
        Some([0x80, 0, 0, 0]) => Ok(()),
        Some([first, ..]) if first & 0x80 == 0 => Ok(()),
        _ => Err(AttributeFault::Size),
    }
}

/// Whether an attribute is the image's own.
fn belongs(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        // Overlayfs reads these in place of trusted.overlay.* when an unprivileged user mounts it.
        _ if name.starts_with(b"user.overlay.") => false,
        _ => name.starts_with(b"user."),
    }
}

fn xattr_name(name: &[u8]) -> Result<(), AttributeFault> {
    if name == b"user." || name.len() > XATTR_NAME_MAX || name.contains(&0) {
        let shown = name.get(..64).unwrap_or(name);
        return Err(AttributeFault::XattrName(
            String::from_utf8_lossy(shown).into_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (key, value) in pairs {
            let length = record_length(key.len() + value.len());
            all.extend_from_slice(length.to_string().as_bytes());
            for piece in [b" ".as_slice(), key, b"=", value, b"\n"] {
                all.extend_from_slice(piece);
            }
        }
        all
    }

    #[test]
    fn times_have_signs_fractions_and_an_end() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("12.", Some((12, 0))),
            ("9223372036854775808", Some((i64::MAX, 0))),
            ("99999999999999999999999", Some((i64::MAX, 0))),
            ("-99999999999999999999999.1", Some((i64::MIN, 900_000_000))),
            ("", None),
            ("-", None),
            (".5", None),
            ("+1", None),
            ("1e3", None),
            ("--1", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn only_the_images_own_attributes_stay() {
        let read = records(&pax(&[
            (b"SCHILY.xattr.user.b", b"1\n=2\0"),
            (b"SCHILY.xattr.user.a", b""),
            (b"SCHILY.xattr.user.b", b"last"),
            (b"SCHILY.xattr.security.capability", b"\x01\xff"),
            (b"SCHILY.xattr.security.selinux", b"system_u"),
            (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
            (b"SCHILY.xattr.user.overlay.opaque", b"y"),
            (b"SCHILY.xattr.system.posix_acl_access", b"\x02"),
        ]))
        .unwrap();
        let names: Vec<_> = read
            .xattrs
            .iter()
            .map(|(name, _)| name.as_slice())
            .collect();
        let kept: [&[u8]; 4] = [
            b"security.capability",
            b"system.posix_acl_access",
            b"user.a",
            b"user.b",
        ];
        assert_eq!(names, kept);
        assert_eq!(read.xattrs[3].1, b"last");
        assert_eq!(read.dropped, 3);
    }

    #[test]
    fn records_are_checked_to_their_end() {
        for bad in [
            b"x".as_slice(),
            b"5 a=",
            b"9999 a=b\n",
            b"6 a=b\nzz",
            b"06 a=\n",
            b"4 a\n",
        ] {
            assert_eq!(records(bad), Err(AttributeFault::Records), "{bad:?}");
        }
        for key in ["size", "uid", "gid", "mtime", "GNU.sparse.realsize"] {
            let fault = records(&pax(&[(key.as_bytes(), b"x")]));
            assert!(matches!(fault, Err(AttributeFault::Record { .. })), "{key}");
            assert!(records(&pax(&[(key.as_bytes(), b"")])).is_ok(), "{key}");
        }
        let long = vec![b'v'; XATTRS_MAX - 5];
        assert!(records(&pax(&[(b"SCHILY.xattr.user.", b"")])).is_err());
        assert_eq!(
            records(&pax(&[(b"SCHILY.xattr.user.a", &long)])),
            Err(AttributeFault::Xattrs(XATTRS_MAX + 1))
        );
        let name = [b"SCHILY.xattr.user.".as_slice(), &[b'n'; 251]].concat();
        assert!(matches!(
            records(&pax(&[(&name, b"")])),
            Err(AttributeFault::XattrName(_))
        ));
    }

    #[test]
    fn header_times_may_be_negative() {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[136..148].copy_from_slice(&[0xff; 12]);
        assert_eq!(header_time(&header), -1);
        header.as_mut_bytes()[136..148].copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\x01\x02");
        assert_eq!(header_time(&header), 258);
        header.as_mut_bytes()[136..148].copy_from_slice(b"\xbf\xff\0\0\0\0\0\0\0\0\x01\x02");
        assert_eq!(header_time(&header), i64::MAX);
        header.as_mut_bytes()[136..148].copy_from_slice(b"\xc0\0\0\0\0\0\0\0\0\0\x01\x02");
        assert_eq!(header_time(&header), i64::MIN);
        header.as_mut_bytes()[136..148].copy_from_slice(b"00000000007\0");
        assert_eq!(header_time(&header), 7);
    }
}
