#!/bin/sh
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# python: a virtual environment that belongs to sandbox and comes first on PATH, so that
# 'pip install' works without root and without touching Debian's own packages (PEP 668).
# Runs inside the image.
set -eu

runuser -u sandbox -- python3 -m venv /home/sandbox/venv
# Writing the image puts the times of new files back to when it was begun, and a .pyc that records another time than
# its source's is worthless: give the sources an old time first, then compile.
stdlib=$(python3 -c 'import os; print(os.path.realpath(os.__file__))')
find /home/sandbox/venv -name '*.py' -exec touch -r "$stdlib" {} +
runuser -u sandbox -- python3 -m compileall -q -f /home/sandbox/venv || :
# The agent reads this line as PATH for what it starts.
echo /home/sandbox/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin >/etc/waggle/path
