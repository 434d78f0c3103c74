# Both targets make their own environment on a fresh machine: Linux x86-64 with Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart

.PHONY: quickstart test lint clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# Three experts in PyTorch files in, one student out, and a table of how well it plays.
quickstart: $(VENV)/.installed
	$(BIN)/python launch/distill.py --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs
