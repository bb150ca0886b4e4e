"""The platform of `deploy/compose.yaml`, started as documented, in namespace containers."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import requests

import images
from builder import ROOT, build
from compose_file import Service, services
from compose_runner import ComposeRunner
from containers import Engine
from images import Image
from oracle import log_reader_jars
from platform_driver import DAGS, MODEL, PlatformClient
from processes import wait_until
from tcp_fault_proxy import running_tcp_proxy
from tidemill.services.live_flights import TOPIC

_PORTS = {
    "serving": "SERVE__PORT",
    "dagster-webserver": "UP__DAGSTER_PORT",
    "mlflow": "UP__MLFLOW_PORT",
    "airflow-api-server": "UP__AIRFLOW_PORT",
}


class ComposeStack(PlatformClient):
    """All services are up; this thread is in the network where they publish their ports."""

    def __init__(self, runner: ComposeRunner, deployed: Path, volumes: Path) -> None:
        self.runner, self.volumes = runner, volumes
        self.services, self._secrets = runner.services, deployed / "secrets"
        self.service_names = [name for name, one in self.services.items() if not one.profiles]
        self.long_running = [name for name in self.service_names if self.services[name].health]
        """The services that keep running, as opposed to run-once services."""
        self.ports = {_PORTS[n]: port for n in _PORTS for _, port, _ in self.services[n].ports}
        self.token = self.secret("serve_token")

    def served_model(self) -> tuple[str, int] | None:
        self.runner.reconcile()
        return super().served_model()

    def wait_until(
        self, predicate: Callable[[], object], on_timeout: Callable[[], str] = str
    ) -> None:
        """Wait until `predicate` holds, while the engine keeps reconciling."""

        def condition_holds() -> object:
            self.runner.reconcile()
            return predicate()

        wait_until(
            condition_holds,
            400,
            on_timeout=lambda: f"{on_timeout()}\n{self.runner.unhealthy_logs()}",
            interval=0.5,
        )

    def secret(self, name: str) -> str:
        return (self._secrets / name).read_text()

    @cached_property
    def password(self) -> str:
        return str(json.loads(self.secret("airflow_admin"))["admin"])

    def run_cli(self, *args: str) -> str:
        return self.runner.run("dagster-code", "tidemill", *args)

    def sql(self, database: str, query: str) -> list[str]:
        """The result of a query as PostgreSQL's superuser, one line per row."""
        command = ("psql", "-U", "postgres", "-d", database, "-Atc", query)
        result = self.runner.container("postgres").exec(*command)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    def completed_windows(self) -> int:
        """The number of windows that have passed all steps, according to Airflow."""
        return len({run["partition_key"] for run in self.successful_runs(DAGS[2])})

    def quiesce(self) -> None:
        """Stop Airflow's scheduler and wait until Dagster has no run in progress."""
        self.runner.stop(["airflow-scheduler"])
        final_statuses = "('SUCCESS', 'FAILURE', 'CANCELED')"
        query = f"SELECT run_id FROM runs WHERE status NOT IN {final_statuses}"
        self.wait_until(lambda: not self.sql("dagster", query))

    def stream_bytes(self) -> int:
        """The size of the simulated stream's records in Kafka's log, in bytes."""
        return sum(file.stat().st_size for file in self.volumes.glob(f"kafka/{TOPIC}-*/*.log"))

    def successful_runs(self, dag: str) -> list[Any]:
        """The successful runs of a DAG, newest first."""
        response = self.call_airflow(f"dags/{dag}/dagRuns?state=success&order_by=-run_after")
        return list(response["dag_runs"])

    def champion_digest(self) -> str:
        """The digest of the champion in MLflow's registry."""
        url = f"{self.address('UP__MLFLOW_PORT')}/api/2.0/mlflow/registered-models/alias"
        response = requests.get(url, {"name": MODEL, "alias": "champion"}, timeout=60)
        assert response.ok, response.text
        tags = {tag["key"]: tag["value"] for tag in response.json()["model_version"]["tags"]}
        return str(tags["tidemill.digest"])

    def memory_mb(self) -> dict[str, float]:
        """The proportional set size of each service's processes, in MB."""
        processes = self.runner.processes()
        return {name: sum(map(_pss_kilobytes, each)) / 1024 for name, each in processes.items()}


@contextmanager
def running_stack(home: Path) -> Iterator[ComposeStack]:
    """The running platform, with one-minute windows. At the end no process of it is left."""
    deployed, volumes = home / "deploy", home / "volumes"
    shutil.copytree(ROOT / "deploy", deployed)
    subprocess.run([deployed / "generate-secrets.sh"], stdout=subprocess.DEVNULL, check=True)
    example = (deployed / ".env.example").read_text()
    minutes = re.sub(r"#(TIDEMILL_UP__WINDOW_MINUTES)=\d+", r"\1=1", example)
    assert minutes != example
    (deployed / ".env").write_text(minutes)
    service_specs = services(deployed / "compose.yaml", volumes)
    engine_context = Engine(home, list(service_specs))
    service_images = _images(service_specs, home / "images")
    log_reader_jars()  # while this thread still has network access
    with ExitStack() as exit_stack, engine_context as engine:
        runner = ComposeRunner(engine, service_specs, service_images, volumes)
        runner.up(name for name, one in service_specs.items() if not one.profiles)
        exit_stack.enter_context(engine.network())
        for name, one in service_specs.items():
            for address, outer, inner in one.ports:
                assert address == "127.0.0.1"
                exit_stack.enter_context(running_tcp_proxy(inner, outer, engine.address(name)))
        yield ComposeStack(runner, deployed, volumes)
        exit_stack.close()
        started = [each for family in runner.processes().values() for each in family]
    assert not any(process.is_running() for process in started)


def _images(service_specs: Mapping[str, Service], layers: Path) -> dict[str, Image]:
    official = {"postgres": images.postgres, "apache/kafka": images.kafka}
    built: dict[str, Image] = {}
    for service in service_specs.values():
        if service.image not in built:
            name = Path(service.build).stem if service.build else service.image.partition(":")[0]
            layer = layers / name
            built[service.image] = (
                images.project_image(name, build(name, layer))
                if service.build
                else official[name](layer)
            )
    return built


def _pss_kilobytes(process: psutil.Process) -> float:
    """The proportional set size of a process in kilobytes."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # the process has exited
        return 0.0
    return sum(float(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
