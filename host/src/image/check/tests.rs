// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Checklists of images that are made for it, from a layer to a merged tree by the way that every image goes.

use std::collections::BTreeMap;

use waggle_images::{Digest, Limits, images::PROTOCOL_LABEL, layer, root};
use waggle_protocol::handshake::VERSION_MAX;

use super::*;
use crate::resolve::{Override, Purpose};

/// Names, modes, owners and contents of a layer's files; a name that ends with a slash is a folder's.
type Files<'a> = &'a [Entry];
type Entry = (&'static str, u32, u64, &'static str);

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

/// As a server without any settings has it.
fn check(tree: &Tree, config: &ImageConfig) -> Checked {
    super::check(tree, config, &Chosen::default())
}

/// As a server has it whose owner set these commands.
fn check_with(files: Files<'_>, commands: &[(Runtime, Purpose, &str)]) -> Checked {
    let mut chosen = Chosen::default();
    for (runtime, purpose, text) in commands {
        let command = Override::parse(text, *purpose).expect("acceptable");
        chosen.overrides.set(*runtime, *purpose, command);
    }
    super::check(&tree(files).tree, &config(&[], &[]), &chosen)
}

/// What is served, in words.
fn served(checked: &Checked) -> Vec<String> {
    checked.runtimes.iter().map(Served::to_string).collect()
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
    assert_eq!(served(&checked), ["python", "shell"]);
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
    assert_eq!(served(&checked), ["shell"]);
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
        served(&checked),
        [
            "node (without install_packages)",
            "shell (without install_packages)"
        ]
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
    let chosen = Chosen {
        inject_agent: true,
        ..Chosen::default()
    };
    let config = config(&[], &[(PROTOCOL_LABEL, &newer)]);
    assert!(super::check(&tree.tree, &config, &chosen).is_good());
    // A server looks at the label before it looks at files.
    let bare = check(&self::tree(DEBIAN).tree, &config);
    assert!(!bare.is_good(), "{bare:?}");
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

/// Files beside those of [`DEBIAN`].
fn debian(more: Files<'_>) -> Vec<Entry> {
    [DEBIAN, more].concat()
}

#[test]
fn a_virtual_environment_on_path_has_to_be_sandboxs() {
    let of = |owner: u64| {
        let files = debian(&[
            ("opt/venv/pyvenv.cfg", 0o644, owner, ""),
            ("opt/venv/bin/", 0o755, owner, ""),
            ("opt/venv/bin/python3", 0o777, 0, "-> /usr/bin/python3"),
            ("opt/venv/bin/pip", 0o755, owner, ""),
            ("opt/venv/bin/pip3", 0o755, owner, ""),
            ("opt/venv/lib/python3.11/site-packages/", 0o755, owner, ""),
        ]);
        let path = config(&[("PATH", "/opt/venv/bin:/usr/bin:/bin")], &[]);
        check(&tree(&files).tree, &path)
    };
    let ours = of(1000);
    assert_eq!(item(&ours, "python").found, "/opt/venv/bin/python3");
    assert_eq!(item(&ours, "python venv").found, "/opt/venv");
    assert!(item(&ours, "python venv").passed);
    assert_eq!(served(&ours), ["python", "shell"]);
    let of_root = of(0);
    let venv = item(&of_root, "python venv");
    assert!(!venv.passed && venv.remedy.is_some_and(|remedy| remedy.contains("chown")));
    assert_eq!(
        served(&of_root),
        ["python (without install_packages)", "shell"]
    );
}

#[test]
fn a_python_without_a_virtual_environment_makes_one_if_it_can() {
    let lone: Files<'_> = &[
        ("bin/sh", 0o755, 0, ""),
        ("usr/local/bin/python3.12", 0o755, 0, ""),
        ("usr/local/bin/python3", 0o777, 0, "-> python3.12"),
    ];
    let of = |more: Files<'_>| {
        let files = [lone, more].concat();
        check(&tree(&files).tree, &config(&[], &[]))
    };
    let lacks = [
        "python (without install_packages)",
        "shell (without install_packages)",
    ];
    let has = ["python", "shell (without install_packages)"];
    let bare = of(&[]);
    assert_eq!(served(&bare), lacks, "no pip, and nothing to make one");
    assert!(item(&bare, "python venv").found.contains("cannot make one"));
    let modules: Files<'_> = &[
        ("usr/local/lib/python3.12/venv/", 0o755, 0, ""),
        ("usr/local/lib/python3.12/ensurepip/", 0o755, 0, ""),
    ];
    let able = of(modules);
    assert_eq!(served(&able), has);
    let venv = item(&able, "python venv");
    assert!(!venv.passed && !venv.needed && venv.remedy.is_some());
    let pip: Files<'_> = &[("usr/local/bin/pip", 0o755, 0, "")];
    assert_eq!(served(&of(pip)), has);
    let managed = [
        pip[0],
        ("usr/local/lib/python3.12/EXTERNALLY-MANAGED", 0o644, 0, ""),
    ];
    assert_eq!(served(&of(&managed)), lacks, "PEP 668");
}

#[test]
fn commands_of_pythons_owner_go_before_what_the_image_has() {
    let exec = (Runtime::Python, Purpose::Exec, "/opt/py/bin/python");
    let install = (
        Runtime::Python,
        Purpose::Install,
        "/opt/py/bin/installer --quiet",
    );
    let absent = check_with(DEBIAN, &[exec, install]);
    for (part, variable) in [
        ("python", "WAGGLE_RUNTIME_PYTHON_EXEC_COMMAND"),
        ("pip", "WAGGLE_RUNTIME_PYTHON_INSTALL_COMMAND"),
    ] {
        let item = item(&absent, part);
        assert!(!item.passed && item.remedy.is_some(), "{item:?}");
        assert!(item.found.contains("/opt/py/bin/") && item.found.contains(variable));
    }
    assert_eq!(served(&absent), ["shell"]);

    let files = debian(&[
        ("opt/py/bin/python", 0o755, 0, ""),
        ("opt/py/bin/installer", 0o755, 0, ""),
    ]);
    let there = check_with(&files, &[exec, install]);
    assert_eq!(
        item(&there, "python").found,
        "/opt/py/bin/python, by WAGGLE_RUNTIME_PYTHON_EXEC_COMMAND"
    );
    let venv = item(&there, "python venv");
    assert!(
        venv.passed && venv.found.contains("WAGGLE_RUNTIME_PYTHON_INSTALL_COMMAND"),
        "{venv:?}"
    );
    assert_eq!(served(&there), ["python", "shell"]);

    // One that is in a virtual environment installs there, whoever named it.
    let files = debian(&[
        ("opt/py/bin/installer", 0o755, 0, ""),
        ("opt/py/pyvenv.cfg", 0o644, 0, ""),
    ]);
    let of_root = check_with(&files, &[install]);
    assert!(!item(&of_root, "python venv").passed);
}

const NODE: Files<'static> = &[
    ("bin/sh", 0o755, 0, ""),
    (
        "etc/passwd",
        0o644,
        0,
        "sandbox:x:1000:1000::/home/sandbox:/bin/sh\n",
    ),
    ("home/sandbox/", 0o755, 1000, ""),
    ("usr/bin/node", 0o755, 0, ""),
    ("usr/bin/npm", 0o755, 0, ""),
    (
        "usr/lib/node_modules/npm/npmrc",
        0o644,
        0,
        "prefix=/usr/local\n",
    ),
    ("usr/local/lib/", 0o755, 0, ""),
];

#[test]
fn npm_installs_where_sandbox_may_write_or_the_owner_says() {
    let of = |more: Files<'_>, env: &[(&str, &str)]| {
        let files = [NODE, more].concat();
        check(&tree(&files).tree, &config(env, &[]))
    };
    let prefix = |checked: &Checked| {
        let item = item(checked, "npm prefix");
        (item.passed, item.found.clone())
    };
    let (passed, found) = prefix(&of(&[], &[]));
    assert!(!passed && found.starts_with("/usr/local "), "{found}");
    let stated = [("npm_config_prefix", "/home/sandbox/.npm-global")];
    assert!(prefix(&of(&[], &stated)).0, "it can be made there");
    let of_root: Files<'_> = &[("home/sandbox/.npm-global/lib/", 0o755, 0, "")];
    assert!(!prefix(&of(of_root, &stated)).0, "root made it");
    let rc: Files<'_> = &[(
        "home/sandbox/.npmrc",
        0o644,
        0,
        "fund=false\nprefix = ${HOME}/.packages\n",
    )];
    let expected = (true, "/home/sandbox/.packages".to_owned());
    assert_eq!(prefix(&of(rc, &[])), expected);

    let install = (Runtime::Node, Purpose::Install, "/opt/get");
    let absent = check_with(NODE, &[install]);
    assert_eq!(
        served(&absent),
        [
            "node (without install_packages)",
            "shell (without install_packages)"
        ]
    );
    let files = [NODE, &[("opt/get", 0o755, 0, "")]].concat();
    let there = check_with(&files, &[install]);
    let (passed, found) = prefix(&there);
    assert!(passed && found.contains("WAGGLE_RUNTIME_NODE_INSTALL_COMMAND"));
    assert_eq!(served(&there), ["node", "shell (without install_packages)"]);
}

#[test]
fn system_packages_are_installed_by_root() {
    let of = |mode| {
        let files: Files<'_> = &[("bin/sh", 0o755, 0, ""), ("sbin/apk", mode, 0, "")];
        check(&tree(files).tree, &config(&[], &[]))
    };
    let manager = of(0o700);
    let found = &item(&manager, "package manager").found;
    assert_eq!(found, "/sbin/apk, run as root");
    assert_eq!(served(&manager), ["shell"]);
    let plain = of(0o644);
    let manager = item(&plain, "package manager");
    assert!(!manager.passed && manager.found.contains("zypper") && manager.found.contains("root"));
    assert_eq!(served(&plain), ["shell (without install_packages)"]);

    let install = (Runtime::Shell, Purpose::Install, "/opt/get --now");
    let exec = (Runtime::Shell, Purpose::Exec, "/bin/ash");
    let files: Files<'_> = &[
        ("bin/sh", 0o755, 0, ""),
        ("bin/ash", 0o755, 0, ""),
        ("opt/get", 0o700, 0, ""),
    ];
    let chosen = check_with(files, &[install, exec]);
    assert_eq!(
        item(&chosen, "package manager").found,
        "/opt/get, by WAGGLE_RUNTIME_SHELL_INSTALL_COMMAND, run as root"
    );
    assert!(item(&chosen, "shell interpreter").passed);
    assert_eq!(served(&chosen), ["shell"]);
    let absent = check_with(DEBIAN, &[exec]);
    assert!(!item(&absent, "shell interpreter").passed);
    assert_eq!(served(&absent), ["python"]);
}

#[test]
fn what_sandbox_may_not_reach_or_run_is_not_there() {
    let of = |folder, program| {
        let files: Files<'_> = &[
            ("bin/sh", 0o755, 0, ""),
            ("root/", folder, 0, ""),
            ("root/tool/python3", program, 0, ""),
            ("usr/bin/python3", 0o777, 0, "-> ../../root/tool/python3"),
        ];
        item(&check(&tree(files).tree, &config(&[], &[])), "python").passed
    };
    assert!(of(0o755, 0o755));
    assert!(!of(0o700, 0o755), "behind a symlink, too");
    assert!(!of(0o755, 0o744));
    let circle: Files<'_> = &[("bin/sh", 0o777, 0, "-> /bin/sh")];
    assert!(!check(&tree(circle).tree, &config(&[], &[])).is_good());
}

#[test]
fn what_belongs_to_a_group_of_sandboxs_is_sandboxs() {
    let files: Files<'_> = &[
        ("bin/sh", 0o755, 0, ""),
        (
            "etc/passwd",
            0o644,
            0,
            "sandbox:x:1000:1000::/srv/box:/bin/sh\n",
        ),
        (
            "etc/group",
            0o644,
            0,
            "sandbox:x:1000:\nbees:x:50:a,sandbox\n",
        ),
        ("srv/box/", 0o775, 50, ""),
    ];
    let checked = check(&tree(files).tree, &config(&[], &[]));
    let sandbox = item(&checked, "user sandbox");
    assert!(sandbox.passed, "{sandbox:?}");
}
