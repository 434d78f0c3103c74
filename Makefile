# Targets make their own environment on a fresh machine: Linux x86-64 with Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart

.PHONY: quickstart skills test installed lint docs notebook mutants clean clean-runs

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

# Three experts in PyTorch files in, one student out, and a table of how well it plays.
quickstart: $(VENV)/.installed
	$(BIN)/python launch/distill.py --config=configs/quickstart.py --workdir=$(WORKDIR)

# Three experts of skills trained, merged into one fighter, and the fighter trained further.
skills: $(VENV)/.installed
	for skill in movement aiming clicking; do \
	  $(BIN)/python launch/train_expert.py --config=configs/skills.py:$$skill \
	    --workdir=runs/skills/$$skill || exit; \
	done
	$(BIN)/python launch/distill.py --config=configs/skills.py --workdir=runs/skills/merge
	$(BIN)/python launch/finetune.py --config=configs/skills.py:finetune --workdir=runs/skills/merge

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q --numprocesses=$$(nproc) --maxprocesses=4 --dist=loadfile \
	  --no-loadscope-reorder

# What a wheel holds, installed into an empty environment and used outside of this checkout.
installed: $(VENV)/.installed
	$(BIN)/python tests/installed.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

# The site, in site/; it needs no network to be read.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

# Runs the notebook from its first cell to its last; what it shows is thrown away.
notebook: $(VENV)/.docs
	XLA_FLAGS="$$($(BIN)/python tests/quick_xla.py)" PATH="$(CURDIR)/$(BIN):$$PATH" \
	  $(BIN)/jupyter execute --output="$$(mktemp -d)/run.ipynb" docs/merge_your_experts.ipynb

# Changes the code a little, again and again, and counts what the tests notice: for an hour; called
# again, it goes on.
mutants: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	$(BIN)/python benchmarks/mutants.py $(MUTANTS)

# What `make` has made, but for runs.
clean:
	rm -rf $(VENV) build dist site

# All runs, for good.
clean-runs:
	rm -rf runs
