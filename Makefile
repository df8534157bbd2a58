# Each target does all set-up by itself: an own virtual environment, the pinned packages, then the run. No GPU, no root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The deepspeed launcher must find the environment's python, and must not look for a GPU.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" DS_ACCELERATOR=cpu

.PHONY: quickstart test test-all lint environment

quickstart: $(INSTALLED)
	$(RUN) bash tools/quickstart.sh

test: $(INSTALLED) lint
	$(RUN) pytest

test-all: $(INSTALLED) lint
	$(RUN) pytest --all-combinations

lint: $(INSTALLED)
	$(RUN) ruff check
	$(RUN) ruff format --check

environment: $(INSTALLED)

$(INSTALLED): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	touch $(INSTALLED)
