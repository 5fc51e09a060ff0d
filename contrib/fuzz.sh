#!/usr/bin/env bash
# Fuzzes every parser of untrusted input, each for FUZZ_SECONDS (30), or only the targets named as arguments.
#
# The targets have the layout of cargo-fuzz, but neither that nor a nightly compiler is needed: coverage comes from
# LLVM passes that a stable rustc takes, and the parsers have no unsafe code for a sanitizer to look at. What is found
# ends up in fuzz/artifacts/TARGET; `contrib/fuzz.sh TARGET` runs those again first. FUZZ_KEEP=1 adds inputs that reach
# new code to fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

cargo=${CARGO:-cargo}
seconds=${FUZZ_SECONDS:-30}
host=$(rustc -vV | sed -n 's/^host: //p')
# In place of the static, fixed-address flags of the monitor's own build: the coverage tables need relocations.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$PWD/target}

command -v c++ >/dev/null || { echo "fuzz: a C++ compiler is needed for libFuzzer (g++)" >&2; exit 1; }
# --target keeps the flags away from build scripts.
"$cargo" build --release --target "$host" --quiet

targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
failed=()
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    fresh=$(mktemp -d)
    [ -z "${FUZZ_KEEP:-}" ] || { rm -r "$fresh"; fresh=corpus/$target; }
    log=$(mktemp)
    status=0
    dictionary=()
    [ ! -f "dictionaries/$target" ] || dictionary=(-dict="dictionaries/$target")
    "$CARGO_TARGET_DIR/$host/release/$target" "$fresh" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        "${dictionary[@]}" >"$log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ $status = 0 ]; then
        echo "fuzz: $target: ${runs:-0} executions in ${seconds}s, nothing found"
    else
        tail -n 40 "$log"
        echo "fuzz: $target: FAILED, see fuzz/artifacts/$target"
        failed+=("$target")
    fi
    rm -f "$log"
    [ "$fresh" = "corpus/$target" ] || rm -r "$fresh"
done
[ ${#failed[@]} = 0 ] || { echo "fuzz result: FAILED: ${failed[*]}"; exit 1; }
echo "fuzz result: ok. ${#targets[@]} targets"
