"""A private platform: `tidemill up` on free ports, and clients of its services."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import requests

from support.airflow.driver import call_api
from support.dagster.webserver import DagsterClient
from support.processes.commands import run_command, wait_until
from support.servers.http import free_port

MODEL = "flights_live"
DAGS = tuple(f"{MODEL}.{d}" for d in ("initial_model", "simulated_events", "incremental_update"))


class PlatformClient:
    """A running platform as its user sees it, on these ports of this machine.

    Subclasses define `run_cli`, Airflow's `password`, and the prediction server's `token`, if any.
    """

    ports: Mapping[str, int]
    password: str
    token: str | None = None

    def run_cli(self, *args: str) -> str:
        """Run a tidemill command that must succeed; its output."""
        raise NotImplementedError

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def dagster(self) -> DagsterClient:
        return DagsterClient(self.address("UP__DAGSTER_PORT"))

    def call_airflow(self, path: str, method: str = "GET", **body: object) -> Any:
        """The response of Airflow's API to its user."""
        credentials = {"username": "admin", "password": self.password}
        return call_api(self.address("UP__AIRFLOW_PORT"), path, method, body, credentials)

    def served_model(self) -> tuple[str, int] | None:
        """Digest and version named in a prediction response; None if no model is served yet."""
        rows = {"rows": [self.sample_flight]}
        url = f"{self.address('SERVE__PORT')}/models/{MODEL}/predict"
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        response = requests.post(url, json=rows, headers=headers, timeout=30)
        if response.status_code == 503:
            return None
        assert response.ok, response.text
        return response.json()["digest"], response.json()["version"]

    def wait_for_version(self, version: int, timeout: float = 240) -> str:
        """Wait until this version or a later one is served; its digest."""
        latest: list[Any] = [None]

        def is_served() -> bool:
            latest[0] = self.served_model()
            return latest[0] is not None and latest[0][1] >= version

        wait_until(
            is_served,
            timeout,
            on_timeout=lambda: f"{latest[0]}\n{self.run_cli('history', MODEL)}",
            interval=0.5,
        )
        return str(latest[0][0])

    def history(self) -> list[Any]:
        return list(json.loads(self.run_cli("history", MODEL, "--json")))

    @property
    def sample_flight(self) -> dict[str, Any]:
        fields = {"carrier": "UA", "origin": "EWR", "dest": "ORD", "weekday": "fri"}
        numbers = ("hour", "minute", "month", "distance", "scheduled_minutes")
        unknown = ("plane_year", "plane_seats", "plane_model", "temp", "dewp", "humid", "wind_dir")
        nullable = ("wind_speed", "wind_gust", "precip", "pressure", "visib")
        return {**fields, **dict.fromkeys(numbers, 7), **dict.fromkeys((*unknown, *nullable))}


@dataclass
class Platform(PlatformClient):
    """A platform whose data is in `home`, with windows of `window_minutes`."""

    home: Path
    ports: Mapping[str, int] = field(
        default_factory=lambda: {
            name: free_port()
            for name in (
                "SERVE__PORT",
                *(f"UP__{name}_PORT" for name in ("DAGSTER", "MLFLOW", "AIRFLOW", "POSTGRES")),
            )
        }
    )
    window_minutes: str = "1"
    up_output: str = ""

    @property
    def env(self) -> dict[str, str]:
        port_env = {f"TIDEMILL_{name}": str(port) for name, port in self.ports.items()}
        home_env = {"TIDEMILL_HOME": str(self.home), "HOME": str(self.home)}
        return {**home_env, "TIDEMILL_UP__WINDOW_MINUTES": self.window_minutes, **port_env}

    def run_cli(self, *args: str) -> str:
        """Run a tidemill command that must succeed; its output."""
        result = run_command(self.env, "tidemill", *args)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def up(self, *options: str) -> None:
        self.up_output = self.run_cli("up", *options)

    def services(self) -> dict[str, Any]:
        """The rows of `tidemill ps` by service."""
        rows = json.loads(self.run_cli("ps", "--json"))
        return {row["service"]: row for row in rows}

    @cached_property
    def password(self) -> str:
        """The password of Airflow's user, as shown by `up`."""
        match = re.search(r"Airflow login: admin / (\S+) \(shown only once\)", self.up_output)
        assert match is not None, self.up_output
        return match[1]
