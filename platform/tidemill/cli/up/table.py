"""The services as one table: how each is, how often it came back, where it is found."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from tidemill.cli.options import console, print_json, print_table
from tidemill.cli.up.manager import Manager, State
from tidemill.cli.up.services import Service, services
from tidemill.core.errors import OperationNotAllowed
from tidemill.settings import Settings


@dataclass(frozen=True)
class Row:
    """A service for people and programs; `restarts` counts since the platform is up."""

    service: str
    state: str
    since: str | None
    restarts: int
    last_end: str | None
    pid: int | None
    where: str
    log: str


def rows(manager: Manager, of: Sequence[Service]) -> list[Row]:
    """How each service is now; those that run are asked for their health."""
    states, ends = manager.states(), manager.ends()
    with ThreadPoolExecutor(len(of)) as pool:
        words = pool.map(lambda each: _word(each, states.get(each.name)), of)
        return [
            _row(manager, each, word, states.get(each.name), ends.get(each.name, []))
            for each, word in zip(of, words, strict=True)
        ]


def _row(
    manager: Manager, service: Service, word: str, state: State | None, ends: Sequence[str]
) -> Row:
    up = state is not None and state.pid is not None
    return Row(
        service.name,
        word,
        datetime.fromtimestamp(state.since).astimezone().isoformat(" ", "seconds")
        if state is not None and up
        else None,
        len(ends),
        ends[-1].split(";")[0].removeprefix("terminated by ") if ends else None,
        state.pid if state is not None else None,
        service.where,
        str(manager.log(service.name)),
    )


def _word(service: Service, state: State | None) -> str:
    """`ready`, or what it is instead."""
    if state is None or state.word == "STOPPED":
        return "stopped"
    if state.word == "RUNNING":
        return "ready" if service.well() else "not well"
    return {"FATAL": "given up", "EXITED": "ended", "BACKOFF": "coming back"}.get(
        state.word, state.word.lower()
    )


def standing(settings: Settings) -> list[Row]:
    """The services that the manager has, as they are now. Raises `Refused` where nothing is up."""
    manager = Manager.of(settings)
    names = set(manager.states())
    if not names:
        raise OperationNotAllowed("The platform is not up.", "`tidemill up` brings it up.")
    wanted = services(settings, with_airflow="airflow" in names, with_postgres="postgres" in names)
    return rows(manager, wanted)


def show(told: Sequence[Row], as_json: bool = False) -> None:
    """Print the table."""
    if as_json:
        print_json(told)
        return
    print_table(
        ("service", "state", "since", "came back", "where"),
        [
            (
                row.service,
                row.state,
                (row.since or "")[11:19],
                f"{row.restarts} ({row.last_end})" if row.restarts else "",
                row.where,
            )
            for row in told
        ],
    )


@dataclass
class Steps:
    """Tells of each service once, when it is ready."""

    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def ready(self, name: str) -> None:
        console.print(f"{time.monotonic() - self.began:5.1f} s  {name}", markup=False)
