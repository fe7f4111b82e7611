// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What takes from the other process what it may do: Landlock, and another user.

use std::io::ErrorKind;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// All that concerns files. Kernels that know less of it let something through.
const WALLS: ABI = ABI::V5;

/// Denies this thread, and those that it makes, to write anywhere but below `dir`, if the kernel has `landlock` to do it
/// with, and tries. Says `full`, or what the kernel lacks and whether the probe was written.
///
/// # Panics
/// If the kernel has Landlock, and it does not hold.
pub(super) fn wall(dir: &Path, landlock: bool) -> String {
    let status = landlock.then(|| restrict(dir));
    let probe = std::fs::write(dir.with_file_name(super::PROBE), b"x");
    let kernel = status.as_ref().map(|status| status.landlock);
    let whole = matches!(
        kernel,
        Some(LandlockStatus::Available { effective_abi, .. }) if effective_abi >= WALLS
    );
    if !whole {
        return format!("not all: {kernel:?}, probe {probe:?}");
    }
    let rules = status.map(|status| status.ruleset);
    assert_eq!(rules, Some(RulesetStatus::FullyEnforced));
    let denied = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    assert!(
        probe.as_ref().is_err_and(denied),
        "the walls let through: {probe:?}"
    );
    "full".to_owned()
}

fn restrict(dir: &Path) -> RestrictionStatus {
    let (all, reads) = (AccessFs::from_all(WALLS), AccessFs::from_read(WALLS));
    let rule = |path: &Path, access| PathBeneath::new(PathFd::new(path).expect("a path"), access);
    let restricted = Ruleset::default()
        .handle_access(all)
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(rule(Path::new("/"), reads)))
        .and_then(|ruleset| ruleset.add_rule(rule(dir, all)))
        .and_then(|ruleset| ruleset.restrict_self());
    restricted.expect("walls, as far as the kernel has them")
}

/// Becomes an ordinary user, if it is not one, and says which and with which capabilities.
///
/// # Panics
/// If it has some left.
pub(super) fn become_user(id: u32) -> String {
    if Uid::effective().is_root() {
        let group = Gid::from_raw(id);
        setgroups(&[group])
            .and_then(|()| setgid(group))
            .and_then(|()| setuid(Uid::from_raw(id)))
            .expect("to become another user");
    }
    assert!(!Uid::current().is_root() && !Uid::effective().is_root());
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let has = super::status(set);
        assert!(has.bytes().all(|digit| digit == b'0'), "{set}: {has}");
    }
    format!("{}, no capabilities", Uid::current())
}
