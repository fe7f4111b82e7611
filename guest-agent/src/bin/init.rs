// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! `waggle-init`: PID 1. Everything it does is in `waggle_guest_agent::init`.

fn main() {
    waggle_guest_agent::init::main();
}
