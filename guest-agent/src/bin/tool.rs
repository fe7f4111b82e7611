// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle-tool`: searches files, packs and unpacks archives. Everything it does is in
//! `waggle_guest_agent::tool`.

use std::process::ExitCode;

fn main() -> ExitCode {
    waggle_guest_agent::tool::main()
}
