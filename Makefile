.DEFAULT_GOAL := help
.PHONY: help run test test-long check docs lock clean
PYTHON ?= python3
CONFIG ?= configs/digits.yaml
BIN := .venv/bin

help:  ## Show these lines
	@grep -E '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

run: .venv/run  ## Train, judge and promote the digits example (CONFIG=file for another)
	$(BIN)/python -m flows.train_and_serve --config $(CONFIG)

test: .venv/dev  ## Run the whole test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4

test-long: .venv/dev  ## Run the slower proofs, which `make test` leaves out
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m long

check: .venv/dev  ## Lint, types and import rules
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev  ## Write docs/configuration.md anew from the configuration's schema
	$(BIN)/python -m docs.generate

lock: .venv/dev  ## Write the two lock files anew (versions and hashes, no index address)
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:  ## Remove the environment and the caches, never models or runs
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/run: requirements.lock
	$(call install,requirements.lock)

.venv/dev: requirements-dev.lock
	$(call install,requirements-dev.lock)

# pip, not uv: it is a minute slower once, and keeps to the mirrors and certificates that a company's pip.conf names
define install
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
		"PYTHON must be Python 3.11 to 3.13, got %d.%d; for example: make PYTHON=python3.13" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing $(1) into .venv (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1)
	@touch $@
endef
