#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""The index of the image folder: what ``./dev images`` has built, for the crate waggle-images to read.

image_index.py current DIR NAME KEY    exit 0 if NAME was built from KEY and its file is whole
image_index.py put DIR NAME KEY FILE AGENT_SHA256 REGISTRIES    take FILE in as NAME; print its new name
image_index.py record DIR NAME REGISTRIES    record what the package managers in NAME say
image_index.py prune DIR    remove image files that neither this index nor the one before it names

REGISTRIES is a file of lines MANAGER=URL, as images/recipes/registries.sh prints them. Only images that
``./dev images`` built have them in the index: they widen what environments may reach.
"""

import datetime
import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile
import time

VERSION = 1
# A file that was just written may belong to a build whose index is not written yet.
GRACE_SECONDS = 600
REGISTRY = re.compile(r"[a-z]+(-[a-z]+)*=https?://[A-Za-z0-9.\-_~:/\[\]%]+")


def load(path):
    try:
        index = json.loads(path.read_text())
        if index["version"] == VERSION and isinstance(index["images"], dict):
            return index
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return {"version": VERSION, "images": {}}


def write(path, index):
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".index-", delete=False) as out:
        json.dump(index, out, indent=1, sort_keys=True)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    os.chmod(out.name, 0o644)
    os.replace(out.name, path)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else slow(file)


def slow(file):
    """hashlib.file_digest for Python 3.10."""
    hasher = hashlib.sha256()
    while chunk := file.read(1 << 20):
        hasher.update(chunk)
    return hasher.hexdigest()


def current(folder, name, key):
    entry = load(folder / "index.json")["images"].get(name)
    if not entry or entry.get("key") != key:
        return False
    file = folder / entry["file"]
    return file.is_file() and file.stat().st_size == entry["bytes"] and digest(file) == entry["sha256"]


def registries(path):
    """The lines of a file of registries, each once."""
    lines = {line.strip() for line in pathlib.Path(path).read_text().splitlines()} - {""}
    for line in lines:
        if not REGISTRY.fullmatch(line):
            sys.exit(f"image_index.py: {path}: {line!r} is not like pip=https://pypi.example/simple/")
    return sorted(lines)


def record(folder, name, source):
    found = registries(source)
    index = load(folder / "index.json")
    entry = index["images"].get(name)
    if entry is None:
        sys.exit(f"image_index.py: no image {name!r} to record registries of")
    if entry.get("registries") != found:
        entry["registries"] = found
        write(folder / "index.json", index)


def put(folder, name, key, source, agent, records):
    source = pathlib.Path(source)
    found = registries(records)
    sha256 = digest(source)
    target = folder / f"{name}-{sha256[:16]}.erofs"
    os.chmod(source, 0o444)
    os.replace(source, target)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    index = load(folder / "index.json")
    old = index["images"].get(name)
    index["images"][name] = {
        "file": target.name,
        "bytes": target.stat().st_size,
        "sha256": sha256,
        "built": now,
        "agent_sha256": agent,
        "key": key,
        "previous": old["file"] if old and old["file"] != target.name else None,
        "registries": found,
    }
    write(folder / "index.json", index)
    return target.name


def prune(folder):
    images = load(folder / "index.json")["images"].values()
    # The build before is kept too: a running server may have looked it up a moment ago.
    keep = {entry["file"] for entry in images} | {entry.get("previous") for entry in images}
    for file in [*folder.glob("*.erofs"), *folder.glob(".index-*"), *folder.glob(".packing-*")]:
        if file.name not in keep and time.time() - file.stat().st_mtime > GRACE_SECONDS:
            print(f"removing {file.name}")
            file.unlink(missing_ok=True)


def main():
    command, folder, *rest = sys.argv[1:]
    folder = pathlib.Path(folder)
    if command == "current":
        sys.exit(0 if current(folder, *rest) else 1)
    elif command == "put":
        print(put(folder, *rest))
    elif command == "record":
        record(folder, *rest)
    elif command == "prune":
        prune(folder)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
