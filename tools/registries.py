#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""registries.py FILE RECORDS...: where the package managers of our images fetch from, for Waggle to read.

RECORDS are files of lines MANAGER=URL, as images/recipes/registries.sh prints them. FILE becomes
{"version": 1, "registries": [...]}, sorted, each once. Only what ``./dev images`` asked is in it: it widens what
environments may reach.

registries.py --cargo-files CONFIG: prints the line for where a registry of cargo's keeps its files, out of the
config.json of its index (https://doc.rust-lang.org/cargo/reference/registry-index.html).
"""

import json
import os
import pathlib
import re
import sys
import tempfile

VERSION = 1
REGISTRY = re.compile(r"[a-z]+(-[a-z]+)*=https?://[A-Za-z0-9.\-_~:/\[\]%]+")


def registries(path):
    lines = {line.strip() for line in pathlib.Path(path).read_text().splitlines()} - {""}
    for line in lines:
        if not REGISTRY.fullmatch(line):
            sys.exit(f"registries.py: {path}: {line!r} is not like pip=https://pypi.example/simple/")
    return lines


def cargo_files(config):
    # A template: what it says of crate and version begins behind the address.
    address = json.loads(pathlib.Path(config).read_text())["dl"].split("{")[0].rstrip("/")
    line = f"cargo-files={address}/"
    if not REGISTRY.fullmatch(line):
        sys.exit(f"registries.py: {config}: {address!r} is no address of files")
    return line


def main():
    if sys.argv[1] == "--cargo-files":
        print(cargo_files(sys.argv[2]))
        return
    target = pathlib.Path(sys.argv[1])
    found = sorted(set().union(*(registries(path) for path in sys.argv[2:])))
    content = json.dumps({"version": VERSION, "registries": found}, indent=1) + "\n"
    if target.exists() and target.read_text() == content:
        return
    # A server that reads it meanwhile sees the old content or the new one.
    with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=".registries-", delete=False) as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.chmod(out.name, 0o644)
    os.replace(out.name, target)


if __name__ == "__main__":
    main()
