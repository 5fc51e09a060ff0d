#!/usr/bin/env bash
# Puts the results of podman.sh or conmon.sh side by side: compare.sh OUT…
#
# A table of passed/failed/skipped for each file, then each test that has not the same result everywhere, then those that
# pass nowhere. The exit status is 1 when the first two results have a test that differs.
set -euo pipefail

[ $# -ge 1 ] || {
    echo "usage: compare.sh OUT…" >&2
    exit 2
}

# What one file of results says, a line for each test: RESULT TEST
results() {
    sed -nE -e 's/^ok [0-9]+ (.*) # skip.*$/skipped \1/p;t' -e 's/^ok [0-9]+ (.*)$/passed \1/p;t' \
        -e 's/^not ok [0-9]+ (.*)$/failed \1/p' "$1"
    # A file that was stopped: the rest never ran.
    local planned seen number
    planned=$(sed -n 's/^1\.\.//p' "$1")
    seen=$(grep -cE '^(ok|not ok) ' "$1" || true)
    for ((number = seen + 1; number <= ${planned:-0}; number++)); do
        echo "missing number $number"
    done
}

files=$(for out in "$@"; do (cd "$out" && ls -- *.tap); done | sort -u)
for file in $files; do
    for out in "$@"; do
        [ ! -e "$out/$file" ] || results "$out/$file" | sed "s|^|${file%.tap}\t$out\t|"
    done
done | awk -F '\t' -v outs="$*" '
    BEGIN { count = split(outs, out, " ") }
    {
        split($3, word, " ")
        test = substr($3, length(word[1]) + 2)
        if (!($1 in known)) { known[$1]; file[++files] = $1 }
        name = $1 ": " test
        if (!(name in seen)) { seen[name]; order[++tests] = name }
        result[name, $2] = word[1]
        sum[$1, $2, word[1]]++
        sum["all", $2, word[1]]++
    }
    function cell(row, side) {
        return sprintf(" %d / %d / %d |", sum[row, side, "passed"], sum[row, side, "failed"] + sum[row, side, "missing"],
            sum[row, side, "skipped"])
    }
    function line(row, i, text) {
        text = "| " row " |"
        for (i = 1; i <= count; i++) text = text cell(row, out[i])
        print text
    }
    END {
        text = "| passed / failed / skipped |"; rule = "|--|"
        for (i = 1; i <= count; i++) { text = text " " out[i] " |"; rule = rule "--|" }
        print text "\n" rule
        for (f = 1; f <= files; f++) line(file[f])
        line("all")
        for (t = 1; t <= tests; t++) {
            name = order[t]; same = 1; bad = 1; text = ""
            for (i = 1; i <= count; i++) {
                r = result[name, out[i]]
                if (r == "") r = "absent"
                if (r != result[name, out[1]]) same = 0
                if (r == "passed" || r == "skipped") bad = 0
                text = text " " r
            }
            if (!same) differing = differing name ":" text "\n"
            else if (bad) broken = broken name "\n"
            if (count > 1 && result[name, out[1]] != result[name, out[2]]) status = 1
        }
        if (differing != "") printf "\nNot the same everywhere:\n%s", differing
        if (broken != "") printf "\nPass nowhere:\n%s", broken
        exit status
    }'
