# For the scripts here that install what they need, with apt-get, and with sudo when we are not root. Sourced, not run.
#
# shellcheck shell=bash

me=$(basename "$0" .sh)

fail() {
    local line
    for line in "$@"; do
        echo "$me: $line" >&2
    done
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        fail "needs root for: $*" "run this as root, or install sudo"
    fi
}

# apt PACKAGE…: the package lists are fetched only when the first try fails, as on a fresh image.
apt() {
    has apt-get || fail "this system has no apt-get; please install the equivalents of: $*"
    echo "$me: installing $*"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --no-remove)
    as_root "${install[@]}" "$@" && return
    as_root apt-get update -q && as_root "${install[@]}" "$@"
}
