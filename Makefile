# Each target does all set-up by itself: an own virtual environment, the pinned packages, then the run. No GPU, no root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_VENV := .venv-docs
TRITON := build/triton
# The deepspeed launcher must find the environment's python, and must not look for a GPU.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" DS_ACCELERATOR=cpu

.PHONY: quickstart test test-all test-kernel lint docs environment

quickstart: $(INSTALLED)
	$(RUN) bash tools/quickstart.sh

test: $(INSTALLED) lint
	$(RUN) pytest

test-all: $(INSTALLED) lint test-kernel
	$(RUN) pytest --all-combinations

# The GPU kernel by Triton's interpreter, on a CPU: only PyTorch's CUDA builds bring Triton.
test-kernel: $(INSTALLED)
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --upgrade --target $(TRITON) triton==3.9.0
	PYTHONPATH=$(TRITON) TRITON_INTERPRET=1 $(RUN) pytest tests/models/test_softmax_gradient.py

lint: $(INSTALLED)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

# The pages keep their places, so that links between them hold as they do in the repository.
docs: $(DOCS_VENV)/.installed
	rm -rf build/site-source build/site && mkdir -p build/site-source
	git ls-files -z '*.md' '*.svg' '*.png' '*.css' LICENSE CITATION.cff | xargs -0 cp --parents -t build/site-source
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict
	@echo "the site: build/site/index.html; to read it: python -m http.server -d build/site"

environment: $(INSTALLED)

$(INSTALLED): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	touch $(INSTALLED)

$(DOCS_VENV)/.installed: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --disable-pip-version-check -r docs/requirements.txt
	touch $@
