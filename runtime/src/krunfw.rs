// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The C symbols of libkrunfw. The only file that loads a foreign library.
//!
//! libkrunfw is a kernel image wrapped in a shared object: it has no constructors of its own and
//! its functions return addresses of static data.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::path::Path;

use libloading::Library;

/// `char *krunfw_get_kernel(size_t *load_addr, size_t *entry_addr, size_t *size)`.
type GetKernel = unsafe extern "C" fn(*mut usize, *mut usize, *mut usize) -> *const c_char;
/// `int krunfw_get_version()`: the library's ABI, which is its soname's number.
type GetVersion = unsafe extern "C" fn() -> c_int;

/// The ABI whose symbols are declared above.
const ABI: c_int = 5;
/// Largest image believed; libkrunfw 5's is 21 MiB. A bound, because the size is about to be read.
const MAX_IMAGE: usize = 256 << 20;

/// A kernel image, borrowed from the loaded library.
pub(crate) struct Image<'a> {
    pub(crate) load_address: u64,
    pub(crate) entry: u64,
    pub(crate) bytes: &'a [u8],
}

/// Why a library gave no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KrunfwError {
    /// The dynamic loader refused the file, or a symbol is missing.
    #[error("the dynamic loader refused it")]
    Load(#[from] libloading::Error),
    /// The library is of another ABI than the one declared here.
    #[error("its interface is version {found}, not {ABI}")]
    Abi {
        /// What `krunfw_get_version` returned.
        found: c_int,
    },
    /// The library returned no image, or an implausible one.
    #[error("it returned an image of {size} bytes, outside 1..={MAX_IMAGE}")]
    Image {
        /// The size it gave.
        size: usize,
    },
}

/// Loads the library at `path`, hands its kernel to `use_image`, and unloads it again.
pub(crate) fn with_kernel<T>(
    path: &Path,
    use_image: impl FnOnce(Image<'_>) -> T,
) -> Result<T, KrunfwError> {
    // SAFETY: `Library::new` runs the library's initialisers, which must be sound to run here.
    // libkrunfw has none: it is compiled from one C file of two functions and a byte array. That
    // the file really is libkrunfw rests on whoever installed it, as with any linked library.
    let library = unsafe { Library::new(path) }?;
    // SAFETY: `Library::get` requires the type to match the symbol's; `GetVersion` is the
    // declaration in libkrunfw's source, unchanged over all its ABIs.
    let get_version = unsafe { library.get::<GetVersion>(b"krunfw_get_version\0") }?;
    // SAFETY: takes nothing, returns a constant.
    let found = unsafe { get_version() };
    if found != ABI {
        return Err(KrunfwError::Abi { found });
    }
    // SAFETY: as above; the signature is that of ABI 5, checked just now.
    let get_kernel = unsafe { library.get::<GetKernel>(b"krunfw_get_kernel\0") }?;
    let (mut load_address, mut entry, mut size) = (0usize, 0usize, 0usize);
    // SAFETY: writes one `size_t` through each pointer, and keeps none of them.
    let start = unsafe { get_kernel(&raw mut load_address, &raw mut entry, &raw mut size) };
    if start.is_null() || size == 0 || size > MAX_IMAGE {
        return Err(KrunfwError::Image { size });
    }
    // SAFETY: `start` points to `size` bytes of the library's static data, initialised, never
    // written, and mapped until `library` is dropped, which the borrow checker cannot see: the
    // slice's lifetime is that of this call to `use_image`, which ends before `library` does.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) };
    Ok(use_image(Image {
        load_address: load_address as u64,
        entry: entry as u64,
        bytes,
    }))
}
