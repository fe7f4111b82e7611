// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The only file with `unsafe`: system calls that neither std nor nix offers in a safe form.
//!
//! Owns: the calls and the argument for each. Does not own: policy; every caller decides when.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::identity::Identity;

/// Bias towards the kernel's out-of-memory killer for what the host runs: it should go before the
/// agent and before what the image started by itself.
const EXEC_OOM_SCORE: &[u8] = b"300";

/// What a child does between fork and exec.
#[derive(Debug)]
pub struct ChildSetup {
    /// Working directory, entered with the child's own permissions.
    pub directory: CString,
    /// Whom the child becomes; `None` leaves it as it is.
    pub identity: Option<Identity>,
    /// The `cgroup.procs` of the control group that it enters.
    pub cgroup: Option<OwnedFd>,
    /// How many descriptors it may have; `None` leaves that as it is.
    pub descriptors: Option<DescriptorLimit>,
}

/// How many descriptors a process may have, `RLIMIT_NOFILE`.
#[derive(Debug, Clone, Copy)]
pub struct DescriptorLimit {
    /// What it may have.
    pub soft: libc::rlim_t,
    /// What it may allow itself.
    pub hard: libc::rlim_t,
}

/// Makes `command`'s child leave the agent behind: its own session and process group, its own control
/// group, its own identity, its own directory.
pub fn set_up_child(command: &mut Command, setup: ChildSetup) {
    let become_child = move || {
        // SAFETY: only async-signal-safe calls on memory that was allocated before the fork and is
        // kept alive by the closure: `setsid`, `open`, `write`, `close`, `setrlimit`, the raw identity
        // calls and `chdir` take scalars, an initialised struct that outlives the call, or pointers to
        // NUL-terminated strings and initialised slices.
        unsafe {
            check(libc::setsid().into())?;
            if let Some(cgroup) = &setup.cgroup {
                // "0" is the writer itself.
                let written = libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1);
                check(written as libc::c_long)?;
            }
            raise_oom_score();
            if let Some(DescriptorLimit { soft, hard }) = setup.descriptors {
                let limit = libc::rlimit {
                    rlim_cur: soft,
                    rlim_max: hard,
                };
                check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit).into())?;
            }
            if let Some(identity) = &setup.identity {
                // Raw, not libc's wrappers: those synchronise threads, of which there are none.
                check(libc::syscall(
                    libc::SYS_setgroups,
                    identity.groups.len(),
                    identity.groups.as_ptr(),
                ))?;
                let (gid, uid) = (identity.gid, identity.uid);
                check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
                // The file permissions first, and all else last: once the user id is the user's own,
                // other programs of that user may stop this process. (It returns the old id.)
                libc::syscall(libc::SYS_setfsuid, uid);
                check(libc::chdir(setup.directory.as_ptr()).into())?;
                check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
            } else {
                check(libc::chdir(setup.directory.as_ptr()).into())
            }
        }
    };
    // SAFETY: the closure neither allocates nor locks nor panics, as argued inside it;
    // `io::Error::last_os_error` holds only the error number.
    unsafe { command.pre_exec(become_child) };
}

/// # Safety
///
/// Async-signal-safe; may run between fork and exec.
unsafe fn raise_oom_score() {
    // SAFETY: the path is NUL-terminated and static; the descriptor is used only if it is valid;
    // failure is harmless and ignored.
    unsafe {
        let fd = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if fd >= 0 {
            libc::write(fd, EXEC_OOM_SCORE.as_ptr().cast(), EXEC_OOM_SCORE.len());
            libc::close(fd);
        }
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Replaces this thread's supplementary groups. The raw call, because libc's wrapper changes every
/// thread of the process and the tests have more than one.
pub fn set_thread_groups(groups: &[u32]) -> nix::Result<()> {
    // SAFETY: pointer and length come from one slice, which the kernel only reads.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Sends signal number `signal` to the process group of `leader`, which must be an unreaped child of
/// this process. (nix knows no real-time signals.)
pub fn signal_group(leader: u32, signal: i32) -> nix::Result<()> {
    let leader = libc::pid_t::try_from(leader).map_err(|_| Errno::ESRCH)?;
    // SAFETY: `killpg` takes two scalars.
    Errno::result(unsafe { libc::killpg(leader, signal) }).map(drop)
}

/// A pidfd of `pid`, which must be an unreaped child of this process: readable once it has exited.
pub fn watch_child(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `pidfd_open` takes two scalars. (The kernel sets close-on-exec by itself.)
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an `OwnedFd` keeps one descriptor open for its whole life and always returns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// What the kernel kept of a process that has ended.
#[derive(Debug)]
pub struct Reaped {
    /// How it ended.
    pub status: ExitStatus,
    /// CPU time that it and its own reaped children took.
    pub cpu: CpuTime,
}

/// CPU time, `getrusage(2)`.
#[derive(Debug, Clone, Copy)]
pub struct CpuTime {
    /// In user mode.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

/// Waits for `pid`, an unreaped child of this process, to end, and reaps it. std's `wait` does the
/// same, but does not tell the CPU time.
pub fn reap_child(pid: u32) -> io::Result<Reaped> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: `rusage` is plain old data; all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to initialised variables that outlive the call.
        let result = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        match Errno::result(result) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Reaped {
        status: ExitStatus::from_raw(status),
        cpu: CpuTime {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
        },
    })
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let micros = u64::try_from(time.tv_usec).unwrap_or_default();
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
}

/// Whether the peer of a connected socket has closed its end, unread bytes or not.
pub fn peer_has_closed(socket: &impl AsRawFd) -> bool {
    let mut fd = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one initialised `pollfd`, which outlives the call; a timeout of 0 does not wait.
    let ready = unsafe { libc::poll(&raw mut fd, 1, 0) };
    ready > 0 && fd.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

/// Takes a variable out of this process's environment and returns it.
pub fn take_variable(name: &str) -> Option<std::ffi::OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: the programs are single-threaded, so nothing reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
    Some(value)
}

/// `struct rand_pool_info` of `linux/random.h`, with a buffer of 32 bytes.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    buffer_bytes: libc::c_int,
    buffer: [u8; 32],
}

/// `_IOW('R', 0x03, int[2])`, `linux/random.h`.
const RNDADDENTROPY: u32 = 0x4008_5203;
/// `_IO('R', 0x07)`, `linux/random.h`.
const RNDRESEEDCRNG: u32 = 0x5207;

/// Mixes `seed` into the kernel's random number generator, credited as full entropy, and reseeds.
pub fn add_entropy(random: &impl AsRawFd, seed: &[u8; 32]) -> nix::Result<()> {
    let info = RandPoolInfo {
        entropy_bits: 256,
        buffer_bytes: 32,
        buffer: *seed,
    };
    // SAFETY: `info` has the layout the kernel expects, its `buffer_bytes` is the true length of its
    // buffer, and the kernel only reads it during the call.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &raw const info) };
    Errno::result(result)?;
    // SAFETY: this request takes no argument.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _) };
    Errno::result(result).map(drop)
}

/// `IFF_UP` of `net/if.h`, in the type that `ifreq` has for it.
const IFF_UP: libc::c_short = 1;

/// Brings the loopback interface up; `socket` is any IPv4 socket.
pub fn raise_loopback(socket: &impl AsRawFd) -> nix::Result<()> {
    // SAFETY: `ifreq` is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    // SAFETY: `request` names the interface, NUL-terminated by the zeroes, and outlives the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        )
    };
    Errno::result(result)?;
    // SAFETY: the successful call above made `ifru_flags` the union's active member.
    unsafe { request.ifr_ifru.ifru_flags |= IFF_UP };
    // SAFETY: as for the first call; the kernel only reads.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    Errno::result(result).map(drop)
}
