# shellcheck shell=sh disable=SC2034,SC2164
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# What all of ./dev's parts share: where things are, how steps report, how files are fetched and locked.
# Sourced by ./dev, which has set ROOT.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/waggle
LIB_DIR=$CACHE/lib
IMAGE_DIR=$CACHE/images
LOG_DIR=$CACHE/logs
MUSL_TARGET=x86_64-unknown-linux-musl
GUEST_OUT=$ROOT/target/musl/$MUSL_TARGET/guest
# What lies beside each other in every guest, in /usr/libexec/waggle: the agent and what it runs.
GUEST_PROGRAMS='waggle-guest waggle-tool'
BOOT_DISK=$ROOT/target/guest/boot.erofs
WAGGLE_EXE=$ROOT/target/release/waggle
# One place for what cargo builds, wherever the caller's environment would have it.
export CARGO_TARGET_DIR="$ROOT/target"

say() { printf '%s\n' "$*"; }
die() {
    printf 'dev: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
now() { date +%s; }

# step LABEL COMMAND...: runs a command quietly, saying when it starts, every 15 seconds that it still runs, and
# how long it took. Its output goes to a log, whose end is shown if it fails. Never call it in a condition
# (if, &&, ||): the shell would then ignore failures inside COMMAND when that is a function.
step() {
    step_label=$1
    shift
    mkdir -p "$LOG_DIR"
    step_log=$LOG_DIR/$(printf %s "$step_label" | tr -cs 'A-Za-z0-9.' '-').$$.log
    step_start=$(now)
    say "==> $step_label"
    (
        # A background job ignores Ctrl-C: it ends when ./dev is gone.
        while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
            say "    still at it after $(($(now) - step_start)) s: $step_label"
        done
    ) </dev/null 9>&- &
    step_pulse=$!
    trap 'kill "$step_pulse" 2>/dev/null; exit 130' HUP INT TERM
    set +e
    (
        set -e
        "$@"
    ) </dev/null >"$step_log" 2>&1
    step_code=$?
    set -e
    kill "$step_pulse" 2>/dev/null || :
    wait "$step_pulse" 2>/dev/null || :
    trap - HUP INT TERM
    if [ "$step_code" -ne 0 ]; then
        tail -n 40 "$step_log" | sed 's/^/    | /' >&2
        die "failed after $(($(now) - step_start)) s: $step_label (whole log: $step_log)"
    fi
    mv -f "$step_log" "${step_log%."$$".log}.log"
    say "    done in $(($(now) - step_start)) s"
}

# lock NAME: waits for the lock of that name and holds it until unlock or the end of this shell.
lock() {
    mkdir -p "$CACHE/locks"
    exec 9>"$CACHE/locks/$1"
    flock -n 9 || {
        say "    waiting for another ./dev that holds the lock '$1'"
        flock 9
    }
}
unlock() { exec 9>&-; }

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

# check_sha256 FILE EXPECTED: ends with an error if the file's digest is another one.
check_sha256() {
    found=$(sha256_of "$1")
    [ "$found" = "$2" ] || die "$1 has SHA-256 $found, expected $2: it was changed on its way or at its source"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "needs root to run: $* (install sudo, or run it as root)"
    fi
}

# python: the first Python 3.10 or newer that can make virtual environments.
python() {
    for candidate in python3 /usr/bin/python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}
