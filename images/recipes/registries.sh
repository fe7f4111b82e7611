#!/bin/sh
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# Runs inside every finished image, and in the tree of images/recipes/asked, with a clean environment: asks the package
# managers that are in it where they fetch from, and prints a line MANAGER=URL for each registry. These are what the network policy `packages` permits.
# Nothing is looked up on a network, and no registry is named here.
set -eu

have() { command -v "$1" >/dev/null 2>&1; }

# pip's own default index, and the host that it expects the index's files on.
if have pip3 || have pip; then
    python3 -I - <<'PYTHON'
from pip._internal.models.index import PyPI

print(f"pip={PyPI.simple_url}")
print(f"pip-files=https://{PyPI.file_storage_domain}/")
PYTHON
fi

if have npm; then
    registry=$(npm config get registry)
    echo "npm=$registry"
fi

if have apt-get; then
    # It has fetched no lists yet, hence no release information either.
    # shellcheck disable=SC2016 # apt, not the shell, fills this in
    targets=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages')
    printf '%s\n' "$targets" | sort -u | sed 's/^/apt=/'
fi

if have apk; then sed -n 's,^\(@[^ ]* \)\{0\,1\}\(https\{0\,1\}://.*\),apk=\2,p' /etc/apk/repositories; fi

# Entries of GOPROXY are separated by commas and bars; `direct` and `off` are no addresses.
if have go; then
    go env GOPROXY | tr , '\n' | tr '|' '\n' | sed -n 's,^https\{0\,1\}://.*,go=&,p'
    # The checksum database is named by its host, with an optional key and address behind it.
    go env GOSUMDB | sed -n 's,^\([a-z0-9.-]*\.[a-z]*\).*,go=https://\1/,p'
fi

# cargo has no command that tells, but its log names what it asks for first. Nothing listens on that port, so nothing
# leaves.
if have cargo; then
    said=$(CARGO_LOG=network=debug CARGO_NET_RETRY=0 https_proxy=http://127.0.0.1:9 cargo search waggle 2>&1) || true
    printf '%s\n' "$said" | sed -n 's,.*"\(https://[^"]*/\)config\.json".*,cargo=\1,p' | sort -u
fi
