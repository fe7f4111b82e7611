#!/bin/sh
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# base: the user that guest programs run as. Runs inside the image.
set -eu

useradd --uid 1000 --user-group --create-home --home-dir /home/sandbox --shell /bin/bash sandbox
mkdir -p /etc/waggle /usr/libexec/waggle
