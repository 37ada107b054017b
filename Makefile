# `make help` lists what there is. Every target does all that it needs, from a fresh clone on.
# Needed: Python 3.11 or newer with venv, and make. Redis, where none is installed, comes with `make setup`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NODE_MODULES := tests/interop/node/node_modules/.installed
SOURCES := client worker operator cli
CHECKED := $(SOURCES) tests examples

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast e2e coverage lint format docs crds simulation manifests bench prove build lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## a virtual environment with everything in it, and a redis-server where there is none

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Bullpen needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" % sys.version_info[:2])'
	@echo "Installing into $(VENV) (once; about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m bullpen.embedded
	@touch $@

demo: setup ## the example at work: real jobs through real queues, some 15 seconds, with an account at the end
	@cd examples/studio && ../../$(BIN)/python -m studio.demo $(DEMO)

test: setup ## all tests but the long runs; those beside Node, or a Kubernetes API server, are skipped, aloud, where that is missing
	@$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST)

test-fast: setup ## the tests that need no server
	@$(BIN)/python -m pytest tests/unit $(PYTEST)

e2e: setup ## the tests on a real cluster: a node on this machine (Debian, root, Go), or kind where there is Docker
	@$(BIN)/python -m pytest tests/e2e -m "e2e and not prove" -n 0 --timeout 900 $(PYTEST)

coverage: setup ## the tests again, with what they did not reach; below 90 % fails
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest -n auto --dist loadfile $(PYTEST)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --fail-under 90 --skip-covered --precision 1

lint: setup ## format, rules, types, and which part may import which
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## write the format and the fixes that ruff knows
	@$(BIN)/ruff format $(CHECKED)
	@$(BIN)/ruff check --fix $(CHECKED)

docs: setup ## docs/reference/jobqueue.md anew, from the models
	@$(BIN)/python -m tests.docs.generate

crds: setup ## manifests/crd.yaml and the chart's anew, from the models
	@$(BIN)/bullpen crd > manifests/crd.yaml
	@cp manifests/crd.yaml charts/bullpen/files/crds/crd.yaml

manifests: setup ## manifests/install.yaml anew, from the chart
	@$(BIN)/python -m tests.chart.manifests

simulation: setup ## scaling beside KEDA's, simulated: table and figure of docs/explanation/scaling.md; some minutes
	@$(BIN)/python -m tests.bench.simulation

bench: setup ## speed beside Node's BullMQ and the bare Lua, and what a worker costs; needs Node
	@$(BIN)/python -m tests.bench $(BENCH)

prove: setup ## the long runs: rolled workers, kills, freezes; about twenty minutes
	@$(BIN)/python -m pytest -m prove -n 0 --timeout 1800 $(PYTEST)

build: setup ## the wheel and the sdist, into dist/
	@rm -rf dist && $(BIN)/python -m hatchling build

LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --quiet

lock: ## resolve requirements/ anew (needs uv): dev.txt, and from the same versions what the images install
	$(LOCK) --all-extras --group dev --output-file requirements/dev.txt pyproject.toml
	$(LOCK) --constraint requirements/dev.txt --extra operator --output-file requirements/operator.txt pyproject.toml
	$(LOCK) --constraint requirements/dev.txt --extra cli --output-file requirements/worker.txt pyproject.toml
	$(LOCK) --constraint requirements/dev.txt --group build --output-file requirements/build.txt

clean: ## remove what was built and installed here
	rm -rf $(VENV) dist build .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/interop/node/node_modules
