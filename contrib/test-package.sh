#!/usr/bin/env bash
# Builds the packages of the current commit and tries them where nothing else is: test-package.sh
#
# A fresh Debian is made with debootstrap in a temporary directory, from this machine's own package mirror. There
# contrib/test-package-root.sh installs Debian's podman and conmon, then ours beside them, runs containers with both,
# and removes ours again. All of it happens in mount and process namespaces of its own: whatever goes wrong, nothing
# stays mounted and nothing goes on running.
#
#   SUITE           the release of Debian (bookworm)
#   DEBIAN_MIRROR   where to get it (the first one in /etc/apt)
#   PACKAGES        directory with packages that are built already; without it they are built
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"

suite=${SUITE:-bookworm}

fail() {
    printf 'test-package: %s\n' "$@" >&2
    exit 1
}

# The first mirror of Debian itself in either format of apt's lists; empty: debootstrap's default.
mirror() {
    sed -n -e 's/^URIs: *\([^ ]*\).*/\1/p' -e 's/^deb  *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\) .*/\2/p' \
        /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | grep -v security | head -n 1
}

# The rest runs inside the namespaces, once the root is there: it becomes the only root.
enter() {
    local root=$1
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mkdir "$root/tmp/old"
    cd "$root"
    pivot_root . tmp/old
    exec chroot . sh -c 'umount -l /tmp/old && rmdir /tmp/old && exec bash /opt/packages/test.sh'
}

# static_checks DIRECTORY: what can be said about the packages without installing them.
static_checks() {
    echo "== lintian"
    lintian --fail-on error,warning "$1"/ferromon_*.changes
    echo "== rpmlint"
    rpmlint --config contrib/rpm/rpmlint.toml "$1"/ferromon-*.rpm contrib/rpm/ferromon.spec
    echo "== manual page and completions"
    local complaints
    complaints=$(man --warnings -E UTF-8 -l docs/man/conmon.8 2>&1 >/dev/null)
    [ -z "$complaints" ] || fail "man: $complaints"
    mandoc -T lint -W warning docs/man/conmon.8
    zsh -n contrib/completions/_conmon
    fish --no-execute contrib/completions/conmon.fish
    [ "$(fish --no-config -c 'source contrib/completions/conmon.fish; complete -C "conmon --log-level=de"' | cut -f1)" = \
        --log-level=debug ] || fail "fish does not complete"
}

if [ "${1:-}" = --enter ]; then
    enter "$2"
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "needs root: run this as root, or install sudo"
    as_root=(sudo)
fi

work=$(mktemp -d)
trap '"${as_root[@]}" rm -rf --one-file-system "$work"' EXIT
packages=${PACKAGES:-$work/packages}
if [ -z "${PACKAGES:-}" ]; then
    [ -z "$(git status --porcelain)" ] || echo "test-package: the commit is packed, not what has been changed since"
    for kind in deb rpm; do
        contrib/package.sh $kind "$packages" >"$work/$kind.log" 2>&1 || { tail -n 40 "$work/$kind.log"; fail "no $kind"; }
        echo "== built $(basename "$(ls "$packages"/ferromon[_-]*."$kind")") in ${SECONDS}s"
    done
fi
static_checks "$packages"

root=$work/root
echo "== debootstrap $suite"
"${as_root[@]}" unshare --mount --propagation private debootstrap --variant=minbase "$suite" "$root" "${DEBIAN_MIRROR:-$(mirror)}" \
    >"$work/debootstrap.log" 2>&1 || { tail -n 20 "$work/debootstrap.log"; fail "no Debian"; }
"${as_root[@]}" mkdir "$root/opt/packages"
"${as_root[@]}" cp "$packages"/ferromon_*.deb "$packages"/ferromon-*.rpm "$(command -v busybox)" contrib/c-library \
    "$root/opt/packages"
"${as_root[@]}" cp contrib/test-package-root.sh "$root/opt/packages/test.sh"
"${as_root[@]}" cp --dereference /etc/resolv.conf /etc/hosts "$root/etc"
"${as_root[@]}" unshare --mount --pid --fork --kill-child --propagation private "$PWD/contrib/test-package.sh" --enter "$root"
echo "test-package: ok, in ${SECONDS}s"
