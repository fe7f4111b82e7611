// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What an image's configuration means for the programs of an environment: variables, `PATH`, and where they
//! start. Its entrypoint never runs, and its user is told but not followed: a guest has `sandbox` and root.
//!
//! Whoever made the image may be hostile, but all of this concerns its own guest only; the host merely bounds it.

use serde_bytes::ByteBuf;
use waggle_images::{config::ImageConfig, images::PROTOCOL_LABEL};
use waggle_protocol::{
    handshake::{VERSION_MAX, VERSION_MIN},
    message::{EnvVar, ListFiles, User, WriteFile},
};

use crate::{
    environment::Made,
    session::{LinkError, Session, WriteMode, capture::lossy},
};

/// Most bytes of an image's variables that programs get: with the largest program and a caller's own
/// variables, a request stays well below what an agent accepts.
const VARIABLES_MAX: usize = 256 * 1024;

/// What belongs to the user that a program runs as, which an image does not choose.
const OF_THE_USER: [&str; 3] = ["HOME", "USER", "LOGNAME"];

/// Where agents look for the `PATH` of an image. Those of this release look again when they are asked to probe.
const PATH_FILE: &str = "/etc/waggle/path";

/// Where `sandbox` is at home, unless the image has a user of that name.
const HOME: &str = "/home/sandbox";

/// What programs of an environment take from its image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    variables: Vec<EnvVar>,
    directory: Option<ByteBuf>,
    notes: Vec<String>,
}

impl Surroundings {
    /// Those that this configuration asks for. Nothing was tried yet.
    fn of(config: &ImageConfig) -> Self {
        let mut notes: Vec<_> = config
            .notes
            .iter()
            .map(|note| format!("left out: {note}"))
            .collect();
        let mut variables = Vec::new();
        let mut room = VARIABLES_MAX;
        for (name, value) in &config.env {
            if OF_THE_USER.contains(&name.as_str()) {
                continue;
            }
            let Some(left) = room.checked_sub(name.len() + value.len()) else {
                notes.push(format!(
                    "left out: the image's variables from {name:.40} on, which exceed {VARIABLES_MAX} bytes"
                ));
                break;
            };
            room = left;
            variables.push(variable(name, value));
        }
        let stated = config
            .workdir
            .as_deref()
            .map(|path| path.trim_end_matches('/'));
        let directory = stated.filter(|path| !path.is_empty() && *path != HOME);
        Self {
            variables,
            directory: directory.map(|path| ByteBuf::from(path.as_bytes())),
            notes,
        }
    }

    /// Makes a guest that just booted ready for them, and leaves out what it cannot follow. `sandbox` code does not
    /// run in it yet.
    ///
    /// # Errors
    ///
    /// [`LinkError`] if the guest could not be reached.
    pub(super) async fn prepare(
        session: &Session,
        config: &ImageConfig,
    ) -> Result<Self, LinkError> {
        let mut surroundings = Self::of(config);
        if let Some(path) = stated_path(config)
            && session.capabilities().await.path.as_ref() != path.as_bytes()
        {
            tell_path(session, path).await?;
        }
        if let Some(directory) = &surroundings.directory {
            let request = ListFiles {
                path: directory.clone(),
                depth: 1,
                limit: 1,
                user: User::Sandbox,
            };
            match session.list_files(request).await {
                Ok(_) => {}
                Err(LinkError::Failed(failure)) => {
                    let (directory, why) = (lossy(directory), lossy(failure.message.as_bytes()));
                    surroundings.notes.push(format!(
                        "programs start in {HOME}: the image's working folder {directory:.200} cannot be entered \
                         ({why:.200})"
                    ));
                    surroundings.directory = None;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(surroundings)
    }

    /// The image's variables.
    pub(super) fn variables(&self) -> &[EnvVar] {
        &self.variables
    }

    /// Where programs start that say nothing of it; their user's home if absent.
    pub(super) fn directory(&self) -> Option<&ByteBuf> {
        self.directory.as_ref()
    }

    /// What is told of an environment that was made of this image.
    pub(super) fn made(&self, image: &waggle_images::Image) -> Made {
        let mut notes = self.notes.clone();
        let image_user = other_user(image.config.user.as_deref());
        if let Some(user) = &image_user {
            notes.push(format!(
                "the image names the user {user:.100}; programs run as sandbox, or as root where the call says so"
            ));
        }
        Made {
            digest: image.manifest,
            image_user,
            working_directory: self.directory.as_ref().map(|path| lossy(path)),
            notes,
        }
    }
}

/// First and last version of the guest protocol that an image's label states, if this server speaks none of them: then
/// no environment is made of it, unless the server puts its own agent in.
///
/// The label alone decides, whatever files the image has. One that states no versions is as none: the handshake decides.
pub(crate) fn foreign_agent(config: &ImageConfig) -> Option<(u16, u16)> {
    let spoken = versions(config.labels.get(PROTOCOL_LABEL)?)?;
    let common = spoken.0 <= VERSION_MAX && spoken.1 >= VERSION_MIN;
    (!common).then_some(spoken)
}

/// `FIRST-LAST`, as our images' label has it.
fn versions(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// One that is neither root nor `sandbox`, which are what a guest has anyway.
fn other_user(user: Option<&str>) -> Option<String> {
    let name = user?.split(':').next().unwrap_or_default();
    let usual = ["", "0", "root", "sandbox"].contains(&name);
    (!usual).then(|| name.to_owned())
}

/// The `PATH` that an image states, if it fits into the file of one line that agents read.
fn stated_path(config: &ImageConfig) -> Option<&str> {
    let stated = config.env.iter().find(|(name, _)| name == "PATH");
    let path = stated.map(|(_, value)| value.trim())?;
    (!path.is_empty() && !path.contains(['\n', '\0'])).then_some(path)
}

/// Has the agent look for interpreters and package managers where the image's programs find them. One that is too
/// old for that goes on looking where it did; programs get the image's `PATH` all the same.
async fn tell_path(session: &Session, path: &str) -> Result<(), LinkError> {
    let request = WriteFile {
        path: ByteBuf::from(PATH_FILE.as_bytes()),
        mode: None,
        create_parents: true,
        user: User::Root,
    };
    let line = format!("{path}\n");
    match session
        .write_file(request, WriteMode::Replace, line.as_bytes())
        .await
    {
        Ok(_) => session.forget_capabilities(),
        Err(LinkError::Failed(failure)) => {
            tracing::warn!(
                message = failure.message,
                "a guest did not take its image's PATH"
            );
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: ByteBuf::from(name.as_bytes()),
        value: ByteBuf::from(value.as_bytes()),
    }
}

/// The variables of a program, from several sources: a later one's value counts.
pub(super) fn layered<const N: usize>(sources: [&[EnvVar]; N]) -> Vec<EnvVar> {
    let mut all: Vec<EnvVar> = Vec::new();
    for source in sources {
        all.retain(|known| source.iter().all(|newer| newer.name != known.name));
        all.extend_from_slice(source);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn config(env: &[(&str, &str)], workdir: Option<&str>) -> ImageConfig {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ImageConfig {
            env: env.iter().map(pair).collect(),
            user: None,
            workdir: workdir.map(str::to_owned),
            entrypoint: vec!["/bin/never".to_owned()],
            cmd: Vec::new(),
            labels: BTreeMap::new(),
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            created: None,
            diff_ids: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn text(variables: &[EnvVar]) -> Vec<String> {
        let one = |each: &EnvVar| format!("{}={}", lossy(&each.name), lossy(&each.value));
        variables.iter().map(one).collect()
    }

    #[test]
    fn the_caller_comes_before_the_network_and_the_network_before_the_image() {
        let image = [
            variable("PATH", "/opt/bin"),
            variable("HTTP_PROXY", "http://image"),
            variable("A", "image"),
        ];
        let network = [
            variable("HTTP_PROXY", "http://network"),
            variable("B", "network"),
        ];
        let caller = [variable("A", "caller"), variable("B", "caller")];
        let all = layered([&image, &network, &caller]);
        assert_eq!(
            text(&all),
            [
                "PATH=/opt/bin",
                "HTTP_PROXY=http://network",
                "A=caller",
                "B=caller"
            ]
        );
    }

    #[test]
    fn an_image_does_not_choose_who_its_programs_are() {
        let config = config(
            &[("HOME", "/root"), ("USER", "root"), ("LANG", "de_DE.UTF-8")],
            None,
        );
        assert_eq!(
            text(&Surroundings::of(&config).variables),
            ["LANG=de_DE.UTF-8"]
        );
        for (user, told) in [
            (None, None),
            (Some("0:0"), None),
            (Some("root"), None),
            (Some("sandbox"), None),
            (Some("postgres:postgres"), Some("postgres")),
            (Some("101"), Some("101")),
        ] {
            assert_eq!(other_user(user).as_deref(), told);
        }
    }

    #[test]
    fn a_label_names_versions_or_nothing() {
        assert_eq!(versions("1-3"), Some((1, 3)));
        assert_eq!(versions("4"), Some((4, 4)));
        for odd in ["", "-", "1-", "x", "1-2-3", "99999", "1 - 2", "3-1"] {
            assert_eq!(versions(odd), None, "{odd}");
        }
    }

    #[test]
    fn an_agent_is_foreign_by_the_versions_of_its_label_alone() {
        let foreign = |label: Option<String>| {
            let mut config = config(&[], None);
            let label = label.map(|label| (PROTOCOL_LABEL.to_owned(), label));
            config.labels.extend(label);
            foreign_agent(&config)
        };
        assert_eq!(foreign(None), None);
        assert_eq!(foreign(Some("of this release".to_owned())), None);
        for known in [VERSION_MIN, VERSION_MAX] {
            assert_eq!(foreign(Some(known.to_string())), None);
        }
        let newer = VERSION_MAX + 1;
        assert_eq!(foreign(Some(format!("{VERSION_MAX}-{newer}"))), None);
        assert_eq!(
            foreign(Some(format!("{newer}-{newer}"))),
            Some((newer, newer))
        );
        assert_eq!(foreign(Some("0".to_owned())), Some((0, 0)));
    }

    #[test]
    fn variables_beyond_the_bound_are_left_out_with_a_note() {
        let long = "x".repeat(VARIABLES_MAX / 2);
        let config = config(&[("A", "1"), ("B", &long), ("C", &long), ("D", "4")], None);
        let surroundings = Surroundings::of(&config);
        assert_eq!(surroundings.variables.len(), 2);
        assert!(
            surroundings
                .notes
                .iter()
                .any(|note| note.contains("from C on")),
            "{surroundings:?}"
        );
    }

    #[test]
    fn only_a_folder_of_its_own_is_a_working_folder() {
        for (stated, taken) in [
            (None, None),
            (Some("/"), None),
            (Some("/home/sandbox"), None),
            (Some("/home/sandbox/"), None),
            (Some("/srv/app"), Some("/srv/app")),
            (Some("/srv/app/"), Some("/srv/app")),
        ] {
            let surroundings = Surroundings::of(&config(&[], stated));
            assert_eq!(
                surroundings.directory.map(|path| lossy(&path)).as_deref(),
                taken,
                "{stated:?}"
            );
        }
    }

    #[test]
    fn a_path_of_several_lines_is_not_told_to_the_agent() {
        assert_eq!(
            stated_path(&config(&[("PATH", "/a:/b")], None)),
            Some("/a:/b")
        );
        for odd in ["", " ", "/a\n/b"] {
            assert_eq!(stated_path(&config(&[("PATH", odd)], None)), None);
        }
    }
}
