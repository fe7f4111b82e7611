// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What all environments take of an image, whatever runs in them: a shell, the agent and the user `sandbox`. And what
//! only a way in without any agent would take.

use waggle_images::{config::ImageConfig, images::PROTOCOL_LABEL};
use waggle_protocol::{
    boot::AGENT_PATH,
    handshake::{VERSION_MAX, VERSION_MIN},
    message::User,
};

use super::{Item, contents::Contents};
use crate::service::foreign_agent;

/// Most bytes of a program that are searched for its maker.
const PROGRAM_MAX: usize = 16 * 1024 * 1024;

const SHELL: &str = "/bin/sh";

pub(super) fn shell(image: &Contents<'_>) -> Item {
    let passed = image.program(SHELL, User::Sandbox).is_some();
    let found = if passed {
        SHELL.to_owned()
    } else {
        format!("no program {SHELL} that sandbox may run")
    };
    let remedy = "install a POSIX shell (dash, bash, busybox) as /bin/sh";
    Item::needed("shell", passed, found, remedy)
}

/// `inject` says that the server's own goes before one in the image.
pub(super) fn agent(image: &Contents<'_>, config: &ImageConfig, inject: bool) -> Item {
    let item = |passed, found: String, remedy| Item::needed("agent", passed, found, remedy);
    if inject {
        let found = "the server's own, by WAGGLE_AGENT_INJECT";
        return item(true, found.to_owned(), "");
    }
    let speaks = format!("this server speaks protocol {VERSION_MIN}-{VERSION_MAX}");
    // The label alone has an image refused, whatever it holds.
    if let Some((first, last)) = foreign_agent(config) {
        let found = format!("of protocol {first}-{last} by the image's label, {speaks}");
        let remedy = "build the image on a base of this release, or run the server with WAGGLE_AGENT_INJECT=1";
        return item(false, found, remedy);
    }
    if !image.has_file(AGENT_PATH) {
        let found = "none in the image: the server's own is used";
        return item(true, found.to_owned(), "");
    }
    if image.program(AGENT_PATH, User::Root).is_none() {
        let remedy = "remove it, or make it a program again (chmod 0755)";
        return item(false, format!("{AGENT_PATH} is no program"), remedy);
    }
    let found = match config.labels.get(PROTOCOL_LABEL) {
        Some(label) => format!("{AGENT_PATH}, of protocol {label:.20}; {speaks}"),
        None => format!("{AGENT_PATH}, without the label {PROTOCOL_LABEL}"),
    };
    item(true, found, "")
}

/// A guest makes the user where there is none.
pub(super) fn sandbox(image: &Contents<'_>) -> Item {
    let item = |passed, found: String, remedy| Item::needed("user sandbox", passed, found, remedy);
    let Some(account) = &image.account else {
        let found = "none in the image: the guest makes it";
        return item(true, found.to_owned(), "");
    };
    if account.uid == 0 {
        let remedy = "give sandbox a user id of its own, other than 0";
        return item(false, "sandbox has root's user id".to_owned(), remedy);
    }
    let home = image.home();
    if image.makes_home() {
        let found = format!("{}, whose home {home} the guest makes", account.uid);
        return item(true, found, "");
    }
    let writable = image.may_write(home);
    let what = if writable {
        "has the home"
    } else {
        "may not write to its home"
    };
    let remedy = "make its home a folder of its own (chown sandbox, chmod u+rwx)";
    item(writable, format!("{} {what} {home}", account.uid), remedy)
}

/// `base64 -d` and `find -printf`, as ways into a guest without an agent use them.
pub(super) fn gnu(image: &Contents<'_>) -> [Item; 2] {
    [
        of_gnu(
            image,
            "base64",
            "GNU coreutils",
            "only a way in without any agent takes it: install GNU coreutils",
        ),
        of_gnu(
            image,
            "find",
            "GNU findutils",
            "only a way in without any agent takes it: install GNU findutils",
        ),
    ]
}

/// GNU's own has the name of its package in it, for `--version`.
fn of_gnu(image: &Contents<'_>, name: &'static str, package: &str, remedy: &'static str) -> Item {
    let Some(program) = image.find(&[name], User::Sandbox) else {
        return Item::useful(name, false, format!("no {name}"), remedy);
    };
    let content = program.file.read(PROGRAM_MAX).unwrap_or_default();
    let mut windows = content.windows(package.len());
    let is_gnu = windows.any(|window| window == package.as_bytes());
    let found = if is_gnu {
        program.path
    } else {
        format!("{} is not GNU's", program.path)
    };
    Item::useful(name, is_gnu, found, remedy)
}
