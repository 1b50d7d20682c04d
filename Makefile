.DEFAULT_GOAL := help
.PHONY: help run test test-long bench check docs lock images up down clean .env
PYTHON ?= python3
CONFIG ?= configs/digits.yaml
BIN := .venv/bin
VERSION := 0.1.0
# .env counts for compose only where the environment is silent, and so it does here.
IN_FILE = $(shell sed -n 's/^FLOWS_IMAGE=//p' .env 2>/dev/null | tail -n 1 | tr -d "\"' ")
export FLOWS_IMAGE := $(or $(FLOWS_IMAGE),$(IN_FILE),keras-rehearsal:$(VERSION))
LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown)
COMPOSE ?= docker compose

help:  ## Show these lines
	@grep -E '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z.-]+):[^#]*## /  make \1\t/' | expand -t 20

run: .venv/run  ## Train, judge and promote the digits example (CONFIG=file for another)
	$(BIN)/python -m flows.train_and_serve --config $(CONFIG)

test: .venv/dev  ## Run the whole test suite
	$(BIN)/python -m pytest -n auto

test-long: .venv/dev  ## Run the slower proofs, which `make test` leaves out
	$(BIN)/python -m pytest -n auto -m long

bench: .venv/dev  ## Run all benchmarks: one table of ratios, and what got slower
	$(BIN)/python -m benchmarks.run

check: .venv/dev  ## Lint, types and import rules
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev  ## Write docs/configuration.md anew from the configuration's schema
	$(BIN)/python -m docs.generate

lock: .venv/dev  ## Write the three lock files anew (versions and hashes, no index address)
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --extra s3 -c requirements.lock pyproject.toml -o requirements-s3.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --python-version 3.11 --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

images:  ## Build the two images of the Dockerfile
	docker build --target flows --tag $(FLOWS_IMAGE) $(LABELS) .
	docker build --target serving --tag keras-rehearsal-serving:$(VERSION) $(LABELS) .

up: .env  ## Start the stack: Prefect, MLflow, worker, servers (docs/run-book/first-day.md)
	@docker image inspect $(FLOWS_IMAGE) >/dev/null 2>&1 || docker build --target flows --tag $(FLOWS_IMAGE) $(LABELS) .
	@$(COMPOSE) up --detach --wait || { $(COMPOSE) ps --all; $(COMPOSE) logs --tail 10; exit 1; }

down:  ## End the stack; its data stay in volumes (DATA=delete removes them, too)
	@# compose reads every variable even to end the stack, and .env may be lost
	@MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=unused REHEARSAL_WEBHOOK_SECRET=unused \
		$(COMPOSE) --profile '*' down --remove-orphans $(if $(filter delete,$(DATA)),--volumes)
	@$(if $(filter delete,$(DATA)),true,echo "Models, runs and pages stay in volumes; make up starts on them again, make down DATA=delete removes them.")

.env:  ## Write the secrets that .env lacks; make up does it, too
	@python3 deploy/stack/write_env.py .env

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
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(1)
	@touch $@
endef
