# Every target sets itself up: a virtual environment in .venv, the package and what it needs, then the task.
PYTHON ?= python3## interpreter of the virtual environment, 3.10 or newer
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SIZE ?= small## of bench: tiny, small or full
MODEL ?= TransFusion## of bench: TransFusion or DiffusionAD
MINUTES ?= 25## of bench-gpu and quality: time for everything
GPU_PYTHON ?= $(BIN)/python## of bench-gpu: an interpreter that has PyTorch with CUDA, anomalib and Lightning
DATASETS ?= $(or $(TRANSFUSION_DATASETS),../shared/datasets)## of quality and bench-gpu: a folder with MVTecAD/CATEGORY and dtd
CATEGORY ?= magnetic_tile## of quality: the category
ARGUMENTS ?=## of quality and bench-gpu: further arguments, as ARGUMENTS='image_size=128 size=full'

.DEFAULT_GOAL := help
.PHONY: help demo lint test test-slow test-versions bench bench-gpu quality clean

help:  ## what can be made, and with which variables
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/\1|\2/p' Makefile | awk -F'|' 'BEGIN { print "make ..." } { printf "  %-14s%s\n", $$1, $$2 }'
	@sed -nE 's/^([A-Z_]+) \?= ?(.*)## (.*)/\1|\3|\2/p' Makefile | \
		awk -F'|' 'BEGIN { print "\nmake ... NAME=VALUE" } { printf "  %-14s%s%s\n", $$1, $$2, $$3 ? " (" $$3 ")" : "" }'

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

demo: $(READY)  ## train, test and draw on photographs that need no download (minutes on two CPU cores)
	$(BIN)/anomalib train --config configs/demo.yaml

lint: $(READY)  ## style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# A file's tests stay together, for they share what is trained and exported; files of long tests come early by name.
SPREAD := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: lint  ## the whole fast test suite
	$(BIN)/python -m pytest -m "not slow" $(SPREAD)

# The lower bounds of pyproject.toml, as anomalib==2.7 torch==2.10.
OLDEST = $(shell sed -nE 's/^ *"(anomalib|torch)>=([0-9.]+).*/\1==\2/p' pyproject.toml)

test-versions: $(READY)  ## the fast tests with the oldest and with the newest anomalib and torch that are admitted
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --editable '.[test]' $(OLDEST)
	.venv-oldest/bin/python -m pytest -m "not slow" $(SPREAD)
	$(BIN)/python -m pip install --quiet --upgrade anomalib torch torchvision --editable '.[test]'
	$(BIN)/python -m pytest -m "not slow" $(SPREAD)

test-slow: $(READY)  ## the tests that take minutes each: an hour
	$(BIN)/python -m pytest -m slow

bench: $(READY)  ## times, memory and ratios on this machine, into results/bench
	$(BIN)/python benchmarks/synthesis.py --model $(MODEL) --size $(SIZE)
	$(BIN)/python benchmarks/training_step.py --model $(MODEL) --size $(SIZE)
	$(BIN)/python benchmarks/inference.py --model $(MODEL) --size $(SIZE)
	$(BIN)/python benchmarks/stages.py --model $(MODEL) --size $(SIZE)
	$(BIN)/python benchmarks/exported.py $(MODEL)=$(SIZE) TransFusion=configs/fast.yaml EfficientAd=untrained \
		--passes 1 $(if $(filter full,$(SIZE)),,19) --name exported-$(MODEL)-$(SIZE)

bench-gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(READY))  ## all that needs a GPU, in MINUTES; GPU_PYTHON=... takes another interpreter
	$(GPU_PYTHON) benchmarks/gpu.py --minutes $(MINUTES) --datasets $(DATASETS) $(ARGUMENTS)

quality: $(READY)  ## detection quality on a real category, the fast recipe, Draem and Patchcore beside it, in MINUTES
	$(BIN)/anomalib benchmark --config configs/benchmark/quality.yaml \
		--set datasets=$(DATASETS) category=$(CATEGORY) minutes=$(MINUTES) $(ARGUMENTS)

clean:  ## remove what was set up and built
	rm -rf $(VENV) .venv-oldest build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
