# Every target makes .venv and installs what it needs when that is missing or pyproject.toml changed.
PYTHON ?= python3
RUN ?= runs/vit_tiny
BIN := .venv/bin
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

.PHONY: train test test-all lint types format install clean

train: install
	$(BIN)/python experiments/train.py --config vit_tiny --run $(RUN)
	$(BIN)/python experiments/evaluate.py --run $(RUN)

test: install
	$(BIN)/python -m pytest $(PARALLEL)

test-all: install
	$(BIN)/python -m pytest $(PARALLEL) -m ""

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

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
	rm -rf .venv .jax_cache .mypy_cache .pytest_cache .ruff_cache
