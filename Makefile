# Two commands for a new clone: `make search` and `make test`. `make wheel` builds dist/espalier-….whl.
# All build .venv first, if it is not there or pyproject.toml or constraints.txt is newer.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: search serve ui test test-all check docs pictures format wheel wheel-check clean \
	lint types quick-tests all-tests

search: .venv/.installed
	$(BIN)/espalier search --config examples/digits.toml

serve: .venv/.installed
	$(BIN)/espalier serve

ui: .venv/.installed
	$(BIN)/espalier ui

# Types are checked while the tests run, in as many processes as tests/conftest.py says; tests of one
# file stay together, since they share what is made once. Long files come first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile \
	--no-loadscope-reorder --durations 10

test: lint
	$(MAKE) --no-print-directory --jobs 2 types quick-tests

test-all: lint
	$(MAKE) --no-print-directory --jobs 2 types all-tests

check: lint types

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.installed
	$(BIN)/mypy

quick-tests: .venv/.installed
	$(PYTEST) -m "not slow"

all-tests: .venv/.installed
	$(PYTEST)

# Into build/docs; dead links and missing pages are errors.
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Figures and screenshots of docs/, made again from real runs: some minutes, before a release.
pictures: .venv/.installed
	$(BIN)/python docs/hooks/drawings.py
	$(BIN)/python docs/hooks/pictures.py

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: .venv/.installed
	rm -rf build/lib dist/espalier-*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--wheel-dir dist .

# A search from the wheel in a clean environment of PYTHON, 5.5 GB: each Python, before a release.
wheel-check: wheel
	.ci/wheel-check $(PYTHON)

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
