// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Whom the agent acts as.
//!
//! Owns: looking a user up in the image's `/etc/passwd` and `/etc/group`, and [`Identity::act`],
//! which lends the user's file permissions to one piece of synchronous code.
//!
//! Does not own: the switch of a spawned program (`sys::set_up_child`).
//!
//! Invariant: borrowed permissions never outlive a call, hence never an `await`: `act` takes a
//! closure that is not async, and puts root's back even if that panics.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, getegid, geteuid, setfsgid, setfsuid};

use crate::sys;

/// The unprivileged user's name.
pub const SANDBOX: &str = "sandbox";
/// Its user and group id, unless the image says otherwise.
pub const SANDBOX_ID: u32 = 1000;

/// A user of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

impl Identity {
    /// The image's user `name`, if its `/etc/passwd` has one.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let passwd = fs::read("/etc/passwd").ok()?;
        let group = fs::read("/etc/group").unwrap_or_default();
        parse(name, &passwd, &group)
    }

    /// The image's `sandbox`, or the user that init would have made.
    #[must_use]
    pub fn sandbox() -> Self {
        Self::find(SANDBOX).unwrap_or_else(|| Self {
            name: SANDBOX.into(),
            uid: SANDBOX_ID,
            gid: SANDBOX_ID,
            groups: Vec::new(),
            home: "/home/sandbox".into(),
            shell: "/bin/sh".into(),
        })
    }

    /// The image's root.
    #[must_use]
    pub fn root() -> Self {
        Self::find("root").unwrap_or_else(|| Self {
            name: "root".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/root".into(),
            shell: "/bin/sh".into(),
        })
    }

    /// Whether this is already whom the process runs as, so that there is nothing to switch.
    #[must_use]
    pub fn is_current(&self) -> bool {
        geteuid().as_raw() == self.uid && getegid().as_raw() == self.gid
    }

    /// Runs `work` with this user's permissions on files, `setfsuid(2)`.
    ///
    /// With the file-system user id goes every capability that overrides file permissions. A process
    /// that is not root cannot switch, and keeps its own permissions.
    pub fn act<R>(&self, work: impl FnOnce() -> R) -> R {
        let _guard = (!self.is_current() && geteuid().is_root()).then(|| FsGuard::enter(self));
        work()
    }
}

/// Root's own permissions come back when this is dropped.
struct FsGuard {
    gid: Gid,
    had_groups: bool,
}

impl FsGuard {
    fn enter(identity: &Identity) -> Self {
        // The agent itself has no supplementary groups (`agent::run` drops them).
        let had_groups = !identity.groups.is_empty();
        if had_groups && sys::set_thread_groups(&identity.groups).is_err() {
            // Fewer groups mean fewer permissions: go on without them.
        }
        let gid = setfsgid(Gid::from_raw(identity.gid));
        setfsuid(Uid::from_raw(identity.uid));
        Self { gid, had_groups }
    }
}

impl Drop for FsGuard {
    fn drop(&mut self) {
        setfsuid(Uid::from_raw(0));
        setfsgid(self.gid);
        if self.had_groups && sys::set_thread_groups(&[]).is_err() {
            // Cannot fail for root; and root's permissions do not come from groups.
        }
    }
}

/// Finds `name` in the text of `/etc/passwd` and `/etc/group`, `passwd(5)` and `group(5)`. Lines that
/// do not parse are skipped, as the C library does.
fn parse(name: &str, passwd: &[u8], group: &[u8]) -> Option<Identity> {
    let fields = lines(passwd).find(|fields| fields.first() == Some(&name.as_bytes()))?;
    let [_, _, uid, gid, _, home, shell] = fields.as_slice() else {
        return None;
    };
    let gid = number(gid)?;
    let groups = lines(group)
        .filter_map(|fields| {
            let [_, _, id, members] = fields.as_slice() else {
                return None;
            };
            let member = members.split(|b| *b == b',').any(|m| m == name.as_bytes());
            number(id).filter(|_| member)
        })
        .filter(|id| *id != gid)
        .collect();
    Some(Identity {
        name: name.into(),
        uid: number(uid)?,
        gid,
        groups,
        home: absolute(home).unwrap_or_else(|| "/".into()),
        shell: absolute(shell).unwrap_or_else(|| "/bin/sh".into()),
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    text.split(|b| *b == b'\n')
        .map(|line| line.split(|b| *b == b':').collect())
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn absolute(field: &[u8]) -> Option<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(field.to_vec()));
    Path::new(&path).is_absolute().then_some(path)
}

/// First user and group id from `SANDBOX_ID` on that neither text uses.
#[must_use]
pub fn free_id(passwd: &[u8], group: &[u8]) -> u32 {
    let taken: Vec<u32> = lines(passwd)
        .chain(lines(group))
        .filter_map(|fields| number(fields.get(2)?))
        .collect();
    (SANDBOX_ID..u32::MAX)
        .find(|id| !taken.contains(id))
        .unwrap_or(SANDBOX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/bash\nbroken\nsandbox:x:1001:1002:,,,:/srv/sb:/bin/dash\n";
    const GROUP: &[u8] =
        b"root:x:0:\nsandbox:x:1002:sandbox\nvideo:x:44:root,sandbox\nodd:x::sandbox\n";

    #[test]
    fn a_user_is_read_with_its_supplementary_groups() {
        let user = parse("sandbox", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid), (1001, 1002));
        assert_eq!(user.groups, [44]);
        assert_eq!(user.home, Path::new("/srv/sb"));
        assert_eq!(user.shell, Path::new("/bin/dash"));
    }

    #[test]
    fn an_absent_or_broken_user_is_not_found() {
        assert_eq!(parse("sand", PASSWD, GROUP), None);
        assert_eq!(parse("broken", PASSWD, GROUP), None);
    }

    #[test]
    fn a_free_id_is_neither_user_nor_group() {
        assert_eq!(free_id(PASSWD, GROUP), 1000);
        assert_eq!(free_id(b"node:x:1000:1000::/:/bin/sh", b"x:x:1001:"), 1002);
    }
}
