// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The machine's contract, shown on real machines.
//!
//! Needs `WAGGLE_LIB_DIR` (a folder with `libkrunfw.so.5*` and `vhost-device-vsock`), QEMU,
//! e2fsprogs, erofs-utils and a C compiler with a static libc. One binary, so that the tests can
//! take turns: no more than two machines run at once.

mod extents;
mod failures;
mod guest;
mod life;
mod support;
