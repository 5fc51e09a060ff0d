#!/usr/bin/env python3
"""Compares this monitor with conmon and prints the table of the README.

Both are measured in one run, in turn, with a runtime and payload that cost next to nothing, so that the figures are
the monitors' own. The ratio is that of the medians. Nothing is left behind, also after Ctrl-C.
"""
import argparse
import datetime
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys

from container import Broken, prepare
from figures import FIGURES, Scale, Unavailable, cat
from place import Place

# Processes that had trouble are named in the table's notes; anything else is a fault of this program.
TROUBLE = (Broken, OSError, subprocess.SubprocessError)


def main():
    options = parse()
    if options.list:
        print(*(name for name, _, _ in FIGURES), sep="\n")
        return
    sides = {"ours": program(options.ours), "conmon": program(options.conmon)}
    scale = Scale(0.02 if options.quick else 1, options.full)
    prepare()
    # Ctrl-C and kill take the same way out, through the end of the place.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Place(program(options.runtime), needed=int(2e9 * scale.factor)) as place:
        try:
            values, notes = measure(place, sides, scale, options)
        except KeyboardInterrupt:
            sys.exit(130)
    report(sides, values, notes)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "versions": {name: version(path) for name, path in sides.items()},
                       "values": values, "notes": notes}, file, indent=1, ensure_ascii=False)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", default="target/release/conmon", help="our binary (%(default)s)")
    parser.add_argument("--conmon", default=shutil.which("conmon") or "/usr/bin/conmon", help="the other (%(default)s)")
    parser.add_argument("--runtime", default="target/release/bench-runtime", help="runtime and payload (%(default)s)")
    parser.add_argument("--only", metavar="NAME,…", type=lambda text: text.split(","), help="only these figures")
    parser.add_argument("--list", action="store_true", help="list the names of the figures")
    parser.add_argument("-n", type=int, help="samples of each figure")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it works, not to measure")
    parser.add_argument("--full", action="store_true", help="also 500 monitors, and 1 GB through a client")
    parser.add_argument("--json", metavar="FILE", help="write every single value there")
    options = parser.parse_args()
    unknown = set(options.only or ()) - {name for name, _, _ in FIGURES}
    if unknown:
        parser.error("no such figure: %s (see --list)" % ", ".join(sorted(unknown)))
    return options


def program(path):
    if not os.access(path, os.X_OK):
        raise SystemExit("bench: %s is missing" % path)
    return os.path.abspath(path)


def measure(place, sides, scale, options):
    """{figure: {side: [values]}} and remarks."""
    values, notes = {}, []
    for name, samples, function in FIGURES:
        if options.only and name not in options.only:
            continue
        print("measuring", name, file=sys.stderr, flush=True)
        samples = options.n or (1 if options.quick else samples)
        broken = set()
        for side, path in list(sides.items()) * samples:
            if side in broken:
                continue
            try:
                for figure, found in function(place, path, scale).items():
                    values.setdefault(figure, {}).setdefault(side, []).extend(found)
            except Unavailable as reason:
                notes.append("%s: not measured, %s" % (name, reason))
                break
            except TROUBLE as error:
                broken.add(side)
                notes.append("%s: %s failed: %s" % (name, side, error))
                place.remove_rest()
        if name == "lines-200":
            rate, cost = (statistics.median(column) for column in zip(*(cat(place, scale) for _ in range(samples))))
            notes.append("lines-200: cat from the same pipe to the same file: %s MB/s, %s CPU s/GB"
                         % (number(rate), number(cost)))
    return values, notes


def report(sides, values, notes):
    print("| figure | ours | conmon | ours ÷ conmon | ours, min–max | conmon, min–max |")
    print("|--|--:|--:|--:|--:|--:|")
    for figure, found in values.items():
        medians = {side: statistics.median(found[side]) for side in found}
        both = len(medians) == 2 and medians["conmon"] > 0
        ratio = number(medians["ours"] / medians["conmon"]) if both else "–"
        cells = [number(medians[side]) if side in medians else "–" for side in sides]
        ranges = ["%s–%s" % (number(min(found[side])), number(max(found[side]))) if side in found else "–"
                  for side in sides]
        print("| " + " | ".join([figure, *cells, ratio, *ranges]) + " |")
    print()
    for note in notes:
        print("-", note)
    for side, path in sides.items():
        print("- %s: %s" % (side, version(path)))
    print("- machine: %s" % machine())


def number(value):
    """Three digits that mean something."""
    for bound, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= bound:
            return "%.*f" % (digits, value)
    return "%.3f" % value


def version(path):
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    return ", ".join(line.strip() for line in text.splitlines() if line.strip())


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    load = "%.1f" % os.getloadavg()[0]
    return "%s, %d cores, Linux %s, %s, load %s at the end" % (
        models[0] if models else os.uname().machine, len(os.sched_getaffinity(0)), os.uname().release,
        datetime.date.today().isoformat(), load)


if __name__ == "__main__":
    main()
