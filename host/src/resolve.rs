// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! How a language becomes a command in a guest: the operator's override, else what the probe found
//! in the image, else a built-in default.
//!
//! Pure: it looks at nothing but its arguments.

use serde_bytes::ByteBuf;
use waggle_protocol::message::{Capabilities, PackageManager, User};

use crate::environment::Runtime;

/// The virtual environment that `install_packages` makes where the image's own Python refuses
/// (PEP 668).
pub const VENV: &str = "/home/sandbox/venv";

/// The operator's commands, one optional pair for each runtime.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    exec: [Option<Override>; 3],
    install: [Option<Override>; 3],
}

/// Which of a runtime's two commands is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Running code.
    Exec,
    /// Installing packages.
    Install,
}

/// A command that an operator set, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override(Vec<String>);

/// An override that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// The program is not named by an absolute path of plain characters.
    #[error("{0:?} is not an absolute path made of A-Z a-z 0-9 . _ / -")]
    Program(String),
    /// An argument holds something else than plain characters.
    #[error("argument {0:?} is not made of A-Z a-z 0-9 . _ = / -")]
    Argument(String),
    /// An interpreter takes no further arguments.
    #[error("it takes no arguments, only the interpreter's path")]
    Arguments,
}

fn plain(text: &str, extra: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || "./_-".contains(c) || extra.contains(c))
}

impl Override {
    /// Checks what an operator wrote.
    ///
    /// # Errors
    ///
    /// [`OverrideError`] saying what is not acceptable.
    pub fn parse(text: &str, purpose: Purpose) -> Result<Self, OverrideError> {
        let mut words = text.split_ascii_whitespace().map(str::to_owned);
        let program = words.next().unwrap_or_default();
        if !program.starts_with('/') || !plain(&program, "") {
            return Err(OverrideError::Program(program));
        }
        let arguments: Vec<_> = words.collect();
        if purpose == Purpose::Exec && !arguments.is_empty() {
            return Err(OverrideError::Arguments);
        }
        if let Some(argument) = arguments.iter().find(|argument| !plain(argument, "=")) {
            return Err(OverrideError::Argument(argument.clone()));
        }
        Ok(Self([vec![program], arguments].concat()))
    }

    fn command(&self) -> Vec<ByteBuf> {
        self.0
            .iter()
            .map(|word| ByteBuf::from(word.as_bytes()))
            .collect()
    }
}

impl Overrides {
    /// Sets one command.
    pub fn set(&mut self, runtime: Runtime, purpose: Purpose, command: Override) {
        let table = match purpose {
            Purpose::Exec => &mut self.exec,
            Purpose::Install => &mut self.install,
        };
        if let Some(slot) = table.get_mut(runtime as usize) {
            *slot = Some(command);
        }
    }

    /// Whether the operator set this command.
    #[must_use]
    pub fn has(&self, runtime: Runtime, purpose: Purpose) -> bool {
        self.get(runtime, purpose).is_some()
    }

    fn get(&self, runtime: Runtime, purpose: Purpose) -> Option<Vec<ByteBuf>> {
        let table = match purpose {
            Purpose::Exec => &self.exec,
            Purpose::Install => &self.install,
        };
        table.get(runtime as usize)?.as_ref().map(Override::command)
    }
}

fn words(command: &[&str]) -> Vec<ByteBuf> {
    command
        .iter()
        .map(|word| ByteBuf::from(word.as_bytes()))
        .collect()
}

/// The interpreter for `language`. `venv` says that packages were installed into [`VENV`].
#[must_use]
pub fn interpreter(
    language: Runtime,
    overrides: &Overrides,
    found: &Capabilities,
    venv: bool,
) -> Vec<ByteBuf> {
    if let Some(command) = overrides.get(language, Purpose::Exec) {
        return command;
    }
    match language {
        Runtime::Python if venv => words(&[&format!("{VENV}/bin/python")]),
        Runtime::Python => words_or(found.python.as_ref(), "python3"),
        Runtime::Node => words_or(found.node.as_ref(), "node"),
        Runtime::Shell => words(&["sh"]),
    }
}

fn words_or(found: Option<&ByteBuf>, default: &str) -> Vec<ByteBuf> {
    found.map_or_else(|| words(&[default]), |path| vec![path.clone()])
}

/// Whose words an installer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Python's.
    Pip,
    /// Node's.
    Npm,
    /// Debian's.
    Apt,
    /// Alpine's.
    Apk,
    /// Fedora's, and its predecessor.
    Dnf,
    /// SUSE's.
    Zypper,
    /// An operator's own.
    Unknown,
}

/// How packages are installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installer {
    /// The command, to which package names are appended.
    pub command: Vec<ByteBuf>,
    /// Whom it runs as.
    pub user: User,
    /// Whose words it speaks.
    pub dialect: Dialect,
}

/// How packages are installed for `runtime`. `venv` says that those of Python go into [`VENV`].
#[must_use]
pub fn installer(
    runtime: Runtime,
    overrides: &Overrides,
    found: &Capabilities,
    venv: bool,
) -> Installer {
    if let Some(command) = overrides.get(runtime, Purpose::Install) {
        let user = if runtime == Runtime::Shell {
            User::Root
        } else {
            User::Sandbox
        };
        return Installer {
            dialect: dialect_of(&command),
            command,
            user,
        };
    }
    let own = |command: Vec<ByteBuf>, dialect| Installer {
        command,
        user: User::Sandbox,
        dialect,
    };
    match runtime {
        Runtime::Python if venv => own(
            words(&[&format!("{VENV}/bin/python"), "-m", "pip", "install"]),
            Dialect::Pip,
        ),
        Runtime::Python => {
            let pip = words_or(found.pip.as_ref(), "pip");
            own([pip, words(&["install"])].concat(), Dialect::Pip)
        }
        Runtime::Node => {
            let npm = words_or(found.npm.as_ref(), "npm");
            own([npm, words(&["install", "-g"])].concat(), Dialect::Npm)
        }
        Runtime::Shell => system_installer(&found.package_managers),
    }
}

/// How the system's packages are installed, by the first of its package managers.
#[must_use]
pub fn system_installer(managers: &[PackageManager]) -> Installer {
    let (command, dialect) = match managers.first() {
        Some(PackageManager::AptGet) => (
            apt(&["install", "-y", "--no-install-recommends"]),
            Dialect::Apt,
        ),
        Some(PackageManager::Dnf) => (words(&["dnf", "install", "-y"]), Dialect::Dnf),
        Some(PackageManager::Yum) => (words(&["yum", "install", "-y"]), Dialect::Dnf),
        Some(PackageManager::Zypper) => (
            words(&["zypper", "--non-interactive", "install"]),
            Dialect::Zypper,
        ),
        Some(PackageManager::Apk) | None => (words(&["apk", "add", "--no-cache"]), Dialect::Apk),
    };
    Installer {
        command,
        user: User::Root,
        dialect,
    }
}

/// apt-get as a program that asks nothing, waits for others of its kind for a while, and takes a name for
/// nothing but a name (one with a dot that it does not know would else be a pattern).
fn apt(arguments: &[&str]) -> Vec<ByteBuf> {
    let options = [
        "apt-get",
        "-q",
        "-o",
        "DPkg::Lock::Timeout=60",
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "APT::Cmd::Pattern-Only=true",
    ];
    [words(&options), words(arguments)].concat()
}

/// What brings apt's lists of packages up to date, as root. A list that cannot be fetched is an error.
#[must_use]
pub fn update_lists() -> Vec<ByteBuf> {
    apt(&["-o", "APT::Update::Error-Mode=any", "update"])
}

/// Whether [`make_venv`] may succeed: at once, or after apt has installed what Debian's Python lacks.
#[must_use]
pub fn may_make_venv(found: &Capabilities) -> bool {
    let apt = found.package_managers.contains(&PackageManager::AptGet);
    found.python.is_some() && (found.python_venv || apt)
}

/// What makes [`VENV`], as `sandbox`, in place of one that was not finished.
#[must_use]
pub fn make_venv(found: &Capabilities) -> Vec<ByteBuf> {
    let python = words_or(found.python.as_ref(), "python3");
    [python, words(&["-m", "venv", "--clear", VENV])].concat()
}

/// What an operator's installer is, by its program's name.
fn dialect_of(command: &[ByteBuf]) -> Dialect {
    let program = command.first().map_or(&b""[..], |word| word.as_ref());
    let name = program.rsplit(|byte| *byte == b'/').next();
    match name.unwrap_or_default() {
        [b'p', b'i', b'p', ..] => Dialect::Pip,
        b"npm" => Dialect::Npm,
        b"apt" | b"apt-get" => Dialect::Apt,
        b"apk" => Dialect::Apk,
        b"dnf" | b"dnf5" | b"microdnf" | b"yum" => Dialect::Dnf,
        b"zypper" => Dialect::Zypper,
        _ => Dialect::Unknown,
    }
}

/// The file name extension of `language`'s programs.
#[must_use]
pub fn extension(language: Runtime) -> &'static str {
    match language {
        Runtime::Python => "py",
        Runtime::Node => "js",
        Runtime::Shell => "sh",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(command: &[ByteBuf]) -> String {
        let words: Vec<_> = command
            .iter()
            .map(|word| String::from_utf8_lossy(word))
            .collect();
        words.join(" ")
    }

    fn found() -> Capabilities {
        Capabilities {
            python: Some(ByteBuf::from(&b"/usr/bin/python"[..])),
            pip: Some(ByteBuf::from(&b"/usr/bin/pip3"[..])),
            package_managers: vec![PackageManager::AptGet],
            ..Capabilities::default()
        }
    }

    #[test]
    fn override_then_probe_then_default() {
        let none = Overrides::default();
        let mut set = Overrides::default();
        let command = Override::parse("/opt/py/bin/python", Purpose::Exec).expect("acceptable");
        set.set(Runtime::Python, Purpose::Exec, command);
        let python = |overrides: &Overrides, found: &Capabilities, venv| {
            text(&interpreter(Runtime::Python, overrides, found, venv))
        };
        assert_eq!(python(&set, &found(), true), "/opt/py/bin/python");
        assert_eq!(
            python(&none, &found(), true),
            "/home/sandbox/venv/bin/python"
        );
        assert_eq!(python(&none, &found(), false), "/usr/bin/python");
        assert_eq!(python(&none, &Capabilities::default(), false), "python3");
    }

    #[test]
    fn each_runtime_installs_its_own_way() {
        let install = |runtime, found: &Capabilities, venv| {
            let installer = installer(runtime, &Overrides::default(), found, venv);
            (text(&installer.command), installer.user, installer.dialect)
        };
        assert_eq!(
            install(Runtime::Python, &found(), false),
            ("/usr/bin/pip3 install".into(), User::Sandbox, Dialect::Pip)
        );
        let (venv, ..) = install(Runtime::Python, &found(), true);
        assert_eq!(venv, "/home/sandbox/venv/bin/python -m pip install");
        let nothing = Capabilities::default();
        assert_eq!(
            install(Runtime::Node, &nothing, false),
            ("npm install -g".into(), User::Sandbox, Dialect::Npm)
        );
        assert_eq!(
            install(Runtime::Shell, &nothing, false),
            ("apk add --no-cache".into(), User::Root, Dialect::Apk)
        );
        let (apt, user, _) = install(Runtime::Shell, &found(), false);
        assert!(
            apt.starts_with("apt-get ") && apt.contains(" install -y"),
            "{apt}"
        );
        assert_eq!(user, User::Root);
    }

    #[test]
    fn a_virtual_environment_is_made_from_nothing() {
        assert_eq!(
            text(&make_venv(&found())),
            "/usr/bin/python -m venv --clear /home/sandbox/venv"
        );
        let nothing = text(&make_venv(&Capabilities::default()));
        assert!(nothing.starts_with("python3 -m venv"), "{nothing}");
    }

    #[test]
    fn a_python_makes_virtual_environments_if_it_can_or_apt_can_help() {
        let with = |python: bool, python_venv, apt: bool| Capabilities {
            python: python.then(|| ByteBuf::from(&b"/usr/bin/python3"[..])),
            python_venv,
            package_managers: apt.then_some(PackageManager::AptGet).into_iter().collect(),
            ..Capabilities::default()
        };
        assert!(may_make_venv(&with(true, true, false)));
        assert!(may_make_venv(&with(true, false, true)));
        assert!(!may_make_venv(&with(true, false, false)));
        assert!(!may_make_venv(&with(false, false, true)));
    }

    #[test]
    fn an_operators_installer_is_run_as_it_is() {
        for (text_of, dialect) in [
            ("/opt/bin/pip3.12 install -q", Dialect::Pip),
            ("/usr/bin/apt-get install", Dialect::Apt),
            ("/opt/get", Dialect::Unknown),
        ] {
            let mut overrides = Overrides::default();
            let command = Override::parse(text_of, Purpose::Install).expect("acceptable");
            overrides.set(Runtime::Shell, Purpose::Install, command);
            let installer = installer(Runtime::Shell, &overrides, &found(), false);
            assert_eq!(text(&installer.command), text_of);
            assert_eq!(installer.dialect, dialect);
            assert_eq!(installer.user, User::Root);
        }
    }

    #[test]
    fn an_override_is_plain_words() {
        for (text, purpose) in [
            ("/usr/bin/python3", Purpose::Exec),
            ("/usr/bin/pip install --prefix=/opt -q", Purpose::Install),
        ] {
            assert!(Override::parse(text, purpose).is_ok(), "{text}");
        }
        for (text, purpose) in [
            ("", Purpose::Exec),
            ("python3", Purpose::Exec),
            ("/bin/sh;reboot", Purpose::Exec),
            ("/bin/sh -c", Purpose::Exec),
            ("/bin/pip install $(id)", Purpose::Install),
            ("/bin/p\u{ef}p", Purpose::Install),
        ] {
            assert!(Override::parse(text, purpose).is_err(), "{text}");
        }
    }
}
