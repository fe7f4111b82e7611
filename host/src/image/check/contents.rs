// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! An image's files as its guest's users see them: where programs are looked for, who may run them, and where
//! `sandbox` may write.
//!
//! Invariant: it answers as the agent's probe and the kernel will, by permission bits alone; access control lists,
//! which images do not have, are not looked at. Nothing that an image holds makes it follow more than [`HOPS`]
//! symlinks.

use waggle_images::{
    config::ImageConfig,
    root::{Found, FoundKind, Tree},
};
use waggle_protocol::message::{Capabilities, PackageManager, User};

/// `PATH` of an image that states none, as agents have it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where an image of ours states it.
const PATH_FILE: &str = "/etc/waggle/path";

/// Package managers that `install_packages` knows, in the order in which agents tell of them.
const MANAGERS: [(PackageManager, &str); 5] = [
    (PackageManager::Apk, "apk"),
    (PackageManager::AptGet, "apt-get"),
    (PackageManager::Dnf, "dnf"),
    (PackageManager::Yum, "yum"),
    (PackageManager::Zypper, "zypper"),
];

/// Where `sandbox` is at home that the guest makes.
const HOME: &str = "/home/sandbox";

/// Most bytes of a file of text that is read.
const TEXT_MAX: usize = 256 * 1024;

/// Most symlinks on the way to one file: as many as Linux follows.
const HOPS: u32 = 40;

/// Permission bits of one class of users.
const WRITE: u16 = 0o2;
const ENTER: u16 = 0o1;

/// An image's files.
pub(super) struct Contents<'a> {
    tree: &'a Tree,
    /// The folders of `PATH`.
    pub(super) folders: Vec<String>,
    sandbox: Person,
    /// The image's own `sandbox`, if it has one.
    pub(super) account: Option<Account>,
}

/// The user `sandbox` of `/etc/passwd`.
pub(super) struct Account {
    pub(super) uid: u32,
    gid: u32,
    home: String,
}

/// Whose permissions count.
struct Person {
    /// None: a number that the image does not use, so that nothing in it is this user's.
    uid: Option<u32>,
    groups: Vec<u32>,
}

/// A program, as the guest would find it.
#[derive(Clone)]
pub(super) struct Program<'a> {
    /// The path by which it was found.
    pub(super) path: String,
    /// Its path without symlinks.
    pub(super) real: String,
    pub(super) file: Found<'a>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(tree: &'a Tree, config: &ImageConfig) -> Self {
        let passwd = text(tree, "/etc/passwd").unwrap_or_default();
        let account = Account::find(&passwd);
        let groups = text(tree, "/etc/group").unwrap_or_default();
        Self {
            tree,
            folders: path(tree, config).split(':').map(str::to_owned).collect(),
            sandbox: Person::of(account.as_ref(), &groups),
            account,
        }
    }

    /// Where `sandbox` is at home.
    pub(super) fn home(&self) -> &str {
        self.account.as_ref().map_or(HOME, |account| &account.home)
    }

    /// A file's text, as root reads it.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        text(self.tree, path)
    }

    /// Whether something is there.
    pub(super) fn has(&self, path: &str) -> bool {
        self.tree.lookup(path.as_bytes(), true).is_some()
    }

    /// Whether a file is there.
    pub(super) fn has_file(&self, path: &str) -> bool {
        let found = self.tree.lookup(path.as_bytes(), true);
        found.is_some_and(|found| matches!(found.kind(), FoundKind::File(_)))
    }

    /// Names in a folder.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let folder = self.tree.lookup(path.as_bytes(), true);
        let names = folder.into_iter().flat_map(|folder| folder.list());
        names
            .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    /// The program at that path, if `user` may run it.
    pub(super) fn program(&self, path: &str, user: User) -> Option<Program<'a>> {
        let person = match user {
            User::Sandbox => Some(&self.sandbox),
            User::Root => None,
        };
        let (real, file) = self.reach(path, person)?;
        may_run(&file, person).then(|| Program {
            path: path.to_owned(),
            real,
            file,
        })
    }

    /// The first program of these names on `PATH` that `user` may run, where `sandbox` sees it: that is whose eyes
    /// agents look with.
    pub(super) fn find(&self, names: &[&str], user: User) -> Option<Program<'a>> {
        names.iter().find_map(|name| {
            let mut paths = self
                .folders
                .iter()
                .map(|folder| format!("{}/{name}", folder.trim_end_matches('/')));
            paths.find_map(|path| {
                self.reach(&path, Some(&self.sandbox))?;
                self.program(&path, user)
            })
        })
    }

    /// What an agent will report of the image.
    pub(super) fn capabilities(&self) -> Capabilities {
        let find = |names: &[&str]| self.find(names, User::Sandbox);
        let path = |program: Program<'_>| program.path.into_bytes().into();
        let python = find(&["python3", "python"]);
        let managers = MANAGERS
            .into_iter()
            .filter(|(_, name)| self.find(&[name], User::Root).is_some());
        Capabilities {
            python_venv: python
                .as_ref()
                .is_some_and(|python| self.makes_venvs(python)),
            python: python.map(path),
            pip: find(&["pip3", "pip"]).map(path),
            node: find(&["node"]).map(path),
            npm: find(&["npm"]).map(path),
            package_managers: managers.map(|(manager, _)| manager).collect(),
            ..Capabilities::default()
        }
    }

    /// Whether that Python has what makes virtual environments and puts a pip into them, which Debian packs apart.
    fn makes_venvs(&self, python: &Program<'_>) -> bool {
        let mut libraries = python.libraries().into_iter();
        libraries.any(|library| {
            ["venv", "ensurepip"]
                .iter()
                .all(|module| self.has(&format!("{library}/{module}")))
        })
    }

    /// Whether `sandbox` may make and change files in that folder, or make the folder.
    pub(super) fn may_write(&self, folder: &str) -> bool {
        let mut at = folder.trim_end_matches('/');
        loop {
            if at == self.home().trim_end_matches('/') && self.makes_home() {
                return true;
            }
            if let Some((_, found)) = self.reach(at, Some(&self.sandbox)) {
                let folder = found.kind() == FoundKind::Folder;
                return folder && self.sandbox.may(&found, WRITE | ENTER);
            }
            // What is not there is made, if what is above it permits that.
            let Some((above, _)) = at.rsplit_once('/') else {
                return false;
            };
            at = above;
        }
    }

    /// Whether the guest gives `sandbox` its home: if there is none, or no such user in the image.
    pub(super) fn makes_home(&self) -> bool {
        self.account.is_none() || !self.has(self.home())
    }

    /// What is at a path, and the path without symlinks. None if nothing is there, or if `person` may not go there;
    /// root may go everywhere.
    fn reach(&self, path: &str, person: Option<&Person>) -> Option<(String, Found<'a>)> {
        let mut real: Vec<u8> = Vec::new();
        // What is still to go, the next part last.
        let mut rest: Vec<&[u8]> = path.as_bytes().rsplit(|byte| *byte == b'/').collect();
        let mut hops = 0;
        while let Some(part) = rest.pop() {
            if matches!(part, b"" | b".") {
                continue;
            }
            if part == b".." {
                let end = real.iter().rposition(|byte| *byte == b'/');
                real.truncate(end.unwrap_or(0));
                continue;
            }
            let folder = self.tree.lookup(&real, false)?;
            if person.is_some_and(|person| !person.may(&folder, ENTER)) {
                return None;
            }
            let next = [&real, &b"/"[..], part].concat();
            match self.tree.lookup(&next, false)?.kind() {
                FoundKind::Symlink(target) => {
                    hops += 1;
                    if hops > HOPS {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        real.clear();
                    }
                    rest.extend(target.rsplit(|byte| *byte == b'/'));
                }
                _ => real = next,
            }
        }
        let found = self.tree.lookup(&real, false)?;
        Some((String::from_utf8_lossy(&real).into_owned(), found))
    }
}

impl Program<'_> {
    /// The folder that its folder `bin` is in.
    pub(super) fn prefix(&self) -> &str {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        folder.rsplit_once('/').map_or("", |(prefix, _)| prefix)
    }

    /// Where the library of a Python may be: beside the real interpreter, under its versioned name.
    pub(super) fn libraries(&self) -> [String; 2] {
        let (folder, name) = self.real.rsplit_once('/').unwrap_or(("", &self.real));
        ["lib", "lib64"].map(|lib| format!("{folder}/../{lib}/{name}"))
    }
}

impl Person {
    fn of(account: Option<&Account>, groups: &str) -> Self {
        let Some(account) = account else {
            return Self {
                uid: None,
                groups: Vec::new(),
            };
        };
        let member = |line: &str| {
            let fields: Vec<_> = line.split(':').collect();
            let [_, _, gid, members] = fields.as_slice() else {
                return None;
            };
            let member = members.split(',').any(|name| name == "sandbox");
            gid.parse().ok().filter(|_| member)
        };
        Self {
            uid: Some(account.uid),
            groups: groups
                .lines()
                .filter_map(member)
                .chain([account.gid])
                .collect(),
        }
    }

    /// The first class that fits decides, as in Linux.
    fn may(&self, found: &Found<'_>, bits: u16) -> bool {
        let (owner, group) = found.owner();
        let class = if self.uid == Some(owner) {
            6
        } else if self.groups.contains(&group) {
            3
        } else {
            0
        };
        found.mode() >> class & bits == bits
    }
}

impl Account {
    /// As agents read it: the first line of that name counts, with all its fields or not at all.
    fn find(passwd: &str) -> Option<Self> {
        let mut lines = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|fields| fields.first() == Some(&"sandbox"))?;
        let [_, _, uid, gid, _, home, _] = line.as_slice() else {
            return None;
        };
        Some(Self {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: if home.starts_with('/') { home } else { "/" }.to_owned(),
        })
    }
}

/// Root may run what anybody may.
fn may_run(file: &Found<'_>, person: Option<&Person>) -> bool {
    let may = match person {
        Some(person) => person.may(file, ENTER),
        None => file.mode() & 0o111 != 0,
    };
    matches!(file.kind(), FoundKind::File(_)) && may
}

/// `PATH` of its programs: what it states by `ENV`, if the agent can be told that, else by a file.
fn path(tree: &Tree, config: &ImageConfig) -> String {
    let stated = config.env.iter().find(|(name, _)| name == "PATH");
    let stated = stated.map(|(_, path)| path.trim());
    if let Some(path) = stated.filter(|path| !path.is_empty() && !path.contains(['\n', '\0'])) {
        return path.to_owned();
    }
    let text = text(tree, PATH_FILE).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() { DEFAULT_PATH } else { line }.to_owned()
}

fn text(tree: &Tree, path: &str) -> Option<String> {
    let bytes = tree.lookup(path.as_bytes(), true)?.read(TEXT_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
