#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""The index of the image folder: what ``./dev images`` has built, for the crate waggle-images to read.

image_index.py current DIR NAME KEY    exit 0 if NAME was built from KEY and its file is whole
image_index.py put DIR NAME KEY FILE AGENT_SHA256    take FILE in as NAME; print its new name
image_index.py prune DIR    remove image files that neither this index nor the one before it names
"""

import datetime
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import time

VERSION = 1
# A file that was just written may belong to a build whose index is not written yet.
GRACE_SECONDS = 600


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


def put(folder, name, key, source, agent):
    source = pathlib.Path(source)
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
    elif command == "prune":
        prune(folder)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
