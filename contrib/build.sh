#!/bin/sh
# Builds the monitor as it is installed, target/release/conmon: the same bytes in every directory and for every user.
# With arguments it builds what `cargo build` builds with them, in the same way.
#
# Paths of source files end up in a binary (they name the place of a panic), so the compiler is told to write /crates
# for where the crates are, be that cargo's registry or vendor/, and nothing for this directory. The flags are added to
# those of .cargo/config.toml; RUSTFLAGS in the environment would replace both.
set -eu
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
# The directory below it exists once something has been fetched, and flags must not change after the first build.
[ -d "$registry" ] || [ -d vendor ] || "$cargo" fetch --locked --target "$host"

here=$(pwd -P)
flags="'--remap-path-prefix=$here/='"
for crates in "$registry"/* "$here/vendor"; do
    [ ! -d "$crates" ] || flags="$flags, '--remap-path-prefix=$crates=/crates'"
done
[ $# -gt 0 ] || set -- --bin conmon
exec "$cargo" build --release --config "target.$host.rustflags=[$flags]" "$@"
