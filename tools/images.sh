# shellcheck shell=sh disable=SC2034,SC2164
# SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
# SPDX-License-Identifier: Apache-2.0
# ./dev images: Debian's packages become layered OCI images, without a container engine, and Waggle's own.
#
#   recipe + suite (+ base's tree) --mmdebstrap--> trees/NAME-KEY.tar.zst
#   trees + guest programs --oci_image.py--> oci/ (an OCI image layout) --waggle image import--> images/
#
# A tree is made once for each content of its recipe; the guest programs are the last layer of each image.
# What the package managers in it say of their registries lies beside it, in trees/NAME-KEY-KEY.registries,
# and of all images together in images/registries.json. `asked` is a tree that is no image: it has managers that the
# images lack, and goes once it was asked. Sourced by ./dev.

ALL_IMAGES='base python node shell'
RECIPES=$ROOT/images/recipes
TREES=$CACHE/trees
OCI_DIR=$CACHE/oci

# The key of an image's tree: a hash of all that goes into it (but for the day's state of Debian's archive).
# Those on top of base take in base's content, so all images share one base, also after it is built anew.
tree_key() {
    {
        echo "tree 2 $IMAGE_SUITE"
        [ "$1" = base ] || echo "on base ${base_sha:?}"
        for part in "$RECIPES/dpkg.cfg" "$RECIPES/finish.sh" "$RECIPES/$1/packages" "$RECIPES/$1/customize.sh"; do
            sha256_of "$part"
        done
    } | sha256sum | cut -c1-16
}

tree_file() { printf '%s/%s-%s.tar.zst\n' "$TREES" "$1" "$(tree_key "$1")"; }

# The records of a tree: asked anew when the tree or the question is another one.
records_file() {
    printf '%s/%s-%s-%s.registries\n' "$TREES" "$1" "$(tree_key "$1")" \
        "$( (sha256_of "$RECIPES/registries.sh"; sha256_of "$ROOT/tools/ask-tree.sh") | sha256sum | cut -c1-8)"
}

# ask_tree NAME: the registries of a tree's package managers, beside the tree. The tree is unpacked for it, so that
# one that an older ./dev made is asked as well.
ask_tree() {
    asked=$(mktemp "$TREES/.asked-XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -f '$asked'" EXIT
    ask=$(cat "$ROOT/tools/ask-tree.sh")
    question=$(cat "$RECIPES/registries.sh")
    zstd -q -d -c "$(tree_file "$1")" | in_userns sh -c "$ask" ask-tree "$question" >"$asked"
    grep -q = "$asked" || die "no package manager in image $1 said where it fetches from"
    mv -f "$asked" "$(records_file "$1")"
}

# The records of the managers that no image has.
asked_file() {
    printf '%s/asked-%s.registries\n' "$TREES" "$( (
        echo "asked 1 $IMAGE_SUITE"
        for part in "$RECIPES/asked/managers" "$RECIPES/asked/packages" "$RECIPES/registries.sh"; do sha256_of "$part"; done
    ) | sha256sum | cut -c1-16)"
}

# Debian's mirrors: those of the host if it is set up for the same suite, else Debian's own.
mirror_lines() {
    # shellcheck disable=SC2016 # apt, not the shell, fills these in
    targets=$(apt-get indextargets --format '$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)' \
        'Created-By: Packages' 2>/dev/null || :)
    main=$(printf '%s\n' "$targets" | awk -F'|' -v s="$IMAGE_SUITE" '$1 == "Debian" && $2 == s && $3 == "main" { print $4; exit }')
    security=$(printf '%s\n' "$targets" |
        awk -F'|' -v s="$IMAGE_SUITE-security" '$1 == "Debian-Security" && $2 == s && $3 == "main" { print $4; exit }')
    main=${WAGGLE_DEBIAN_MIRROR:-${main:-http://deb.debian.org/debian}}
    security=${WAGGLE_DEBIAN_SECURITY_MIRROR:-${security:-http://deb.debian.org/debian-security}}
    signed='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    printf 'deb %s %s %s main\n' "$signed" "$main" "$IMAGE_SUITE" "$signed" "$main" "$IMAGE_SUITE-updates" \
        "$signed" "$security" "$IMAGE_SUITE-security"
}

# in_userns COMMAND...: runs it as root, or as the root of a user namespace with the user's subordinate ids.
in_userns() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else mmdebstrap --unshare-helper "$@"; fi
}

check_userns() {
    [ "$(id -u)" -ne 0 ] || return 0
    user=$(id -un)
    if ! grep -q "^$user:" /etc/subuid || ! grep -q "^$user:" /etc/subgid; then
        die "user $user has no subordinate ids, which building images needs; give some with:
  sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $user"
    fi
    in_userns true || die "this kernel lets user $user make no user namespace (see above); run ./dev images as root instead"
}

# begin_work: a folder with the sources of packages, which goes with this step; everything after runs in it.
begin_work() {
    work=$(mktemp -d "$CACHE/work-XXXXXX")
    # shellcheck disable=SC2064 # this work folder, now
    trap "rm -rf '$work'" EXIT
    mirror_lines >"$work/sources.list"
    cp "$RECIPES/dpkg.cfg" "$work/"
    cd "$work"
}

# words_of FILE: what a recipe's list names.
words_of() { grep -v '^#' "$RECIPES/$1"; }

# bootstrap BASE_TREE PACKAGES TARGET HOOK...: mmdebstrap in a work folder, upon base's tree or, without one, from
# nothing. The hooks are those for the finished tree.
# shellcheck disable=SC2016 # mmdebstrap gives its hooks their $1
bootstrap() {
    base=$1 packages=$2 target=$3
    shift 3
    # A tree that a crash leaves half written is thrown away anyway: no fsync for each file (99mmdebstrap, removed below).
    set -- "$@" --skip=check/empty --include="$packages" --dpkgopt=force-unsafe-io \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --aptopt='Acquire::Retries "3"'
    # How the host reaches its mirrors. finish.sh removes it from the image.
    apt-config dump Acquire::Check-Valid-Until Acquire::Check-Date Acquire::http::Proxy Acquire::https::Proxy \
        >host-apt.conf 2>/dev/null || :
    while read -r line; do set -- "$@" --aptopt="${line%;}"; done <host-apt.conf
    # Given line by line: a user namespace's root cannot read this folder.
    grep -v '^#' dpkg.cfg >dpkg-lines
    while read -r line; do set -- "$@" --dpkgopt="$line"; done <dpkg-lines
    if [ "$(id -u)" -eq 0 ]; then set -- "$@" --mode=root; else set -- "$@" --mode=unshare; fi
    if [ -n "$base" ]; then
        zstd -q -d -c "$base" >base.tar
        set -- "$@" --variant=custom --setup-hook='tar-in base.tar /'
    else
        set -- "$@" --variant=minbase
        # Spares the package usrmerge, which brings all of Perl.
        merged=/usr/share/mmdebstrap/hooks/merged-usr
        if [ -d "$merged" ]; then set -- "$@" --hook-dir="$merged"; fi
    fi
    mmdebstrap "$@" "$IMAGE_SUITE" "$target" - <sources.list
}

# make_tree NAME [BASE_TREE]: one image's package tree into the cache.
# shellcheck disable=SC2016 # mmdebstrap gives its hooks their $1
make_tree() {
    name=$1 out=$(tree_file "$1")
    begin_work
    # Hook paths are words of a shell line: name them without spaces.
    cp "$RECIPES/$name/customize.sh" "$RECIPES/finish.sh" .
    bootstrap "${2:-}" "$(words_of "$name/packages" | paste -sd,)" tree.tar \
        --customize-hook='copy-in customize.sh finish.sh /tmp' \
        --customize-hook='chroot "$1" env HOME=/root sh /tmp/customize.sh' \
        --customize-hook='chroot "$1" env HOME=/root sh /tmp/finish.sh' \
        --customize-hook='rm -f "$1/tmp/customize.sh" "$1/tmp/finish.sh" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"' \
        --customize-hook='copy-in dpkg.cfg /etc/dpkg/dpkg.cfg.d' \
        --customize-hook='mv "$1/etc/dpkg/dpkg.cfg.d/dpkg.cfg" "$1/etc/dpkg/dpkg.cfg.d/waggle"'
    # Device nodes cannot be unpacked again in a user namespace.
    mmtarfilter --path-exclude='/dev/*' <tree.tar >plain.tar
    zstd -q -3 -T0 -f plain.tar -o tree.tar.zst
    mv -f tree.tar.zst "$out"
    cd "$ROOT"
}

# ask_managers BASE_TREE: what package managers say that no image has, upon base. Where cargo's registry keeps its
# files only the registry's index tells.
# shellcheck disable=SC2016 # mmdebstrap gives its hooks their $1
ask_managers() {
    managers=$(words_of asked/managers | paste -sd' ')
    begin_work
    cp "$RECIPES/registries.sh" .
    # Without what they depend on: compilers.
    download='cd "$1/tmp" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download -q -o APT::Sandbox::User=root'
    bootstrap "$1" "$(words_of asked/packages | paste -sd,)" /dev/null \
        --customize-hook="$download $managers" \
        --customize-hook='for package in "$1"/tmp/*.deb; do dpkg-deb -x "$package" "$1"; done' \
        --customize-hook='copy-in registries.sh /tmp' \
        --customize-hook='chroot "$1" env -i HOME=/root LC_ALL=C PATH="$(cd "$1" && echo usr/lib/go-*/bin | sed s,^,/,):/usr/bin:/bin" sh /tmp/registries.sh >"$1/tmp/said" </dev/null' \
        --customize-hook='copy-out /tmp/said .'
    # apt's sources are those that this host builds from.
    grep -v '^apt=' said >answers
    index=$(sed -n 's/^cargo=//p' answers)
    if [ -z "$index" ] || ! grep -q '^go=' answers; then
        die "the package managers of images/recipes/asked do not say where they fetch from"
    fi
    curl -fsSL --retry 3 "${index%/}/config.json" -o config.json
    "$(python)" "$ROOT/tools/registries.py" --cargo-files config.json >>answers
    mv -f answers "$(asked_file)"
    cd "$ROOT"
}

# layer_images NAME...: images of these trees, base first, into the layout.
layer_images() {
    mkdir -p "$OCI_DIR"
    for name in "$@"; do set -- "$@" "$name=$(tree_file "$name")" && shift; done
    "$(python)" "$ROOT/tools/oci_image.py" "$OCI_DIR" --guest "$GUEST_OUT" \
        --programs "$(printf %s "$GUEST_PROGRAMS" | tr ' ' ,)" --handshake "$ROOT/protocol/src/handshake.rs" \
        --version "$(sed -n 's/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")" "$@"
    # Beside the images: those that are not made anew now keep what their trees said.
    for named in "$@"; do cp -f "$(records_file "${named%%=*}")" "$OCI_DIR/${named%%=*}.registries"; done
    if [ -f "$(asked_file)" ]; then cp -f "$(asked_file)" "$OCI_DIR/asked.registries"; fi
}

# take_images: what changed in the layout, into the store that Waggle reads.
take_images() {
    mkdir -p "$IMAGE_DIR"
    WAGGLE_IMAGE_CACHE_DIR="$IMAGE_DIR" "$WAGGLE_EXE" image import "$OCI_DIR"
    "$(python)" "$ROOT/tools/registries.py" "$IMAGE_DIR/registries.json" "$OCI_DIR"/*.registries
    # What an older ./dev kept here.
    rm -f "$IMAGE_DIR"/index.json "$IMAGE_DIR"/*.erofs "$IMAGE_DIR"/.packing-* "$IMAGE_DIR"/.index-*
}

# build_images [--rebuild] [NAME...]
build_images() {
    rebuild=
    wanted=
    for word in "$@"; do
        case $word in
        --rebuild) rebuild=1 ;;
        base | python | node | shell) wanted="$wanted $word" ;;
        *) die "no image recipe named '$word' (there are: $ALL_IMAGES)" ;;
        esac
    done
    wanted=${wanted:-$ALL_IMAGES}
    mkdir -p "$TREES"
    check_userns
    lock images
    base_tree=$(tree_file base)
    case "$rebuild $wanted " in 1*' base '*) rm -f "$base_tree" "$(records_file base)" ;; esac
    [ -f "$base_tree" ] || step "package tree of image base" make_tree base
    base_sha=$(sha256_of "$base_tree")
    images=base
    for image in $wanted; do
        tree=$(tree_file "$image")
        if [ "$image" != base ]; then
            [ -z "$rebuild" ] || rm -f "$tree" "$(records_file "$image")"
            [ -f "$tree" ] || step "package tree of image $image" make_tree "$image" "$base_tree"
            images="$images $image"
        fi
    done
    for image in $images; do
        [ -f "$(records_file "$image")" ] || step "registries of image $image" ask_tree "$image"
    done
    # All the images, and so all that environments may reach: a few of them are wanted in a hurry.
    if [ "$wanted" = "$ALL_IMAGES" ]; then
        [ -z "$rebuild" ] || rm -f "$(asked_file)"
        [ -f "$(asked_file)" ] || step "registries of package managers that no image has" ask_managers "$base_tree"
    fi
    # shellcheck disable=SC2086 # several names
    step "layers of images $images" layer_images $images
    step "the images in Waggle's store" take_images
    prune_trees
    unlock
}

# Trees of older recipes, and what an interrupted run left.
prune_trees() {
    find "$CACHE" -maxdepth 1 -name 'work-*' -mmin +120 -exec rm -rf {} +
    find "$TREES" -maxdepth 1 -name '.asked-*' -mmin +120 -exec rm -f {} +
    for old in "$TREES"/*.tar.zst "$TREES"/*.registries; do
        stem=${old##*/}
        name=${stem%%-*}
        case " $ALL_IMAGES " in
        *" $name "*) [ "$old" = "$(tree_file "$name")" ] || [ "$old" = "$(records_file "$name")" ] || rm -f "$old" ;;
        *) [ "$name" != asked ] || [ "$old" = "$(asked_file)" ] || rm -f "$old" ;;
        esac
    done
}
