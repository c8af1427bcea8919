# `make serve` and `make test` do all their own set-up: they need Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
MINUTES ?= 10
BASE ?= python:3.12-slim
# The tests of a file share their servers, so they stay together.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder

# Those that reach every dependency without what only the development requirements have.
LOWEST_TESTS := tests/model/test_online.py tests/model/test_state.py tests/model/test_spec.py tests/service/test_api.py \
	tests/service/test_feed_command.py tests/service/test_retrain.py tests/service/test_commands.py tests/scenarios/test_connections.py

# Tests start hundreds of processes, which would else compile all sources anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install serve test test-lowest test-all soak fuzz simulate mutate lint bench bench-quality readme containers requirements clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Freshet needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@echo 'Compiling the learning loop: up to a minute, once.'
	$(BIN)/freshet warm-up
	@touch $@

serve: install
	$(BIN)/freshet serve $(ARGS)

test: install lint
	$(BIN)/pytest -m "not soak and not slow" $(SIDE_BY_SIDE) $(ARGS)

test-all: install lint  # everything: the slow tests, the soak, and the containers where podman or docker is
	$(BIN)/pytest -m "not soak" $(SIDE_BY_SIDE)
	$(BIN)/pytest -m soak -s tests/scenarios tests/fuzz
	@if command -v podman >/dev/null || command -v docker >/dev/null; then $(MAKE) containers; \
	else echo "no podman or docker: containers were not tested"; fi

fuzz: install  # random requests of every kind for some minutes, MINUTES=10
	$(BIN)/python -m tests.fuzz.fuzz --minutes $(MINUTES) $(ARGS)

test-lowest:  # the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet $$($(PYTHON) tests/floors.py) 'hatchling>=1.27' editables pytest pytest-timeout pytest-xdist hypothesis jsonschema-rs scikit-learn
	.venv-lowest/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	.venv-lowest/bin/freshet warm-up
	.venv-lowest/bin/pytest -m "not soak and not slow" $(SIDE_BY_SIDE) $(LOWEST_TESTS)

soak: install  # long: hundreds of random kills; KILLS=30 makes it shorter
	$(BIN)/pytest -m soak -s tests/scenarios $(ARGS)

simulate: install  # new seeds for MINUTES=n; a seed that fails is shrunk and told
	$(BIN)/python tests/simulation/simulate.py --minutes $(MINUTES) $(ARGS)

mutate: install  # long: takes fences, orders and options out of a copy, one at a time; tests must find each
	$(BIN)/python -m tests.mutations.run $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

bench-quality: install  # a committee beside other models on streams: a table, JSON and plots in build/quality
	$(BIN)/python tests/benchmarks/quality.py $(ARGS)

readme: install  # writes what a server really answers, and the settings, into README.md
	$(BIN)/python -m tests.scenarios.readme

containers:  # needs podman or docker; BASE is the image to build on
	BASE=$(BASE) tests/containers/smoke.sh
	@if docker compose version >/dev/null 2>&1 || command -v podman-compose >/dev/null; then tests/containers/stack.sh; \
	else echo "no docker compose or podman-compose: deploy/compose.yaml was not tested"; fi

requirements:  # after a change of dependencies; needs uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate pyproject.toml -o requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt

clean:
	rm -rf $(VENV) .venv-lowest .mypy_cache .ruff_cache .pytest_cache .hypothesis
