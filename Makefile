# make setup | demo: set up .venv with what running needs, once, and again when the requirements change.
# make test | test-page | test-slurm | lint | format: add the development tools first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Index of the PyTorch wheel; empty for pip's own, whose Linux wheel has CUDA. By default a Linux machine without a GPU
# takes the CPU build, unless its pip has indices of its own.
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(shell [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi && \
	! $(PYTHON) -m pip config list 2> /dev/null | grep -Eq 'index-url|find-links|no-index' && echo $(CPU_INDEX))

.PHONY: setup demo test test-page test-slurm lint format clean

setup: .venv/ready
	@echo 'Ready. Activate the environment in each new shell: source .venv/bin/activate'

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) install --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.txt))
	$(PIP) install -r requirements.txt
	@touch $@

.venv/development: .venv/ready requirements-slurm.txt requirements-dev.txt
	$(PIP) install -r requirements-dev.txt
	@touch $@

demo: .venv/ready
	@$(BIN)/python emm.py sweep scripts/studies/demo.toml --outdir=demo-out --jobs=2

# Two processes with one thread each; the tests of a file stay in one process. JOBS=8 on a machine with more cores.
JOBS ?= 2
test: .venv/development
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist=loadfile

# The page of a study in headless Chromium; needs Debian's chromium and chromium-driver, or others of these names.
test-page: .venv/development
	$(BIN)/python -m pytest tests/test_page_browser.py -rs

# Needs Debian's slurm-wlm and munge; skipped if a cluster is not up within 30 s.
test-slurm: .venv/development
	$(BIN)/python -m pytest -m slurm tests/test_slurm.py -rs

lint: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
