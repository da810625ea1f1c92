# Needs Python 3.11 or newer, git and make. Everything else goes into .venv.
#   make demo    teach the embedded base a concept and show the result
#   make test    all tests
#   make quick   the fast tests
#   make check   format, lint, types, layers
#   make faults  kill, damage and starve runs in every way, and write docs/faults.md (an hour on two
#                cores; FAULTS=--faults-all for the whole product of the matrix: another hour)
#   make proof   every setting is made to be ignored, and its tests must notice (long)
#   make bench   measure; figures go to benchmarks/RESULTS.md by hand
# PYTHON=python3.12 chooses the interpreter, PIP_ARGS="..." is passed to pip install.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed-for
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test quick check faults proof bench venv
.DEFAULT_GOAL := check

demo: venv
	$(BIN)/lyctui demo

# Several processes with one thread each are twice as fast as one with two, and steadier.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: venv
	$(TESTS)

quick: venv
	$(TESTS) -m "not slow and not terminal"

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: venv
	$(TESTS) tests/faults --faults docs/faults.md $(FAULTS)

proof: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.architecture.sabotage

bench: venv
	set -e; shopt -s nullglob; for file in benchmarks/bench_*.py; do \
	  echo "== $$file"; $(BIN)/python $$file; done

# The stamp holds what the environment was made for: the same pyproject.toml in the same folder.
venv:
	@if ! { cat pyproject.toml; echo "# $(CURDIR)"; } | cmp -s - $(STAMP); then \
	  $(MAKE) --no-print-directory install; fi

.PHONY: install
install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 3; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1" $(PIP_ARGS)
	$(PIP) install "torch>=2.6,<2.14" $(PIP_ARGS)
	$(PIP) install --editable . --group dev $(PIP_ARGS)
	@{ cat pyproject.toml; echo "# $(CURDIR)"; } > $(STAMP)
