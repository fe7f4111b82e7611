// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Layers merged into one root that boots.
//!
//! A root is an EROFS file system in two kinds of pieces: its own **metadata** (superblock, inodes, folders,
//! extended attributes), and the data of its layers ([`crate::layer`]), one after the other, as it is. A
//! descriptor in VMDK's text format names the pieces, and makes them one read-only disk: QEMU and libkrun both
//! read it. So whiteouts are resolved here, the guest mounts one file system, an image of any number of layers
//! is one disk, and images share every layer that they have in common.
//!
//! ```text
//!            ┌───────────┬─────────────┬─────────────┬───
//!  the disk: │ metadata  │ layer 1's   │ layer 2's   │ ...
//!            │ of a root │ data        │ data        │
//!            └───────────┴─────────────┴─────────────┴───
//! ```
//!
//! The same layers in the same order give the same bytes.
