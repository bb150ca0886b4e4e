"""An Airflow of one's own: a folder with its database, and DAGs run in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from bench import Bench
from commands import environ, until
from dagster_ui import Ui

_DAG_TEST = Path(__file__).with_name("dag_test.py")
BIN = Path(sys.executable).parent


def asked(
    address: str,
    path: str,
    method: str,
    told: Mapping[str, Any],
    who: Mapping[str, str] | None = None,
) -> Any:
    """What Airflow's API answers to this user; without one, where all are admins.

    It is asked again, as a person would, where another part of Airflow had locked SQLite's file.
    """
    login = requests.post if who else requests.get
    answers: list[requests.Response] = []

    def answered() -> bool:
        token = login(f"{address}/auth/token", json=who, timeout=120).json()["access_token"]
        answer = requests.request(
            method,
            f"{address}/api/v2/{path}",
            json=told or None,
            headers={"Authorization": f"Bearer {token}"},
            timeout=120,
        )
        answers.append(answer)
        return "Database error" not in answer.text

    until(answered, pause=1)
    assert answers[-1].ok, (path, answers[-1].text)
    return answers[-1].json() if answers[-1].text else None


@dataclass(frozen=True)
class Airflow:
    """Everything of it lies in `home`; DAG files in `home/dags`."""

    home: Path
    connection: str
    """Of Dagster, as a URI."""

    @property
    def dags(self) -> Path:
        return self.home / "dags"

    @property
    def environment(self) -> dict[str, str]:
        """Set before any import of airflow, which reads it then."""
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db?timeout=30",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "AIRFLOW_CONN_DAGSTER_DEFAULT": self.connection,
        }

    def migrated(self) -> "Airflow":
        """With an empty database."""
        self.dags.mkdir(parents=True, exist_ok=True)
        done = self.call(str(BIN / "airflow"), "db", "migrate")
        assert done.returncode == 0, done.stdout + done.stderr
        return self

    def write(self, text: str, name: str = "dags.py") -> None:
        """Make this the text of a DAG file."""
        (self.dags / name).write_text(text)

    def call(
        self, *words: str, environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in this Airflow to its end."""
        return subprocess.run(
            words,
            env=environ({**self.environment, **(environment or {})}),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run(self, dag_id: str, **conf: object) -> "Ran":
        """Run a DAG by `dag.test`, triggers inline; what came of it."""
        done = self.call(sys.executable, str(_DAG_TEST), dag_id, json.dumps(conf))
        assert done.returncode == 0, done.stdout + done.stderr
        *log, last = done.stdout.splitlines()
        return Ran(json.loads(last), "\n".join([*log, done.stderr]))


@dataclass(frozen=True)
class Ran:
    """A DAG run that has ended, and all that was logged."""

    told: dict[str, Any]
    log: str

    @property
    def state(self) -> str:
        return str(self.told["state"])

    def xcom(self, task: str, key: str = "return_value") -> Any:
        return self.told["xcoms"].get(f"{task}/{key}")


def connection_to(address: str) -> str:
    """Airflow's URI for a Dagster that answers at this address."""
    scheme, rest = address.split("://")
    return f"dagster://{rest}/{scheme}"


@dataclass(frozen=True)
class Bridge:
    """Both ends: an Airflow, and a Dagster with the bench's model."""

    airflow: Airflow
    dagster: Ui
    bench: Bench

    def runs(self, task: str) -> list[dict[str, Any]]:
        """The Dagster runs that a task of Airflow asked for, the newest first, with their tags."""
        wanted = {"tags": [{"key": "airflow/task_id", "value": task}]}
        found = self.dagster.ask(_RUNS, filter=wanted)["runsOrError"]["results"]
        return [{**run, "tags": {t["key"]: t["value"] for t in run["tags"]}} for run in found]


_RUNS = """
query($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs {
  results { runId status tags { key value } } } } }
"""
