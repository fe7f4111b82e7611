#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""Package trees become layered images in an OCI image layout, for ``waggle image import`` and any other tool.

oci_image.py LAYOUT --guest DIR --programs NAME,... --handshake FILE --version VERSION base=TREE [NAME=TREE...]

TREE is a tar archive of a whole image, compressed by zstd. The first one is the base of all others. An image
``localhost/waggle-NAME:latest`` has these layers, and the same input gives the same bytes:

  1. base's tree, the same blob in all images
  2. unless it is base: what NAME's tree has on top of base's, and a whiteout for what it lacks
  3. the guest programs, the same blob in all images: new ones leave the large blobs as they are

Layers are gzip, which every tool reads (Debian 12's umoci reads no zstd). One that was made from the same input
before is not made again: ``layers.json`` in LAYOUT remembers. What no image of the layout has any more is removed.
The caller sees to it that nobody else writes LAYOUT meanwhile.
"""

import argparse
import concurrent.futures
import datetime
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib

# 3 % larger than gzip's usual 6, in 60 % of the time.
GZIP_LEVEL = 4
GUEST_FOLDER = "usr/libexec/waggle"
PATH_FILE = "etc/waggle/path"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OCI = "application/vnd.oci.image."
XATTR = "SCHILY.xattr."
# Labels of the building host mean nothing in a guest.
XATTRS_LEFT_OUT = {XATTR + "security.selinux"}


def fail(text):
    sys.exit(f"oci_image.py: {text}")


def encoded(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def hashed(*parts):
    return hashlib.sha256(encoded(parts)).hexdigest()


def file_sha256(path):
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def write_whole(path, content):
    """The file has this content or what it had before, whatever happens meanwhile."""
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".new-", delete=False) as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.chmod(out.name, 0o644)
    os.replace(out.name, path)


class LayerWriter:
    """A file for tarfile to write: compresses, and takes both digests of the layer on the way."""

    def __init__(self, file):
        self.file = file
        self.deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
        self.plain = hashlib.sha256()
        self.packed = hashlib.sha256()
        self.size = 0

    def write(self, content):
        self.plain.update(content)
        self._put(self.deflate.compress(content))
        return len(content)

    def _put(self, content):
        self.packed.update(content)
        self.file.write(content)
        self.size += len(content)

    def finish(self):
        self._put(self.deflate.flush())
        digests = {"digest": self.packed.hexdigest(), "diff_id": self.plain.hexdigest()}
        return {**digests, "size": self.size}


class Layout:
    """The folder: blobs by digest, the index of images, and which input gave which layer."""

    def __init__(self, folder):
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        for left in [*folder.glob(".*-*"), *self.blobs.glob(".*-*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        write_whole(folder / "oci-layout", encoded({"imageLayoutVersion": "1.0.0"}))
        self.layers = self._load("layers.json", {})
        self.index = self._load("index.json", {})

    def _load(self, name, default):
        try:
            return json.loads((self.folder / name).read_text())
        except (FileNotFoundError, ValueError):
            return default

    def layer(self, key):
        """What is remembered of the layer of this key, if its blob is there."""
        layer = self.layers.get(key)
        blob = layer and self.blobs / layer["digest"]
        return layer if blob and blob.is_file() and blob.stat().st_size == layer["size"] else None

    def make_layer(self, key, fill, facts=None):
        """Makes a layer of what `fill` adds to an archive."""
        with tempfile.NamedTemporaryFile("wb", dir=self.blobs, prefix=".layer-", delete=False) as out:
            writer = LayerWriter(out)
            with tarfile.open(fileobj=writer, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
                fill(archive)
            layer = {**writer.finish(), **(facts or {})}
            out.flush()
            os.fsync(out.fileno())
        os.chmod(out.name, 0o644)
        os.replace(out.name, self.blobs / layer["digest"])
        self.layers[key] = layer

    def put(self, value):
        """Makes a blob of JSON; gives its digest and size."""
        content = encoded(value)
        digest = hashlib.sha256(content).hexdigest()
        write_whole(self.blobs / digest, content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def save(self, images):
        """Records images by their reference, beside those that were not made now, and removes what none has."""
        reference = "org.opencontainers.image.ref.name"
        old = {entry["annotations"][reference]: entry for entry in self.index.get("manifests", [])}
        for name, manifest in images.items():
            old[name] = {
                "mediaType": OCI + "manifest.v1+json",
                **manifest,
                "platform": {"architecture": "amd64", "os": "linux"},
                "annotations": {reference: name},
            }
        entries = [old[name] for name in sorted(old)]
        index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": entries}
        write_whole(self.folder / "index.json", encoded(index))
        keep = set()
        for entry in entries:
            digest = entry["digest"].removeprefix("sha256:")
            manifest = json.loads((self.blobs / digest).read_text())
            used = [manifest["config"], *manifest["layers"]]
            keep |= {digest, *(part["digest"].removeprefix("sha256:") for part in used)}
        layers = {key: layer for key, layer in self.layers.items() if layer["digest"] in keep}
        write_whole(self.folder / "layers.json", encoded(layers))
        for blob in self.blobs.iterdir():
            if blob.name not in keep:
                blob.unlink()


def normal(name):
    """A name in an archive as its path below the root, which itself is ''."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or any(part.startswith(".wh.") for part in parts):
        fail(f"no name for a package tree: {name!r}")
    return "/".join(parts)


def parent(path):
    return path.rpartition("/")[0]


class Tree:
    """A whole image as a tar archive that can be sought in."""

    def __init__(self, file):
        self.archive = tarfile.open(file)
        # Paths to entries, in the archive's order.
        self.entries = {}
        self.contents = {}
        # The path of a file that has several names to all of them.
        self.names = {}
        for entry in self.archive:
            path = normal(entry.name)
            if path in self.entries:
                fail(f"twice in a package tree: {path!r}")
            self.entries[path] = entry
            if entry.isreg():
                self.contents[path] = self._content(entry)
            elif entry.islnk():
                first = normal(entry.linkname)
                self.names.setdefault(first, {first}).add(path)

    def _content(self, entry):
        hasher = hashlib.sha256()
        with self.archive.extractfile(entry) as file:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
        return hasher.digest()

    def newest(self):
        return max((int(entry.mtime) for entry in self.entries.values()), default=0)

    def search_path(self):
        """The PATH that the image itself names."""
        entry = self.entries.get(PATH_FILE)
        if entry is None:
            return DEFAULT_PATH
        with self.archive.extractfile(entry) as file:
            return file.read().decode().strip()

    def is_folder(self, path):
        entry = self.entries.get(path)
        return path == "" if entry is None else entry.isdir()

    def look(self, path):
        """All that makes an entry what it is. Which name of a file comes first in an archive is nothing of it."""
        entry = self.entries[path]
        first = normal(entry.linkname) if entry.islnk() else path
        file = self.entries[first]
        target = file.linkname if file.issym() else ""
        device = (file.devmajor, file.devminor) if file.isdev() else ()
        attributes = (file.type, file.mode, file.uid, file.gid, file.mtime, target, device, xattrs(file))
        return attributes, self.contents.get(first), frozenset(self.names.get(first, ()))

    def add(self, archive, path):
        """Writes an entry into another archive."""
        entry = self.entries[path]
        new = tarfile.TarInfo(path or ".")
        new.type, new.mode, new.mtime = entry.type, entry.mode, entry.mtime
        new.uid, new.gid = entry.uid, entry.gid
        new.devmajor, new.devminor = entry.devmajor, entry.devminor
        new.linkname = normal(entry.linkname) if entry.islnk() else entry.linkname
        new.pax_headers = dict(xattrs(entry))
        if entry.isreg():
            # However the archive stored it: holes are written out.
            new.type, new.size = tarfile.REGTYPE, entry.size
            with self.archive.extractfile(entry) as file:
                archive.addfile(new, file)
        else:
            archive.addfile(new)


def xattrs(entry):
    names = [name for name in entry.pax_headers if name.startswith(XATTR) and name not in XATTRS_LEFT_OUT]
    return tuple((name, entry.pax_headers[name]) for name in sorted(names))


def changes(base, tree):
    """What makes `tree` of `base`: paths to write, in the archive's order, and paths that are gone."""
    write = {path for path in tree.entries if path not in base.entries or base.look(path) != tree.look(path)}
    # A tool that unpacks a layer by itself finds no other name of a file in the layers below.
    for names in tree.names.values():
        if not write.isdisjoint(names):
            write |= names
    # What was below a folder that is gone, or is none any more, went with it.
    gone = sorted(path for path in base.entries if path not in tree.entries and tree.is_folder(parent(path)))
    # Such a tool would also make up the folders that lead to an entry.
    for path in [*write, *gone]:
        while path := parent(path):
            write.add(path)
    return [path for path in tree.entries if path in write], gone


def fill_tree(tree):
    def fill(archive):
        for path in tree.entries:
            tree.add(archive, path)

    return fill


def fill_changes(base, tree):
    def fill(archive):
        write, gone = changes(base, tree)
        for path in write:
            tree.add(archive, path)
        for path in gone:
            folder, _, name = path.rpartition("/")
            archive.addfile(tarfile.TarInfo(f"{folder}/.wh.{name}" if folder else f".wh.{name}"))

    return fill


def fill_guest(guest, folders, mtime):
    """The programs and the folders that lead to them, which are in every image with the attributes they have in base."""

    def fill(archive):
        for name, mode in folders:
            new = tarfile.TarInfo(name)
            new.type, new.mode, new.mtime = tarfile.DIRTYPE, mode, mtime
            archive.addfile(new)
        for name, content in guest.items():
            new = tarfile.TarInfo(f"{GUEST_FOLDER}/{name}")
            new.mode, new.mtime, new.size = 0o755, mtime, len(content)
            archive.addfile(new, io.BytesIO(content))

    return fill


def protocol_range(handshake):
    """The protocol versions that an agent built from these sources speaks."""
    text = handshake.read_text()
    found = [re.search(rf"^pub const VERSION_{end}: u16 = (\d+);$", text, re.M) for end in ("MIN", "MAX")]
    if not all(found):
        fail(f"{handshake} declares no VERSION_MIN and VERSION_MAX")
    return "-".join(match[1] for match in found)


def open_tree(source, folder):
    """Reads a compressed tree; its plain archive lies in `folder` for as long as it is needed."""
    plain = folder / f"{source.name}.tar"
    with open(plain, "wb") as out:
        subprocess.run(["zstd", "-q", "-d", "-c", source], stdout=out, check=True)
    return Tree(plain)


def base_facts(tree):
    """What the rest needs to know of base even if its layer need not be made."""
    folders, path = [], GUEST_FOLDER
    while path:
        entry = tree.entries.get(path)
        folders.insert(0, [path, entry.mode if entry else 0o755])
        path = parent(path)
    return {**tree_facts(tree), "folders": folders}


def tree_facts(tree):
    return {"newest": tree.newest(), "path": tree.search_path()}


def package_layers(layout, tool, trees):
    """The layers of the trees, each name's own one, those made that are missing."""
    base, *others = trees
    digests = {name: file_sha256(tree) for name, tree in trees.items()}
    keys = {name: hashed(tool, digests[base], digests[name]) for name in trees}
    missing = [name for name in trees if not layout.layer(keys[name])]
    if missing:
        with (
            tempfile.TemporaryDirectory(dir=layout.folder, prefix=".trees-") as work,
            # Two are enough for two cores, and for what of the trees is in memory at once.
            concurrent.futures.ThreadPoolExecutor(2) as pool,
        ):
            work = pathlib.Path(work)
            below = open_tree(trees[base], work)

            def make(name):
                if name == base:
                    return layout.make_layer(keys[name], fill_tree(below), base_facts(below))
                tree = open_tree(trees[name], work)
                return layout.make_layer(keys[name], fill_changes(below, tree), tree_facts(tree))

            for name, _ in zip(missing, pool.map(make, missing)):
                print(f"made the layer of {name}")
    return {name: layout.layer(keys[name]) for name in trees}


def guest_layer(layout, tool, guest, base):
    programs = {name: hashlib.sha256(content).hexdigest() for name, content in guest.items()}
    key = hashed(tool, programs, base["folders"], base["newest"])
    if not layout.layer(key):
        layout.make_layer(key, fill_guest(guest, base["folders"], base["newest"]))
        print("made the layer of the guest programs")
    return layout.layer(key)


def put_image(layout, name, layers, labels):
    """Writes configuration and manifest of an image of these layers, each with what made it."""
    own = layers[-2][1]
    newest = max(layer.get("newest", 0) for _, layer in layers)
    created = datetime.datetime.fromtimestamp(newest, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {
            "User": "sandbox",
            "Env": [f"PATH={own['path']}"],
            "Cmd": ["/bin/bash"],
            "WorkingDir": "/home/sandbox",
            "Labels": {"org.opencontainers.image.title": f"waggle-{name}", **labels},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer['diff_id']}" for _, layer in layers]},
        "history": [{"created": created, "created_by": f"./dev images: {made_of}"} for made_of, _ in layers],
    }
    media_type = OCI + "layer.v1.tar+gzip"
    return layout.put(
        {
            "schemaVersion": 2,
            "mediaType": OCI + "manifest.v1+json",
            "config": {"mediaType": OCI + "config.v1+json", **layout.put(config)},
            "layers": [
                {"mediaType": media_type, "digest": f"sha256:{layer['digest']}", "size": layer["size"]}
                for _, layer in layers
            ],
        }
    )


def arguments():
    line = argparse.ArgumentParser(usage=__doc__)
    line.add_argument("layout", type=pathlib.Path)
    line.add_argument("--guest", type=pathlib.Path, required=True)
    line.add_argument("--programs", required=True)
    line.add_argument("--handshake", type=pathlib.Path, required=True)
    line.add_argument("--version", required=True)
    line.add_argument("trees", nargs="+")
    given = line.parse_args()
    trees = [tree.partition("=") for tree in given.trees]
    given.trees = {name: pathlib.Path(tree) for name, _, tree in trees}
    return given


def main():
    given = arguments()
    layout = Layout(given.layout)
    tool = file_sha256(__file__)
    # Read once: the label tells of what is in the layer, also if a build replaces them meanwhile.
    guest = {name: (given.guest / name).read_bytes() for name in given.programs.split(",")}
    own = package_layers(layout, tool, given.trees)
    base = next(iter(given.trees))
    programs = guest_layer(layout, tool, guest, own[base])
    labels = {
        "org.opencontainers.image.version": given.version,
        "dev.waggle.protocol": protocol_range(given.handshake),
        "dev.waggle.agent": hashlib.sha256(guest["waggle-guest"]).hexdigest(),
    }
    images = {}
    for name in given.trees:
        layers = [("packages of base", own[base])]
        if name != base:
            layers.append((f"packages of {name}", own[name]))
        layers.append(("guest programs", programs))
        images[f"localhost/waggle-{name}:latest"] = put_image(layout, name, layers, labels)
    layout.save(images)


if __name__ == "__main__":
    main()
