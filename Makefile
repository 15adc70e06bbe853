# Two commands matter: `make demo` and `make test`. `make` lists them all.

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
COMPILE := $(BIN)/pip-compile --quiet --allow-unsafe --strip-extras --annotation-style line \
	--no-header --no-emit-options --no-emit-index-url --no-emit-trusted-host --no-emit-find-links
# The tests run as several processes: each keeps to one core, or they stand in each other's way.
ONE_CORE := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1

export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint notebooks book lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

venv: .venv/ready-to-test ## Make .venv with everything pinned: package, notebooks, tests

# The pip that comes with Python 3.11 cannot build seqeval, which is published as sources alone.
.venv/ready-to-run: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
		f"Python 3.11 to 3.13 is needed; $(PYTHON) is {sys.version.split()[0]}. " \
		"Name another: make PYTHON=python3.12")'
	@echo "Installing the pinned requirements into .venv. The first time this fetches about 1 GB."
	@$(PYTHON) -m venv .venv
	@$(PIP) pip==26.3
	@$(PIP) --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/ready-to-test: .venv/ready-to-run requirements-dev.lock
	@echo "Installing the pinned requirements of notebooks and tests."
	@$(PIP) --requirement requirements-dev.lock
	@touch $@

demo: .venv/ready-to-run ## Run the main job: raw text in, a served model out (ARGS="--help" for its options)
	@$(BIN)/keras-llm demo $(ARGS)

# tests/conftest.py says which tests stay together, and that the notebooks come first.
test: lint ## Run lint, unit tests, doctests, notebooks, website (ARGS="-k attention" for a part)
	$(ONE_CORE) $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup \
		--no-loadscope-reorder keras_llm tests $(ARGS)

lint: .venv/ready-to-test ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

notebooks: .venv/ready-to-test ## Execute the notebooks and write their outputs back
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=900 \
		notebooks/*.ipynb notebooks/solutions/*.ipynb

book: .venv/ready-to-test ## Build the website of the book: build/book/index.html
	@$(BIN)/python docs/build.py build/book
	@echo "Open build/book/index.html"

# A build such as 2.13.0+cpu is one machine's; its version is everybody's.
lock: .venv/ready-to-test ## Make both lock files anew from pyproject.toml (ARGS=--upgrade)
	@$(PIP) pip-tools==7.6.2
	$(COMPILE) $(ARGS) --output-file requirements.lock pyproject.toml
	$(COMPILE) $(ARGS) --extra notebooks --extra book --extra test --constraint requirements.lock \
		--output-file requirements-dev.lock pyproject.toml
	sed -i.bak -E 's/^([^ +]+)\+[^ ]+/\1/' requirements.lock requirements-dev.lock
	rm requirements.lock.bak requirements-dev.lock.bak

clean: ## Remove what the commands above made, but for results in runs/ and export/
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis keras_llm.egg-info
	find keras_llm tests -name __pycache__ -prune -exec rm -rf {} +
