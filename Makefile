# `make` or `make help` lists what there is.  Everything runs inside .venv, which any target makes.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
MODEL ?= build/demo/minilm.pt2
# A process per core; a group of tests that share what they compile stays in one, in our order.
PARALLEL ?= --numprocesses logical --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo demo-llm test fast check lint format types docs quality wheel bench lock vulkan ptxas clients browser clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=...  the Python (3.11 or newer) that .venv is made with"
	@echo "  ARGS=...    more arguments for pytest (make test, make fast) or lowc (make bench)"

venv: $(INSTALLED) ## Make .venv from requirements.lock, with lowc in it (editable)

# The stamp is written last: the next make takes an interrupted install up again.
$(INSTALLED): requirements.lock pyproject.toml
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lowc needs Python 3.11 or newer; '$(PYTHON)' is not: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "making $(VENV) with $$($(PYTHON) --version)"; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	$(PIP) install --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

demo: $(INSTALLED) ## Export MiniLM, compile it as f32 and w4a16, compare both with PyTorch
	$(BIN)/python -m lowc.tools.demo

demo-llm: $(INSTALLED) ## Train a small Llama on Python's library, and let it write code under five recipes
	$(BIN)/python -m lowc.tools.demo_llm $(ARGS)

test: check vulkan ptxas clients browser ## Run everything: style, types, all tests, the wheel in a clean environment
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

fast: $(INSTALLED) ## Run only the tests that take no time
	$(BIN)/python -m pytest -m "not slow and not wheel" $(ARGS)

check: lint types ## Check style and types

lint: $(INSTALLED) ## Check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## Mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# The package's root is this folder, whatever it is called: mypy sees it through a link as lowc.
types: $(INSTALLED) ## Check types with mypy
	@mkdir -p build/types && ln -sfn ../.. build/types/lowc
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy -p lowc

docs: $(INSTALLED) ## Write docs/map.md and docs/passes.md from the docstrings
	@mkdir -p build
	$(BIN)/python tests/source_map.py > build/map.md
	$(BIN)/lowc passes --markdown > build/passes.md
	@mv build/map.md build/passes.md docs/

# About an hour, and a quarter for the GPT; lines of benchmarks/quality that still hold are kept.
quality: $(INSTALLED) ## Measure all forms of few bits on two models, and write docs/quality.md
	@test -e build/demo/minilm-texts.npz || $(MAKE) demo
	@test -e build/tiny-gpt/tiny-gpt.pt2 || $(BIN)/python -m lowc.tools.tiny_gpt
	$(BIN)/python -m lowc.tools.quality

wheel: $(INSTALLED) ## Build the wheel into dist/
	rm -rf build/lib build/bdist.*
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

bench: $(INSTALLED) ## Measure MODEL (default: the demo's) side by side with named opponents
	@test -e $(MODEL) || { echo "$(MODEL) is missing: run 'make demo', or say MODEL=..." >&2; exit 1; }
	$(BIN)/lowc bench model $(MODEL) $(ARGS)

lock: ## Resolve requirements.lock anew from pyproject.toml
	.ci/lock "$(PYTHON)"

# Only on a bare machine where we may: elsewhere the Vulkan tests say why they are skipped.
vulkan: ## Install a software Vulkan driver, where that is possible and none is there
	@.ci/vulkan

ptxas: $(INSTALLED) ## Get NVIDIA's assembler into build/, where CUDA's toolkit is not
	@.ci/ptxas $(BIN)/python build/ptxas

# Foreign clients of `lowc serve`; their packages do not stand beside ours.
CLIENTS := build/clients
clients: $(CLIENTS)/.installed ## Make an environment with foreign clients, for tests of the server

$(CLIENTS)/.installed: tests/clients/requirements.lock
	@rm -f $@
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install -q --requirement $<
	@touch $@

browser: ## Install Chromium for the test of the server's page, where that is possible
	@.ci/browser

clean: ## Remove what was built, except .venv
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv too
	rm -rf $(VENV)
