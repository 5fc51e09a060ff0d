#!/usr/bin/env python3
"""Runs the same scenarios under a real CRI-O with two monitors and shows where they differ.

    crio.py [--only WORD] [--keep] [--verbose] ORIGINAL OURS

An installed CRI-O is needed: crio, pinns and crictl in the PATH (or named by CRIO, PINNS and CRICTL), and runc, podman
and a static busybox. Each monitor gets a CRI-O of its own in a directory of its own, with the vfs storage driver, the
cgroupfs manager and pods in the host's network, so neither systemd nor network plugins nor a registry take part. The
monitor is CRI-O's `monitor_path`, and nothing outside of the directory is changed. Exit status: 0 when all is equal.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from crio_node import IDLE, IMAGE, LIMIT, Node, Terminal, names, until

# Each scenario gets a node and gives what was seen, in order, as (name, text).


def ways_to_end(node):
    pod = node.pod()
    for name, script in [
        ("success", "echo fine"),
        ("failure", "echo out; echo err >&2; exit 7"),
        ("signal", "kill -9 $$"),
        ("segmentation", "kill -11 $$"),
    ]:
        container = pod.started(script)
        yield name, container.wait()
        yield f"{name}: log", container.by_stream()
        yield f"{name}: exit file", repr(container.exit_file())
        node.ok("rm", container.id)
        until("CRI-O to take the exit file", lambda: not node.dir.joinpath("exits", container.id).exists())


def failing_to_start(node):
    pod = node.pod()
    for name, words in [("no such program", ["/nosuch"]), ("a directory", ["/etc"])]:
        path = node.json_file("bad", {
            "metadata": {"name": name.replace(" ", "-")}, "image": {"image": IMAGE}, "command": words,
            "log_path": "bad.log", "linux": {},
        })
        yield name, node.crictl("create", pod.id, path, pod.config).text()
        yield f"{name}: containers", node.raw("ps", "-a", "-q")
        yield f"{name}: log", str((pod.logs / "bad.log").exists())


def output_in_the_log(node):
    pod = node.pod()
    script = "printf part; sleep 0.3; echo; echo; printf '\\001\\377\\n'; seq 3 >&2; "
    script += "head -c 20000 /dev/zero | tr '\\0' x; printf end"
    container = pod.started(script)
    yield "end", container.wait()
    yield "log", ascii(container.by_stream())
    container = pod.started("seq 200000")
    yield "many lines: end", container.wait()
    lines = container.log().splitlines()
    yield "many lines", f"{len(lines)} {lines[0]} {lines[-1]} {lines == [f'stdout {n}' for n in range(1, 200001)]}"
    yield "crictl logs", node.crictl("logs", "--tail", "2", container.id).text()


def on_a_terminal(node):
    pod = node.pod()
    script = "stty size; test -t 0 && echo terminal; echo err >&2; read -r a; echo got $a; exit 3"
    container = pod.container(script, tty=True, stdin=True)
    terminal = Terminal(node.crictl_words("attach", "-t", "-i", container.id))
    time.sleep(1)
    container.start()
    terminal.expect("terminal")
    terminal.expect("err")
    yield "probe", container.exec_sync("sh", "-c", "test -t 1 && echo terminal").text()
    terminal.type("typed\r")
    terminal.expect("got typed")
    yield "attach ends with", str(terminal.finish())
    yield "end", container.wait()
    yield "log", container.log()


def limited_log(node):
    pod = node.pod()
    container = pod.started("seq 2000")
    yield "end", container.wait()
    lines = container.log().splitlines()
    size = container.log_path.stat().st_size
    yield "log", f"ends with {lines[-1]}, {len(lines) < 2000}, in the limit {size <= 8192}"


limited_log.runtime = "log_size_max = 8192"


def exec_sync(node):
    pod = node.pod()
    container = pod.started(IDLE)
    for name, words in [
        ("both streams", ["sh", "-c", "echo out; echo err >&2; exit 3"]),
        ("no newline", ["printf", "a\\nb"]),
        ("nothing", ["true"]),
        ("long line", ["sh", "-c", "head -c 30000 /dev/zero | tr '\\0' y"]),
        ("killed", ["sh", "-c", "kill -9 $$"]),
        ("no such program", ["/nosuch"]),
        ("a directory", ["/etc"]),
        ("environment", ["sh", "-c", "echo $PATH; pwd; id -u"]),
        ("standard input", ["sh", "-c", "readlink /proc/self/fd/0; cat"]),
        ("descriptors", ["sh", "-c", "ls /proc/self/fd | wc -l"]),
        ("leaves one behind", ["sh", "-c", "sleep 2 & echo done"]),
    ]:
        outcome = container.exec_sync(*words)
        if len(outcome.out) > 1000:
            outcome.out = f"{len(outcome.out)} times {set(outcome.out)}"
        yield name, outcome.text()
    outcome = container.exec_sync("seq", "100000")
    expected = "".join(f"{number}\n" for number in range(1, 100001))
    yield "much", f"{outcome.code} {outcome.out.rstrip() == expected.rstrip()}"
    outcome = container.exec_sync("sh", "-c", "head -c 17000000 /dev/zero | tr '\\0' z")
    yield "more than 16 MiB", f"{outcome.code}, stderr {outcome.err!r}"
    yield "log", container.log()
    yield "monitors", str(len(node.monitors()))
    yield "temporary files", names(node.dir / "tmp")


def exec_sync_timeout(node):
    pod = node.pod()
    container = pod.started(IDLE)
    for name, script in [
        ("asleep", "echo before; sleep 4321"),
        ("ignores signals", "trap '' TERM INT; sleep 4321; sleep 4321"),
    ]:
        start = time.monotonic()
        yield name, container.exec_sync("sh", "-c", script, timeout=2).text()
        took = time.monotonic() - start
        # glib rounds the original's timeout to whole seconds of a clock of its own.
        yield f"{name}: in time", str(1 <= took < 15) if 1 <= took < 15 else f"{took:.1f} s"
    yield "in time", container.exec_sync("sh", "-c", "echo quick; exit 4", timeout=20).text()
    yield "still asleep", container.exec_sync("sh", "-c", "ps | grep -c '[s]leep 432[1]'").text()


def exec_streaming(node):
    pod = node.pod()
    container = pod.started(IDLE)
    yield "streams", node.crictl("exec", container.id, "sh", "-c", "echo out; echo err >&2; exit 5").text()
    yield "input", node.crictl("exec", "-i", container.id, "sh", "-c", "cat; exit 6", stdin=b"typed\n").text()
    # What is said right at the start or the end was once lost. No monitor takes part in it, so it is given time.
    script = "echo ask; read -r answer; echo got $answer; sleep 1; exit 8"
    terminal = Terminal(node.crictl_words("exec", "-i", "-t", container.id, "sh", "-c", script))
    terminal.expect("ask")
    time.sleep(1)
    terminal.type("this\r")
    terminal.expect("got this")
    yield "terminal", str(terminal.finish())


def attach(node):
    pod = node.pod()
    script = "echo up; while read -r line; do echo got $line; echo err $line >&2; done; echo end; exit 4"
    container = pod.container(script, stdin=True, stdin_once=True)
    out = {}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    client = subprocess.Popen(node.crictl_words("attach", "-i", container.id), **pipes)
    reader = threading.Thread(target=lambda: out.update(stderr=client.stderr.read()))
    reader.start()
    time.sleep(1)
    container.start()
    first = client.stdout.readline()
    client.stdin.write(b"one\n")
    client.stdin.flush()
    second = client.stdout.readline()
    client.stdin.close()
    rest = client.stdout.read()
    reader.join(LIMIT)
    yield "stdout", node.plain(first + second + rest)
    yield "stderr", node.plain(out["stderr"])
    yield "attach ends with", str(client.wait(LIMIT))
    yield "end", container.wait()
    yield "log", container.by_stream()
    # With the input left open, a client that goes leaves the container with it.
    container = pod.started(script, stdin=True)
    for text in ("two", "three"):
        node.crictl("attach", "-i", container.id, stdin=f"{text}\n".encode())
        container.until_logged(f"got {text}")
    yield "stays", container.status()["state"]
    node.ok("stop", "-t", "0", container.id)
    yield "left open: end", container.wait()
    yield "left open: log", container.by_stream()


def reopened_log(node):
    pod = node.pod()
    container = pod.started("i=0; while read -r line; do i=$((i + 1)); echo $line $i; done", stdin=True)
    for number in (1, 2, 3):
        node.crictl("attach", "-i", container.id, stdin=b"line\n")
        container.until_logged(f"line {number}")
        old = container.log_path.with_suffix(f".{number}")
        container.log_path.rename(old)
        yield f"reopen {number}", node.crictl("logs", "--reopen", container.id).text()
        yield f"old log {number}", container.log(old)
        yield f"new log {number}", container.log()
    yield "without a rename", node.crictl("logs", "--reopen", container.id).text()
    node.ok("stop", "-t", "0", container.id)
    yield "end", container.wait()
    yield "after the end", node.crictl("logs", "--reopen", container.id).text()


def out_of_memory(node):
    pod = node.pod()
    limit = {"resources": {"memory_limit_in_bytes": 30 << 20, "memory_swap_limit_in_bytes": 30 << 20}}
    container = pod.started("exec tail /dev/zero", linux=limit)
    yield "main process", container.wait()
    yield "files", str((container.bundle() / "oom").exists())
    container = pod.started("tail /dev/zero; echo child $?; sleep 1; exit 3", linux=limit)
    yield "a child", container.wait()
    yield "a child: log", container.by_stream()


def stop(node):
    pod = node.pod()
    for name, script, grace in [
        ("obeys", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done", 30),
        ("ignores", "trap '' TERM; echo up; while :; do sleep 0.1; done", 2),
        ("no grace", "trap '' TERM; echo up; while :; do sleep 0.1; done", 0),
    ]:
        container = pod.started(script)
        container.until_logged("up")
        start = time.monotonic()
        node.ok("stop", "-t", grace, container.id)
        took = time.monotonic() - start
        yield name, container.wait()
        yield f"{name}: in time", str(took < 20 and (name != "ignores" or took >= 2))
        yield f"{name}: log", container.log()
        yield f"{name}: again", node.crictl("stop", container.id).text()
    container = pod.started("trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done")
    results = {}
    words = ["sh", "-c", "echo in; sleep 4321"]
    probe = threading.Thread(target=lambda: results.update(probe=container.exec_sync(*words)))
    probe.start()
    until("the probe to run", lambda: len(node.monitors()) == 3)
    node.ok("stop", "-t", "30", container.id)
    probe.join(LIMIT)
    yield "during a probe", container.wait()
    yield "the probe's end", f"failed {results['probe'].code != 0}"
    until("the monitors to end", lambda: len(node.monitors()) == 1)


def removed_while_running(node):
    pod = node.pod()
    container = pod.started(IDLE)
    yield "rm -f", node.crictl("rm", "-f", container.id).text().replace(container.id[:13], "ID")
    yield "containers", node.raw("ps", "-a", "-q")
    until("the monitor to end", lambda: len(node.monitors()) == 1)
    yield "stopp", node.crictl("stopp", pod.id).text()
    yield "rmp", node.crictl("rmp", pod.id).text()
    until("the pod's monitor to end", lambda: not node.monitors())
    yield "exits", names(node.dir / "exits")
    yield "links", names(node.dir / "attach")


def restart(node, how):
    pod = node.pod()
    script = "i=0; echo up; while read -r line; do echo $line; test $line != end || exit 5; done"
    goes_on = pod.started(script, stdin=True)
    ends = pod.started("echo up; until test -e /go; do sleep 0.1; done; exit 6")
    for container in (goes_on, ends):
        container.until_logged("up")
    pid = ends.inspect()["info"]["pid"]
    node.stop(how)
    yield "monitors without CRI-O", str(len(node.monitors()))
    Path(f"/proc/{pid}/root/go").write_text("")
    until("the exit file", lambda: (node.dir / "exits" / ends.id).exists())
    node.start()
    yield "ended meanwhile", ends.wait()
    yield "goes on", goes_on.status()["state"]
    yield "exec", goes_on.exec_sync("echo", "still there").text()
    node.crictl("attach", "-i", goes_on.id, stdin=b"word\n")
    goes_on.until_logged("word")
    goes_on.log_path.rename(goes_on.log_path.with_suffix(".1"))
    yield "reopen", node.crictl("logs", "--reopen", goes_on.id).text()
    node.crictl("attach", "-i", goes_on.id, stdin=b"end\n")
    yield "ends later", goes_on.wait()
    yield "log", goes_on.log()


def crio_restarted(node):
    yield from restart(node, signal.SIGTERM)


def crio_killed(node):
    yield from restart(node, signal.SIGKILL)


def monitor_killed(node):
    pod = node.pod()
    container = pod.started(IDLE)
    os.kill(container.monitor(), signal.SIGKILL)
    yield "afterwards", container.status()["state"]
    yield "exec", container.exec_sync("echo", "still there").text()
    node.ok("stop", "-t", "0", container.id)
    yield "end", container.wait()


def monitor_stopped(node):
    """A monitor that systemd ends: it passes the signal on."""
    pod = node.pod()
    container = pod.started("trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done")
    container.until_logged("up")
    os.kill(container.monitor(), signal.SIGTERM)
    yield "end", container.wait()


def place(node):
    pod = node.pod()
    container = pod.started(IDLE)
    monitor = Path(f"/proc/{container.monitor()}")
    lines = (monitor / "cgroup").read_text().splitlines()
    groups = [line.split(":", 2)[2] for line in lines if ":memory:" in line or line.startswith("0::")]
    yield "cgroup of the monitor", node.plain(" ".join(groups))
    words = (monitor / "cmdline").read_text().split("\0")
    yield "command line", node.plain(" ".join(words[1:]))
    variables = sorted(line.split("=", 1)[0] for line in (monitor / "environ").read_text().split("\0") if line)
    yield "environment", " ".join(variables)
    yield "bundle", " ".join(sorted(path.name for path in container.bundle().iterdir()))
    link = node.dir / "attach" / container.id
    yield "socket directory", " ".join(sorted(path.name for path in link.iterdir()))
    yield "link", node.plain(os.readlink(link) if link.is_symlink() else "none")
    yield "stdio", " ".join(sorted({os.readlink(monitor / "fd" / n) for n in ("0", "1", "2")}))


def many_at_once(node):
    pod = node.pod()
    containers = [pod.container(f"seq {n}000 | tail -n 1; exit {n}") for n in range(1, 9)]
    threads = [threading.Thread(target=container.start) for container in containers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    for number, container in enumerate(containers, 1):
        yield f"container {number}", container.wait() + " " + container.log()
    container = pod.started(IDLE)
    outcomes = [None] * 12

    def probe(number):
        outcomes[number] = container.exec_sync("sh", "-c", f"seq {number}000; exit {number}", timeout=60)

    threads = [threading.Thread(target=probe, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    for number, outcome in enumerate(outcomes):
        yield f"probe {number}", f"{outcome.code} {len(outcome.out)} {outcome.err}"
    yield "monitors", str(len(node.monitors()))


SCENARIOS = [
    ways_to_end, failing_to_start, output_in_the_log, limited_log, on_a_terminal, exec_sync, exec_sync_timeout,
    exec_streaming, attach, reopened_log, out_of_memory, stop, removed_while_running, crio_restarted, crio_killed,
    monitor_killed, monitor_stopped, place, many_at_once,
]


# What an original before 2.1.7 does otherwise, and why.
KNOWN = {
    "removed_while_running": {"links": "the link in the socket directory is never removed"},
}


def play(monitor, scenario, options):
    """What a scenario saw; what stopped it is the last entry."""
    seen = []
    node = Node(monitor, getattr(scenario, "runtime", ""))
    try:
        node.start()
        for name, text in scenario(node):
            seen.append((name, str(text)))
    except Exception as error:
        seen.append(("stopped by", node.plain(f"{type(error).__name__}: {error}")))
    finally:
        node.end(options.keep)
    return seen


def main():
    parser = argparse.ArgumentParser(description="the same scenarios under CRI-O with two monitors")
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("original")
    parser.add_argument("ours")
    options = parser.parse_args()
    differ = 0
    for scenario in SCENARIOS:
        if options.only not in scenario.__name__:
            continue
        sides = [play(Path(side).resolve(), scenario, options) for side in (options.original, options.ours)]
        stopped = any(seen[-1][0] == "stopped by" for seen in sides)
        every = list(dict.fromkeys(name for seen in sides for name, _ in seen))
        pairs = [(name, dict(sides[0]).get(name), dict(sides[1]).get(name)) for name in every]
        different = [pair for pair in pairs if pair[1] != pair[2]]
        known = KNOWN.get(scenario.__name__, {})
        unknown = [name for name, _, _ in different if name not in known]
        differ += bool(unknown or stopped)
        verdict = "equal" if not different else f"{len(unknown)} differ" if unknown else "equal but for a known fault"
        verdict = "stopped" if stopped else verdict
        print(f"{scenario.__name__}: {len(every)} observations, {verdict}", flush=True)
        for name, original, ours in pairs if options.verbose or stopped else different:
            name += f" ({known[name]})" if name in known and original != ours else ""
            print(f"  {name}\n    original: {original}\n    ours:     {ours}", flush=True)
    print(f"{differ} of the scenarios differ" if differ else "no differences")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
