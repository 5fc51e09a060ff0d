#!/usr/bin/env bash
# Installs what building, the demo or the tests need: setup.sh build|demo|test|package
#
# Only what is missing is installed, through apt-get, with sudo when we are not root. Nothing that is there is
# removed or replaced. Where apt-get can't help, the script says what is missing and stops.
set -euo pipefail

MIN_RUST=1.88.0
purpose=${1:-build}
export PATH="$PATH:/usr/sbin:/sbin:$HOME/.cargo/bin"

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

# candidate PACKAGE: the version that apt-get would install, empty when there is none.
candidate() {
    has apt-cache || return 0
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: \([^(]*\)$/\1/p'
}

at_least() { dpkg --compare-versions "$1" ge "$2" 2>/dev/null; }

rust_is_new_enough() {
    has cargo && has rustc || return 1
    local version
    version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
    [ "$(printf '%s\n' "$MIN_RUST" "$version" | sort -V | head -n1)" = "$MIN_RUST" ]
}

install_with_rustup() {
    has rustup || return 1
    rustup toolchain install stable --profile minimal --component rustfmt --component clippy || return 1
    rust_is_new_enough || rustup default stable
}

# Whatever cargo is there comes first; then rustup, if somebody uses it; then the distribution's own packages.
install_rust() {
    rust_is_new_enough && return
    install_with_rustup && rust_is_new_enough && return
    [ -n "$(candidate rustc)" ] || { has apt-get && as_root apt-get update -q; }
    if at_least "$(candidate rustc)" "$MIN_RUST"; then
        apt rustc cargo rustfmt rust-clippy && rust_is_new_enough && return
    elif [ -n "$(candidate rustup)" ] && ! has rustup; then
        apt rustup && install_with_rustup && rust_is_new_enough && return
    elif at_least "$(candidate rustc-web)" "$MIN_RUST"; then
        # Debian 12 keeps a current compiler for its browsers, without clippy.
        apt rustc-web cargo-web rustfmt-web && rust_is_new_enough && return
    fi
    fail "cargo and rustc $MIN_RUST or newer are needed and could not be installed from the distribution" \
        "install them with rustup (https://rustup.rs) and run this again"
}

install_packages() {
    local missing=()
    # want COMMAND PACKAGE
    want() { has "$1" || missing+=("$2"); }
    want cc gcc
    want readelf binutils
    # libc.a: the tests' programs are static, and a monitor without musl is. What runs while building needs the rest.
    cc -print-file-name=libc.a 2>/dev/null | grep -q / || missing+=(libc6-dev)
    if [ "$purpose" != build ]; then
        want runc runc
        want busybox busybox-static
    fi
    if [ "$purpose" = package ]; then
        want debootstrap debootstrap
        want dpkg-buildpackage dpkg-dev
        want dh debhelper
        want lintian lintian
        want rpmbuild rpm
        want rpmlint rpmlint
        want man man-db
        want mandoc mandoc
        want zsh zsh
        want fish fish
        want unshare util-linux
        want python3 python3
        want xz xz-utils
    fi
    if [ "$purpose" = test ]; then
        want python3 python3
        want podman podman
        # The original, to compare with; podman brings it along where it comes from the distribution.
        want conmon conmon
        want dash dash
        want setsid util-linux
        want logger bsdutils
        # What a monitor costs is counted with these.
        want strace strace
        want valgrind valgrind
        # The journal, file systems and limits that the log's tests need.
        want journalctl systemd
        want mkfs.ext4 e2fsprogs
        want prlimit util-linux
        # podman without root.
        want setpriv util-linux
        want newuidmap uidmap
    fi
    [ ${#missing[@]} = 0 ] || apt "${missing[@]}"
}

check_busybox() {
    [ "$purpose" = build ] && return
    # A dynamic busybox doesn't run in an empty root file system.
    if readelf -lW "$(command -v busybox)" | grep -q INTERP; then
        has apt-get || fail "busybox must be the static one"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q busybox-static
    fi
}

case $purpose in
build | demo | test | package) ;;
*) fail "usage: setup.sh build|demo|test|package" ;;
esac
install_packages
check_busybox
install_rust
# It adds the target musl to rustup's compiler; without one the system's C library does.
target=$("$(dirname "$0")/build.sh" --print-target)
echo "setup: ready ($(rustc --version), for $target)"
