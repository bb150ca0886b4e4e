"""An Airflow of one's own: a folder with its database, and DAGs run in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from dagster_webserver import DagsterClient
from model_harness import ModelHarness
from processes import clean_env, wait_until

_RUN_DAG_SCRIPT = Path(__file__).with_name("dag_test.py")
BIN = Path(sys.executable).parent


def call_api(
    address: str,
    path: str,
    method: str,
    body: Mapping[str, Any],
    credentials: Mapping[str, str] | None = None,
) -> Any:
    """What Airflow's API answers to this user; without one, where all are admins.

    It is asked again, as a person would, where another part of Airflow had locked SQLite's file.
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
    """Everything of it lies in `home`; DAG files in `home/dags`."""

    home: Path
    connection: str
    """Of Dagster, as a URI."""

    @property
    def dags_folder(self) -> Path:
        return self.home / "dags"

    @property
    def env(self) -> dict[str, str]:
        """Set before any import of airflow, which reads it then."""
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db?timeout=30",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "AIRFLOW_CONN_DAGSTER_DEFAULT": self.connection,
        }

    def migrate(self) -> "Airflow":
        """With an empty database."""
        self.dags_folder.mkdir(parents=True, exist_ok=True)
        result = self.run_command(str(BIN / "airflow"), "db", "migrate")
        assert result.returncode == 0, result.stdout + result.stderr
        return self

    def write(self, text: str, name: str = "dags.py") -> None:
        """Make this the text of a DAG file."""
        (self.dags_folder / name).write_text(text)

    def run_command(
        self, *command: str, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in this Airflow to its end."""
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
        """Run a DAG by `dag.test`, triggers inline; what came of it."""
        result = self.run_command(sys.executable, str(_RUN_DAG_SCRIPT), dag_id, json.dumps(conf))
        assert result.returncode == 0, result.stdout + result.stderr
        *log, last = result.stdout.splitlines()
        return DagRunResult(json.loads(last), "\n".join([*log, result.stderr]))


@dataclass(frozen=True)
class DagRunResult:
    """A DAG run that has ended, and all that was logged."""

    payload: dict[str, Any]
    log: str

    @property
    def state(self) -> str:
        return str(self.payload["state"])

    def xcom(self, task: str, key: str = "return_value") -> Any:
        return self.payload["xcoms"].get(f"{task}/{key}")


def connection_uri(address: str) -> str:
    """Airflow's URI for a Dagster that answers at this address."""
    scheme, authority = address.split("://")
    return f"dagster://{authority}/{scheme}"


@dataclass(frozen=True)
class Bridge:
    """Both ends: an Airflow, and a Dagster with the bench's model."""

    airflow: Airflow
    dagster: DagsterClient
    harness: ModelHarness

    def runs(self, task: str) -> list[dict[str, Any]]:
        """The Dagster runs that a task of Airflow asked for, the newest first, with their tags."""
        run_filter = {"tags": [{"key": "airflow/task_id", "value": task}]}
        task_runs = self.dagster.execute(_RUNS, filter=run_filter)["runsOrError"]["results"]
        return [{**run, "tags": {t["key"]: t["value"] for t in run["tags"]}} for run in task_runs]


_RUNS = """
query($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs {
  results { runId status tags { key value } } } } }
"""
