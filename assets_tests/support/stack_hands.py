"""The platform of `deploy/compose.yaml`, brought up as the README says, in containers of ours."""

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
from commands import until
from compose_file import Service, services
from composed import Composed
from containers import Engine
from images import Image
from oracle import reader
from tcp_proxy import proxied
from tidemill.cli.up.model import TOPIC
from up_hands import DAGS, MODEL, Reached

_PORTS = {
    "serving": "SERVE__PORT",
    "dagster-webserver": "UP__DAGSTER_PORT",
    "mlflow": "UP__MLFLOW_PORT",
    "airflow-api-server": "UP__AIRFLOW_PORT",
}


class Stack(Reached):
    """All services are up; this thread is on the machine that they publish their ports on."""

    def __init__(self, composed: Composed, deployed: Path, volumes: Path) -> None:
        self.composed, self.volumes = composed, volumes
        self.services, self._secrets = composed.services, deployed / "secrets"
        self.names = [name for name, one in self.services.items() if not one.profiles]
        self.lasting = [name for name in self.names if self.services[name].health]
        """Those that run on, and not once."""
        self.ports = {_PORTS[n]: port for n in _PORTS for _, port, _ in self.services[n].ports}
        self.token = self.secret("serve_token")

    def served(self) -> tuple[str, int] | None:
        self.composed.look()
        return super().served()

    def until(self, true: Callable[[], object], told: Callable[[], str] = str) -> None:
        """Wait until something is so, while the engine does what it does."""

        def there() -> object:
            self.composed.look()
            return true()

        until(there, 400, lambda: f"{told()}\n{self.composed.told()}", 0.5)

    def secret(self, name: str) -> str:
        return (self._secrets / name).read_text()

    @cached_property
    def password(self) -> str:
        return str(json.loads(self.secret("airflow_admin"))["admin"])

    def call(self, *words: str) -> str:
        return self.composed.run("dagster-code", "tidemill", *words)

    def sql(self, database: str, query: str) -> list[str]:
        """What PostgreSQL answers to its superuser, a line a row."""
        words = ("psql", "-U", "postgres", "-d", database, "-Atc", query)
        done = self.composed.container("postgres").exec(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def windows(self) -> int:
        """How many windows Airflow has seen taken through all steps."""
        return len({run["partition_key"] for run in self.runs(DAGS[2])})

    def rest(self) -> None:
        """Let Airflow begin nothing any more, and wait until nothing is under way in Dagster."""
        self.composed.stop(["airflow-scheduler"])
        ended = "('SUCCESS', 'FAILURE', 'CANCELED')"
        query = f"SELECT run_id FROM runs WHERE status NOT IN {ended}"
        self.until(lambda: not self.sql("dagster", query))

    def written(self) -> int:
        """Bytes of the stream's records in Kafka's log."""
        return sum(file.stat().st_size for file in self.volumes.glob(f"kafka/{TOPIC}-*/*.log"))

    def runs(self, dag: str) -> list[Any]:
        """The runs of a DAG that were successful, the newest first."""
        told = self.airflow(f"dags/{dag}/dagRuns?state=success&order_by=-run_after")
        return list(told["dag_runs"])

    def alias(self) -> str:
        """The digest of the model that MLflow's registry calls the champion."""
        at = f"{self.address('UP__MLFLOW_PORT')}/api/2.0/mlflow/registered-models/alias"
        answer = requests.get(at, {"name": MODEL, "alias": "champion"}, timeout=60)
        assert answer.ok, answer.text
        tags = {tag["key"]: tag["value"] for tag in answer.json()["model_version"]["tags"]}
        return str(tags["tidemill.digest"])

    def memory(self) -> dict[str, float]:
        """What each service's processes use, of shared pages its share, in MB."""
        found = self.composed.processes()
        return {name: sum(map(_proportional, each)) / 1024 for name, each in found.items()}


@contextmanager
def stack(home: Path) -> Iterator[Stack]:
    """The platform, up; its windows last a minute. At the end no process of it is left."""
    deployed, volumes = home / "deploy", home / "volumes"
    shutil.copytree(ROOT / "deploy", deployed)
    subprocess.run([deployed / "secrets.sh"], stdout=subprocess.DEVNULL, check=True)
    example = (deployed / ".env.example").read_text()
    minutes = re.sub(r"#(TIDEMILL_UP__MINUTES)=\d+", r"\1=1", example)
    assert minutes != example
    (deployed / ".env").write_text(minutes)
    told = services(deployed / "compose.yaml", volumes)
    wanted = Engine(home, list(told))
    made = _images(told, home / "images")
    reader()  # while there is a network to bring it over
    with ExitStack() as left, wanted as engine:
        composed = Composed(engine, told, made, volumes)
        composed.up(name for name, one in told.items() if not one.profiles)
        left.enter_context(engine.network())
        for name, one in told.items():
            for address, outer, inner in one.ports:
                assert address == "127.0.0.1"
                left.enter_context(proxied(inner, outer, engine.address(name)))
        yield Stack(composed, deployed, volumes)
        left.close()
        begun = [each for family in composed.processes().values() for each in family]
    assert not any(process.is_running() for process in begun)


def _images(told: Mapping[str, Service], layers: Path) -> dict[str, Image]:
    official = {"postgres": images.postgres, "apache/kafka": images.kafka}
    made: dict[str, Image] = {}
    for one in told.values():
        if one.image not in made:
            name = Path(one.build).stem if one.build else one.image.partition(":")[0]
            layer = layers / name
            made[one.image] = (
                images.ours(name, build(name, layer)) if one.build else official[name](layer)
            )
    return made


def _proportional(process: psutil.Process) -> float:
    """Kilobytes in memory, those that are shared by so many counted as so many a part."""
    try:
        told = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # it ended while we looked
        return 0.0
    return sum(float(line.split()[1]) for line in told.splitlines() if line.startswith("Pss:"))
