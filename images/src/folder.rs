// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The folder of images: looks names up in its index and checks the files behind them.
//!
//! All calls block on the local file system. [`ImageStore::resolve`] reads the index and the first
//! bytes of one file (well under a millisecond); [`ImageStore::verify`] reads the whole image.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::ImageError;
use crate::index::{Index, MAX_INDEX_BYTES, is_plain_file_name};

/// The index's name within the image folder.
const INDEX_FILE: &str = "index.json";

/// Where an EROFS superblock begins, in bytes (`EROFS_SUPER_OFFSET` in Linux' `erofs_fs.h`).
const EROFS_SUPER_OFFSET: usize = 1024;

/// What an EROFS superblock begins with, little-endian (`EROFS_SUPER_MAGIC_V1`).
const EROFS_MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();

/// How much of an image is read at a time when it is verified: large enough that the system call
/// costs nothing beside the hashing, small enough to stay in the processor's cache.
const VERIFY_CHUNK_BYTES: usize = 128 * 1024;

/// One bootable, read-only root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name it was asked for by, such as `python`.
    pub name: String,
    /// Its EROFS file. The file may be replaced by a later build (which uses another name and
    /// keeps this one for one more build), so open it soon.
    pub path: PathBuf,
    /// The recorded SHA-256 of the file, in lower-case hexadecimal. Checked only by
    /// [`ImageStore::verify`].
    pub sha256: String,
    /// The size of the file, in bytes.
    pub bytes: u64,
}

/// A folder of images, as `./dev images` leaves it.
#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: PathBuf,
}

impl ImageStore {
    /// Opens the folder and checks that its index can be read.
    ///
    /// # Errors
    /// [`ImageError::NotBuilt`] if there is no index yet; else what is wrong with it.
    pub fn open(dir: PathBuf) -> Result<Self, ImageError> {
        let store = Self { dir };
        store.read_index()?;
        Ok(store)
    }

    /// Looks an image up and checks that its file is there, has the recorded size and is EROFS.
    ///
    /// # Errors
    /// [`ImageError::Unknown`] for a name the index does not hold; else what is wrong with the
    /// index or the image's file.
    pub fn resolve(&self, name: &str) -> Result<Image, ImageError> {
        self.open_image(name).map(|(image, _)| image)
    }

    /// Resolves an image and checks its whole content against the recorded SHA-256.
    ///
    /// # Errors
    /// As [`ImageStore::resolve`], and [`ImageError::DigestMismatch`].
    pub fn verify(&self, name: &str) -> Result<Image, ImageError> {
        let (image, mut file) = self.open_image(name)?;
        let found = digest(&mut file).map_err(|source| unreadable(&image.path, source))?;
        if found == image.sha256 {
            return Ok(image);
        }
        Err(ImageError::DigestMismatch {
            name: image.name,
            path: image.path,
            expected: image.sha256,
            found,
        })
    }

    /// What the package managers in the images say of their registries, `MANAGER=URL`: of all images
    /// that `./dev images` built, sorted, each once. Not checked.
    ///
    /// # Errors
    /// What is wrong with the index.
    pub fn registries(&self) -> Result<Vec<String>, ImageError> {
        let images = self.read_index()?.images.into_values();
        let all: BTreeSet<String> = images.flat_map(|entry| entry.registries).collect();
        Ok(all.into_iter().collect())
    }

    /// The image and its file, opened and rewound.
    fn open_image(&self, name: &str) -> Result<(Image, File), ImageError> {
        let mut images = self.read_index()?.images;
        let Some(entry) = images.remove(name) else {
            return Err(ImageError::Unknown {
                name: name.to_owned(),
                available: images.into_keys().collect(),
            });
        };
        let name = name.to_owned();
        if !is_plain_file_name(&entry.file) {
            return Err(ImageError::UnsafeFileName {
                name,
                file: entry.file,
            });
        }
        let path = self.dir.join(&entry.file);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::FileMissing { name, path });
            }
            Err(source) => return Err(unreadable(&path, source)),
        };
        let found = file
            .metadata()
            .map_err(|source| unreadable(&path, source))?
            .len();
        if found != entry.bytes {
            return Err(ImageError::SizeMismatch {
                name,
                path,
                expected: entry.bytes,
                found,
            });
        }
        if !starts_as_erofs(&file).map_err(|source| unreadable(&path, source))? {
            return Err(ImageError::NotErofs { name, path });
        }
        Ok((
            Image {
                name,
                path,
                sha256: entry.sha256,
                bytes: entry.bytes,
            },
            file,
        ))
    }

    fn read_index(&self) -> Result<Index, ImageError> {
        let path = self.dir.join(INDEX_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::NotBuilt {
                    dir: self.dir.clone(),
                });
            }
            Err(source) => return Err(unreadable(&path, source)),
        };
        // One byte past the ceiling tells a file that ends there from one that goes on.
        let mut bytes = Vec::new();
        let read = file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|source| unreadable(&path, source))?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_INDEX_BYTES) {
            Index::parse(&bytes, &path)
        } else {
            Err(ImageError::IndexTooLarge {
                path,
                limit: MAX_INDEX_BYTES,
            })
        }
    }
}

fn unreadable(path: &Path, source: io::Error) -> ImageError {
    ImageError::Unreadable {
        path: path.to_path_buf(),
        source,
    }
}

/// Whether the file begins with an EROFS superblock; leaves the position where it was.
fn starts_as_erofs(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; EROFS_MAGIC.len()];
    match file.read_exact_at(&mut magic, EROFS_SUPER_OFFSET as u64) {
        Ok(()) => Ok(magic == EROFS_MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// SHA-256 of the rest of `file`, in lower-case hexadecimal.
fn digest(file: &mut File) -> io::Result<String> {
    use std::fmt::Write;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; VERIFY_CHUNK_BYTES];
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(chunk.get(..read).unwrap_or_default());
    }
    let mut hex = String::with_capacity(64);
    for byte in hasher.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// SHA-256 of [`erofs_file`]'s bytes, from `sha256sum`.
    const DIGEST: &str = "1e8bbc51efd979b19f738394c05e01cdf82e9975595e1e144e87e2f10440c8be";

    /// 4 KiB that begin as EROFS does.
    fn erofs_file() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[EROFS_SUPER_OFFSET..EROFS_SUPER_OFFSET + 4].copy_from_slice(&EROFS_MAGIC);
        bytes
    }

    fn entry(file: &str) -> String {
        format!(r#"{{"file":"{file}","bytes":4096,"sha256":"{DIGEST}"}}"#)
    }

    fn write_index(dir: &Path, images: &str) {
        let text = format!(r#"{{"version":1,"images":{{{images}}}}}"#);
        fs::write(dir.join(INDEX_FILE), text).unwrap();
    }

    /// A folder with one good image, `base`, in `base-1.erofs`.
    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("base-1.erofs"), erofs_file()).unwrap();
        write_index(dir.path(), &format!(r#""base":{}"#, entry("base-1.erofs")));
        let store = ImageStore::open(dir.path().to_path_buf()).unwrap();
        (dir, store)
    }

    #[test]
    fn resolves_and_verifies_a_good_image() {
        let (dir, store) = store();
        let image = store.resolve("base").unwrap();
        assert_eq!(image.path, dir.path().join("base-1.erofs"));
        assert_eq!((image.name.as_str(), image.bytes), ("base", 4096));
        assert_eq!(store.verify("base").unwrap(), image);
    }

    #[test]
    fn an_empty_folder_says_how_to_build() {
        let dir = tempfile::tempdir().unwrap();
        for missing in [dir.path().to_path_buf(), dir.path().join("absent")] {
            let error = ImageStore::open(missing).unwrap_err();
            assert!(matches!(error, ImageError::NotBuilt { .. }), "{error}");
            assert!(error.to_string().contains("./dev images"), "{error}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let (_dir, store) = store();
        let text = store.resolve("ruby").unwrap_err().to_string();
        assert_eq!(
            text,
            "no image named \"ruby\" (there are: base): run `./dev images ruby` to build it"
        );
    }

    #[test]
    fn the_index_is_read_anew_each_time() {
        let (dir, store) = store();
        fs::write(dir.path().join("base-2.erofs"), erofs_file()).unwrap();
        write_index(dir.path(), &format!(r#""base":{}"#, entry("base-2.erofs")));
        assert_eq!(
            store.resolve("base").unwrap().path,
            dir.path().join("base-2.erofs")
        );
    }

    #[test]
    fn registries_are_those_of_all_images_each_once() {
        let (dir, store) = store();
        assert!(store.registries().unwrap().is_empty());
        let image = |name: &str, registries: &str| {
            let entry =
                entry("base-1.erofs").replace('}', &format!(r#","registries":[{registries}]}}"#));
            format!(r#""{name}":{entry}"#)
        };
        let one = image("a", r#""pip=https://b.example/","apt=http://a.example/""#);
        let other = image("b", r#""apt=http://a.example/""#);
        let foreign = format!(r#""c":{}"#, entry("base-1.erofs"));
        write_index(dir.path(), &format!("{one},{other},{foreign}"));
        let expected = ["apt=http://a.example/", "pip=https://b.example/"];
        assert_eq!(store.registries().unwrap(), expected);
    }

    #[test]
    fn an_index_never_leads_outside_its_folder() {
        let (dir, store) = store();
        for file in ["../base-1.erofs", "/etc/passwd", "..", "", "sub/base.erofs"] {
            write_index(dir.path(), &format!(r#""base":{}"#, entry(file)));
            let error = store.resolve("base").unwrap_err();
            assert!(
                matches!(error, ImageError::UnsafeFileName { .. }),
                "{file}: {error}"
            );
        }
    }

    #[test]
    fn a_file_that_is_missing_cut_or_foreign_is_refused() {
        let (dir, store) = store();
        let path = dir.path().join("base-1.erofs");

        fs::write(&path, vec![0; 4096]).unwrap();
        assert!(matches!(
            store.resolve("base"),
            Err(ImageError::NotErofs { .. })
        ));

        fs::write(&path, &erofs_file()[..2048]).unwrap();
        let error = store.resolve("base").unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::SizeMismatch {
                    expected: 4096,
                    found: 2048,
                    ..
                }
            ),
            "{error}"
        );

        fs::remove_file(&path).unwrap();
        assert!(matches!(
            store.resolve("base"),
            Err(ImageError::FileMissing { .. })
        ));
    }

    #[test]
    fn a_file_too_short_for_a_superblock_is_not_erofs() {
        let (dir, store) = store();
        fs::write(dir.path().join("base-1.erofs"), b"short").unwrap();
        write_index(
            dir.path(),
            r#""base":{"file":"base-1.erofs","bytes":5,"sha256":""}"#,
        );
        assert!(matches!(
            store.resolve("base"),
            Err(ImageError::NotErofs { .. })
        ));
    }

    #[test]
    fn a_changed_byte_is_found_by_verify_alone() {
        let (dir, store) = store();
        let mut bytes = erofs_file();
        bytes[4000] = 1;
        fs::write(dir.path().join("base-1.erofs"), bytes).unwrap();
        assert!(store.resolve("base").is_ok());
        let error = store.verify("base").unwrap_err();
        assert!(
            matches!(error, ImageError::DigestMismatch { .. }),
            "{error}"
        );
    }

    #[test]
    fn an_index_past_its_ceiling_is_refused_and_one_at_it_is_not() {
        let (dir, store) = store();
        let limit = usize::try_from(MAX_INDEX_BYTES).unwrap();
        let mut text = fs::read(dir.path().join(INDEX_FILE)).unwrap();
        text.resize(limit, b' ');
        fs::write(dir.path().join(INDEX_FILE), &text).unwrap();
        assert!(store.resolve("base").is_ok());
        text.push(b' ');
        fs::write(dir.path().join(INDEX_FILE), &text).unwrap();
        assert!(matches!(
            store.resolve("base"),
            Err(ImageError::IndexTooLarge { .. })
        ));
    }
}
