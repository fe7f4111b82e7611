# shellcheck shell=sh disable=SC2034,SC2164
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# ./dev check: everything about the sources that can be told without running them. Sourced by ./dev.

# The files that must carry a licence line, among those git knows or would add.
licensed_files() {
    git -C "$ROOT" ls-files --cached --others --exclude-standard |
        grep -E '(\.(rs|sh|py|mjs|toml|yml|yaml|c|h)|(^|/)Containerfile|^dev|^\.ci/run)$'
}

check_spdx() {
    cd "$ROOT"
    lines='SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
SPDX-License-Identifier: Apache-2.0'
    bad=$(licensed_files | while IFS= read -r file; do
        [ ! -f "$file" ] || [ "$(head -n 5 "$file" | grep -cF "$lines")" = 2 ] || echo "$file"
    done)
    [ -z "$bad" ] || {
        printf 'not both of these in the first five lines:\n%s\nof:\n%s\n' "$lines" "$bad"
        return 1
    }
}

check_leftovers() {
    cd "$ROOT"
    # A process that a test starts may be a function of the test program, ignored with a reason that says so.
    found=$(git grep -n -E '(todo|unimplemented)!\(|#\[ignore' -- '*.rs' | grep -v '#\[ignore = "not a test: ' || :)
    [ -z "$found" ] || {
        printf 'unfinished code or ignored tests:\n%s\n' "$found"
        return 1
    }
}

check_shell() {
    cd "$ROOT"
    git ls-files --cached --others --exclude-standard -- dev .ci/run '*.sh' | xargs shellcheck -x
}

check_fmt() {
    cd "$ROOT"
    cargo fmt --all --check
}

check_clippy() {
    cd "$ROOT"
    cargo clippy --workspace --all-targets --locked -- -D warnings
}

check_deny() {
    cd "$ROOT"
    cargo deny --locked check bans licenses sources
}

check() {
    step "licence lines" check_spdx
    step "no unfinished code, no ignored tests" check_leftovers
    step "shellcheck" check_shell
    step "rustfmt" check_fmt
    step "clippy" check_clippy
    if cargo deny --version >/dev/null 2>&1; then
        step "cargo deny" check_deny
    else
        say "    skipped: cargo deny (not installed; 'cargo install --locked cargo-deny' adds it)"
    fi
}
