#!/bin/sh
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# Reads tar archives (one or several, joined) from standard input and writes one EROFS file system with their
# content to standard output. Owners and modes are those in the archives, so it runs as root, or as the root of
# a user namespace, which can write to no folder of the caller's: hence the pipes.
set -eu

umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/root"
# Device nodes are the guest kernel's affair (devtmpfs), and a user namespace may not make them.
tar -x -f - --ignore-zeros --numeric-owner --same-permissions --same-owner --exclude='./dev/*' -C "$work/root"
chmod 0755 "$work/root"
# Times stay as they are: Python trusts a .pyc file only if it records its source's time. No xattrs (-x-1):
# the building host's security labels mean nothing in a guest.
mkfs.erofs -zlz4hc,9 -C16384 -x-1 --quiet "$work/image" "$work/root" >&2
cat "$work/image"
