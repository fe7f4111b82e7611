#!/bin/sh
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# ask-tree.sh SCRIPT: reads a tar archive of an image's tree from standard input, runs the text SCRIPT inside it with
# nothing of the caller's environment, and writes what that prints. Runs as root, or as the root of a user namespace,
# which can write to no folder of the caller's: hence the pipes.
set -eu

umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
tar -x -f - --ignore-zeros --numeric-owner --same-permissions --same-owner --exclude='./dev/*' -C "$work"
chmod 0755 "$work"
chroot "$work" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C \
    sh -c "$1" registries.sh </dev/null
