// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! What PID 1 says on the machine's console, which the host keeps for diagnosis.

use std::fs::OpenOptions;
use std::io::Write;

/// Prints one line with init's name before it.
pub(super) fn say(text: &str) {
    print(&format!("waggle-init: {text}"));
}

/// Prints one line, and waits until the console has it: the machine may end right after.
pub(super) fn print(line: &str) {
    let line = line.replace(['\n', '\r'], " ");
    let console = OpenOptions::new().write(true).open("/dev/console");
    match console {
        Ok(mut console) => {
            // There is no other place to report a broken console to.
            let _ = console.write_all(format!("{line}\n").as_bytes());
            let _ = nix::sys::termios::tcdrain(&console);
        }
        Err(_) => eprintln!("{line}"),
    }
}
