"""A whole Airflow at work: scheduler, DAG processor, triggerer and API server, and hands for it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import requests

from airflow_hands import BIN, Airflow, asked
from commands import begun, said, until
from dagster_ui import free_port

_SERVICES = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


@dataclass(frozen=True)
class Live:
    """Its services run; everything is asked of its API."""

    airflow: Airflow
    address: str
    environment: dict[str, str]

    def ask(self, path: str, method: str = "GET", **told: Any) -> Any:
        """What the API answers."""
        return asked(self.address, path, method, told)

    def knows(self, *dag_ids: str) -> None:
        """Wait until these DAGs are there."""

        def there() -> bool:
            return set(dag_ids) <= {dag["dag_id"] for dag in self.ask("dags")["dags"]}

        until(there, 120, lambda: said(self.environment, "processor")[-3000:])

    def trigger(self, dag_id: str, partition: str | None = None) -> str:
        """Begin a run of a DAG; its id."""
        told: dict[str, Any] = {"logical_date": None}
        if partition is not None:
            told["conf"] = {"partition_key": partition}
        return str(self.ask(f"dags/{dag_id}/dagRuns", "POST", **told)["dag_run_id"])

    def trigger_for(self, dag_id: str, partition: str) -> str:
        """Begin a run of a DAG for a partition, as the form and the API offer it; its id."""
        told = {"logical_date": None, "partition_key": partition}
        return str(self.ask(f"dags/{dag_id}/dagRuns", "POST", **told)["dag_run_id"])

    def backfill(self, dag_id: str, first: str, last: str) -> None:
        """`airflow backfill create` from one moment to another, both ISO; all its runs succeed."""
        words = ("--dag-id", dag_id, "--from-date", first, "--to-date", last)
        done = self.airflow.call(
            str(BIN / "airflow"), "backfill", "create", *words, environment=self.environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: self._all_succeeded(dag_id), 240, lambda: str(self.dag_runs(dag_id)))

    def dag_runs(self, dag_id: str) -> list[Any]:
        return list(self.ask(f"dags/{dag_id}/dagRuns")["dag_runs"])

    def _all_succeeded(self, dag_id: str) -> bool:
        runs = self.dag_runs(dag_id)
        return bool(runs) and all(run["state"] == "success" for run in runs)

    def task(self, dag_id: str, run_id: str, task: str = "task") -> Any:
        """The newest try of a task."""
        return self.ask(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}")

    def set_task(self, dag_id: str, run_id: str, state: str, task: str = "task") -> None:
        """Do as a person who marks a task."""
        where = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}"
        self.ask(where, "PATCH", new_state=state)

    def clear(self, dag_id: str, run_id: str) -> None:
        """Do as a person who clears a run's tasks."""
        told = {"dry_run": False, "only_failed": False, "dag_run_id": run_id}
        self.ask(f"dags/{dag_id}/clearTaskInstances", "POST", **told)

    def reaches(self, dag_id: str, run_id: str, *states: str, seconds: float = 180) -> Any:
        """Wait until the task is in one of these states; the task."""
        seen: list[Any] = [None]

        def there() -> bool:
            seen[0] = self.task(dag_id, run_id)
            return seen[0]["state"] in states

        until(there, seconds, lambda: f"{seen[0]}\n{self.log(dag_id, run_id)}")
        return seen[0]

    def ended(self, dag_id: str, run_id: str, seconds: float = 240) -> Any:
        """Wait until the run of the DAG has ended; its task."""
        where = f"dags/{dag_id}/dagRuns/{run_id}"
        log = partial(self.log, dag_id, run_id)
        until(lambda: self.ask(where)["state"] in ("success", "failed"), seconds, log)
        return self.task(dag_id, run_id)

    def xcom(self, dag_id: str, run_id: str, key: str = "return_value") -> Any:
        where = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/task/xcomEntries/{key}"
        return self.ask(where)["value"]

    def link(self, dag_id: str, run_id: str) -> str | None:
        """Where the button at the task leads."""
        where = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/task/links"
        return dict(self.ask(where)["extra_links"])["Dagster run"]

    def log(self, dag_id: str, run_id: str) -> str:
        """All that the tries of a task have logged."""
        folder = self.airflow.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
        files = sorted(folder.rglob("*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)


@contextmanager
def live(airflow: Airflow, **settings: str) -> Iterator[Live]:
    """The services of this Airflow, on a free port of the loopback."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        **airflow.environment,
        "TIDEMILL_HOME": str(airflow.home),  # where what they say is kept
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API_AUTH__JWT_SECRET": "of these tests and of nothing else, on the loopback",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        **settings,
    }
    server = ("airflow", "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    with ExitStack() as stack:
        stack.enter_context(_service(environment, *server, name="api"))
        for name, words in _SERVICES.items():
            stack.enter_context(_service(environment, "airflow", *words, name=name))
        at = Live(airflow, address, environment)
        until(lambda: _healthy(at), 180, lambda: said(environment, "api")[-3000:])
        yield at


@contextmanager
def _service(environment: dict[str, str], *words: str, name: str) -> Iterator[None]:
    with begun(environment, *words, name=name):
        yield  # which kills it and its children at the end: Airflow orphans them when asked to stop


def _healthy(at: Live) -> bool:
    try:
        health = requests.get(f"{at.address}/api/v2/monitor/health", timeout=10).json()
    except requests.RequestException:
        return False
    services = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return all(health[name]["status"] == "healthy" for name in services)
