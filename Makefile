# The only commands a newcomer needs: make demo, make test. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt
NATIVE := CMakeLists.txt $(wildcard native/*/*.hpp native/*/*.cpp)
BUILD_INPUTS := pyproject.toml requirements/constraints.txt $(NATIVE)

.PHONY: help demo test lint format bench docs sanitize clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo ## set up, then: tokenizer, model and report from this machine's own executables
	$(BIN)/byteloom demo

test: $(VENV)/.dev ## set up, then run all tests
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev ## style, types, the floors of the architecture, C++ format
	$(BIN)/ruff check src tests examples
	$(BIN)/ruff format --check src tests examples
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'native/*.hpp' 'native/*.cpp')

format: $(VENV)/.dev ## rewrite Python and C++ in the project's style
	$(BIN)/ruff check --fix-only src tests examples
	$(BIN)/ruff format src tests examples
	$(BIN)/clang-format -i $$(git ls-files 'native/*.hpp' 'native/*.cpp')

bench: $(VENV)/.dev ## measure every method against its peer (about 10 minutes each) and rewrite docs/results.md
	$(BIN)/byteloom bench --scale cpu

docs: $(VENV)/.docs ## build the user guide into site/
	$(BIN)/mkdocs build --strict

sanitize: $(VENV)/.dev ## rebuild the native code with ASan and UBSan and fuzz it
	scripts/sanitize.sh

clean: ## remove everything that these targets made
	rm -rf $(VENV) build dist site demo

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "byteloom needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sysconfig, pathlib; p = pathlib.Path(sysconfig.get_path("include"), "Python.h"); exit(not p.exists())' || \
	  { echo "Python's C headers are missing; on Debian or Ubuntu: sudo apt install python3-dev"; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "cannot make a virtual environment; on Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }

$(VENV)/.demo: $(VENV)/bin/python $(BUILD_INPUTS)
	$(PIP_INSTALL) -e '.[models,tasks]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(BUILD_INPUTS)
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(PIP_INSTALL) -e '.[dev,docs]'
	@touch $@
