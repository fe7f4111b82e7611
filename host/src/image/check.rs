// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! The checklist for images that others made: what environments need of an image, looked for in its merged files.
//! Nothing of it runs.
//!
//! An image without our agent works, because a server brings its own. What only a way into a guest without any agent
//! would take (`base64`, `find`) is told, and not needed.

use std::fmt;

use serde::Serialize;
use waggle_images::{
    config::ImageConfig,
    images::PROTOCOL_LABEL,
    root::{Found, FoundKind, Tree},
};
use waggle_protocol::{
    boot::AGENT_PATH,
    handshake::{VERSION_MAX, VERSION_MIN},
};

use crate::service::versions;

/// `PATH` of an image that states none, as agents have it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where an image of ours states it.
const PATH_FILE: &[u8] = b"etc/waggle/path";

/// Package managers that `install_packages` knows.
const MANAGERS: [&str; 5] = ["apt-get", "apk", "dnf", "yum", "zypper"];

/// Programs that have many names, and none of GNU's.
const MULTI_CALL: [&[u8]; 3] = [b"bin/busybox", b"usr/bin/busybox", b"bin/toybox"];

/// Most bytes of a program that are searched for its maker, and of a file of text that is read.
const PROGRAM_MAX: usize = 16 * 1024 * 1024;
const TEXT_MAX: usize = 256 * 1024;

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

/// What the image can do for a runtime.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Served {
    runtime: &'static str,
    /// Whether packages can be installed, too.
    packages: bool,
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

/// Goes through the checklist.
pub(super) fn check(tree: &Tree, config: &ImageConfig) -> Checked {
    let image = Contents::new(tree, config);
    let mut items = vec![image.shell(), image.agent(config), image.sandbox()];
    let python = image.program("python", &["python3", "python"], PYTHON);
    let pip = image.program("pip", &["pip3", "pip"], PIP);
    let node = image.program("node", &["node"], NODE);
    let npm = image.program("npm", &["npm"], NPM);
    let manager = image.program("package manager", &MANAGERS, MANAGER);
    let served = |runtime, runs: bool, packages: bool| runs.then_some(Served { runtime, packages });
    let has_shell = items.iter().all(|item| item.part != SHELL || item.passed);
    let prefix = npm.passed.then(|| image.npm_prefix(config));
    let npm_installs = prefix.as_ref().is_some_and(|prefix| prefix.passed);
    let runtimes = [
        served("python", python.passed, pip.passed || manager.passed),
        served("node", node.passed, npm_installs),
        served("shell", has_shell, manager.passed),
    ];
    items.extend([python, pip, node, npm]);
    items.extend(prefix);
    items.extend([
        manager,
        image.gnu("base64", "coreutils", BASE64),
        image.gnu("find", "findutils", FIND),
    ]);
    Checked {
        items,
        runtimes: runtimes.into_iter().flatten().collect(),
    }
}

const SHELL: &str = "shell";
const PYTHON: &str = "for the runtime python: install Python 3 (Debian: apt-get install python3)";
const PIP: &str =
    "for install_packages: install pip (Debian: apt-get install python3-pip python3-venv)";
const NODE: &str = "for the runtime node: install Node.js (Debian: apt-get install nodejs)";
const NPM: &str = "for install_packages: install npm (Debian: apt-get install npm)";
const MANAGER: &str = "for install_packages in the runtime shell: begin FROM a distribution with apt, apk, dnf, yum \
                       or zypper, or have the server's owner set WAGGLE_RUNTIME_SHELL_INSTALL_COMMAND";
const BASE64: &str = "only a way in without any agent takes it: install GNU coreutils";
const FIND: &str = "only a way in without any agent takes it: install GNU findutils";

/// An image's files, and where its programs are looked for.
struct Contents<'a> {
    tree: &'a Tree,
    folders: Vec<String>,
}

impl<'a> Contents<'a> {
    fn new(tree: &'a Tree, config: &ImageConfig) -> Self {
        let stated = config.env.iter().find(|(name, _)| name == "PATH");
        let path = match stated {
            Some((_, path)) if !path.trim().is_empty() => path.trim().to_owned(),
            _ => {
                let text = text(tree, PATH_FILE).unwrap_or_default();
                let line = text.lines().next().unwrap_or_default().trim();
                if line.is_empty() { DEFAULT_PATH } else { line }.to_owned()
            }
        };
        Self {
            tree,
            folders: path.split(':').map(str::to_owned).collect(),
        }
    }

    /// The first program of that name, as the guest would find it.
    fn find(&self, name: &str) -> Option<(String, Found<'a>)> {
        let mut paths = self
            .folders
            .iter()
            .map(|folder| format!("{}/{name}", folder.trim_end_matches('/')));
        paths.find_map(|path| {
            let found = self.tree.lookup(path.as_bytes(), true)?;
            is_program(&found).then_some((path, found))
        })
    }

    fn program(&self, part: &'static str, names: &[&str], remedy: &'static str) -> Item {
        let found = names.iter().find_map(|name| self.find(name));
        Item {
            part,
            passed: found.is_some(),
            needed: false,
            remedy: found.is_none().then_some(remedy),
            found: found.map_or_else(
                || format!("no {} in {}", names.join(", "), self.folders.join(":")),
                |(path, _)| path,
            ),
        }
    }

    fn shell(&self) -> Item {
        let shell = self.tree.lookup(b"bin/sh", true);
        let passed = shell.is_some_and(|found| is_program(&found));
        Item {
            part: SHELL,
            passed,
            needed: true,
            found: if passed {
                "/bin/sh"
            } else {
                "no program /bin/sh"
            }
            .to_owned(),
            remedy: (!passed).then_some("install a POSIX shell (dash, bash, busybox) as /bin/sh"),
        }
    }

    fn agent(&self, config: &ImageConfig) -> Item {
        let agent = self.tree.lookup(AGENT_PATH.as_bytes(), true);
        let label = config.labels.get(PROTOCOL_LABEL);
        let item = |passed, found: String, remedy| Item {
            part: "agent",
            passed,
            needed: true,
            found,
            remedy,
        };
        let Some(agent) = agent else {
            return item(
                true,
                "none in the image: the server's own is used".to_owned(),
                None,
            );
        };
        if !is_program(&agent) {
            let remedy = "remove it, or make it a program again (chmod 0755)";
            return item(false, format!("{AGENT_PATH} is no program"), Some(remedy));
        }
        let Some(label) = label else {
            return item(
                true,
                format!("{AGENT_PATH}, without the label {PROTOCOL_LABEL}"),
                None,
            );
        };
        let common = versions(label)
            .is_some_and(|(first, last)| first <= VERSION_MAX && last >= VERSION_MIN);
        let speaks = format!(
            "{AGENT_PATH} speaks protocol {label:.20}, this build {VERSION_MIN}-{VERSION_MAX}"
        );
        let remedy = "build the image on a base of this release, or run the server with WAGGLE_AGENT_INJECT=1";
        item(common, speaks, (!common).then_some(remedy))
    }

    /// A guest makes the user where there is none.
    fn sandbox(&self) -> Item {
        let item = |passed, found: String, remedy| Item {
            part: "user sandbox",
            passed,
            needed: true,
            found,
            remedy,
        };
        let passwd = text(self.tree, b"etc/passwd").unwrap_or_default();
        let Some(user) = passwd.lines().find_map(Account::parse) else {
            return item(
                true,
                "none in the image: the guest makes it".to_owned(),
                None,
            );
        };
        if user.uid == 0 {
            let remedy = "give sandbox a user id of its own, other than 0";
            return item(false, "sandbox has root's user id".to_owned(), Some(remedy));
        }
        let Some(home) = self.tree.lookup(user.home.as_bytes(), true) else {
            return item(
                true,
                format!("{}, whose home the guest makes", user.uid),
                None,
            );
        };
        let (owner, group) = home.owner();
        let writable = home.kind() == FoundKind::Folder
            && (owner == user.uid && home.mode() & 0o300 == 0o300
                || group == user.gid && home.mode() & 0o030 == 0o030
                || home.mode() & 0o003 == 0o003);
        let remedy = "make its home a folder of its own (chown sandbox, chmod u+rwx)";
        let what = if writable {
            "has the home"
        } else {
            "may not write to its home"
        };
        item(
            writable,
            format!("{} {what} {}", user.uid, user.home),
            (!writable).then_some(remedy),
        )
    }

    /// Where `npm install -g` puts things: `sandbox` has to be able to write there.
    fn npm_prefix(&self, config: &ImageConfig) -> Item {
        let passwd = text(self.tree, b"etc/passwd").unwrap_or_default();
        let user = passwd.lines().find_map(Account::parse);
        let home = user
            .as_ref()
            .map_or("/home/sandbox", |user| user.home.as_str());
        let stated = config
            .env
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("npm_config_prefix"));
        let of_user = || {
            let text = text(self.tree, format!("{home}/.npmrc").as_bytes())?;
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            pairs
                .find(|(name, _)| name.trim() == "prefix")
                .map(|(_, value)| value.trim().to_owned())
        };
        let of_program = || {
            let (path, _) = self.find("npm")?;
            let prefix = path.rsplit_once('/')?.0.strip_suffix("/bin")?;
            // Debian's npm has it in its own configuration.
            Some(
                if prefix == "/usr" {
                    "/usr/local"
                } else {
                    prefix
                }
                .to_owned(),
            )
        };
        let prefix = stated
            .map(|(_, value)| value.clone())
            .or_else(of_user)
            .or_else(of_program);
        let prefix = prefix.unwrap_or_else(|| "/usr/local".to_owned());
        let passed = prefix.starts_with(&format!("{home}/"))
            || self
                .tree
                .lookup(format!("{prefix}/lib").as_bytes(), true)
                .is_some_and(|found| {
                    user.as_ref()
                        .is_some_and(|user| found.owner().0 == user.uid)
                        || found.mode() & 0o002 != 0
                });
        Item {
            part: "npm prefix",
            passed,
            needed: false,
            found: match passed {
                true => prefix,
                false => format!("{prefix} is not sandbox's, who installs packages"),
            },
            remedy: (!passed).then_some(
                "for install_packages: ENV NPM_CONFIG_PREFIX=/home/sandbox/.npm-global and \
                 PATH=/home/sandbox/.npm-global/bin:$PATH",
            ),
        }
    }

    /// GNU's own, by the name of its package that it carries for `--version`.
    fn gnu(&self, name: &'static str, package: &str, remedy: &'static str) -> Item {
        let item = |passed, found: String| Item {
            part: name,
            passed,
            needed: false,
            found,
            remedy: (!passed).then_some(remedy),
        };
        let Some((path, found)) = self.find(name) else {
            return item(false, format!("no {name}"));
        };
        let multi_call = MULTI_CALL
            .iter()
            .filter_map(|path| self.tree.lookup(path, true));
        if multi_call.into_iter().any(|other| found.is(&other)) {
            return item(false, format!("{path} is not GNU's"));
        }
        let content = found.read(PROGRAM_MAX).unwrap_or_default();
        let is_gnu = content
            .windows(package.len())
            .any(|window| window == package.as_bytes());
        let found = if is_gnu {
            path
        } else {
            format!("{path} is not GNU's")
        };
        item(is_gnu, found)
    }
}

fn is_program(found: &Found<'_>) -> bool {
    matches!(found.kind(), FoundKind::File(_)) && found.mode() & 0o111 != 0
}

fn text(tree: &Tree, path: &[u8]) -> Option<String> {
    let bytes = tree.lookup(path, true)?.read(TEXT_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The user `sandbox` of a line of `/etc/passwd`.
struct Account {
    uid: u32,
    gid: u32,
    home: String,
}

impl Account {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split(':').collect();
        let ["sandbox", _, uid, gid, _, home, ..] = fields.as_slice() else {
            return None;
        };
        Some(Self {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: (*home).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use waggle_images::{Digest, Limits, layer, root};

    use super::*;

    /// Names and contents of a layer's files; a name that ends with a slash is a folder's.
    type Files<'a> = &'a [(&'a str, u32, u64, &'a str)];

    /// A tree, and the files below it: contents are read when they are looked at.
    struct Looked {
        tree: Tree,
        _folder: tempfile::TempDir,
    }

    /// A tree of one layer, by the way that every image goes.
    fn tree(files: Files<'_>) -> Looked {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, mode, owner, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_uid(*owner);
            header.set_gid(*owner);
            if let Some(target) = content.strip_prefix("-> ") {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive
                    .append_link(&mut header, path, target)
                    .expect("a link");
                continue;
            }
            if path.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
            }
            header.set_size(content.len() as u64);
            archive
                .append_data(&mut header, path, content.as_bytes())
                .expect("a file");
        }
        let archive = archive.into_inner().expect("an archive");
        let folder = tempfile::tempdir().expect("a folder");
        let (data, index) = (folder.path().join("data"), folder.path().join("index"));
        let create = |path| std::fs::File::create(path).expect("a file");
        let limits = Limits::default();
        let budget = layer::Budget {
            unpacked_bytes: limits.unpacked_bytes,
            file_bytes: limits.file_bytes,
            entries: limits.entries,
        };
        let (mut data_file, mut index_file) = (create(&data), create(&index));
        let converted = layer::convert(
            &*archive,
            None,
            &mut data_file,
            &mut index_file,
            &budget,
            &|| false,
        );
        let layer = root::LayerFiles {
            index,
            data,
            diff_id: converted.expect("a layer").diff_id,
        };
        let tree = root::tree(&[layer], &limits, &|| false).expect("a tree");
        Looked {
            tree,
            _folder: folder,
        }
    }

    fn config(env: &[(&str, &str)], labels: &[(&str, &str)]) -> ImageConfig {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ImageConfig {
            env: env.iter().map(pair).collect(),
            user: None,
            workdir: None,
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            labels: labels.iter().map(pair).collect::<BTreeMap<_, _>>(),
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            created: None,
            diff_ids: vec![Digest::of(b"")],
            notes: Vec::new(),
        }
    }

    fn item<'a>(checked: &'a Checked, part: &str) -> &'a Item {
        let mut items = checked.items.iter();
        items.find(|item| item.part == part).expect(part)
    }

    const DEBIAN: Files<'static> = &[
        ("bin", 0o777, 0, "-> usr/bin"),
        ("usr/bin/dash", 0o755, 0, "#!"),
        ("usr/bin/sh", 0o777, 0, "-> dash"),
        ("usr/bin/base64", 0o755, 0, "GNU coreutils"),
        ("usr/bin/find", 0o755, 0, "GNU findutils"),
        ("usr/bin/apt-get", 0o755, 0, ""),
        ("usr/bin/python3.11", 0o755, 0, ""),
        ("usr/bin/python3", 0o777, 0, "-> python3.11"),
        ("usr/bin/pip3", 0o755, 0, ""),
        (
            "etc/passwd",
            0o644,
            0,
            "root:x:0:0:root:/root:/bin/sh\nsandbox:x:1000:1000::/home/sandbox:/bin/sh\n",
        ),
        ("home/sandbox/", 0o755, 1000, ""),
    ];

    #[test]
    fn an_image_with_all_it_takes_passes() {
        let checked = check(&tree(DEBIAN).tree, &config(&[], &[]));
        assert!(checked.is_good(), "{checked:?}");
        for part in [
            "shell",
            "agent",
            "user sandbox",
            "python",
            "pip",
            "package manager",
            "base64",
            "find",
        ] {
            assert!(item(&checked, part).passed, "{:?}", item(&checked, part));
        }
        assert!(!item(&checked, "node").passed && item(&checked, "node").remedy.is_some());
        let served: Vec<_> = checked.runtimes.iter().map(Served::to_string).collect();
        assert_eq!(served, ["python", "shell"]);
    }

    #[test]
    fn an_empty_image_lacks_what_is_needed() {
        let checked = check(&tree(&[("etc/", 0o755, 0, "")]).tree, &config(&[], &[]));
        assert!(!checked.is_good());
        assert!(!item(&checked, "shell").passed && item(&checked, "shell").needed);
        assert!(checked.runtimes.is_empty());
    }

    #[test]
    fn busybox_runs_programs_and_is_not_gnus() {
        let files: Files<'_> = &[
            (
                "bin/busybox",
                0o755,
                0,
                "BusyBox, nothing of coreutils or findutils",
            ),
            ("bin/sh", 0o777, 0, "-> /bin/busybox"),
            ("usr/bin/find", 0o777, 0, "-> ../../bin/busybox"),
            ("bin/base64", 0o777, 0, "-> busybox"),
            ("sbin/apk", 0o755, 0, ""),
        ];
        let checked = check(&tree(files).tree, &config(&[], &[]));
        assert!(checked.is_good(), "{checked:?}");
        assert!(!item(&checked, "find").passed && !item(&checked, "base64").passed);
        assert_eq!(
            checked.runtimes,
            [Served {
                runtime: "shell",
                packages: true
            }]
        );
    }

    #[test]
    fn programs_are_looked_for_where_the_image_says() {
        let files: Files<'_> = &[
            ("bin/sh", 0o755, 0, ""),
            ("opt/tool/bin/node", 0o755, 0, ""),
            ("opt/tool/bin/npm", 0o755, 0, ""),
            ("opt/tool/lib/", 0o755, 0, ""),
        ];
        let tree = tree(files);
        assert!(!item(&check(&tree.tree, &config(&[], &[])), "node").passed);
        let path = ("PATH", "/opt/tool/bin:/bin");
        let checked = check(&tree.tree, &config(&[path], &[]));
        assert!(item(&checked, "node").passed);
        assert!(!item(&checked, "npm prefix").passed, "root's");
        assert_eq!(
            checked.runtimes[0].to_string(),
            "node (without install_packages)"
        );
        let prefix = ("NPM_CONFIG_PREFIX", "/home/sandbox/.npm-global");
        assert!(
            item(
                &check(&tree.tree, &config(&[path, prefix], &[])),
                "npm prefix"
            )
            .passed
        );
    }

    #[test]
    fn an_agent_that_nobody_understands_is_missing() {
        let mut files = DEBIAN.to_vec();
        files.push(("usr/libexec/waggle/waggle-guest", 0o755, 0, ""));
        let tree = tree(&files);
        let of = |label| check(&tree.tree, &config(&[], &[(PROTOCOL_LABEL, label)]));
        assert!(of("1-3").is_good());
        let newer = format!("{}-{}", VERSION_MAX + 1, VERSION_MAX + 2);
        assert!(!of(&newer).is_good() && item(&of(&newer), "agent").remedy.is_some());
    }

    #[test]
    fn a_sandbox_that_is_root_or_homeless_is_told() {
        let of = |passwd: &'static str, owner: u64| {
            let files: Files<'_> = &[
                ("bin/sh", 0o755, 0, ""),
                ("etc/passwd", 0o644, 0, passwd),
                ("home/sandbox/", 0o755, owner, ""),
            ];
            item(&check(&tree(files).tree, &config(&[], &[])), "user sandbox").passed
        };
        assert!(of("root:x:0:0::/root:/bin/sh\n", 0), "the guest makes it");
        assert!(of("sandbox:x:1000:1000::/home/sandbox:/bin/sh\n", 1000));
        assert!(!of("sandbox:x:1000:1000::/home/sandbox:/bin/sh\n", 0));
        assert!(!of("sandbox:x:0:0::/home/sandbox:/bin/sh\n", 0));
    }
}
