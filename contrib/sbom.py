#!/usr/bin/env python3
"""Prints what the monitor's binary consists of as a CycloneDX 1.5 document: sbom.py [--names]

The crates are those that are linked into the binary or run while it is built, in the versions and with the checksums of
Cargo.lock; tests and other systems are left out. Rust's standard library and the C library are in the static binary as
well. Which C library: that of the binary if it has been built, otherwise the one that contrib/build.sh would take. The
document depends on the sources and the two compilers only: its time is SOURCE_DATE_EPOCH or the commit's.

--names: only the names of the crates.
"""
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CARGO = os.environ.get("CARGO", "cargo")


def output(*words):
    return subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def rustc():
    lines = (line.partition(": ") for line in output("rustc", "-vV").splitlines())
    return {name: value for name, _, value in lines}


def target(host):
    """What the binary was built for, or would be."""
    binary = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "release/conmon")
    if not os.path.exists(binary):
        return output("contrib/build.sh", "--print-target").strip()
    library = output("contrib/c-library", binary).strip()
    return host.replace("-gnu", "-musl") if library == "musl" else host


def metadata(triple):
    return json.loads(output(CARGO, "metadata", "--format-version=1", "--locked", "--filter-platform", triple))


def needed(triple):
    """Names and versions of the packages that end up in the binary or make it; cargo knows which conditions hold."""
    lines = output(CARGO, "tree", "--locked", "--package", "ferromon", "--edges", "normal,build", "--target", triple,
                   "--prefix", "none", "--no-dedupe", "--format", "{p}").splitlines()
    return {(name, version.removeprefix("v")) for name, version in (line.split()[:2] for line in lines)}


def locked():
    """Checksums of Cargo.lock, by name and version. Its layout is fixed, and tomllib needs a newer Python."""
    with open(os.path.join(ROOT, "Cargo.lock"), encoding="utf-8") as lock:
        entries = re.findall(r'^name = "(.*)"\nversion = "(.*)"\nsource = ".*"\nchecksum = "(.*)"$', lock.read(), re.M)
    return {(name, version): checksum for name, version, checksum in entries}


def purl(package):
    return "pkg:cargo/%s@%s" % (package["name"], package["version"])


def depends(resolve, packages):
    """What each of `packages` needs of the others; what only its tests need does not count."""
    edges = {}
    for node in resolve["nodes"]:
        if node["id"] in packages:
            deps = {dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])}
            edges[purl(packages[node["id"]])] = sorted(purl(packages[dep]) for dep in deps if dep in packages)
    return edges


def crate(package, checksums):
    component = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "description": " ".join((package["description"] or "").split()),
        # Cargo's older way of writing "or".
        "licenses": [{"expression": package["license"].replace("/", " OR ")}],
        "purl": purl(package),
    }
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        component["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return component


def musl_version(triple):
    """That of the libc.a which comes with Rust's standard library for `triple`: a member holds nothing but it."""
    archive = os.path.join(output("rustc", "--print", "target-libdir", "--target", triple).strip(),
                           "self-contained/libc.a")
    try:
        with open(archive, "rb") as file:
            found = re.search(rb"version\.lo/ .*?\0(\d+\.\d+\.\d+)\0", file.read(), re.DOTALL)
    except OSError:
        # A compiler of a distribution that has musl itself.
        return None
    return found and found[1].decode()


def c_library(triple):
    component = {"type": "library", "bom-ref": "libc", "description": "The C library, linked statically"}
    if "-musl" in triple:
        version = musl_version(triple)
        component |= {"name": "musl", "licenses": [{"expression": "MIT"}]}
    else:
        version = platform.libc_ver()[1]
        component |= {"name": "glibc", "licenses": [{"expression": "LGPL-2.1-or-later"}]}
    return component | ({"version": version} if version else {})


def unwinder(triple):
    """What Rust's standard library takes for walking the stack: LLVM's comes with its target for musl."""
    name, licence = ("libunwind", "Apache-2.0 WITH LLVM-exception") if "-musl" in triple else \
        ("libgcc_eh", "GPL-3.0-or-later WITH GCC-exception-3.1")
    return {"type": "library", "bom-ref": "unwinder", "name": name, "licenses": [{"expression": licence}]}


def libraries(compiler, triple):
    """What is linked in without being a crate."""
    return [
        {"type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": compiler["release"],
         "licenses": [{"expression": "MIT OR Apache-2.0"}], "description": "Rust's standard library for " + triple},
        unwinder(triple),
        c_library(triple),
    ]


def time():
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        git = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True, check=False)
        epoch = git.stdout.strip() or 0
    return datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def main():
    compiler = rustc()
    triple = target(compiler["host"])
    found = metadata(triple)
    wanted = needed(triple)
    packages = {package["id"]: package for package in found["packages"]
                if (package["name"], package["version"]) in wanted}
    ours = next(key for key, package in packages.items() if package["name"] == "ferromon")
    crates = sorted((package for key, package in packages.items() if key != ours), key=purl)
    if sys.argv[1:] == ["--names"]:
        print(*(package["name"] for package in crates), sep="\n")
        return
    checksums = locked()
    main_component = crate(packages[ours], {}) | {"type": "application"}
    others = libraries(compiler, triple)
    edges = depends(found["resolve"], packages)
    edges[purl(packages[ours])] += ["rust-std", "unwinder", "libc"]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": time(), "component": main_component,
                     "tools": {"components": [{"type": "application", "name": "contrib/sbom.py"}]}},
        "components": [crate(package, checksums) for package in crates] + others,
        "dependencies": [{"ref": ref, "dependsOn": on} for ref, on in sorted(edges.items())],
    }
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = "urn:uuid:%s" % uuid.uuid5(uuid.NAMESPACE_URL, content)
    print(json.dumps(document, indent=2))


main()
