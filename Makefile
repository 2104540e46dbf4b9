# make demo | test | test-all | faults | bench | bench-quick | lint | format | image-check: each makes the virtual environment
# first, if it is not there yet; gpu-check takes what there is.
# VENV=DIR uses another one, PYTHON=EXE another interpreter to make it with.

VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-all faults bench bench-quick gpu-check lint format image-check install

help:
	@echo "make demo     install, then train three runs side by side on two ranks (under two minutes)"
	@echo "make test     install, then lint and run the tests (seven minutes on two cores)"
	@echo "make test-all   the same with the full matrices of which make test runs a sample"
	@echo "make faults   break 72 runs on purpose and check how they end (10 to 20 minutes; Linux)"
	@echo "make bench    every benchmark, results in benchmarks/results (two hours, on a machine with nothing else to do)"
	@echo "make bench-quick   the same with few repeats (four minutes), results in benchmarks/results/quick"
	@echo "make gpu-check   tests, figures and limits of one GPU (six minutes), results in benchmarks/results/gpu"
	@echo "make lint     ruff and mypy"
	@echo "make docs     build the documentation site into site/"
	@echo "make format   rewrite the sources as ruff wants them"
	@echo "make image-check   really build docker/Dockerfile and train in it (root, Debian; many minutes, 30 GB)"

demo: $(INSTALLED)
	$(PY) -m drb.demo

# Four workers on two cores, since ranks wait for one another much of the time; each takes one file after the other.
# Python's bytecode is kept, whatever the shell says, so that each new process need not compile what it imports.
WORKERS ?= 4
PYTEST := $(PY) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --durations=10
test test-all: export OMP_NUM_THREADS ?= 1
test test-all: export PYTHONDONTWRITEBYTECODE =
test: $(INSTALLED)
	$(PYTEST)

test-all: $(INSTALLED)
	$(PYTEST) -m ""

faults: $(INSTALLED)
	$(PY) -m faults --out benchmarks/results/faults.json

bench bench-quick: export OMP_NUM_THREADS = 1
bench: $(INSTALLED)
	$(PY) -m benchmarks

bench-quick: $(INSTALLED)
	$(PY) -m benchmarks --quick

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "docs: site/index.html"

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Needs torch, torchvision, safetensors and pytest only, so it takes whatever Python there is.
gpu-check: export OMP_NUM_THREADS = 1
gpu-check:
	$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m benchmarks.gpu

format: $(INSTALLED)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

image-check:
	docker/image_check.sh

install: $(INSTALLED)

# The stamp holds what was installed from: a venv that several checkouts share is not installed again.
ifneq ($(shell cat $(PINS) | cmp -s - $(INSTALLED) || echo differs),)
.PHONY: $(INSTALLED)
endif

# torch comes first and pinned, by pip, which also finds wheels on disk; uv then does the rest many times faster and
# leaves that pair alone. Without build isolation a repetition needs no network.
$(INSTALLED):
	@test -x $(PY) || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "drb needs Python 3.10 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1); try make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; install them (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): 6 GB, a minute or two with a fast network"
	@$(PY) -m pip install -qq -c constraints.txt torch torchvision setuptools uv
	@$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) --no-build-isolation -c constraints.txt -e '.[train,mpi,encryption,dev,docs]'
	@cat $(PINS) > $@
