// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Which bootable images exist on this host, and whether they are whole.
//!
//! An image is one read-only EROFS file that every machine using it shares. `./dev images` builds
//! them and records them in `index.json` beside them; this crate reads that record and never
//! writes. It owns the index format, the checks on what the index claims, and nothing else: it
//! does not build, fetch, mount or delete.
//!
//! ```text
//! index.json ──parse──> Index ──look up──> Entry ──check the file──> Image
//! ```
//!
//! Invariants:
//! - An [`Image`] exists only for a file that was there, had the recorded size and began with an
//!   EROFS superblock when it was resolved.
//! - The index is read anew for each call, since images may be rebuilt while a server runs.
//! - What the index says never leads outside its folder, whatever it says.

pub mod config;
pub mod digest;
mod error;
mod folder;
pub mod images;
mod index;
pub mod layer;
pub mod limits;
pub mod reference;
pub mod registry;
pub mod root;
pub mod source;
pub mod store;

pub use digest::Digest;
pub use error::ImageError;
pub use folder::{Image, ImageStore};
pub use limits::Limits;
pub use reference::{AllowList, Reference, ReferenceError};
pub use registry::{Registry, RegistryError, RegistryOptions};
