// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The checklist for images that others made: what environments need of an image, looked for in its merged files as
//! the guest would look for it, and as this server's owner has it run. Nothing of it runs.
//!
//! An image without our agent works, because a server brings its own. What only a way into a guest without any agent
//! would take (`base64`, `find`) is told, and not needed.

mod contents;
mod general;
mod runtimes;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;
use waggle_images::{config::ImageConfig, root::Tree};

use crate::{environment::Runtime, resolve::Overrides, settings::Settings};
use contents::Contents;
use runtimes::Runtimes;

/// One line of the checklist.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    /// What is looked for.
    pub(super) part: &'static str,
    /// Whether it is there.
    pub(super) passed: bool,
    /// Whether environments do not work without it.
    pub(super) needed: bool,
    /// What was found, or not.
    pub(super) found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<&'static str>,
}

impl Item {
    /// One without which no environment works; `remedy` is told if it is missing.
    fn needed(part: &'static str, passed: bool, found: String, remedy: &'static str) -> Self {
        Self {
            needed: true,
            ..Self::useful(part, passed, found, remedy)
        }
    }

    /// One that something works without.
    fn useful(part: &'static str, passed: bool, found: String, remedy: &'static str) -> Self {
        Self {
            part,
            passed,
            needed: false,
            found,
            remedy: (!passed).then_some(remedy),
        }
    }
}

/// What the image can do for a runtime.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Served {
    runtime: &'static str,
    /// Whether packages can be installed, too.
    packages: bool,
}

impl Served {
    /// If it runs programs at all.
    fn of(runtime: Runtime, runs: bool, packages: bool) -> Option<Self> {
        let runtime = runtime.name();
        runs.then_some(Self { runtime, packages })
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.runtime)?;
        if self.packages {
            return Ok(());
        }
        f.write_str(" (without install_packages)")
    }
}

/// The whole of it.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    pub(super) items: Vec<Item>,
    /// Runtimes whose programs it can run.
    pub(super) runtimes: Vec<Served>,
}

impl Checked {
    /// Whether nothing is missing that is needed.
    pub(super) fn is_good(&self) -> bool {
        self.items.iter().all(|item| item.passed || !item.needed)
    }
}

/// What the server's owner chose that decides how an image is used.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    overrides: Overrides,
    /// Whether the image's own agent is passed over.
    inject_agent: bool,
}

impl Chosen {
    /// As a server has it that is started with these settings.
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            overrides: settings.overrides(),
            inject_agent: settings.agent_inject,
        }
    }
}

/// Goes through the checklist.
pub(super) fn check(tree: &Tree, config: &ImageConfig, chosen: &Chosen) -> Checked {
    let image = Contents::new(tree, config);
    let runtimes = Runtimes::new(&image, config, &chosen.overrides);
    let shell = general::shell(&image);
    let python = runtimes.python();
    let node = runtimes.node();
    let system = runtimes.shell(shell.passed);
    let mut items = vec![
        shell,
        general::agent(&image, config, chosen.inject_agent),
        general::sandbox(&image),
    ];
    let mut served = Vec::new();
    for (lines, serves) in [python, node, system] {
        items.extend(lines);
        served.extend(serves);
    }
    items.extend(general::gnu(&image));
    Checked {
        items,
        runtimes: served,
    }
}
