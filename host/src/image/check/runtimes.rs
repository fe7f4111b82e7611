// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What each runtime takes of an image: what runs its programs, what installs packages, and where those go.
//!
//! Which program that is, and whom it runs as, is decided by [`resolve`], as for a call: the owner's command, else
//! what the image has.

use waggle_images::config::ImageConfig;
use waggle_protocol::message::{Capabilities, User};

use super::{
    Item, Served,
    contents::{Contents, Program},
};
use crate::{
    environment::Runtime,
    resolve::{self, Overrides, Purpose},
    session::capture::lossy,
};

/// The lines of a runtime, and whether it is served.
type Lines = (Vec<Item>, Option<Served>);

/// A program that a runtime takes.
struct Wanted {
    part: &'static str,
    runtime: Runtime,
    purpose: Purpose,
    /// What it may be called.
    names: &'static str,
    remedy: &'static str,
}

const PYTHON: Wanted = Wanted {
    part: "python",
    runtime: Runtime::Python,
    purpose: Purpose::Exec,
    names: "python3, python",
    remedy: "for the runtime python: install Python 3 (Debian: apt-get install python3)",
};
const PIP: Wanted = Wanted {
    part: "pip",
    runtime: Runtime::Python,
    purpose: Purpose::Install,
    names: "pip3, pip",
    remedy: "for install_packages: install pip (Debian: apt-get install python3-pip python3-venv)",
};
const NODE: Wanted = Wanted {
    part: "node",
    runtime: Runtime::Node,
    purpose: Purpose::Exec,
    names: "node",
    remedy: "for the runtime node: install Node.js (Debian: apt-get install nodejs)",
};
const NPM: Wanted = Wanted {
    part: "npm",
    runtime: Runtime::Node,
    purpose: Purpose::Install,
    names: "npm",
    remedy: "for install_packages: install npm (Debian: apt-get install npm)",
};
/// `/bin/sh` is looked for in every image; this is another one.
const INTERPRETER: Wanted = Wanted {
    part: "shell interpreter",
    runtime: Runtime::Shell,
    purpose: Purpose::Exec,
    names: "sh",
    remedy: "for the runtime shell: install a POSIX shell",
};
const MANAGER: Wanted = Wanted {
    part: "package manager",
    runtime: Runtime::Shell,
    purpose: Purpose::Install,
    names: "apt-get, apk, dnf, yum, zypper",
    remedy: "for install_packages in the runtime shell: begin FROM a distribution with apt, apk, dnf, yum or zypper, \
             or have the server's owner set WAGGLE_RUNTIME_SHELL_INSTALL_COMMAND",
};

/// Where an npm's own configuration may be: Debian's npm, others' in /usr, and what is unpacked from Node's archives.
const NPM_BUILTIN: [&str; 3] = [
    "/usr/share/nodejs/npm/npmrc",
    "/usr/lib/node_modules/npm/npmrc",
    "/usr/local/lib/node_modules/npm/npmrc",
];

/// An image, and how a server with these commands uses it.
pub(super) struct Runtimes<'a> {
    image: &'a Contents<'a>,
    config: &'a ImageConfig,
    overrides: &'a Overrides,
    found: Capabilities,
}

impl<'a> Runtimes<'a> {
    pub(super) fn new(
        image: &'a Contents<'a>,
        config: &'a ImageConfig,
        overrides: &'a Overrides,
    ) -> Self {
        Self {
            image,
            config,
            overrides,
            found: image.capabilities(),
        }
    }

    pub(super) fn python(&self) -> Lines {
        let (python, pip) = (self.look_for(&PYTHON), self.look_for(&PIP));
        let place = python.passed.then(|| self.place());
        let installs = match place {
            Some(Place::Chosen | Place::Shipped(_)) => pip.passed,
            Some(Place::Made) => true,
            Some(Place::NotOurs(_) | Place::Nowhere) | None => false,
        };
        let served = Served::of(Runtime::Python, python.passed, installs);
        let venv = place.map(Place::item);
        ([python, pip].into_iter().chain(venv).collect(), served)
    }

    pub(super) fn node(&self) -> Lines {
        let (node, npm) = (self.look_for(&NODE), self.look_for(&NPM));
        let prefix = npm.passed.then(|| self.npm_prefix());
        let installs = prefix.as_ref().is_some_and(|prefix| prefix.passed);
        let served = Served::of(Runtime::Node, node.passed, installs);
        ([node, npm].into_iter().chain(prefix).collect(), served)
    }

    /// `has_shell` says that there is `/bin/sh`.
    pub(super) fn shell(&self, has_shell: bool) -> Lines {
        let own = self.is_chosen(&INTERPRETER);
        let own = own.then(|| self.look_for(&INTERPRETER));
        let manager = self.look_for(&MANAGER);
        let runs = own.as_ref().map_or(has_shell, |own| own.passed);
        let served = Served::of(Runtime::Shell, runs, manager.passed);
        (own.into_iter().chain([manager]).collect(), served)
    }

    fn look_for(&self, wanted: &Wanted) -> Item {
        let (command, user) = self.command(wanted);
        let chosen = self.is_chosen(wanted).then(|| variable(wanted));
        let who = match user {
            User::Sandbox => "sandbox",
            User::Root => "root",
        };
        let program = self.program(wanted);
        let (mut found, mut remedy) = (String::new(), wanted.remedy);
        match (&program, &chosen) {
            (Some(program), _) => found.push_str(&program.path),
            (None, Some(_)) => {
                found = format!("no program {command} that {who} may run");
                remedy = "install it there, or have the server's owner name another one";
            }
            (None, None) => {
                found = format!(
                    "no {} that {who} may run in {}",
                    wanted.names,
                    self.image.folders.join(":")
                );
            }
        }
        if let Some(variable) = chosen {
            found.push_str(&format!(", by {variable}"));
        }
        // Whoever asks for system packages need not be root in the guest: the agent is.
        if program.is_some() && user == User::Root {
            found.push_str(", run as root");
        }
        Item::useful(wanted.part, program.is_some(), found, remedy)
    }

    /// Whether the server's owner named the program.
    fn is_chosen(&self, wanted: &Wanted) -> bool {
        self.overrides.has(wanted.runtime, wanted.purpose)
    }

    /// What a call would run, if it is there.
    fn program(&self, wanted: &Wanted) -> Option<Program<'a>> {
        let (command, user) = self.command(wanted);
        if command.starts_with('/') {
            return self.image.program(&command, user);
        }
        self.image.find(&[&command], user)
    }

    /// The program that a call would run, and whom as.
    fn command(&self, wanted: &Wanted) -> (String, User) {
        let (runtime, overrides, found) = (wanted.runtime, self.overrides, &self.found);
        let (command, user) = match wanted.purpose {
            Purpose::Exec => {
                let command = resolve::interpreter(runtime, overrides, found, false);
                (command, User::Sandbox)
            }
            Purpose::Install => {
                let installer = resolve::installer(runtime, overrides, found, false);
                (installer.command, installer.user)
            }
        };
        let program = command.first().map(|word| lossy(word));
        (program.unwrap_or_default(), user)
    }

    fn place(&self) -> Place {
        let chosen = self.is_chosen(&PIP);
        let can_make = resolve::may_make_venv(&self.found);
        let Some(installer) = self.program(&PIP) else {
            return match (chosen, can_make) {
                (true, _) => Place::Chosen,
                (false, true) => Place::Made,
                (false, false) => Place::Nowhere,
            };
        };
        let venv = installer.prefix();
        if self.image.has(&format!("{venv}/pyvenv.cfg")) {
            return match self.may_install_into(venv) {
                true => Place::Shipped(venv.to_owned()),
                false => Place::NotOurs(venv.to_owned()),
            };
        }
        if chosen {
            return Place::Chosen;
        }
        match can_make || !self.is_externally_managed() {
            true => Place::Made,
            false => Place::Nowhere,
        }
    }

    fn may_install_into(&self, venv: &str) -> bool {
        let library = format!("{venv}/lib");
        let names = self.image.list(&library).into_iter();
        let pythons = names.filter(|name| name.starts_with("python"));
        let mut folders = pythons.map(|name| format!("{library}/{name}/site-packages"));
        folders.all(|folder| self.image.may_write(&folder))
            && self.image.may_write(&format!("{venv}/bin"))
    }

    /// Whether pip refuses to install beside what the distribution has (PEP 668).
    fn is_externally_managed(&self) -> bool {
        let libraries = self.program(&PYTHON).map(|python| python.libraries());
        let mut libraries = libraries.into_iter().flatten();
        libraries.any(|library| self.image.has(&format!("{library}/EXTERNALLY-MANAGED")))
    }

    /// Where `npm install -g` puts things: `sandbox` has to be able to write there.
    fn npm_prefix(&self) -> Item {
        let item = |passed, found| {
            let remedy = "for install_packages: ENV NPM_CONFIG_PREFIX=/home/sandbox/.npm-global and \
                          PATH=/home/sandbox/.npm-global/bin:$PATH, or have the server's owner set \
                          WAGGLE_RUNTIME_NODE_INSTALL_COMMAND";
            Item::useful("npm prefix", passed, found, remedy)
        };
        if self.is_chosen(&NPM) {
            return item(true, format!("where {} puts them", variable(&NPM)));
        }
        let prefix = self.prefix_of_npm();
        let mut folders = ["lib/node_modules", "bin"].iter();
        match folders.all(|folder| self.image.may_write(&format!("{prefix}/{folder}"))) {
            true => item(true, prefix),
            false => {
                let found = format!("{prefix} is not sandbox's, who installs packages");
                item(false, found)
            }
        }
    }

    /// In npm's own order: the environment, the user's configuration, the one npm came with, its place.
    fn prefix_of_npm(&self) -> String {
        let home = self.image.home();
        let mut variables = self.config.env.iter();
        let stated = variables.find(|(name, _)| name.eq_ignore_ascii_case("npm_config_prefix"));
        let stated = stated.map(|(_, value)| value.clone());
        let user = format!("{home}/.npmrc");
        let files = || {
            let mut files = [user.as_str()].into_iter().chain(NPM_BUILTIN);
            files.find_map(|file| prefix_of(&self.image.text(file)?))
        };
        let prefix = stated.filter(|value| !value.is_empty()).or_else(files);
        let prefix = prefix.or_else(|| Some(self.program(&NPM)?.prefix().to_owned()));
        let prefix = prefix.unwrap_or_default();
        let prefix = prefix
            .strip_prefix("~/")
            .or_else(|| prefix.strip_prefix("${HOME}/"))
            .map_or(prefix.clone(), |rest| format!("{home}/{rest}"));
        prefix.trim_end_matches('/').to_owned()
    }
}

/// The prefix that an npm's configuration file states.
fn prefix_of(text: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim() == "prefix")?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// By which the server's owner names the program.
fn variable(wanted: &Wanted) -> String {
    let purpose = match wanted.purpose {
        Purpose::Exec => "EXEC",
        Purpose::Install => "INSTALL",
    };
    let runtime = wanted.runtime.name().to_ascii_uppercase();
    format!("WAGGLE_RUNTIME_{runtime}_{purpose}_COMMAND")
}

/// Where the packages of Python go.
enum Place {
    /// Where the owner's installer puts them.
    Chosen,
    /// Into a virtual environment that the image ships.
    Shipped(String),
    /// Into one that `sandbox` may not write to.
    NotOurs(String),
    /// Into the user's home, or a virtual environment that the server makes.
    Made,
    /// There is no pip that may install, and no virtual environment can be made.
    Nowhere,
}

impl Place {
    fn item(self) -> Item {
        let (passed, found) = match &self {
            Self::Chosen => (true, format!("where {} puts them", variable(&PIP))),
            Self::Shipped(venv) => (true, venv.clone()),
            Self::NotOurs(venv) => {
                let found = format!("{venv} is not sandbox's, who installs packages");
                (false, found)
            }
            Self::Made => {
                let found = "none on PATH: the server makes one when packages need it";
                (false, found.to_owned())
            }
            Self::Nowhere => {
                let found = "none on PATH, and Python cannot make one";
                (false, found.to_owned())
            }
        };
        let remedy = match self {
            Self::NotOurs(_) => {
                "for install_packages: chown -R sandbox, or have the server's owner set \
                 WAGGLE_RUNTIME_PYTHON_INSTALL_COMMAND"
            }
            _ => {
                "to have one at once: python3 -m venv /home/sandbox/venv, chown -R sandbox, and \
                 ENV PATH=/home/sandbox/venv/bin:$PATH"
            }
        };
        Item::useful("python venv", passed, found, remedy)
    }
}
