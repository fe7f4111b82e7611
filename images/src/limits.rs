// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How much an image may be, have and cost. Whoever made it may be hostile: each number here is held
//! against what was read, not against what the image states.

/// The settings that raise the ceilings, for errors. The host's flags must be the same.
pub(crate) const SETTING_ENTRIES: &str = "WAGGLE_IMAGE_MAX_ENTRIES";
pub(crate) const SETTING_LAYERS: &str = "WAGGLE_IMAGE_MAX_LAYERS";
pub(crate) const SETTING_LAYER: &str = "WAGGLE_IMAGE_MAX_LAYER_MB";
pub(crate) const SETTING_UNPACKED: &str = "WAGGLE_IMAGE_MAX_UNPACKED_MB";
pub(crate) const SETTING_FILE: &str = "WAGGLE_IMAGE_MAX_FILE_MB";
pub(crate) const SETTING_MEMORY: &str = "WAGGLE_IMAGE_MAX_MEMORY_MB";

/// The ceilings. All are inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest or an index. Registries must take 4 MiB (distribution-spec, "Pushing manifests"),
    /// and none takes more.
    pub manifest_bytes: u64,
    /// Bytes of an image's configuration: it carries the history, one line a layer.
    pub config_bytes: u64,
    /// Layers of an image. Docker stops at 127.
    pub layers: usize,
    /// Bytes of one layer as it is transferred.
    pub blob_bytes: u64,
    /// Bytes of all layers together, unpacked: what one image may take on the disk. A bomb ends here.
    pub unpacked_bytes: u64,
    /// Bytes of one file, its holes included: they take no room, but are walked.
    pub file_bytes: u64,
    /// Files, folders and all else, of all layers together.
    pub entries: u64,
    /// Bytes of names, link targets and extended attributes that are held at once while a root is made.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        Self {
            manifest_bytes: 4 * MIB,
            config_bytes: 8 * MIB,
            layers: 127,
            blob_bytes: 16 * GIB,
            unpacked_bytes: 32 * GIB,
            file_bytes: 32 * GIB,
            entries: 2_000_000,
            memory_bytes: 512 * MIB,
        }
    }
}
