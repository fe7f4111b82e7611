// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! From an image's name to a root file system that boots.
//!
//! ```text
//!  registry ─┐                ┌─ blobs ──> layers ─┐
//!            ├─> facade ──────┤   (store)          ├─> root ──> a read-only disk of several files
//!  folder, ──┘   ([`Images`]) └─ references        │   (merged metadata, and the layers' data as it is)
//!  archive                                        ─┘
//! ```
//!
//! [`reference`](mod@reference) names, [`registry`] and [`source`] bring, [`layer`] reads what they bring, [`root`] merges layers,
//! [`store`] keeps all of it, [`config`] is what an image says of its programs, and [`Images`] joins them.
//!
//! Invariants:
//! - Nothing of an image is ever unpacked onto this host's file system, and nothing is written outside the store's
//!   folder.
//! - Whatever an image claims is held against what was read, within [`Limits`].
//! - What is in the store is whole and verified: it appears by one rename.
//! - An [`Image`] that is held stays, whatever is removed meanwhile.

pub mod config;
pub mod digest;
pub mod images;
pub mod layer;
pub mod limits;
pub mod recorded;
pub mod reference;
pub mod registry;
pub mod root;
pub mod source;
pub mod store;

pub use digest::Digest;
pub use images::{Error as ImagesError, Image, Images};
pub use limits::Limits;
pub use reference::{AllowList, Reference, ReferenceError};
pub use registry::{Registry, RegistryError, RegistryOptions};
