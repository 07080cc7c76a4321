# Ring3's routine.  Every target sets up what it needs first (scripts/setup), which costs nothing the second time.
GUESTS = build/guests
KERNEL = $(GUESTS)/linux-installer-amd64
INITRD = $(GUESTS)/initrd-installer-amd64.gz
PYTEST_FLAGS ?= -n 2
RING3 = .venv/bin/ring3
export PYO3_PYTHON = $(CURDIR)/.venv/bin/python

# Boots the Debian 12 installer's kernel to a shell; without a mirror to fetch it from, the embedded guest.
run:
	@scripts/setup build
	@scripts/guests $(notdir $(KERNEL) $(INITRD))
	@if [ -s $(KERNEL) ] && [ -s $(INITRD) ]; then \
	  echo 'Debian 12 installer kernel on Ring3, to a shell.  To leave: Ctrl-] then q, or: poweroff -f' >&2; \
	  exec $(RING3) run --kernel $(KERNEL) --initrd $(INITRD) --append 'console=ttyS0 rdinit=/bin/sh' $(RUN_FLAGS); \
	else \
	  echo 'No Debian mirror can be reached: booting the embedded guest.  To leave: Ctrl-] then q' >&2; \
	  exec $(RING3) run $(RUN_FLAGS); \
	fi

build:
	@scripts/setup build

test:
	@scripts/setup test guests
	cargo test --locked --quiet --workspace
	.venv/bin/pytest -q $(PYTEST_FLAGS)

lint:
	@scripts/setup test
	cargo fmt --all --check
	cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	.venv/bin/ruff check
	.venv/bin/mypy

bench:
	@scripts/setup test guests
	.venv/bin/python bench/run.py

# Takes what the golden-file tests produce now as right; read the diff before committing it.
accept:
	@scripts/setup test
	RING3_ACCEPT=1 cargo test --locked --quiet --workspace
	RING3_ACCEPT=1 .venv/bin/pytest -q -m 'not guest' $(PYTEST_FLAGS)

clean:
	rm -rf build target .venv

.PHONY: run build test lint bench accept clean
