"""A platform of one's own: `tidemill up` on free ports, and hands for all that it brings up."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import requests

from airflow_driver import call_api
from dagster_webserver import DagsterClient, free_port
from processes import run_command, wait_until

MODEL = "flights_live"
DAGS = tuple(f"{MODEL}.{dag}" for dag in ("initial_model", "stream", "incremental_update"))


class PlatformClient:
    """A platform that is up, as its user reaches it: at these ports of this machine.

    Each gives its commands, Airflow's `password`, and the `token` of the prediction server, if any.
    """

    ports: Mapping[str, int]
    password: str
    token: str | None = None

    def run_cli(self, *args: str) -> str:
        """Run a command of tidemill to its success; what it said."""
        raise NotImplementedError

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def dagster(self) -> DagsterClient:
        return DagsterClient(self.address("UP__DAGSTER_PORT"))

    def call_airflow(self, path: str, method: str = "GET", **body: object) -> Any:
        """What Airflow's API answers to its user."""
        credentials = {"username": "admin", "password": self.password}
        return call_api(self.address("UP__AIRFLOW_PORT"), path, method, body, credentials)

    def served_model(self) -> tuple[str, int] | None:
        """Digest and version that an answer of the prediction server names; None for no answer."""
        rows = {"rows": [self.sample_flight]}
        url = f"{self.address('SERVE__PORT')}/models/{MODEL}/predict"
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        response = requests.post(url, json=rows, headers=headers, timeout=30)
        if response.status_code == 503:
            return None
        assert response.ok, response.text
        return response.json()["digest"], response.json()["version"]

    def wait_for_version(self, version: int, timeout: float = 240) -> str:
        """Wait until an answer is of this version or a later one; the digest it names."""
        latest: list[Any] = [None]

        def is_served() -> bool:
            latest[0] = self.served_model()
            return latest[0] is not None and latest[0][1] >= version

        wait_until(
            is_served, timeout, lambda: f"{latest[0]}\n{self.run_cli('history', MODEL)}", 0.5
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
    """Everything lies in `home`; its windows last so many minutes each."""

    home: Path
    ports: Mapping[str, int] = field(
        default_factory=lambda: {
            name: free_port()
            for name in (
                "SERVE__PORT",
                *(f"UP__{of}_PORT" for of in ("DAGSTER", "MLFLOW", "AIRFLOW", "POSTGRES")),
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
        """Run a command of tidemill to its success; what it said."""
        result = run_command(self.env, "tidemill", *args)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def up(self, *options: str) -> None:
        self.up_output = self.run_cli("up", *options)

    def services(self) -> dict[str, Any]:
        """The rows of the table, by service."""
        rows = json.loads(self.run_cli("status", "--services", "--json"))
        return {row["service"]: row for row in rows}

    @cached_property
    def password(self) -> str:
        """Of Airflow's user, as `up` showed it."""
        match = re.search(r"user is admin, the password (\S+) \(shown this once\)", self.up_output)
        assert match is not None, self.up_output
        return match[1]
