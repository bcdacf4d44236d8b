# Every target sets up what it needs; only python 3.11 with venv is assumed.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUTPUT ?= outputs
PORT ?= 5000
FAULTS ?= 20
MINUTES ?= 60
SEED ?=
RUNS ?= 10
# Tests wait for processes most of the time, so there are more at a time than cores.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

# Where it is set, every process compiles all of the project anew, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup quickstart demo ui test test-rest test-all test-fast flaky chaos soak browser services lint lock sbom clean

setup: $(READY)

# Bytecode is compiled at once: without it every worker process takes three times as long to start.
$(READY): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed")'
	@test -x $(BIN)/uv || sed -n '/^uv==/,/[^\\]$$/p' requirements.lock | \
		$(BIN)/python -m pip install --quiet --require-hashes -r /dev/stdin
	@echo "installing into $(VENV): 7 GB, a minute or several"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode -c requirements.lock -b requirements.lock -e '.[text,dev]'
	@touch $(READY)

quickstart: $(READY)  ## shapes → prepare → train → generate, in minutes
	$(BIN)/python jobs/quickstart.py --train.output '$(OUTPUT)'

demo: $(READY)  ## a page that draws with the quickstart's model
	$(BIN)/python jobs/serve.py --model $(OUTPUT)/quickstart

# This machine only: on its loopback, and under no name that a page elsewhere could give it.
ui: $(READY)  ## MLflow's UI on this machine's runs
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false $(BIN)/mlflow server --backend-store-uri "$$($(BIN)/python -m pipeline.tracking.store_file '$(OUTPUT)')" --host 127.0.0.1 --allowed-hosts 127.0.0.1:$(PORT),localhost:$(PORT) --port $(PORT) --workers 1

test: $(READY)  ## the tests of each part, on real services, in minutes
	$(PYTEST) -m "not rest and not thorough"

test-rest: $(READY)  ## those that test leaves out
	$(PYTEST) -m "rest and not thorough"

test-all: $(READY)  ## both
	$(PYTEST) -m "not thorough"

test-fast: $(READY)  ## without those that start worker processes
	$(PYTEST) -m "not slow and not rest and not thorough"

flaky: $(READY)  ## test-all RUNS times in random order, beside two busy loops
	$(BIN)/python -m tests.flaky --runs $(RUNS) $(if $(SEED),--seed $(SEED))

chaos: $(READY)  ## all faults, those too that make test leaves out, then FAULTS at random from SEED
	$(BIN)/python -m tests.chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

soak: $(READY)  ## kills at random for MINUTES, from SEED
	$(BIN)/python -m tests.chaos.schedule --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

browser:  ## Debian's Chromium, which the tests of MLflow's UI look through
	@command -v chromium > /dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends chromium > /dev/null; }

services:  ## Debian's PostgreSQL and Redis, on which tests run MLflow and a head of Ray
	@{ ls /usr/lib/postgresql/*/bin/initdb && command -v redis-server; } > /dev/null 2>&1 || { \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends postgresql redis-server > /dev/null; }

lint: $(READY)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(READY)  ## pin again, with the hashes of all files and without addresses
	$(BIN)/uv pip compile --upgrade --generate-hashes --python-version 3.11 --no-header --no-annotate --no-emit-index-url --extra text --extra cluster --extra dev pyproject.toml -o requirements.lock

sbom: $(READY)  ## what the lock brings, with hashes, as CycloneDX: sbom.json
	$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible -o sbom.json requirements.lock

clean:
	rm -rf $(VENV)
