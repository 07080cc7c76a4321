# Ring3's routine.  Every target sets up what it needs first (scripts/setup), which costs nothing the second time.
PYTEST_FLAGS ?= -n 2 --dist worksteal
KILLS ?= 200
RING3 = .venv/bin/ring3
export PYO3_PYTHON = $(CURDIR)/.venv/bin/python

# Boots a guest: asks which, or takes GUEST=installer, shell, grub, memtest or embedded (scripts/run).
run:
	@scripts/setup build
	@scripts/run "$(GUEST)" $(RUN_FLAGS)

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

# What `make test` does a little of: KILLS processes of each kind killed in their work, all of memtest86+.
soak:
	@scripts/setup test guests
	RING3_KILLS=$(KILLS) .venv/bin/pytest -q $(PYTEST_FLAGS) -k killed
	RING3_FUZZ=20000 .venv/bin/pytest -q $(PYTEST_FLAGS) tests/disk/test_hostile_images.py
	RING3_SOAK=1 .venv/bin/pytest -q tests/guests/test_boot_media.py

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

.PHONY: run build test lint soak bench accept clean
