# One-line names for what the `modelswarm` command and its tools do. `make` alone lists them.
PYTHON ?= python3
PLAN ?= quick
TARGET ?= auto
BACKENDS ?=
RUN ?= latest
ARGS ?=

bin := .venv/bin
shown := $(or $(firstword $(BACKENDS)),fastapi)
chosen := $(if $(strip $(BACKENDS)),--backends "$(BACKENDS)")

.DEFAULT_GOAL := help
.PHONY: help env setup loadtest test test-kind test-long report example ui list doctor clean lint bench lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables: PLAN=quick BACKENDS="name name" TARGET=auto RUN=latest PYTHON=python3 ARGS="more options"\n'

env:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11 or newer, or name one: make setup PYTHON=python3.12" >&2; exit 3; }
	@$(PYTHON) -m scripts.bootstrap

setup: env ## Make every environment and the export (BACKENDS= for a choice); quick when they are there
	@$(bin)/modelswarm setup $(BACKENDS)

loadtest: env ## Set up, run a plan (PLAN=, BACKENDS=, TARGET=), write the report
	@$(bin)/modelswarm setup $(BACKENDS) --plan $(PLAN) --target $(TARGET); made=$$?; \
	[ $$made -eq 0 ] || [ $$made -eq 3 ] || exit $$made; \
	$(bin)/modelswarm run $(PLAN) $(chosen) --target $(TARGET) $(ARGS); ran=$$?; \
	exit $$((ran > made ? ran : made)) # what could not be made is told, and the others are measured

test: setup ## Set up and run all tests that this machine can run; says what was skipped and why
	@$(bin)/python -m pytest $(ARGS)

test-long: setup ## Tests that make real load for many minutes: capacity against theory, a server made slower
	@$(bin)/python -m pytest -m long $(ARGS)

test-kind: setup ## Build every image and try it in kind (makes and removes the cluster if there is none)
	@$(bin)/python -m pytest -m kind tests/kind $(ARGS)

report: env ## Write the report of a run again (RUN=results/… or latest)
	@$(bin)/modelswarm report $(RUN) $(ARGS)

example: env ## Keep a run's report as docs/example-report, with pictures of it (RUN=results/… or latest)
	@$(bin)/python -m scripts.example_report $(RUN)

ui: env ## Start a backend (BACKENDS=name, by default fastapi; TARGET=) and Locust's web UI at http://localhost:8089
	@$(bin)/modelswarm setup $(shown) --target $(TARGET)
	@$(bin)/modelswarm ui --target $(TARGET) --backend $(shown) $(ARGS)

list: env ## Show the backends: version, protocol, port, installed or not
	@$(bin)/modelswarm list $(ARGS)

doctor: env ## Look whether this machine is ready to measure
	@$(bin)/modelswarm doctor

clean: env ## Remove what can be made again (ARGS="--results" or "--all" for more; TARGET=kind: the cluster)
	@$(bin)/modelswarm clean --yes --target $(TARGET) $(ARGS)

lint: env ## Check style and types
	@$(bin)/ruff check . && $(bin)/ruff format --check . && $(bin)/mypy && $(bin)/python -m scripts.actionlint

bench: setup ## Measure modelswarm itself, and beside k6, wrk and Locust: requests per core, lag, memory, its report
	@$(bin)/python -m scripts.bench

lock: env ## Pin all requirements again
	@$(bin)/python -m scripts.lock
