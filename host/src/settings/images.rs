// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What the operator chose for images: where they are kept and fetched from, and how much one may cost.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use waggle_images::{
    Limits,
    images::Options,
    registry::{Mirror, MirrorError},
};

use super::{SettingsError, default_dir, duration};

const MIB: u64 = 1024 * 1024;

/// Where images are looked for before their registries, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrors(pub Vec<Mirror>);

impl Mirrors {
    /// Reads comma-separated `REGISTRY=HOST[:PORT][/PREFIX]`.
    ///
    /// # Errors
    ///
    /// With the first that is none.
    pub fn parse(text: &str) -> Result<Self, MirrorError> {
        Mirror::parse_list(text).map(Self)
    }
}

/// The flags of all commands that look at images, running ones or not.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageSettings {
    /// Where the images are [default: `waggle/images` in the user's cache]
    #[arg(long, global = true, env = "WAGGLE_IMAGE_CACHE_DIR")]
    pub image_cache_dir: Option<PathBuf>,

    /// Where images are looked for before their registry, separated by commas: REGISTRY=HOST[:PORT][/PREFIX] (like
    /// docker.io=mirror.example/hub)
    #[arg(long, global = true, env = "WAGGLE_IMAGE_MIRRORS", default_value = "", value_parser = Mirrors::parse)]
    pub image_mirrors: Mirrors,

    /// Most files, folders and other entries of one image
    #[arg(long, global = true, env = "WAGGLE_IMAGE_MAX_ENTRIES", default_value_t = Limits::default().entries, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub image_max_entries: u64,

    /// Most layers of one image
    #[arg(long, global = true, env = "WAGGLE_IMAGE_MAX_LAYERS", default_value_t = layers(), value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub image_max_layers: u16,

    /// Most of one layer as it is transferred, in MiB
    #[arg(long, global = true, env = "WAGGLE_IMAGE_MAX_LAYER_MB", default_value_t = mib(Limits::default().blob_bytes), value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub image_max_layer_mb: u32,

    /// Most of all layers of one image together, unpacked, in MiB
    #[arg(long, global = true, env = "WAGGLE_IMAGE_MAX_UNPACKED_MB", default_value_t = mib(Limits::default().unpacked_bytes), value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub image_max_unpacked_mb: u32,

    /// Most of one file of an image, holes included, in MiB
    #[arg(long, global = true, env = "WAGGLE_IMAGE_MAX_FILE_MB", default_value_t = mib(Limits::default().file_bytes), value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub image_max_file_mb: u32,

    /// Most memory for the names, links and attributes of one image while its root is made, in MiB
    #[arg(long, global = true, env = "WAGGLE_IMAGE_MAX_MEMORY_MB", default_value_t = mib(Limits::default().memory_bytes), value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub image_max_memory_mb: u32,

    /// Images that were not used for this long are removed (like 12h, 168h)
    #[arg(long, global = true, env = "WAGGLE_IMAGE_CACHE_MAX_AGE", default_value = "168h", value_parser = duration)]
    pub image_cache_max_age: Duration,

    /// Most of all images together, in MiB; those that were not used for the longest go first,
    /// and only pulled ones
    #[arg(long, global = true, env = "WAGGLE_IMAGE_CACHE_MB", default_value_t = 20_480, value_parser = clap::value_parser!(u32).range(64..=1_073_741_824))]
    pub image_cache_mb: u32,
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

    /// What [`Images`](waggle_images::Images) are opened with. Registries are trusted by the certificates in
    /// `ca_bundle`, too.
    ///
    /// # Errors
    ///
    /// [`SettingsError::NoHome`].
    pub fn options(&self, ca_bundle: Option<&Path>) -> Result<Options, SettingsError> {
        let limits = self.limits();
        let mut options = Options::new(self.folder()?);
        options.registry.ca_bundle = ca_bundle.map(Path::to_owned);
        options.registry.mirrors.clone_from(&self.image_mirrors.0);
        options.registry.limits = limits.clone();
        options.limits = limits;
        options.max_age = Some(self.image_cache_max_age);
        options.max_bytes = Some(u64::from(self.image_cache_mb) * MIB);
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory as _, Parser as _};
    use waggle_images::{layer::LayerError, root::RootError, store::StoreError};

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        images: ImageSettings,
    }

    fn options(arguments: &[&str]) -> Options {
        let words = [&["waggle", "--image-cache-dir", "/i"], arguments].concat();
        let line = Line::try_parse_from(words).expect("flags");
        line.images.options(None).expect("a folder is named")
    }

    #[test]
    fn what_is_not_chosen_is_as_the_crate_has_it() {
        let options = options(&[]);
        assert_eq!(options.limits, Limits::default());
        assert_eq!(options.registry.limits, Limits::default());
        assert_eq!(options.max_age, Some(Options::MAX_AGE));
        assert_eq!(options.max_bytes, Some(20 << 30));
        assert_eq!(options.dir, PathBuf::from("/i"));
    }

    #[test]
    fn ceilings_are_chosen_one_by_one() {
        type Set = fn(&mut Limits);
        let flags: [(&str, Set); 6] = [
            ("--image-max-entries", |limits| limits.entries = 7),
            ("--image-max-layers", |limits| limits.layers = 7),
            ("--image-max-layer-mb", |limits| limits.blob_bytes = 7 << 20),
            ("--image-max-unpacked-mb", |limits| {
                limits.unpacked_bytes = 7 << 20;
            }),
            ("--image-max-file-mb", |limits| limits.file_bytes = 7 << 20),
            ("--image-max-memory-mb", |limits| {
                limits.memory_bytes = 7 << 20;
            }),
        ];
        for (flag, set) in flags {
            let mut expected = Limits::default();
            set(&mut expected);
            let chosen = options(&[flag, "7"]);
            assert_eq!(chosen.limits, expected, "{flag}");
            assert_eq!(chosen.registry.limits, expected, "{flag}");
        }
        let chosen = options(&["--image-mirrors", "docker.io=mirror.example/hub"]);
        assert_eq!(chosen.registry.mirrors.len(), 1);
        let chosen = options(&["--image-cache-max-age", "2h", "--image-cache-mb", "64"]);
        assert_eq!(chosen.max_age, Some(Duration::from_secs(7200)));
        assert_eq!(chosen.max_bytes, Some(64 << 20));
    }

    /// Whoever meets a ceiling is told which setting raises it, and there is such a setting.
    #[test]
    fn errors_name_settings_that_are_there() {
        let (path, limit) = (b"f".to_vec(), 1);
        let texts = [
            LayerError::FileTooLarge {
                path,
                size: 2,
                limit,
            }
            .to_string(),
            LayerError::TooLarge { needed: 2, limit }.to_string(),
            LayerError::TooManyEntries { limit }.to_string(),
            RootError::Layers {
                layers: 2,
                limit: 1,
            }
            .to_string(),
            RootError::Entries { entries: 2, limit }.to_string(),
            RootError::Memory { bytes: 2, limit }.to_string(),
            RootError::Steps { limit }.to_string(),
            StoreError::TooLarge { limit }.to_string(),
            StoreError::BombOfBytes { limit }.to_string(),
            StoreError::BombOfEntries { limit }.to_string(),
        ];
        let command = Line::command();
        let settings: BTreeSet<&str> = command
            .get_arguments()
            .filter_map(|argument| argument.get_env()?.to_str())
            .collect();
        let mut named = BTreeSet::new();
        for text in &texts {
            let name = text.split(' ').find(|word| word.starts_with("WAGGLE_"));
            let name = name.unwrap_or_else(|| panic!("no setting: {text}"));
            assert!(settings.contains(name), "{text}");
            named.insert(name);
        }
        assert_eq!(named.len(), 6, "one for each ceiling: {named:?}");
    }
}
