"""A running Airflow: scheduler, DAG processor, triggerer and API server, with an API client."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import requests

from support.airflow.driver import BIN, Airflow, call_api
from support.processes.commands import background, output, wait_until
from support.servers.http import free_port

_SERVICES = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


@dataclass(frozen=True)
class RunningAirflow:
    """An Airflow whose services run, used through its API."""

    airflow: Airflow
    address: str
    env: dict[str, str]

    def call_api(self, path: str, method: str = "GET", **body: Any) -> Any:
        """The response of the API."""
        return call_api(self.address, path, method, body)

    def wait_for_dags(self, *dag_ids: str) -> None:
        """Wait until these DAGs exist."""

        def dags_present() -> bool:
            return set(dag_ids) <= {dag["dag_id"] for dag in self.call_api("dags")["dags"]}

        wait_until(dags_present, 120, on_timeout=lambda: output(self.env, "processor")[-3000:])

    def trigger(self, dag_id: str, partition: str | None = None) -> str:
        """Trigger a DAG run; its id."""
        body: dict[str, Any] = {"logical_date": None}
        if partition is not None:
            body["conf"] = {"partition_key": partition}
        return str(self.call_api(f"dags/{dag_id}/dagRuns", "POST", **body)["dag_run_id"])

    def trigger_for_partition(self, dag_id: str, partition: str) -> str:
        """Trigger a DAG run for a partition through the API's own field; its id."""
        body = {"logical_date": None, "partition_key": partition}
        return str(self.call_api(f"dags/{dag_id}/dagRuns", "POST", **body)["dag_run_id"])

    def backfill(self, dag_id: str, first: str, last: str) -> None:
        """Run `airflow backfill create` between two ISO dates; wait until all its runs succeed."""
        options = ("--dag-id", dag_id, "--from-date", first, "--to-date", last)
        result = self.airflow.run_command(
            str(BIN / "airflow"), "backfill", "create", *options, env=self.env
        )
        assert result.returncode == 0, result.stdout + result.stderr
        wait_until(
            lambda: self._all_succeeded(dag_id), 240, on_timeout=lambda: str(self.dag_runs(dag_id))
        )

    def dag_runs(self, dag_id: str) -> list[Any]:
        return list(self.call_api(f"dags/{dag_id}/dagRuns")["dag_runs"])

    def _all_succeeded(self, dag_id: str) -> bool:
        runs = self.dag_runs(dag_id)
        return bool(runs) and all(run["state"] == "success" for run in runs)

    def task(self, dag_id: str, run_id: str, task: str = "task") -> Any:
        """The latest try of a task."""
        return self.call_api(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}")

    def mark_task(self, dag_id: str, run_id: str, state: str, task: str = "task") -> None:
        """Mark a task with a state, as a user does."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task}"
        self.call_api(path, "PATCH", new_state=state)

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear a run's tasks, as a user does."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id}
        self.call_api(f"dags/{dag_id}/clearTaskInstances", "POST", **body)

    def wait_for_task_state(
        self, dag_id: str, run_id: str, *states: str, timeout: float = 180
    ) -> Any:
        """Wait until the task is in one of these states; the task."""
        latest: list[Any] = [None]

        def in_state() -> bool:
            latest[0] = self.task(dag_id, run_id)
            return latest[0]["state"] in states

        wait_until(in_state, timeout, on_timeout=lambda: f"{latest[0]}\n{self.log(dag_id, run_id)}")
        return latest[0]

    def wait_for_dag_run(self, dag_id: str, run_id: str, timeout: float = 240) -> Any:
        """Wait until the DAG run has ended; its task."""
        path = f"dags/{dag_id}/dagRuns/{run_id}"
        log = partial(self.log, dag_id, run_id)
        wait_until(
            lambda: self.call_api(path)["state"] in ("success", "failed"), timeout, on_timeout=log
        )
        return self.task(dag_id, run_id)

    def xcom(self, dag_id: str, run_id: str, key: str = "return_value") -> Any:
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/task/xcomEntries/{key}"
        return self.call_api(path)["value"]

    def link(self, dag_id: str, run_id: str) -> str | None:
        """The URL of the task's `Dagster run` button."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/task/links"
        return dict(self.call_api(path)["extra_links"])["Dagster run"]

    def log(self, dag_id: str, run_id: str) -> str:
        """The logs of all tries of a DAG run's tasks."""
        folder = self.airflow.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
        files = sorted(folder.rglob("*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)


@contextmanager
def running_airflow(airflow: Airflow, **settings: str) -> Iterator[RunningAirflow]:
    """Run the services of this Airflow, on a free port of the loopback interface."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    env = {
        **airflow.env,
        "TIDEMILL_HOME": str(airflow.home),  # the folder of their output
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of these tests only, on the loopback interface",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        **settings,
    }
    server = ("airflow", "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    with ExitStack() as stack:  # its end kills them with their children: SIGTERM would orphan those
        stack.enter_context(background(env, *server, name="api"))
        for name, command in _SERVICES.items():
            stack.enter_context(background(env, "airflow", *command, name=name))
        running = RunningAirflow(airflow, address, env)
        wait_until(lambda: _is_healthy(running), 180, on_timeout=lambda: output(env, "api")[-3000:])
        yield running


def _is_healthy(running: RunningAirflow) -> bool:
    try:
        health = requests.get(f"{running.address}/api/v2/monitor/health", timeout=10).json()
    except requests.RequestException:
        return False
    services = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    return all(health[name]["status"] == "healthy" for name in services)
