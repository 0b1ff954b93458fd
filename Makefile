# The two commands of the README, quickstart and test, and what they are made of. `make help` lists them.
PYTHON ?= python3
WORKERS ?= 2

BIN := .venv/bin
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed
# Each data set has results of its own; those of the phantom are in runs/quickstart.
RESULTS := runs/quickstart$(if $(DATA),-$(notdir $(abspath $(DATA))))
DECLARED := pyproject.toml setup.py constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help quickstart bundles test lint unit quick test-extras clean distclean

help:
	@echo 'make quickstart              train STD, SAT and AMAT on the built-in phantom, attack them, write runs/quickstart/'
	@echo 'make quickstart DATA=folder  the same on the Decathlon folder of your choice'
	@echo 'make bundles                 write the bundles in bundles/ from their templates'
	@echo 'make test                    what CI runs: make lint, then make unit'
	@echo 'make lint                    ruff check, ruff format --check, mypy'
	@echo 'make unit                    the tests and doctests, with coverage'
	@echo 'make quick                   the fast tests of the core, about a minute'
	@echo 'make test-extras             the tests that take long or need odd versions'
	@echo 'make clean                   remove caches and builds (runs/ and .venv stay); make distclean: .venv too'
	@echo 'PYTHON=python3.12            chooses the interpreter for a new .venv (3.11 to 3.13)'

# --- the environment: .venv, without the test tools until a target needs them ---

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "monai_amat needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d: name another one, for example make PYTHON=python3.12 $(MAKECMDGOALS)" % v)'
	@echo "==> making .venv with $$($(PYTHON) --version)"
	$(PYTHON) -m venv .venv

$(RUNTIME): $(DECLARED) | .venv/pyvenv.cfg
	@echo '==> installing monai_amat and what it needs into .venv (PyTorch is large: minutes on a slow line)'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(DEV): $(DECLARED) | .venv/pyvenv.cfg
	@echo '==> installing monai_amat with its test tools into .venv (PyTorch is large: minutes on a slow line)'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(RUNTIME) $@

# --- what users run ---

quickstart: $(RUNTIME)
	@echo '==> quickstart on $(if $(DATA),$(DATA),the built-in phantom); results go to $(RESULTS)/'
	$(BIN)/python -m monai_amat quickstart --output_dir '$(RESULTS)' $(if $(DATA),--dataset_dir '$(DATA)')

# --- what developers and CI run ---

bundles: $(RUNTIME)
	$(BIN)/python -m monai_amat bundles bundles

# One thread per worker: two workers with a thread pool each would fight over two cores.
PYTEST := OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest

test: lint unit

lint: $(DEV)
	@echo '==> ruff and mypy'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(DEV)
	@echo '==> tests and doctests with coverage, $(WORKERS) workers'
	$(PYTEST) -n $(WORKERS) --dist loadfile --cov --cov-report=term --cov-fail-under=90

# The rooms that every task uses; what starts processes or takes seconds is marked slow.
CORE := $(addprefix tests/,attacks losses margins engines handlers data) $(wildcard tests/test_*.py)

quick: $(DEV)
	@echo '==> the fast tests of the core, $(WORKERS) workers'
	$(PYTEST) -q -n $(WORKERS) --dist loadfile -m 'not slow and not extras' $(CORE)

test-extras: $(DEV)
	@echo '==> the tests marked extras'
	$(PYTEST) -m extras

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
