# Build, install and test. `make demo` and `make test` do their own set-up on Debian and Ubuntu.
#
# The three install targets put the monitor where conmon's own Makefile puts conmon; its file name must be conmon.

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBEXECDIR ?= $(PREFIX)/libexec
CARGO ?= cargo

# rustup's directory is often not in the PATH of a non-login shell.
export PATH := $(PATH):$(HOME)/.cargo/bin
# What --version prints; "unknown" outside a checkout, as conmon says it.
ifndef FERROMON_COMMIT
FERROMON_COMMIT := $(shell contrib/commit.sh)
endif
export FERROMON_COMMIT

BINARY := $(or $(CARGO_TARGET_DIR),target)/release/conmon
SOURCES := Cargo.toml Cargo.lock $(shell find src -name '*.rs')

.PHONY: all build install podman crio demo test check bench faults soak fuzz test-vm clean

all: build

build:
	$(CARGO) build --release --bin conmon

# Only reached when something is newer than the binary, so `sudo make install` after `make` needs no cargo.
$(BINARY): $(SOURCES)
	$(CARGO) build --release --bin conmon
	@touch $@

install: $(BINARY)
	install -d -m 755 $(DESTDIR)$(BINDIR)
	install -m 755 $(BINARY) $(DESTDIR)$(BINDIR)/conmon

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

# The fast part of `test`, for use while editing.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace --lib --bins

clean:
	$(CARGO) clean
