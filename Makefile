# make demo | test | test-page | test-slurm | lint: each sets up .venv first, once, and again when the requirements change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-page test-slurm lint format clean

setup: .venv/ready

.venv/ready: requirements.txt requirements-slurm.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: setup
	@$(BIN)/python emm.py sweep scripts/studies/demo.toml --outdir=demo-out --jobs=2

test: setup
	$(BIN)/python -m pytest

# The page of a study in headless Chromium; needs Debian's chromium and chromium-driver, or others of these names.
test-page: setup
	$(BIN)/python -m pytest tests/test_page_browser.py -rs

# Needs Debian's slurm-wlm and munge; skipped where a cluster is not up within 30 s.
test-slurm: setup
	$(BIN)/python -m pytest -m slurm tests/test_slurm.py -rs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
