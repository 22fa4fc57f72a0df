# One command each; `make help` lists them.
SHELL := /bin/bash
PY := .venv/bin/python
BIN := .venv/bin
PACKAGES := shared producer broker_setup workers ledger
# Installing again is needed only when one of these changes.
DECLARED := constraints.txt pyproject.toml $(PACKAGES:%=%/pyproject.toml) scripts/setup
# Tests side by side; those that watch or time whole processes always run alone.
JOBS ?= 2
# Long tests run in CI (set CI=1 to run them here); most of them wait, so they wait side by side.
BESIDE := $(if $(CI),not system,not system and not slow)
ALONE := $(if $(CI),system,system and not slow)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup check check-style check-tree check-imports check-types test test-unit chaos demo bench bench-smoke fmt clean rabbitmq postgresql prometheus

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-12s %s\n", $$1, $$2 }'

setup: .venv/.dev ## create .venv with everything a developer needs

.venv/.runtime: $(DECLARED)
	@scripts/setup runtime
	@touch $@

.venv/.dev: $(DECLARED) requirements-dev.txt
	@scripts/setup dev
	@touch $@ .venv/.runtime

check: check-style check-tree check-imports check-types ## format, lint, guards, architecture, types (-k: go on after a failure)

check-style: .venv/.dev
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check .

check-tree: .venv/.dev
	$(PY) scripts/check_tree.py
	$(PY) -m pip check

check-imports: .venv/.dev
	$(BIN)/lint-imports --no-cache

check-types: .venv/.dev
	$(BIN)/mypy
	$(BIN)/basedpyright

rabbitmq:
	@scripts/ensure-rabbitmq

postgresql:
	@scripts/ensure-postgresql

prometheus: .venv/.dev
	@scripts/ensure-prometheus

test: .venv/.dev rabbitmq postgresql prometheus ## all tests; on a fresh machine this installs what they need first
	$(PY) -m pytest -n $(JOBS) -m "$(BESIDE)" $(ARGS)
	$(PY) -m pytest -m "$(ALONE)" $(ARGS)

test-unit: .venv/.dev ## the tests that need no server
	$(PY) -m pytest -m "not rabbitmq and not postgresql and not system and not slow" $(ARGS)

chaos: .venv/.dev rabbitmq ## attack it for hours: kills, cuts, alarms, floods; ARGS="-k leader" for one attack
	$(PY) -m pytest -s -m chaos -o faulthandler_timeout=0 tests/chaos $(ARGS)

demo: .venv/.runtime ## a small shop end to end, on the embedded broker or on TASKYARD_BROKER_URL
	$(PY) -m examples.checkout.demo $(ARGS)

bench: .venv/.dev rabbitmq ## us, the peers and the bare client, measured side by side; ARGS="--only consume"
	$(PY) -m benchmarks $(ARGS)

bench-smoke: .venv/.dev rabbitmq ## our publish and consume rates beside the bare client's
	$(PY) -m benchmarks --only publish-many,consume --rows taskyard,bare --rounds 3 --scale 0.4 $(ARGS)

fmt: .venv/.dev ## format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment, the caches and what runs left behind
	rm -rf .venv .venv-peers .taskyard build dist .coverage htmlcov .hypothesis .*_cache */build */dist
	find . -name __pycache__ -prune -exec rm -rf {} +
