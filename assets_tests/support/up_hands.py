"""A platform of one's own: `tidemill up` on free ports, and hands for all that it brings up."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import requests

from airflow_hands import asked
from commands import command, until
from dagster_ui import Ui, free_port

MODEL = "flights_live"
DAGS = tuple(f"{MODEL}.{dag}" for dag in ("initial_model", "stream", "incremental_update"))


class Reached:
    """A platform that is up, as its user reaches it: at these ports of this machine.

    Each gives its commands, Airflow's `password`, and the `token` of the prediction server, if any.
    """

    ports: Mapping[str, int]
    password: str
    token: str | None = None

    def call(self, *words: str) -> str:
        """Run a command of tidemill to its success; what it said."""
        raise NotImplementedError

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def dagster(self) -> Ui:
        return Ui(self.address("UP__DAGSTER_PORT"))

    def airflow(self, path: str, method: str = "GET", **told: object) -> Any:
        """What Airflow's API answers to its user."""
        who = {"username": "admin", "password": self.password}
        return asked(self.address("UP__AIRFLOW_PORT"), path, method, told, who)

    def served(self) -> tuple[str, int] | None:
        """Digest and version that an answer of the prediction server names; None for no answer."""
        rows = {"rows": [self.flight]}
        url = f"{self.address('SERVE__PORT')}/models/{MODEL}/predict"
        told = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = requests.post(url, json=rows, headers=told, timeout=30)
        if answer.status_code == 503:
            return None
        assert answer.ok, answer.text
        return answer.json()["digest"], answer.json()["version"]

    def serves(self, version: int, seconds: float = 240) -> str:
        """Wait until an answer is of this version or a later one; the digest it names."""
        seen: list[Any] = [None]

        def there() -> bool:
            seen[0] = self.served()
            return seen[0] is not None and seen[0][1] >= version

        until(there, seconds, lambda: f"{seen[0]}\n{self.call('history', MODEL)}", 0.5)
        return str(seen[0][0])

    def history(self) -> list[Any]:
        return list(json.loads(self.call("history", MODEL, "--json")))

    @property
    def flight(self) -> dict[str, Any]:
        told = {"carrier": "UA", "origin": "EWR", "dest": "ORD", "weekday": "fri"}
        numbers = ("hour", "minute", "month", "distance", "scheduled_minutes")
        unknown = ("plane_year", "plane_seats", "plane_model", "temp", "dewp", "humid", "wind_dir")
        more = ("wind_speed", "wind_gust", "precip", "pressure", "visib")
        return {**told, **dict.fromkeys(numbers, 7), **dict.fromkeys((*unknown, *more))}


@dataclass
class Platform(Reached):
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
    minutes: str = "1"
    said: str = ""

    @property
    def environment(self) -> dict[str, str]:
        told = {f"TIDEMILL_{name}": str(port) for name, port in self.ports.items()}
        home = {"TIDEMILL_HOME": str(self.home), "HOME": str(self.home)}
        return {**home, "TIDEMILL_UP__MINUTES": self.minutes, **told}

    def call(self, *words: str) -> str:
        """Run a command of tidemill to its success; what it said."""
        done = command(self.environment, "tidemill", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self, *words: str) -> None:
        self.said = self.call("up", *words)

    def services(self) -> dict[str, Any]:
        """The rows of the table, by service."""
        told = json.loads(self.call("status", "--services", "--json"))
        return {row["service"]: row for row in told}

    @cached_property
    def password(self) -> str:
        """Of Airflow's user, as `up` showed it."""
        found = re.search(r"user is admin, the password (\S+) \(shown this once\)", self.said)
        assert found is not None, self.said
        return found[1]
