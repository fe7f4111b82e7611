// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Extended attributes as EROFS has them, behind their inode: a header, then one record each, to 4 bytes.

use super::super::tree::Xattr;

/// `erofs_xattr_ibody_header`: a name filter that is not used, a count of shared attributes that is 0, nothing else.
const HEADER_BYTES: usize = 12;
/// `erofs_xattr_entry`.
const ENTRY_BYTES: usize = 4;
/// All of an inode's: `i_xattr_icount` counts the header as one, and each 4 bytes behind it.
const BODY_BYTES: usize = HEADER_BYTES + ENTRY_BYTES * (u16::MAX as usize - 1);
const NAME_BYTES: usize = u8::MAX as usize;
const VALUE_BYTES: usize = u16::MAX as usize;

/// What namespaces are written as. Names of whole attributes come first.
const NAMESPACES: [(&[u8], u8); 5] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
];
/// What overlayfs keeps for itself: the guest's would take it for its own, and show a file's name with another
/// one's content.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Whether an attribute goes into a root. Linux itself has no place for the others: images made on other systems
/// have them, and container tools leave them out as well.
pub(in super::super) fn is_kept(name: &[u8]) -> bool {
    !name.starts_with(OVERLAY) && !name.contains(&0) && encoded(name).is_some()
}

/// Whether the attributes fit.
///
/// # Errors
/// The length of what does not, and the limit that it is over.
pub(in super::super) fn check(xattrs: &[Xattr]) -> Result<(), (usize, usize)> {
    let limits = xattrs
        .iter()
        .flat_map(|(name, value)| [(name.len(), NAME_BYTES), (value.len(), VALUE_BYTES)]);
    for (bytes, limit) in limits.chain([(size(xattrs), BODY_BYTES)]) {
        if bytes > limit {
            return Err((bytes, limit));
        }
    }
    Ok(())
}

/// Bytes of the attributes, a multiple of 4.
pub(super) fn size(xattrs: &[Xattr]) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    let record = |(name, value): &Xattr| {
        let suffix = encoded(name).map_or(0, |(_, suffix)| suffix.len());
        (ENTRY_BYTES + suffix + value.len()).next_multiple_of(ENTRY_BYTES)
    };
    HEADER_BYTES + xattrs.iter().map(record).sum::<usize>()
}

/// `i_xattr_icount` of attributes that pass [`check`].
pub(super) fn count(xattrs: &[Xattr]) -> u16 {
    let units = size(xattrs)
        .checked_sub(HEADER_BYTES)
        .map_or(0, |rest| rest / ENTRY_BYTES + 1);
    u16::try_from(units).unwrap_or(u16::MAX)
}

/// Appends the attributes, which pass [`check`].
pub(super) fn write(xattrs: &[Xattr], out: &mut Vec<u8>) {
    if xattrs.is_empty() {
        return;
    }
    out.extend([0; HEADER_BYTES]);
    for (name, value) in xattrs {
        let Some((index, suffix)) = encoded(name) else {
            continue;
        };
        out.push(u8::try_from(suffix.len()).unwrap_or(u8::MAX));
        out.push(index);
        out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend(suffix);
        out.extend(value);
        let unaligned = (ENTRY_BYTES + suffix.len() + value.len()) % ENTRY_BYTES;
        if unaligned > 0 {
            out.extend(std::iter::repeat_n(0, ENTRY_BYTES - unaligned));
        }
    }
}

/// An attribute's namespace and the rest of its name.
fn encoded(name: &[u8]) -> Option<(u8, &[u8])> {
    NAMESPACES.iter().find_map(|(namespace, index)| {
        let suffix = name.strip_prefix(*namespace)?;
        // A namespace with a dot needs a name in it, one without is a name.
        (namespace.ends_with(b".") != suffix.is_empty()).then_some((*index, suffix))
    })
}
