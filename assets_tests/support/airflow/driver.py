"""A private Airflow: a folder with its database, and DAGs that run in subprocesses."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from support.dagster.webserver import DagsterClient
from support.models.harness import ModelHarness
from support.processes.commands import clean_env, wait_until

_RUN_DAG_SCRIPT = Path(__file__).with_name("run_dag.py")
BIN = Path(sys.executable).parent


def call_api(
    address: str,
    path: str,
    method: str,
    body: Mapping[str, Any],
    credentials: Mapping[str, str] | None = None,
) -> Any:
    """The response of Airflow's API to this user; without credentials if all users are admins.

    The request is retried if another process of Airflow has locked the SQLite database.
    """
    login = requests.post if credentials else requests.get
    responses: list[requests.Response] = []

    def response_received() -> bool:
        token = login(f"{address}/auth/token", json=credentials, timeout=120).json()["access_token"]
        response = requests.request(
            method,
            f"{address}/api/v2/{path}",
            json=body or None,
            headers={"Authorization": f"Bearer {token}"},
            timeout=120,
        )
        responses.append(response)
        return "Database error" not in response.text

    wait_until(response_received, interval=1)
    assert responses[-1].ok, (path, responses[-1].text)
    return responses[-1].json() if responses[-1].text else None


@dataclass(frozen=True)
class Airflow:
    """An Airflow with all its data in `home` and its DAG files in `home/dags`."""

    home: Path
    connection: str
    """The connection to Dagster, as a URI."""

    @property
    def dags_folder(self) -> Path:
        return self.home / "dags"

    @property
    def env(self) -> dict[str, str]:
        """Must be set before airflow is imported, which reads it."""
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db?timeout=30",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "AIRFLOW_CONN_DAGSTER_DEFAULT": self.connection,
        }

    def migrate(self) -> "Airflow":
        """Create an empty database; the same Airflow."""
        self.dags_folder.mkdir(parents=True, exist_ok=True)
        result = self.run_command(str(BIN / "airflow"), "db", "migrate")
        assert result.returncode == 0, result.stdout + result.stderr
        return self

    def write(self, text: str, name: str = "dags.py") -> None:
        """Write a DAG file."""
        (self.dags_folder / name).write_text(text)

    def run_command(
        self, *command: str, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in this Airflow to completion."""
        return subprocess.run(
            command,
            env=clean_env({**self.env, **(env or {})}),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run_dag(self, dag_id: str, **conf: object) -> "DagRunResult":
        """Run a DAG by `dag.test`, with triggers inline; its result."""
        result = self.run_command(sys.executable, str(_RUN_DAG_SCRIPT), dag_id, json.dumps(conf))
        assert result.returncode == 0, result.stdout + result.stderr
        *log, last = result.stdout.splitlines()
        return DagRunResult(json.loads(last), "\n".join([*log, result.stderr]))


@dataclass(frozen=True)
class DagRunResult:
    """A DAG run that has ended, and its log."""

    payload: dict[str, Any]
    log: str

    @property
    def state(self) -> str:
        return str(self.payload["state"])

    def xcom(self, task: str, key: str = "return_value") -> Any:
        return self.payload["xcoms"].get(f"{task}/{key}")


def connection_uri(address: str) -> str:
    """Airflow's connection URI for a Dagster at this address."""
    scheme, authority = address.split("://")
    return f"dagster://{authority}/{scheme}"


@dataclass(frozen=True)
class Bridge:
    """Both ends: an Airflow, and a Dagster with the harness's model."""

    airflow: Airflow
    dagster: DagsterClient
    harness: ModelHarness

    def runs(self, task: str) -> list[dict[str, Any]]:
        """The Dagster runs launched by a task of Airflow, newest first, with their tags."""
        run_filter = {"tags": [{"key": "airflow/task_id", "value": task}]}
        task_runs = self.dagster.execute(_RUNS, filter=run_filter)["runsOrError"]["results"]
        return [{**run, "tags": {t["key"]: t["value"] for t in run["tags"]}} for run in task_runs]


_RUNS = """
query($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs {
  results { runId status tags { key value } } } } }
"""
