"""The platform of `deploy/compose.yaml`, run by Docker Compose as the documentation says."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import requests

from e2e.containers.engine import ROOT, DockerEngine
from support.models.oracle import log_reader_jars
from support.processes.commands import wait_until
from support.servers.http import free_port
from support.servers.platform import DAGS, MODEL, PlatformClient
from tidemill.services.live_flights import TOPIC

PORTS = {
    "serving": "SERVE__PORT",
    "dagster-webserver": "UP__DAGSTER_PORT",
    "mlflow": "UP__MLFLOW_PORT",
    "airflow-api-server": "UP__AIRFLOW_PORT",
}
_UP = ("up", "--detach", "--no-build")


class ComposeStack(PlatformClient):
    """All services are up, and their ports are published on this machine's loopback."""

    def __init__(self, engine: DockerEngine, deployed: Path) -> None:
        self.engine, self._file = engine, deployed / "compose.yaml"
        self._secrets = deployed / "secrets"
        config = json.loads(self.compose("config", "--format", "json"))
        self.services: dict[str, Any] = config["services"]
        self._project = config["name"]
        self.long_running = [name for name, one in self.services.items() if "healthcheck" in one]
        """The services that keep running, unlike those that run once."""
        self.ports = {
            variable: int(self.services[name]["ports"][0]["published"])
            for name, variable in PORTS.items()
        }
        self.token = self.secret("serve_token")

    def compose(self, *args: str, timeout: float = 300, check: bool = True) -> str:
        return self.engine.compose(self._file, *args, timeout=timeout, check=check)

    def up(self, *services: str) -> None:
        """Start these services, or all without a profile, and wait until they are healthy."""
        try:
            self.compose(*_UP, "--wait", *services, timeout=600)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def start_now(self, service: str) -> None:
        """Start a service without those that it depends on."""
        self.compose(*_UP, "--no-deps", service)

    def logs(self) -> str:
        return self.compose("logs", "--tail", "40", "--no-color", check=False)[-20_000:]

    def wait_until(
        self, predicate: Callable[[], object], on_timeout: Callable[[], str] = str
    ) -> None:
        wait_until(
            predicate, 400, interval=0.5, on_timeout=lambda: f"{on_timeout()}\n{self.logs()}"
        )

    def secret(self, name: str) -> str:
        return (self._secrets / name).read_text()

    @cached_property
    def password(self) -> str:
        return str(json.loads(self.secret("airflow_admin"))["admin"])

    def run_cli(self, *args: str) -> str:
        return self.compose("run", "--rm", "--no-deps", "-T", "dagster-code", "tidemill", *args)

    def sql(self, database: str, query: str) -> list[str]:
        """The rows that PostgreSQL returns to its superuser, one line per row."""
        command = ("psql", "-U", "postgres", "-d", database, "-Atc", query)
        return self.compose("exec", "-T", "postgres", *command).splitlines()

    def volume(self, name: str) -> Path:
        """The folder of a named volume on this machine."""
        inspected = self.engine.run("volume", "inspect", f"{self._project}_{name}")
        return Path(json.loads(inspected)[0]["Mountpoint"])

    def pid(self, service: str) -> int:
        """The process id, on this machine, of the first process of a service."""
        container = self.compose("ps", "--quiet", service).strip()
        return int(self.engine.run("inspect", "--format", "{{.State.Pid}}", container))

    def processes(self, service: str) -> list[psutil.Process]:
        first = psutil.Process(self.pid(service))
        return [first, *first.children(recursive=True)]

    def completed_windows(self) -> int:
        """How many windows Airflow has seen complete all steps."""
        return len({run["partition_key"] for run in self.successful_runs(DAGS[2])})

    def quiesce(self) -> None:
        """Stop Airflow's scheduler, and wait until no run is active in Dagster."""
        self.compose("stop", "airflow-scheduler")
        final_statuses = "('SUCCESS', 'FAILURE', 'CANCELED')"
        query = f"SELECT run_id FROM runs WHERE status NOT IN {final_statuses}"
        self.wait_until(lambda: not self.sql("dagster", query))

    def stream_bytes(self) -> int:
        """Bytes of the simulated events in Kafka's log."""
        return sum(file.stat().st_size for file in self.volume("kafka").glob(f"{TOPIC}-*/*.log"))

    def successful_runs(self, dag: str) -> list[Any]:
        """The successful runs of a DAG, the newest first."""
        response = self.call_airflow(f"dags/{dag}/dagRuns?state=success&order_by=-run_after")
        return list(response["dag_runs"])

    def champion_digest(self) -> str:
        """The digest of the model that MLflow's registry calls the champion."""
        url = f"{self.address('UP__MLFLOW_PORT')}/api/2.0/mlflow/registered-models/alias"
        response = requests.get(url, {"name": MODEL, "alias": "champion"}, timeout=60)
        assert response.ok, response.text
        tags = {tag["key"]: tag["value"] for tag in response.json()["model_version"]["tags"]}
        return str(tags["tidemill.digest"])

    def memory_mb(self) -> dict[str, float]:
        """Proportional set size of each service's processes, in MB."""
        return {
            name: sum(map(_pss_kilobytes, self.processes(name))) / 1024
            for name in self.long_running
        }


@contextmanager
def running_stack(engine: DockerEngine, home: Path) -> Iterator[ComposeStack]:
    """The platform, up and healthy, with windows of one minute on free ports of the loopback."""
    deployed = home / "deploy"
    shutil.copytree(ROOT / "deploy", deployed)
    subprocess.run([deployed / "generate-secrets.sh"], stdout=subprocess.DEVNULL, check=True)
    settings = {"UP__WINDOW_MINUTES": 1} | {name: free_port() for name in PORTS.values()}
    env_file = (deployed / ".env.example").read_text()
    for name, value in settings.items():
        env_file, count = re.subn(rf"#(TIDEMILL_{name})=\d+", rf"\1={value}", env_file)
        assert count == 1, name
    (deployed / ".env").write_text(env_file)
    log_reader_jars()
    stack = ComposeStack(engine, deployed)
    try:
        stack.up()
        yield stack
    finally:
        stack.compose("--profile", "*", "down", "--volumes", check=False)


def _pss_kilobytes(process: psutil.Process) -> float:
    """Resident kilobytes, with shared pages divided by the number of their users."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # the process exited meanwhile
        return 0.0
    return sum(float(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
