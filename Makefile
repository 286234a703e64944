# `make grow` and `make test` are all that a newcomer needs; each sets up .venv first, once.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
WORKERS ?= 2

.PHONY: help setup grow test test-long check bench spec clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## build .venv from constraints.txt, if it is not up to date

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "kasmina needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV), once. PyTorch is the large part; this takes some minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	  -c constraints.txt -e '.[dev]' | { grep --line-buffered -E '^(Collecting|Processing|Downloading|Installing)' || true; }
	@touch $@

grow: $(READY) ## grow a network on handwritten digits and write a report (ARGS='--seed 1' adds options)
	@$(BIN)/kasmina grow --task digits --compare $(ARGS)

# One thread a worker: torch would otherwise start as many as there are cores in each of them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

test: $(READY) ## run the tests, with the coverage gate
	@$(PYTEST) --cov --cov-report=term $(ARGS)

test-long: $(READY) ## run the searches and soaks that `make test` leaves out
	@$(PYTEST) -m long $(ARGS)

check: $(READY) ## lint, format, types, and whether the generated code is what the spec says
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/kasmina spec build --check

bench: $(READY) ## run every benchmark; one miss does not stop the others
	@status=0; for name in $$($(BIN)/kasmina bench); do \
	  $(BIN)/kasmina bench $$name $(ARGS) || status=1; done; exit $$status

spec: $(READY) ## build generated/ from spec/, and the README's diagram from generated/
	$(BIN)/kasmina spec build
	$(BIN)/python tools/readme.py

clean: ## remove .venv and every cache, but no run
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
