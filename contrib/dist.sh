#!/usr/bin/env bash
# Packs the sources of the current commit with all crates, for building without a network: dist.sh DIRECTORY
#
# The tar file depends on nothing but the commit: names are sorted, owners are root, and every time is the commit's.
# Crates are taken in the versions of Cargo.lock. `SOURCE_DATE_EPOCH` overrides the time. DIST_TREE=1 packs the files as
# they are here instead of the commit's, for trying out packaging before committing it.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(mkdir -p "${1:?usage: dist.sh DIRECTORY}" && realpath "$1")
cargo=${CARGO:-cargo}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=ferromon-$version
git rev-parse HEAD >/dev/null 2>&1 || { echo "dist: needs a git checkout" >&2; exit 1; }
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/$name
if [ -n "${DIST_TREE:-}" ]; then
    mkdir "$tree"
    git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- -cf - | tar -xf - -C "$tree"
else
    git archive --prefix="$name/" HEAD | tar -xf - -C "$work"
fi

# A lock file that does not fit is an error here, not something to mend.
(cd "$tree" && "$cargo" vendor --quiet --locked --versioned-dirs vendor) >"$work/config"
# Only the replacement of the registry, whichever this machine uses itself.
cat >>"$tree/.cargo/config.toml" <<'END'

# Added by `make dist`: all crates are in vendor/.
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "vendor"
END

tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --format=gnu \
    -C "$work" -cf - "$name" | xz -6 --threads=1 >"$work/$name.tar.xz"
mv "$work/$name.tar.xz" "$out/$name.tar.xz"
(cd "$out" && sha256sum "$name.tar.xz")
