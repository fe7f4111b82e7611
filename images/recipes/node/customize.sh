#!/bin/sh
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# node: a global npm prefix that sandbox may write to, with its programs on PATH and its
# modules found by require(). Runs inside the image.
set -eu

install -d -o sandbox -g sandbox /home/sandbox/.npm-global /home/sandbox/.npm-global/bin \
    /home/sandbox/.npm-global/lib /home/sandbox/.npm-global/lib/node_modules
# node searches $HOME/.node_modules by itself: no NODE_PATH needed.
runuser -u sandbox -- ln -s .npm-global/lib/node_modules /home/sandbox/.node_modules
cat >/home/sandbox/.npmrc <<RC
prefix=/home/sandbox/.npm-global
update-notifier=false
fund=false
audit=false
RC
chown sandbox:sandbox /home/sandbox/.npmrc
# The agent reads this line as PATH for what it starts.
echo /home/sandbox/.npm-global/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin >/etc/waggle/path
