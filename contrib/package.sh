#!/usr/bin/env bash
# Builds a package from what `make dist` makes of the current commit: package.sh deb|rpm DIRECTORY
#
# Everything happens in a copy, so nothing is left in the source tree, and the build has only the vendored crates. The
# compiler may come from elsewhere than a package: build dependencies are not asked for. Where the kernel allows it the
# build has no network at all. `contrib/setup.sh package` installs the tools.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:?usage: package.sh deb|rpm DIRECTORY}
out=$(mkdir -p "${2:?usage: package.sh deb|rpm DIRECTORY}" && realpath "$2")
# Package builders give the build a home directory of its own; rustup looks for its compiler in this one.
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
unset CARGO_TARGET_DIR MAKEFLAGS MAKELEVEL MAKEOVERRIDES

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

offline() {
    local way
    for way in "unshare --net" "unshare --map-root-user --net"; do
        if $way true 2>/dev/null; then
            $way "$@"
            return
        fi
    done
    echo "package: this machine can't take the network away; building with it" >&2
    "$@"
}

deb() {
    tar -xJf "$tarball" -C "$work"
    cp -r "$work/$name/contrib/debian" "$work/$name/debian"
    (cd "$work/$name" && offline dpkg-buildpackage --build=binary --no-sign --no-check-builddeps)
    mv "$work"/ferromon_*.deb "$work"/ferromon_*.buildinfo "$work"/ferromon_*.changes "$out"
    ls "$out"/ferromon_*.deb
}

rpm() {
    local library=()
    # The tags of an RPM are known before anything is built.
    case $triple in *-musl*) library=(--with musl) ;; esac
    mkdir -p "$work/top/SOURCES"
    cp "$tarball" "$work/top/SOURCES"
    offline rpmbuild -bb --nodeps "${library[@]}" --define "_topdir $work/top" --define "_dbpath $work/db" \
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
        --define "source_date_epoch_from_changelog 1" --define "_buildhost localhost" contrib/rpm/ferromon.spec
    mv "$work"/top/RPMS/*/ferromon-*.rpm "$out"
    ls "$out"/ferromon-*.rpm
}

# needs COMMAND…
needs() {
    local command
    for command; do
        command -v "$command" >/dev/null || {
            echo "package: there is no $command; contrib/setup.sh package installs what is needed" >&2
            exit 1
        }
    done
}

case $kind in
deb) needs dpkg-buildpackage dh xz python3 ;;
rpm) needs rpmbuild xz python3 ;;
*) echo "usage: package.sh deb|rpm DIRECTORY" >&2; exit 2 ;;
esac
# Fetches the target musl if need be, which the build itself could not.
triple=$(contrib/build.sh --print-target)
contrib/dist.sh "$work" >/dev/null
tarball=$(echo "$work"/ferromon-*.tar.xz)
name=$(basename "$tarball" .tar.xz)
$kind
