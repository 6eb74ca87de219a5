# Two commands from nothing: `make talk` installs, reproduces the talk and says where the report is; `make test`
# installs and tests. Each keeps to .venv, and installs again only when what it installs from has changed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: talk test test-all test-oldest lint docs gallery results bench clean

talk: .stamp-install
	$(BIN)/ranklens talk --out report

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint  # with coverage, which doubles the time of what is mostly Python
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=95

lint: .stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .stamp-docs  # strict: a warning, a dead link or an unknown reference fails the build
	$(BIN)/python -m sphinx -W --keep-going -q -E -b html docs docs/_build/html
	@echo "documentation: docs/_build/html/index.html"

gallery: .stamp-install  # draws the gallery's images from the records of the last report
	$(BIN)/python docs/draw_gallery.py report

test-oldest:  # builds an environment of the oldest versions that pyproject.toml declares, and tests in it
	$(PYTHON) tests/oldest.py

results: .stamp-install  # writes the tables of README.md and docs/reproductions.md from the records of the last report
	$(BIN)/python docs/results_table.py report

bench: .stamp-install
	$(BIN)/python benchmarks/run.py

fuzz: .stamp-test  # damaged input for every reader, ten minutes each
	$(BIN)/python tests/fuzz.py

clean:
	rm -rf .venv .venv-oldest .stamp-* report docs/_build

.stamp-install: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'ranklens needs Python 3.11 or newer: make PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet -c constraints.txt -e .
	touch $@

.stamp-test: .stamp-install
	$(PIP) install --quiet -c constraints.txt -e ".[test]"
	touch $@

.stamp-docs: .stamp-install
	$(PIP) install --quiet -c constraints.txt -e ".[docs]"
	touch $@
