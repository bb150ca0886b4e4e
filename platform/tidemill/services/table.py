"""The services as one table: how each is, how often it came back, where it is found."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from tidemill.cli.options import console, print_json, print_table
from tidemill.core.errors import OperationNotAllowed
from tidemill.services.services import Service, platform_services
from tidemill.services.supervisor import ServiceState, Supervisor
from tidemill.settings import Settings


@dataclass(frozen=True)
class ServiceRow:
    """A service for people and programs; `restarts` counts since the platform is up."""

    service: str
    state: str
    since: str | None
    restarts: int
    last_exit: str | None
    pid: int | None
    url: str
    log_file: str


def rows(supervisor: Supervisor, services: Sequence[Service]) -> list[ServiceRow]:
    """How each service is now; those that run are asked for their health."""
    states, exits = supervisor.states(), supervisor.unexpected_exits()
    with ThreadPoolExecutor(len(services)) as pool:
        statuses = pool.map(lambda service: _status(service, states.get(service.name)), services)
        return [
            _row(supervisor, service, status, states.get(service.name), exits.get(service.name, []))
            for service, status in zip(services, statuses, strict=True)
        ]


def _row(
    supervisor: Supervisor,
    service: Service,
    status: str,
    state: ServiceState | None,
    exits: Sequence[str],
) -> ServiceRow:
    is_running = state is not None and state.pid is not None
    return ServiceRow(
        service.name,
        status,
        datetime.fromtimestamp(state.since).astimezone().isoformat(" ", "seconds")
        if state is not None and is_running
        else None,
        len(exits),
        exits[-1].split(";")[0].removeprefix("terminated by ") if exits else None,
        state.pid if state is not None else None,
        service.url,
        str(supervisor.log_file(service.name)),
    )


def _status(service: Service, state: ServiceState | None) -> str:
    """`ready`, or what it is instead."""
    if state is None or state.status == "STOPPED":
        return "stopped"
    if state.status == "RUNNING":
        return "ready" if service.is_healthy() else "not well"
    return {"FATAL": "given up", "EXITED": "ended", "BACKOFF": "coming back"}.get(
        state.status, state.status.lower()
    )


def current_rows(settings: Settings) -> list[ServiceRow]:
    """The services that the manager has, as they are now. Raises `Refused` where nothing is up."""
    supervisor = Supervisor.for_settings(settings)
    names = set(supervisor.states())
    if not names:
        raise OperationNotAllowed("The platform is not up.", "`tidemill up` brings it up.")
    services = platform_services(
        settings, with_airflow="airflow" in names, with_postgres="postgres" in names
    )
    return rows(supervisor, services)


def show(table_rows: Sequence[ServiceRow], as_json: bool = False) -> None:
    """Print the table."""
    if as_json:
        print_json(table_rows)
        return
    print_table(
        ("service", "state", "since", "came back", "where"),
        [
            (
                row.service,
                row.state,
                (row.since or "")[11:19],
                f"{row.restarts} ({row.last_exit})" if row.restarts else "",
                row.url,
            )
            for row in table_rows
        ],
    )


@dataclass
class StartupProgress:
    """Tells of each service once, when it is ready."""

    started_at: float = 0.0

    def __post_init__(self) -> None:
        self.started_at = time.monotonic()

    def service_ready(self, name: str) -> None:
        console.print(f"{time.monotonic() - self.started_at:5.1f} s  {name}", markup=False)
