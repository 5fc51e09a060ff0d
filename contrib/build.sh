#!/bin/sh
# Builds the monitor as it is installed, target/release/conmon: build.sh [CARGO-OPTION…], such as --frozen or --quiet.
# `build.sh --print-target [CARGO-OPTION…]` only says for which of the compiler's targets it would build.
#
# It is linked with musl where the compiler has that target, or rustup can add it: in a virtual machine a start takes a
# quarter less processor time than with glibc, and an idle monitor needs half of the memory. Otherwise with the C library
# of the system. FERROMON_LIBC=musl or =gnu asks for one of them.
#
# The result is the same bytes in every directory and for every user. Paths of source files end up in a binary (they
# name the place of a panic), so the compiler is told to write /crates for where the crates are, be that cargo's
# registry or vendor/, and nothing for this directory. The flags are added to those of .cargo/config.toml; RUSTFLAGS in
# the environment would replace both.
set -eu
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')
# The same where the compiler itself lives on musl.
musl=$(echo "$host" | sed 's/-gnu/-musl/')

has_musl() { [ -d "$(rustc --print target-libdir --target "$musl" 2>/dev/null)" ]; }

# may_fetch CARGO-OPTION…: whether the build may use the network.
may_fetch() {
    case " $* ${CARGO_NET_OFFLINE:-} " in
    *" --frozen "* | *" --offline "* | *" true "*) return 1 ;;
    esac
}

# Whether the compiler is rustup's; there may be another one, and that come first in PATH.
is_rustups() { [ "$(rustup which rustc 2>/dev/null)" = "$(rustc --print sysroot)/bin/rustc" ]; }

# A few seconds, once. A server that can't be reached must not hold up the build for long.
add_musl() {
    may_fetch "$@" && is_rustups && timeout 120 rustup target add "$musl" >&2
}

# choose CARGO-OPTION…: prints the target to build for.
choose() {
    case ${FERROMON_LIBC:-} in
    gnu) [ "$host" != "$musl" ] && echo "$host" ;;
    musl) { has_musl || add_musl "$@"; } && echo "$musl" ;;
    ?*) return 1 ;;
    *) if has_musl || add_musl "$@"; then echo "$musl"; else echo "$host"; fi ;;
    esac
}

print=
[ "${1:-}" != --print-target ] || { print=yes; shift; }
triple=$(choose "$@") || {
    echo "build: this compiler has no target for FERROMON_LIBC=$FERROMON_LIBC; it may be musl ($musl) or gnu" >&2
    exit 1
}
[ -z "$print" ] || { echo "$triple"; exit 0; }
[ "$triple" != "$host" ] || [ "$host" = "$musl" ] || [ "${FERROMON_LIBC:-}" = gnu ] ||
    echo "build: the compiler has no target $musl: the C library is the system's, the monitor larger and slower to start" >&2

registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
# The directory below it exists once something has been fetched, and flags must not change after the first build.
[ -d "$registry" ] || [ -d vendor ] || "$cargo" fetch --locked --target "$triple"

here=$(pwd -P)
flags="'--remap-path-prefix=$here/='"
for crates in "$registry"/* "$here/vendor"; do
    [ ! -d "$crates" ] || flags="$flags, '--remap-path-prefix=$crates=/crates'"
done
"$cargo" build --release --bin conmon --target "$triple" --config "target.$triple.rustflags=[$flags]" "$@"

# Into its place by renaming: a monitor that runs from there goes on.
built=$target/$triple/release/conmon
place=$target/release/conmon
if ! cmp -s "$built" "$place"; then
    mkdir -p "$target/release"
    cp "$built" "$place.new"
    mv -f "$place.new" "$place"
fi
