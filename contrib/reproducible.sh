#!/usr/bin/env bash
# Builds the current commit twice and compares: other directories, other times, another umask, crates from the registry
# and crates from `make dist`, an own and an empty CARGO_HOME. Then no path of this machine may be in the binary, and the
# source package itself must come out the same again. Needs the network only where the registry's crates are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
unset CARGO_TARGET_DIR MAKEFLAGS MAKELEVEL MAKEOVERRIDES FERROMON_COMMIT
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "reproducible: $*" >&2; exit 1; }

contrib/dist.sh "$work/one" >"$work/sum1"
(umask 077; contrib/dist.sh "$work/two" >"$work/sum2")
cmp -s "$work/sum1" "$work/sum2" || fail "the source package differs"
name=$(basename "$work"/one/*.tar.xz .tar.xz)

# unpack DIRECTORY
unpack() { mkdir -p "$1" && tar -xJf "$work/one/$name.tar.xz" -C "$1"; }

unpack "$work/a"
first=$work/a/$name
rm -r "$first/vendor"
sed -i '/^# Added by `make dist`/,$d' "$first/.cargo/config.toml"
make -C "$first" --no-print-directory build

second=$work/elsewhere/with/a/longer/path
unpack "$second"
second=$second/$name
find "$second" -exec touch -d 2001-02-03 {} +
(umask 077; CARGO_HOME=$work/home make -C "$second" --no-print-directory build)

for tree in "$first" "$second"; do
    sha256sum "$tree/target/release/conmon"
done
cmp "$first/target/release/conmon" "$second/target/release/conmon" || fail "the binaries differ"
binary=$first/target/release/conmon
for path in "$work" "$PWD" "$HOME/" "$CARGO_HOME" "$RUSTUP_HOME"; do
    ! grep -aqF -- "$path" "$binary" || fail "the binary names $path"
done
echo "reproducible: same bytes with $(contrib/c-library "$binary"): $(sha256sum "$binary" | cut -c1-16)…, the source" \
    "package: $(cut -c1-16 "$work/sum1")…"
