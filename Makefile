# With Python 3.11+, git and make: `make demo` and `make test` set up everything they need.
PYTHON ?= python3
BIN := .venv/bin
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements.lock)

.PHONY: demo demo-pool test tour lint format docs lock clean help

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: .venv/.ready ## Set up, and audit a small batch of deletion requests on the embedded data set
	@$(BIN)/erasure-audit demo

demo-pool: .venv/.ready ## Set up, make a pool of references, and audit two batches by it
	@$(BIN)/python -m benchmarks.demo_pool

test: .venv/.ready ## Set up, and run the tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

tour: .venv/.ready ## Play engineer, operator, officer and auditor on a real Prefect server, and check each step
	@$(BIN)/python -u -m benchmarks.tour

lint: .venv/.ready ## Check style, types, layers of packages, and generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_faces
	$(BIN)/python -m tools.generate_docs --check

format: .venv/.ready ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/.ready ## Write the generated files: settings, commands, tree and evidence schema in docs/, params.yaml, catalogues
	$(BIN)/python -m tools.generate_docs

lock: .venv/.ready ## Update the locked versions
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --quiet --upgrade --output-file requirements.lock

clean: ## Remove the environment, data, models and caches; registers and reports stay
	rm -rf .venv artifacts data .prefect .dvc/cache .dvc/tmp
