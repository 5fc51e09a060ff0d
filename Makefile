# Build, install, package and test. `make demo`, `make test` and `make test-package` do their own set-up on Debian.
#
# The three install targets put the monitor where conmon's own Makefile puts conmon; its file name must be conmon.
# `make install` adds the manual page and the completions. docs/packaging.md is about the packages.

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBEXECDIR ?= $(PREFIX)/libexec
MANDIR ?= $(PREFIX)/share/man
# The distribution's conmon has a page of that name, so packages say ferromon.8.
MANPAGE ?= conmon.8
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
CARGO ?= cargo
# More for the build of the monitor, such as --frozen.
CARGO_FLAGS ?=

# rustup's directory is often not in the PATH of a non-login shell.
export PATH := $(PATH):$(HOME)/.cargo/bin
# What --version prints; "unknown" outside a checkout, as conmon says it.
ifndef FERROMON_COMMIT
FERROMON_COMMIT := $(shell contrib/commit.sh)
endif
export FERROMON_COMMIT

BINARY := $(or $(CARGO_TARGET_DIR),target)/release/conmon
PACKAGES ?= $(or $(CARGO_TARGET_DIR),target)/packages
SOURCES := Cargo.toml Cargo.lock $(shell find src -name '*.rs')

.PHONY: all build install install-data uninstall podman crio demo test check bench faults soak fuzz test-vm clean
.PHONY: docs dist deb rpm sbom deny reproducible test-package

all: build

build:
	contrib/build.sh $(CARGO_FLAGS)

# Only reached when something is newer than the binary, so `sudo make install` after `make` needs no cargo.
$(BINARY): $(SOURCES)
	contrib/build.sh $(CARGO_FLAGS)
	@touch $@

install: $(BINARY) install-data
	install -d -m 755 $(DESTDIR)$(BINDIR)
	install -m 755 $(BINARY) $(DESTDIR)$(BINDIR)/conmon

install-data:
	install -d -m 755 $(DESTDIR)$(MANDIR)/man8 $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	install -m 644 docs/man/conmon.8 $(DESTDIR)$(MANDIR)/man8/$(MANPAGE)
	install -m 644 contrib/completions/conmon.bash $(DESTDIR)$(BASHDIR)/conmon
	install -m 644 contrib/completions/_conmon $(DESTDIR)$(ZSHDIR)/_conmon
	install -m 644 contrib/completions/conmon.fish $(DESTDIR)$(FISHDIR)/conmon.fish

# What all three have installed, with the same variables; directories stay.
uninstall:
	rm -f $(DESTDIR)$(BINDIR)/conmon $(DESTDIR)$(LIBEXECDIR)/podman/conmon $(DESTDIR)$(LIBEXECDIR)/crio/conmon
	rm -f $(DESTDIR)$(MANDIR)/man8/$(MANPAGE) $(DESTDIR)$(BASHDIR)/conmon $(DESTDIR)$(ZSHDIR)/_conmon
	rm -f $(DESTDIR)$(FISHDIR)/conmon.fish

podman: $(BINARY)
	install -d -m 755 $(DESTDIR)$(LIBEXECDIR)/podman
	install -m 755 $(BINARY) $(DESTDIR)$(LIBEXECDIR)/podman/conmon

crio: $(BINARY)
	install -d -m 755 $(DESTDIR)$(LIBEXECDIR)/crio
	install -m 755 $(BINARY) $(DESTDIR)$(LIBEXECDIR)/crio/conmon

# Everything from a fresh machine to a running container.
demo:
	contrib/setup.sh demo
	$(MAKE) --no-print-directory build
	contrib/demo.sh $(BINARY)

# Everything from a fresh machine to the last test result.
test:
	contrib/setup.sh test
	contrib/test.sh

# The long forms, minutes each, of what `make test` runs in short.
faults: build
	$(CARGO) test -p compat-tests --test faults_long -- --nocapture --test-threads 1

soak: build
	$(CARGO) test -p compat-tests --test soak_long -- --nocapture --test-threads 1
	FERROMON_SOAK=10000 $(CARGO) test -p compat-tests --test soak_exec

# OOM handling and more on pure cgroup v2, in an emulated machine that boots this one's own root file system.
test-vm: build
	contrib/test-vm.sh

# Every parser of untrusted input, FUZZ_SECONDS (30) each.
fuzz:
	contrib/fuzz.sh

# Side by side with the installed conmon; options in BENCH, such as BENCH="--quick --only start".
bench:
	contrib/bench/run.sh $(BENCH)

# The manual page and the completions, from the option table. What it writes is committed.
docs:
	$(CARGO) run --quiet -p generate

# The sources with all crates, for building without a network.
dist:
	contrib/dist.sh $(PACKAGES)

deb:
	contrib/package.sh deb $(PACKAGES)

rpm:
	contrib/package.sh rpm $(PACKAGES)

# What the binary consists of, as CycloneDX.
sbom:
	@mkdir -p $(PACKAGES)
	contrib/sbom.py >$(PACKAGES)/ferromon.cdx.json

# Licences, duplicates, sources and known vulnerabilities of the crates; needs cargo-deny.
deny:
	$(CARGO) deny check $(DENY)

# Two builds in different places, one of them with the registry's crates and one with those of `make dist`.
reproducible:
	contrib/reproducible.sh

# The Debian package installed, used and removed on a fresh Debian, and the other packages built and looked at.
test-package:
	contrib/setup.sh package
	contrib/test-package.sh

# The fast part of `test`, for use while editing.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace --lib --bins

clean:
	$(CARGO) clean
