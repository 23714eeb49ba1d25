# make demo   install everything, fetch the assets, run the quickstart recipe and the shop of recipes/retail
# make shop   the shop alone: no language model
# make test   install what the tests need, and run them all
# make lint   style, types and layer contracts
# make faults kill runs 70 times and damage 5,000 bundles, more than `make test` does
# make fuzz   10,000 mutated recipes, 5,000 bundles, 2,000 request tables, 1,000 prompts, 500 catalogues, 10,000 requests over HTTP,
#             and ten times the examples of slow properties; about an hour
# make docs   regenerate the reference pages
# make site   the documentation as pages to read and search, into site/
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo shop install test fast faults fuzz lint docs site clean

demo: $(VENV)/.installed
	$(BIN)/llmcf assets fetch movielens-100k smollm2-135m-instruct minilm-l6-v2
	$(BIN)/llmcf run recipes/quickstart.yaml
	$(BIN)/llmcf run recipes/retail/shop.yaml

shop: $(VENV)/.installed
	$(BIN)/llmcf assets fetch minilm-l6-v2
	$(BIN)/llmcf run recipes/retail/shop.yaml

install: $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("llmcf needs Python 3.11 or newer; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[baselines,llm,plot,search]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[ability,openai,ray]" --group dev
	touch $@

test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow"

faults: $(VENV)/.installed-dev
	LLMCF_KILLS=50 LLMCF_FORCED_KILLS=20 LLMCF_MUTATIONS=5000 $(BIN)/python -m pytest tests/e2e/test_faults.py tests/unit/rec/bundle/test_bundle.py

fuzz: $(VENV)/.installed-dev
	LLMCF_FUZZ=10000 LLMCF_MUTATIONS=5000 $(BIN)/python -m pytest tests/fuzz tests/unit/rec/bundle/test_bundle.py
	LLMCF_EXAMPLES=10 $(BIN)/python -m pytest $$(grep -rl max_examples=examples tests)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed
	$(BIN)/llmcf recipe reference docs

site: docs $(VENV)/.installed-dev
	version=$$($(BIN)/python -c "import llmcf_cli; print(llmcf_cli.__version__)") && \
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site/$$version
	$(BIN)/python docs/versions.py site

clean:
	rm -rf $(VENV) artifacts build dist site
