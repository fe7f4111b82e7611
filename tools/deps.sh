# shellcheck shell=sh disable=SC2034,SC2164
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# ./dev deps: whatever building and running Waggle needs and this system lacks. Sourced by ./dev.
# Everything here may be run again at any time: what is there is left alone, what is made appears whole or not at all.

# find_cargo: cargo on PATH, or where rustup puts it.
find_cargo() {
    have cargo && return
    for bin in "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/lib/rustup/bin; do
        if [ -x "$bin/cargo" ]; then
            PATH=$bin:$PATH
            export PATH
            return
        fi
    done
    return 1
}

toolchain() { sed -n 's/^channel = "\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml"; }

# missing_packages: Debian packages for the programs that are not there, one a line.
missing_packages() {
    need() { have "$1" || echo "$2"; }
    need gcc gcc
    [ -e /usr/include/stdlib.h ] || echo libc6-dev
    need pkg-config pkg-config
    need git git
    need curl curl
    need tar tar
    need zstd zstd
    need flock util-linux
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    python >/dev/null || printf '%s\n' python3 python3-venv
    need qemu-system-x86_64 qemu-system-x86
    need mmdebstrap mmdebstrap
    need mkfs.erofs erofs-utils
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || echo debian-archive-keyring
    need mke2fs e2fsprogs
    need shellcheck shellcheck
    [ "$(id -u)" -eq 0 ] || need newuidmap uidmap
    if ! find_cargo && [ "$(apt-cache policy rustup 2>/dev/null | awk '/Candidate:/ { print $2 }')" != '(none)' ] &&
        apt-cache show rustup >/dev/null 2>&1; then
        echo rustup
    fi
}

apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"; }

# missing_test_packages: the same for what tests alone use, the tools of others that make, serve and unpack images.
missing_test_packages() {
    need() { have "$1" || echo "$2"; }
    need docker-registry docker-registry
    need skopeo skopeo
    need umoci umoci
    need buildah buildah
    need qemu-img qemu-utils
    need htpasswd apache2-utils
    need openssl openssl
}

# Never fails: where one of them is not to be had, its tests say that they were skipped, or fail where CI is set.
install_test_packages() {
    if [ "$(id -u)" -ne 0 ] && ! have sudo; then
        echo "neither root nor sudo: nothing is installed"
        return 0
    fi
    had_registry=
    if have docker-registry; then had_registry=yes; fi
    apt_get update || echo "apt-get update failed: going on with the lists there are"
    for package in $(missing_test_packages); do
        apt_get install --no-install-recommends "$package" || echo "$package cannot be installed"
    done
    # The tests start registries of their own: none is to listen on this system because of them.
    if [ -z "$had_registry" ] && have docker-registry && [ -d /run/systemd/system ]; then
        as_root systemctl disable --now docker-registry || :
    fi
}

test_deps() {
    if [ -n "$(missing_test_packages)" ]; then
        step "packages for tests: $(missing_test_packages | paste -sd' ')" install_test_packages
        left=$(missing_test_packages | paste -sd' ')
        [ -z "$left" ] || say "    going on without $left: tests that need them say that they are skipped"
    fi
}

install_packages() {
    apt_get update || say "apt-get update failed: going on with the lists there are"
    # Asked again: with fresh lists, rustup may turn out to be packaged.
    # shellcheck disable=SC2046
    apt_get install --no-install-recommends $(missing_packages)
}

# rustup-init from rust-lang.org, checked, for distributions without a rustup package.
install_rustup() {
    work=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    curl --proto '=https' --tlsv1.2 -fsSL --retry 3 -o "$work/rustup-init" \
        "https://static.rust-lang.org/rustup/archive/$RUSTUP_VERSION/x86_64-unknown-linux-gnu/rustup-init"
    check_sha256 "$work/rustup-init" "$RUSTUP_SHA256"
    chmod 0755 "$work/rustup-init"
    "$work/rustup-init" -y --no-modify-path --profile minimal --default-toolchain none
}

# The toolchain of rust-toolchain.toml, if rustup rules here and lacks it.
install_toolchain() {
    rustup toolchain install "$(toolchain)" --profile minimal --component clippy --component rustfmt --no-self-update
}

has_musl_std() {
    set -- "$("${1:-rustc}" --print sysroot)/lib/rustlib/$MUSL_TARGET/lib"/libstd-*.rlib
    [ -e "$1" ]
}

# ensure_musl: a compiler with std for the guest's target; sets GUEST_RUSTC to it, or to nothing if the
# active toolchain has it. rustup is asked first, unless this is CI or rustup is told not to fetch by itself
# (RUSTUP_AUTO_INSTALL=0); else Debian's compiler is used, with std built from Debian's source (bookworm only).
ensure_musl() {
    GUEST_RUSTC=
    cd "$ROOT"
    if has_musl_std; then return; fi
    lock musl
    if [ "${CI:-}" != true ] && [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ] && have rustup; then
        say "==> Rust's standard library for the guest ($MUSL_TARGET), from rustup"
        timeout 300 rustup target add "$MUSL_TARGET" || say "    rustup could not fetch it"
    fi
    if ! has_musl_std; then
        musl_prefix=$("$ROOT/tools/musl-rust.sh" where "$CACHE/toolchain") ||
            die "no Rust standard library for $MUSL_TARGET: run 'rustup target add $MUSL_TARGET', or build on Debian bookworm, which packages one"
        [ -e "$musl_prefix/.done" ] ||
            step "Rust's standard library for the guest, from Debian's source" "$ROOT/tools/musl-rust.sh" make "$CACHE/toolchain"
        GUEST_RUSTC=$musl_prefix/bin/rustc
    fi
    unlock
}

# The crate's own digest is checked before it is built.
make_vsock_device() {
    work=$(mktemp -d "$CACHE/work-XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    # Its build goes to the cache's disk: it is larger than many a /tmp.
    CARGO_TARGET_DIR=$work/target cargo install --locked --no-track --root "$work" --version "$VSOCK_VERSION" vhost-device-vsock
    for crate in "${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/vhost-device-vsock-"$VSOCK_VERSION".crate; do
        [ ! -e "$crate" ] || check_sha256 "$crate" "$VSOCK_CRATE_SHA256"
    done
    strip "$work/bin/vhost-device-vsock" 2>/dev/null || :
    mv -f "$work/bin/vhost-device-vsock" "$LIB_DIR/vhost-device-vsock-$VSOCK_VERSION"
    ln -sfn "vhost-device-vsock-$VSOCK_VERSION" "$work/link"
    mv -fT "$work/link" "$LIB_DIR/vhost-device-vsock"
}

fetch_krunfw() {
    work=$(mktemp -d "$CACHE/work-XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    "$(python)" -m venv "$work/venv"
    printf '%s --hash=sha256:%s\n' "$KRUNFW_WHEEL" "$KRUNFW_WHEEL_SHA256" >"$work/requirements.txt"
    # The wheel is data to us: fetched for its platform, whatever Python this is.
    "$work/venv/bin/pip" download -q --no-deps --require-hashes --only-binary :all: -d "$work" -r "$work/requirements.txt"
    "$work/venv/bin/python" - "$work" "$KRUNFW_FILE" <<'PYTHON'
import glob, sys, zipfile
work, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(f"{work}/*.whl")[0]) as wheel:
    (member,) = [m for m in wheel.namelist() if m.endswith("/" + name)]
    with open(f"{work}/{name}", "wb") as out:
        out.write(wheel.read(member))
PYTHON
    check_sha256 "$work/$KRUNFW_FILE" "$KRUNFW_SHA256"
    chmod 0644 "$work/$KRUNFW_FILE"
    mv -f "$work/$KRUNFW_FILE" "$LIB_DIR/$KRUNFW_FILE"
    ln -sfn "$KRUNFW_FILE" "$work/link"
    mv -fT "$work/link" "$LIB_DIR/libkrunfw.so.5"
}

system_krunfw() { /sbin/ldconfig -p 2>/dev/null | awk '$1 == "libkrunfw.so.5" { print $NF; exit }'; }

ensure_krunfw() {
    if [ -e "$LIB_DIR/libkrunfw.so.5" ]; then return; fi
    system=$(system_krunfw)
    if [ -n "$system" ]; then
        say "    libkrunfw: the system's, $system"
        ln -sfn "$system" "$LIB_DIR/libkrunfw.so.5"
    else
        step "libkrunfw, the guest's kernel ($KRUNFW_WHEEL)" fetch_krunfw
    fi
}

deps() {
    [ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] || die "Waggle runs on Linux on x86_64 only (this is $(uname -s) on $(uname -m))"
    have apt-get || die "only Debian and Ubuntu are supported here (no apt-get); CONTRIBUTING.md lists what to install by hand"
    if [ -n "$(missing_packages)" ]; then
        step "system packages: $(missing_packages | paste -sd' ')" install_packages
        left=$(missing_packages | paste -sd' ')
        [ -z "$left" ] || die "still missing after installing: $left"
    fi
    mkdir -p "$LIB_DIR"
    lock deps
    find_cargo || step "rustup $RUSTUP_VERSION" install_rustup
    find_cargo || die "no cargo after installing rustup: see above"
    if have rustup && ! rustup toolchain list | grep -q "^$(toolchain)"; then
        step "Rust $(toolchain)" install_toolchain
    fi
    [ -e "$LIB_DIR/vhost-device-vsock-$VSOCK_VERSION" ] || step "vhost-device-vsock $VSOCK_VERSION" make_vsock_device
    ensure_krunfw
    unlock
    ensure_musl
}

# make_venv VERSION: a Python environment with the official MCP client, its packages pinned by hash.
make_venv() {
    venv=$CACHE/venvs/mcp-$1
    # A virtual environment knows its own path, so it is made in place; the marker tells whether it is whole.
    rm -rf "$venv"
    "$(python)" -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check --require-hashes --no-deps -r "$ROOT/tools/requirements/mcp-$1.txt"
    venv_key "$1" >"$venv/.done"
}

venv_key() { (sha256_of "$ROOT/tools/requirements/mcp-$1.txt"; "$(python)" --version) | paste -sd' '; }

ensure_venv() {
    mkdir -p "$CACHE/venvs"
    lock "venv-$1"
    if [ "$(cat "$CACHE/venvs/mcp-$1/.done" 2>/dev/null)" != "$(venv_key "$1")" ]; then
        step "Python environment with mcp $1" make_venv "$1"
    fi
    unlock
}
