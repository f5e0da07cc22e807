# Two commands: `make run`, `make test`. Needs Python 3.11-3.13, make and git; `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-$(shell cat requirements.lock requirements-uv.txt pyproject.toml | cksum | cut -d' ' -f1)
export PATH := $(CURDIR)/$(BIN):$(PATH)
# If it is set, every process compiles its libraries again, and the chain takes twice as long.
unexport PYTHONDONTWRITEBYTECODE
TESTS  ?= not chaos and not bench

.PHONY: run test coverage up down kafka-up lint bench chaos lock install help clean
.DEFAULT_GOAL := help

run: $(STAMP)  ## install the locked packages, run the whole chain, print a forecast and the path of the report
	$(BIN)/tidemill run

up: $(STAMP)  ## start Prefect, MLflow, the service and a worker; print their addresses
	$(BIN)/tidemill up

down: $(STAMP)  ## stop exactly the processes that `up` started
	$(BIN)/tidemill down

kafka-up: $(STAMP)  ## a Kafka broker alone, in the foreground (needs Java 17 and Maven; downloaded at the first start)
	$(BIN)/python -m deployments.ops.kafka_broker

test: $(STAMP)  ## install the dependencies of the tests, then run the tests
	$(BIN)/pytest tests -m "$(TESTS)" --ignore tests/benchmarks -n 2 --dist loadfile --no-loadscope-reorder --durations=25 $(ARGS)

coverage: $(STAMP)  ## the tests again with the lines that none of them runs; a third slower
	$(MAKE) test ARGS="--cov=tasks --cov=flows --cov=deployments --cov-report=term:skip-covered $(ARGS)"

chaos: $(STAMP)  ## the long tests: every kill point, the chain of every real file
	$(BIN)/pytest tests -m chaos $(ARGS)

bench: $(STAMP) .venv-peers/.installed  ## print the figures of docs/measures.md
	$(BIN)/pytest tests/benchmarks -m bench -s $(ARGS)

lint: $(STAMP)  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(STAMP)  ## create the environment in .venv, from requirements.lock with hashes

# The interpreter is checked first, because pip would only report that it finds no matching package.
$(STAMP): requirements.lock requirements-uv.txt pyproject.toml
	@$$(test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python %d.%d is not supported; Tidemill needs 3.11, 3.12 or 3.13. Try: make run PYTHON=python3.12" % v)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

# The peers of the benchmarks have their own environment, because their libraries conflict with ours.
.venv-peers/.installed: tests/benchmarks/peers/requirements.lock tests/benchmarks/peers/drift.lock tests/benchmarks/peers/serving.lock tests/benchmarks/peers/spark/pom.xml $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers
	$(BIN)/uv pip install --python .venv-peers/bin/python --quiet --require-hashes -r $<
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers/drift
	$(BIN)/uv pip install --python .venv-peers/drift/bin/python --quiet --require-hashes -r tests/benchmarks/peers/drift.lock
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers/serving
	$(BIN)/uv pip install --python .venv-peers/serving/bin/python --quiet --require-hashes -r tests/benchmarks/peers/serving.lock
	mvn -q -B -f tests/benchmarks/peers/spark/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/.venv-peers/jars
	@touch $@

lock: $(STAMP)  ## update requirements.lock within the ranges of pyproject.toml (ARGS=--upgrade for the newest)
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra exchanges --extra pdf --universal --python-version 3.11 --generate-hashes --no-header --quiet -o requirements.lock $(ARGS)
	$(BIN)/uv pip compile deployments/forecaster/requirements.txt -c requirements.lock --universal --python-version 3.11 --generate-hashes --no-header --quiet -o deployments/forecaster/requirements.lock

clean:  ## remove the environment and the files of runs; data, models and DVC's cache stay
	rm -rf $(VENV) .tidemill .pytest_cache .mypy_cache .ruff_cache

help:  ## print this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1#\2/p' $(MAKEFILE_LIST) | awk -F'#' '{printf "%-16s %s\n", $$1, $$2}'
