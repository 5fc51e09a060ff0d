#!/usr/bin/env bash
# Builds what is to be measured, and measures it: run.sh [OPTION…] (see run.sh --help). `make bench` calls it.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-$PWD/target}
# As the Makefile does it, so that --version names what was measured.
export FERROMON_COMMIT=${FERROMON_COMMIT-$(contrib/commit.sh)}
contrib/build.sh --quiet
"${CARGO:-cargo}" build --release --quiet -p compat-tests --bin bench-runtime
# No .pyc files in the source tree.
export PYTHONDONTWRITEBYTECODE=1
exec python3 contrib/bench/bench.py --ours "$target/release/conmon" --runtime "$target/release/bench-runtime" "$@"
