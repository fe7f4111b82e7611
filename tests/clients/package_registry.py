#!/usr/bin/env python3
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
"""One small package for pip, npm and apt, served over TLS.

    package_registry.py FOLDER HOST

Makes the package in its three forms in FOLDER/www, and serves that folder as a static file server would, with
FOLDER/chain.pem and FOLDER/key.pem, on a free port of HOST. Writes the port as a line once it listens.
"""

import base64
import functools
import hashlib
import http.server
import io
import json
import pathlib
import ssl
import sys
import tarfile
import zipfile

NAME = "waggle-inspected"
MODULE = "waggle_inspected"
HELLO = "hello from the inspected side"


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def wheel():
    info = f"{MODULE}-1.0.dist-info"
    files = {
        f"{MODULE}.py": f"hello = {HELLO!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: waggle\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def deb(control):
    """deb(5): an ar archive of three members."""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar({"./control": control.encode()}),
        "data.tar.gz": tar({f"./usr/share/{NAME}": f"{HELLO}\n".encode()}),
    }
    archive = b"!<arch>\n"
    for name, content in members.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        archive += head.encode() + content + b"\n" * (len(content) % 2)
    return archive


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def pip_index(www, url):
    file, content = f"{MODULE}-1.0-py3-none-any.whl", wheel()
    digest = hashlib.sha256(content).hexdigest()
    put(www / "files" / file, content)
    link = f'<a href="{url}/files/{file}#sha256={digest}">{file}</a>'
    put(www / "simple" / NAME / "index.html", f"<!DOCTYPE html><html><body>{link}</body></html>")


def npm_registry(www, url):
    package = {"name": NAME, "version": "1.0.0", "main": "index.js"}
    content = tar({
        "package/package.json": json.dumps(package).encode(),
        "package/index.js": f"module.exports = {json.dumps(HELLO)}\n".encode(),
    })
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    put(www / "npm" / "-" / f"{NAME}-1.0.0.tgz", content)
    dist = {"tarball": f"{url}/npm/-/{NAME}-1.0.0.tgz", "integrity": f"sha512-{digest}"}
    document = {
        "name": NAME,
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": {**package, "dist": dist}},
    }
    put(www / "npm" / NAME, json.dumps(document))


def apt_repository(www):
    control = (
        f"Package: {NAME}\nVersion: 1.0\nArchitecture: all\n"
        f"Maintainer: The Waggle Authors <waggle@example.com>\nDescription: says hello\n"
    )
    content = deb(control)
    put(www / "apt" / f"{NAME}.deb", content)
    digest = hashlib.sha256(content).hexdigest()
    lists = f"{control}Filename: ./{NAME}.deb\nSize: {len(content)}\nSHA256: {digest}\n"
    put(www / "apt" / "Packages", lists)


class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass


def listen(folder, host):
    files = functools.partial(Files, directory=folder / "www")
    server = http.server.ThreadingHTTPServer((host, 0), files)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    # The handshake belongs to a connection's own thread: who does not finish it holds up nobody else.
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    # Who refuses the certificate is no error of this server's.
    server.handle_error = lambda *arguments: None
    return server


def main():
    folder, host = pathlib.Path(sys.argv[1]), sys.argv[2]
    www = folder / "www"
    server = listen(folder, host)
    pip_index(www, f"https://{host}:{server.server_port}")
    npm_registry(www, f"https://{host}:{server.server_port}")
    apt_repository(www)
    put(www / "hello", HELLO)
    print(server.server_port, flush=True)
    server.serve_forever()


main()
