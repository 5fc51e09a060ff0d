#!/usr/bin/env bash
# Runs all rings of tests and prints one line with the totals at the end. `make test` calls it after set-up.
#
# Every stage runs, also after one has failed. With CI=true nothing may be left out: a tool that is missing, a test
# that skips itself and one that is ignored are failures there; what takes minutes has a target of its own.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PATH="$PATH:/usr/sbin:/sbin"

cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-$PWD/target}
binary=$target/release/conmon
original=${ORIGINAL_CONMON:-$(command -v conmon || echo /usr/bin/conmon)}
mkdir -p "$target"
log=$(mktemp "$target/test-log.XXXXXX")
trap 'rm -f "$log"' EXIT
failed=()

# stage NAME COMMAND…: remembers a failure and goes on.
stage() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee -a "$log" || failed+=("$name")
}

lint() {
    if "$cargo" clippy --version >/dev/null 2>&1; then
        # The second: those that are run by themselves, and so are not among all.
        "$cargo" clippy --workspace --all-targets -- -D warnings &&
            "$cargo" clippy -p compat-tests --test faults_long --test soak_long --test restore -- -D warnings
    elif [ "${CI:-}" = true ]; then
        echo "clippy is missing"
        return 1
    else
        echo "clippy is not installed: not run"
    fi
}

# The memory of an idle monitor depends on it: no dynamic loader, a fixed address.
is_static() {
    if readelf -lW "$binary" | grep -q INTERP; then
        echo "$binary needs a dynamic loader"
        return 1
    fi
    if ! readelf -hW "$binary" | grep -q 'Type:.*EXEC'; then
        echo "$binary is position-independent"
        return 1
    fi
    echo "C library: $(contrib/c-library "$binary")"
    size "$binary"
}

build() { contrib/build.sh && "$cargo" build --workspace --bins; }

own_tests() { "$cargo" test -p ferromon -p generate --no-fail-fast; }

# Real containers need root; cargo starts each test program through this runner then.
compat_tests() {
    if [ "$(id -u)" != 0 ]; then
        local host
        host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
        export "CARGO_TARGET_${host}_RUNNER=sudo -E"
    fi
    OURS_UNDER_TEST=$binary ORIGINAL_CONMON=$original "$cargo" test -p compat-tests --no-fail-fast
}

# The same tests on what is installed in the end: another C library, and an optimiser's work.
tests_on_release() {
    OURS_UNDER_TEST=$binary "$cargo" test -p ferromon --no-fail-fast --test '*'
}

# The same tests on the original: what proves that they test conmon's behaviour and not ours.
tests_on_original() {
    if ! compgen -G 'tests/*.rs' >/dev/null; then
        echo "no tests in tests/"
        return
    fi
    CONMON_UNDER_TEST=$original "$cargo" test -p ferromon --no-fail-fast --test '*'
}

# What depends on control groups v2, and real restores, in an emulated machine: under five minutes. They are spent where
# nothing may be left out; elsewhere there is `make test-vm`.
tests_in_vm() { VM_TIMEOUT=900 contrib/test-vm.sh </dev/null; }

stage "formatting" "$cargo" fmt --all --check
stage "clippy" lint
stage "tests named in docs/" contrib/check-docs
stage "packaging" contrib/check-packaging
stage "build" build
stage "static binary" is_static
stage "unit tests and tests/" own_tests
stage "compat-tests: beside $original, with runc and podman" compat_tests
stage "tests/ on the release build" tests_on_release
stage "tests/ on $original" tests_on_original
if [ "${CI:-}" = true ] && [ "$(uname -m)" = x86_64 ]; then
    stage "control groups v2 and restoring, in an emulated machine" tests_in_vm
fi

read -r passed broken ignored < <(awk '
    /^test result: / { passed += $4; broken += $6; ignored += $8 }
    END { print passed + 0, broken + 0, ignored + 0 }' "$log")
if [ "${CI:-}" = true ] && [ "$ignored" != 0 ]; then
    failed+=("$ignored tests are ignored")
fi
printf '\n'
for name in "${failed[@]}"; do
    echo "failed: $name"
done
verdict=ok
[ ${#failed[@]} = 0 ] || verdict=FAILED
echo "test result: $verdict. $passed passed; $broken failed; $ignored ignored; finished in ${SECONDS}s"
[ $verdict = ok ]
