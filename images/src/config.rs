// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An image's configuration (image-spec, config.md; Docker's is the same for what is used here): what its programs
//! expect of their surroundings, and which layers it has.
//!
//! Whoever made it may be hostile. What does not concern the files, and makes no sense, is left out with a note
//! instead of refusing the image: it would run without it.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::ImageConfiguration;

use crate::Digest;
use crate::digest::DigestError;

/// What an image says of how its programs are run. Nothing in it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Environment variables in the image's order, each name once: the last one counts.
    pub env: Vec<(String, String)>,
    /// `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
    /// An absolute path.
    pub workdir: Option<String>,
    /// What would be run. Waggle does not.
    pub entrypoint: Vec<String>,
    /// Its arguments, or what would be run if there is no entrypoint.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// As Go names it, such as `amd64`. It is this host's.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// When it was made, as it says itself.
    pub created: Option<String>,
    /// The digests of its layers' tars, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// What was left out, for people.
    pub notes: Vec<String>,
}

/// Why an image with this configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or not of a configuration's shape.
    #[error("the image's configuration is malformed")]
    Malformed(#[source] serde_json::Error),
    /// For other machines.
    #[error(
        "the image is for {os}/{architecture}, this host is linux/{host}: pull one that is built for it"
    )]
    Platform {
        /// Its operating system.
        os: String,
        /// Its processor.
        architecture: String,
        /// This host's.
        host: &'static str,
    },
    /// A layer is named by something else than a digest of ours.
    #[error("the image's configuration names a layer wrongly")]
    DiffId(#[source] DigestError),
    /// Not as many layers as the manifest has.
    #[error("the image's configuration has {diff_ids} layers, its manifest {layers}")]
    Layers {
        /// Diff ids in the configuration.
        diff_ids: usize,
        /// Layers in the manifest.
        layers: usize,
    },
}

/// Bytes of one variable: Linux takes no longer ones (`MAX_ARG_STRLEN`, with its terminator).
const LONGEST_VARIABLE: usize = (128 << 10) - 1;

/// Bytes of all variables: a program gets them and its arguments within a quarter of its stack, 2 MiB.
const MOST_ENV_BYTES: usize = 512 << 10;

/// How many variables: each is a part of every request to run something. Real images have some ten.
const MOST_VARIABLES: usize = 1000;

/// How many notes are kept: they are for people.
const MOST_NOTES: usize = 20;

/// This host's processor, as Go and so images name it.
#[must_use]
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl ImageConfig {
    /// Reads a configuration and holds it against this host and the manifest's number of layers.
    ///
    /// # Errors
    ///
    /// It is malformed, for another platform, or does not fit the manifest.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ConfigError> {
        let parsed: ImageConfiguration =
            serde_json::from_slice(bytes).map_err(ConfigError::Malformed)?;
        let host = host_architecture();
        let (os, architecture) = (parsed.os().to_string(), parsed.architecture().to_string());
        if os != "linux" || architecture != host {
            return Err(ConfigError::Platform {
                os,
                architecture,
                host,
            });
        }
        let diff_ids = parsed.rootfs().diff_ids();
        if diff_ids.len() != layers {
            return Err(ConfigError::Layers {
                diff_ids: diff_ids.len(),
                layers,
            });
        }
        let diff_ids = diff_ids
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()
            .map_err(ConfigError::DiffId)?;
        let created = parsed.created().clone();
        let config = parsed.config().clone().unwrap_or_default();
        let mut notes = Notes::default();
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(Self {
            env: variables(config.env().as_deref().unwrap_or_default(), &mut notes),
            user: text(config.user()).filter(|user| notes.keeps_user(user)),
            workdir: text(config.working_dir()).filter(|path| notes.keeps_workdir(path)),
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            labels: config
                .labels()
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            architecture,
            os,
            created,
            diff_ids,
            notes: notes.0,
        })
    }
}

/// `NAME=VALUE` pairs that a program can be given, each name once.
fn variables(pairs: &[String], notes: &mut Notes) -> Vec<(String, String)> {
    let good = good_variables(pairs, notes);
    // From the end, so that the value that counts is met first.
    let mut seen = BTreeSet::new();
    let last = good.iter().rev().filter(|(name, _)| seen.insert(*name));
    let mut variables: Vec<_> = last
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    variables.reverse();
    variables
}

/// Those that Linux takes, as far as there is room.
fn good_variables<'a>(pairs: &'a [String], notes: &mut Notes) -> Vec<(&'a str, &'a str)> {
    let mut variables = Vec::new();
    let mut bytes = 0_usize;
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            notes.add(format!(
                "the variable {:?} has no name or no value",
                head(pair)
            ));
            continue;
        };
        if pair.contains('\0') || pair.len() > LONGEST_VARIABLE {
            notes.add(format!(
                "the variable {:?} cannot be given to programs",
                head(name)
            ));
            continue;
        }
        bytes = bytes.saturating_add(pair.len() + 1);
        if bytes > MOST_ENV_BYTES {
            notes.add(format!(
                "variables from {:?} on, over {MOST_ENV_BYTES} bytes",
                head(name)
            ));
            break;
        }
        if variables.len() == MOST_VARIABLES {
            notes.add(format!(
                "variables from {:?} on, over {MOST_VARIABLES} of them",
                head(name)
            ));
            break;
        }
        variables.push((name, value));
    }
    variables
}

/// As much of a text as a note has room for.
fn head(text: &str) -> &str {
    let end = text.char_indices().nth(40).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}

#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, left_out: String) {
        if self.0.len() < MOST_NOTES {
            self.0.push(left_out);
        }
    }

    fn keeps_user(&mut self, user: &str) -> bool {
        let good = user.len() <= 256 && !user.contains(['\0', '\n']);
        if !good {
            self.add(format!("the user {:?} is no name", head(user)));
        }
        good
    }

    fn keeps_workdir(&mut self, path: &str) -> bool {
        let good = path.starts_with('/') && path.len() < 4096 && !path.contains('\0');
        if !good {
            self.add(format!(
                "the working folder {:?} is no absolute path",
                head(path)
            ));
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(config: &str, layers: usize) -> Vec<u8> {
        let diff_ids = vec![format!("\"{}\"", Digest::of(b"layer")); layers].join(",");
        let host = host_architecture();
        format!(
            r#"{{"architecture":"{host}","os":"linux","config":{config},
                "rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}},"history":[{{"created_by":"x"}}]}}"#
        )
        .into_bytes()
    }

    #[test]
    fn reads_what_docker_writes() {
        let config = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"ExposedPorts":{"80/tcp":{}},
            "Env":["PATH=/usr/bin:/bin","A=b=c","EMPTY="],"Cmd":["nginx"],"Image":"","Volumes":null,
            "WorkingDir":"/srv","Entrypoint":["/entry"],"OnBuild":null,"Labels":{"a":"b"},"StopSignal":"SIGQUIT"}"#;
        let parsed = ImageConfig::parse(&json(config, 2), 2).unwrap();
        let env: Vec<_> = parsed
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            env,
            [("PATH", "/usr/bin:/bin"), ("A", "b=c"), ("EMPTY", "")]
        );
        assert_eq!(parsed.user, None);
        assert_eq!(parsed.workdir.as_deref(), Some("/srv"));
        assert_eq!(
            (parsed.entrypoint, parsed.cmd),
            (vec!["/entry".into()], vec!["nginx".into()])
        );
        assert_eq!(parsed.labels.get("a").map(String::as_str), Some("b"));
        assert_eq!(parsed.diff_ids.len(), 2);
        assert!(parsed.notes.is_empty(), "{:?}", parsed.notes);
    }

    #[test]
    fn reads_all_nulls() {
        let config = r#"{"Env":null,"Cmd":null,"Entrypoint":null,"Labels":null,"User":null,"WorkingDir":null}"#;
        for config in [config, "{}", "null"] {
            let parsed = ImageConfig::parse(&json(config, 0), 0).unwrap();
            assert!(parsed.env.is_empty() && parsed.labels.is_empty());
        }
    }

    #[test]
    fn leaves_out_what_makes_no_sense_and_says_so() {
        let long = "x".repeat(LONGEST_VARIABLE);
        let config = format!(
            r#"{{"Env":["=x","novalue","A=1","B=\u0000","C={long}","A=2"],"WorkingDir":"srv","User":"a\nb"}}"#
        );
        let parsed = ImageConfig::parse(&json(&config, 0), 0).unwrap();
        assert_eq!(parsed.env, [("A".to_owned(), "2".to_owned())]);
        assert_eq!((parsed.workdir, parsed.user), (None, None));
        assert_eq!(parsed.notes.len(), 6, "{:?}", parsed.notes);
        let many: Vec<_> = (0..2000)
            .map(|n| format!("\"V{n}={}\"", "x".repeat(1000)))
            .collect();
        let config = format!(r#"{{"Env":[{}]}}"#, many.join(","));
        let parsed = ImageConfig::parse(&json(&config, 0), 0).unwrap();
        assert!(
            parsed.env.len() < 600 && parsed.notes.len() == 1,
            "{}",
            parsed.env.len()
        );
    }

    #[test]
    fn variables_are_bounded_by_their_number_and_the_last_of_a_name_counts() {
        let env = |pairs: &[String]| {
            let pairs: Vec<_> = pairs.iter().map(|pair| format!("\"{pair}\"")).collect();
            let config = format!(r#"{{"Env":[{}]}}"#, pairs.join(","));
            let parsed = ImageConfig::parse(&json(&config, 0), 0).unwrap();
            (parsed.env, parsed.notes)
        };
        // As many as there is room for bytes of: what is done for each must not grow with their number.
        let many: Vec<_> = (0..100_000).map(|n| format!("{n:x}=")).collect();
        let (kept, notes) = env(&many);
        assert_eq!(kept.len(), MOST_VARIABLES);
        assert_eq!(kept[10].0, "a");
        assert!(notes.len() == 1 && notes[0].contains("1000"), "{notes:?}");
        let (kept, notes) = env(&many[..MOST_VARIABLES]);
        assert_eq!((kept.len(), notes.len()), (MOST_VARIABLES, 0));

        let again = ["A=1", "B=1", "A=2", "C=1", "B=2"].map(str::to_owned);
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let expected = [("A", "2"), ("C", "1"), ("B", "2")].map(pair);
        assert_eq!(env(&again).0, expected);
    }

    #[test]
    fn refuses_other_machines_and_other_layers() {
        let good = String::from_utf8(json("{}", 1)).unwrap();
        let other = good.replace(host_architecture(), "s390x");
        assert!(matches!(
            ImageConfig::parse(other.as_bytes(), 1),
            Err(ConfigError::Platform { architecture, .. }) if architecture == "s390x"
        ));
        let windows = good.replace("linux", "windows");
        assert!(matches!(
            ImageConfig::parse(windows.as_bytes(), 1),
            Err(ConfigError::Platform { .. })
        ));
        assert!(matches!(
            ImageConfig::parse(good.as_bytes(), 2),
            Err(ConfigError::Layers {
                diff_ids: 1,
                layers: 2
            })
        ));
        let md5 = good.replace("sha256:", "md5:");
        assert!(matches!(
            ImageConfig::parse(md5.as_bytes(), 1),
            Err(ConfigError::DiffId(_))
        ));
        for bad in ["", "[]", "{}", "{\"os\":1}"] {
            assert!(matches!(
                ImageConfig::parse(bad.as_bytes(), 0),
                Err(ConfigError::Malformed(_))
            ));
        }
    }
}
