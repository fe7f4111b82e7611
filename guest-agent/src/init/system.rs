// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the kernel is told about this machine: its name, the time, entropy, its loopback, what it
//! protects.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::sethostname;

use crate::sys;

/// What distributions have the kernel refuse in folders that everyone may write, such as `/tmp`: links
/// and files that one user lays out for another to fall into.
const PROTECTIONS: [&str; 4] = [
    "/proc/sys/fs/protected_fifos",
    "/proc/sys/fs/protected_hardlinks",
    "/proc/sys/fs/protected_regular",
    "/proc/sys/fs/protected_symlinks",
];

/// Sets the wall clock.
pub(super) fn set_clock(unix_time_ns: u64) -> io::Result<()> {
    let time = TimeSpec::from(Duration::from_nanos(unix_time_ns));
    Ok(clock_settime(ClockId::CLOCK_REALTIME, time)?)
}

/// Turns on those of [`PROTECTIONS`] that the kernel has.
pub(super) fn protect_shared_folders() -> io::Result<()> {
    for file in PROTECTIONS {
        match fs::write(file, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Seeds the kernel's random number generator.
pub(super) fn add_entropy(seed: &[u8; 32]) -> io::Result<()> {
    let random = File::open("/dev/urandom")?;
    Ok(sys::add_entropy(&random, seed)?)
}

/// Brings `lo` up; the kernel gives it its addresses by itself.
pub(super) fn raise_loopback() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    Ok(sys::raise_loopback(&socket)?)
}

/// Names the machine, in the kernel and in the files that resolvers read.
pub(super) fn set_hostname(name: &str) -> io::Result<()> {
    sethostname(name)?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = missing_hosts(&hosts, name);
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open("/etc/hosts")?;
    file.write_all(lines.as_bytes())
}

/// The lines that `hosts` lacks, `hosts(5)`.
fn missing_hosts(hosts: &str, name: &str) -> String {
    let has = |wanted: &str| {
        hosts
            .lines()
            .filter_map(|line| line.split('#').next())
            .any(|line| line.split_whitespace().skip(1).any(|word| word == wanted))
    };
    let mut lines = String::new();
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        lines.push('\n');
    }
    if !has("localhost") {
        lines.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    if !has(name) {
        // Debian's convention for a machine without a fixed address.
        lines.push_str(&format!("127.0.1.1\t{name}\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_names_are_added_to_hosts() {
        let fresh = missing_hosts("", "bee");
        assert!(fresh.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(fresh.ends_with("127.0.1.1\tbee\n"));
        let known = "127.0.0.1 localhost # bee";
        assert_eq!(missing_hosts(known, "bee"), "\n127.0.1.1\tbee\n");
        assert_eq!(missing_hosts("::1 localhost bee\n", "bee"), "");
    }
}
