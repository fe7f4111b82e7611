#!/bin/sh
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# A Rust compiler with std for x86_64-unknown-linux-musl where rustup cannot fetch one: Debian's rustc-web,
# unpacked under a prefix of its own, with std built from Debian's source of the same version. Needs no root.
#
# musl-rust.sh where CACHE    print the prefix it is, or would be, in; fails if Debian has no such package here
# musl-rust.sh make CACHE     make it (about two minutes)
set -eu

target=x86_64-unknown-linux-musl
here=$(cd "$(dirname "$0")" && pwd)
action=$1 cache=$2

version=$(apt-cache policy rustc-web 2>/dev/null | awk '/Candidate:/ { print $2 }')
case $version in '' | '(none)')
    # A machine whose package lists were never fetched, such as a fresh container.
    if [ "$(id -u)" -eq 0 ]; then apt-get -q update >&2 || :; fi
    version=$(apt-cache policy rustc-web 2>/dev/null | awk '/Candidate:/ { print $2 }')
    case $version in '' | '(none)')
        echo "Debian's package rustc-web is not to be had here" >&2
        exit 1
        ;;
    esac
    ;;
esac
prefix=$cache/musl-$(printf %s "$version" | tr -c 'A-Za-z0-9.' _)-gcc$(gcc -dumpfullversion)-1
if [ "$action" = where ]; then
    printf '%s\n' "$prefix"
    exit
fi
[ ! -e "$prefix/.done" ] || exit 0

rm -rf "$prefix"
mkdir -p "$prefix/debs" "$prefix/bin"
packages='rustc-web libstd-rust-web-dev rust-web-src musl-dev'
# shellcheck disable=SC2086
depends=$(apt-get install -s --no-install-recommends $packages | awk '/^Inst/ { print $2 }')
# shellcheck disable=SC2086
packages=$(printf '%s\n' $packages $depends | sort -u)

# apt verifies what it downloads. Only the files are used: no package script is run.
cd "$prefix/debs"
# shellcheck disable=SC2086
apt-get -q download $packages
for deb in *.deb; do
    case $deb in
    rust-web-src_*) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$prefix" --wildcards './usr/src/*/library/*' ;;
    *) dpkg-deb -x "$deb" "$prefix" ;;
    esac
done
cat >"$prefix/bin/rustc" <<WRAPPER
#!/bin/sh
LD_LIBRARY_PATH='$prefix/usr/lib/x86_64-linux-gnu'\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec '$prefix/usr/bin/rustc' "\$@"
WRAPPER
chmod 0755 "$prefix/bin/rustc"

lib=$prefix/usr/lib/rustlib/$target/lib
self=$lib/self-contained
musl=$prefix/usr/lib/x86_64-linux-musl
mkdir -p "$self"
cd "$prefix"/usr/src/*/library/sysroot
RUSTC=$prefix/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zforce-unstable-if-unmarked -Cembed-bitcode=yes' \
    cargo build --locked --release --config profile.release.codegen-units=1 \
    --features 'panic-unwind backtrace' --target "$target" --target-dir "$prefix/build"
cp "$prefix/build/$target/release/deps/"*.rlib "$lib/"
rm -f "$lib"/libsysroot-*.rlib
for object in crt1.o rcrt1.o Scrt1.o crti.o crtn.o libc.a; do cp "$musl/$object" "$self/"; done
for object in crtbegin.o crtbeginS.o crtend.o crtendS.o; do cp "$(gcc -print-file-name=$object)" "$self/"; done

# The unwinder: gcc's, with what it expects of glibc and musl lacks (dlfo.c).
gcc -O2 -fPIC -fno-stack-protector -nostdinc -isystem "$prefix/usr/include/x86_64-linux-musl" \
    -c "$here/dlfo.c" -o "$prefix/dlfo.o"
# ar's script language takes no path with a space or plus sign: short names in one folder.
mkdir -p "$prefix/ar"
cd "$prefix/ar"
cp "$(gcc -print-file-name=libgcc_eh.a)" eh.a
cp "$(gcc -print-file-name=libgcc.a)" gcc.a
cp ../dlfo.o dlfo.o
printf '%s\n' 'create unwind.a' 'addlib eh.a' 'addlib gcc.a' 'addmod dlfo.o' save end | ar -M
mv unwind.a "$self/libunwind.a"

cd "$prefix"
rm -rf build debs ar
touch .done
