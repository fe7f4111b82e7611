// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the operator chose for images: where they are kept and fetched from, and how much one may cost.

use std::{path::PathBuf, time::Duration};

use waggle_images::Limits;

use super::{SettingsError, default_dir, duration};

const MIB: u64 = 1024 * 1024;

/// The flags of all commands that look at images, running ones or not.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageSettings {
    /// Where the images are [default: `waggle/images` in the user's cache]
    #[arg(long, env = "WAGGLE_IMAGE_CACHE_DIR")]
    pub image_cache_dir: Option<PathBuf>,

    /// Where images are fetched from instead of their registries, separated by commas: REGISTRY=URL; the registry
    /// itself is asked last
    #[arg(long, env = "WAGGLE_IMAGE_MIRRORS", default_value = "")]
    pub image_mirrors: String,

    /// Most files, folders and other entries of one image
    #[arg(long, env = "WAGGLE_IMAGE_MAX_ENTRIES", default_value_t = Limits::default().entries, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub image_max_entries: u64,

    /// Most layers of one image
    #[arg(long, env = "WAGGLE_IMAGE_MAX_LAYERS", default_value_t = layers(), value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub image_max_layers: u16,

    /// Most of one layer as it is transferred, in MiB
    #[arg(long, env = "WAGGLE_IMAGE_MAX_LAYER_MB", default_value_t = mib(Limits::default().blob_bytes), value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub image_max_layer_mb: u32,

    /// Most of all layers of one image together, unpacked, in MiB
    #[arg(long, env = "WAGGLE_IMAGE_MAX_UNPACKED_MB", default_value_t = mib(Limits::default().unpacked_bytes), value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub image_max_unpacked_mb: u32,

    /// Most of one file of an image, holes included, in MiB
    #[arg(long, env = "WAGGLE_IMAGE_MAX_FILE_MB", default_value_t = mib(Limits::default().file_bytes), value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub image_max_file_mb: u32,

    /// Most memory for the names, links and attributes of one image while its root is made, in MiB
    #[arg(long, env = "WAGGLE_IMAGE_MAX_MEMORY_MB", default_value_t = mib(Limits::default().memory_bytes), value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub image_max_memory_mb: u32,
}

/// What a server keeps of images, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageCache {
    /// Images that were not used for this long are removed (like 12h, 168h)
    #[arg(long, env = "WAGGLE_IMAGE_CACHE_MAX_AGE", default_value = "168h", value_parser = duration)]
    pub image_cache_max_age: Duration,

    /// Most of all images together, in MiB; those that were not used for the longest go first
    #[arg(long, env = "WAGGLE_IMAGE_CACHE_MB", default_value_t = 20_480, value_parser = clap::value_parser!(u32).range(64..=1_073_741_824))]
    pub image_cache_mb: u32,
}

impl ImageCache {
    /// Most bytes of all images together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.image_cache_mb) * MIB
    }
}

/// clap wants a default of the flag's own type.
fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}

fn layers() -> u16 {
    u16::try_from(Limits::default().layers).unwrap_or(u16::MAX)
}

impl ImageSettings {
    /// Where the images are. Not below a chosen data folder: images are shared.
    ///
    /// # Errors
    ///
    /// [`SettingsError::NoHome`].
    pub fn folder(&self) -> Result<PathBuf, SettingsError> {
        match &self.image_cache_dir {
            Some(folder) => Ok(folder.clone()),
            None => Ok(default_dir()?.join("images")),
        }
    }

    /// How much one image may be, have and cost.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            layers: usize::from(self.image_max_layers),
            blob_bytes: u64::from(self.image_max_layer_mb) * MIB,
            unpacked_bytes: u64::from(self.image_max_unpacked_mb) * MIB,
            file_bytes: u64::from(self.image_max_file_mb) * MIB,
            entries: self.image_max_entries,
            memory_bytes: u64::from(self.image_max_memory_mb) * MIB,
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        images: ImageSettings,
        #[command(flatten)]
        cache: ImageCache,
    }

    fn parse(arguments: &[&str]) -> Line {
        Line::try_parse_from([&["waggle"], arguments].concat()).expect("flags")
    }

    #[test]
    fn what_is_not_chosen_is_as_the_crate_has_it() {
        let line = parse(&[]);
        assert_eq!(line.images.limits(), Limits::default());
        assert_eq!(line.cache.image_cache_max_age, Duration::from_secs(168 * 3600));
        assert_eq!(line.cache.bytes(), 20 << 30);
    }

    #[test]
    fn ceilings_are_chosen_one_by_one() {
        let chosen = parse(&["--image-max-entries", "5", "--image-max-unpacked-mb", "7"]);
        let expected = Limits {
            entries: 5,
            unpacked_bytes: 7 << 20,
            ..Limits::default()
        };
        assert_eq!(chosen.images.limits(), expected);
    }
}
