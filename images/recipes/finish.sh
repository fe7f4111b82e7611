#!/bin/sh
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# Runs inside every image after its own customize.sh: removes what building left behind, and
# everything that would tell about, or depend on, the machine it was built on.
set -eu

rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -rf /var/cache/ldconfig/aux-cache /root/.cache /root/.npm /home/sandbox/.cache
find /var/log -type f -exec rm -f {} +
find /usr/share/doc -depth -type d -empty -exec rmdir {} +

# Only a build needs its mirrors, proxies and apt settings.
rm -f /etc/apt/sources.list.d/* /etc/apt/apt.conf.d/99mmdebstrap
. /etc/os-release
cat >/etc/apt/sources.list <<LIST
deb http://deb.debian.org/debian $VERSION_CODENAME main
deb http://deb.debian.org/debian $VERSION_CODENAME-updates main
deb http://deb.debian.org/debian-security $VERSION_CODENAME-security main
LIST
cat >/etc/apt/apt.conf.d/90waggle <<CONF
Acquire::Languages "none";
APT::Install-Recommends "false";
CONF

# The guest's own name and resolver. There is no network card: names are resolved on the host.
# A container build mounts its own files over these three and refuses the writes: then they are its affair.
{ echo waggle >/etc/hostname; } 2>/dev/null || true
{ printf '127.0.0.1 localhost waggle\n::1 localhost ip6-localhost ip6-loopback\n' >/etc/hosts; } 2>/dev/null || true
{ : >/etc/resolv.conf; } 2>/dev/null || true
chmod 0644 /etc/hostname /etc/hosts /etc/resolv.conf 2>/dev/null || true
: >/etc/machine-id
chmod 1777 /tmp /var/tmp
