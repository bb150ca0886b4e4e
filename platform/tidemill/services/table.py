"""The state of every service of `tidemill up`: one row per service, for people and programs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from tidemill.core.errors import OperationNotAllowed
from tidemill.services.services import API_SERVER, Service, platform_services
from tidemill.services.supervisor import ServiceState, Supervisor
from tidemill.settings import Settings

_STATES = {"FATAL": "failed", "EXITED": "exited", "BACKOFF": "restarting"}
"""The names of supervisor's states; the others are written in lower case."""


@dataclass(frozen=True)
class ServiceRow:
    """The state of a service; `restarts` and `last_exit` cover the time since the last `up`."""

    service: str
    state: str
    since: str | None
    restarts: int
    last_exit: str | None
    pid: int | None
    url: str
    log_file: str


def rows(supervisor: Supervisor, services: Sequence[Service]) -> list[ServiceRow]:
    """The current state of each service; running services are checked for health."""
    states, exits = supervisor.states(), supervisor.unexpected_exits()
    with ThreadPoolExecutor(len(services)) as pool:
        statuses = pool.map(lambda service: _status(service, states.get(service.name)), services)
        return [
            _row(supervisor, service, status, states.get(service.name), exits.get(service.name, []))
            for service, status in zip(services, statuses, strict=True)
        ]


def current_rows(settings: Settings) -> list[ServiceRow]:
    """The rows of the services that are up. Raises `OperationNotAllowed` if nothing is up."""
    supervisor = Supervisor.for_settings(settings)
    names = set(supervisor.states())
    if not names:
        raise OperationNotAllowed("The platform is not up.", "Run `tidemill up`.")
    services = platform_services(
        settings, with_airflow=API_SERVER in names, with_postgres="postgres" in names
    )
    return rows(supervisor, services)


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
    """`ready`, or the reason why it is not."""
    if state is None or state.status == "STOPPED":
        return "stopped"
    if state.status == "RUNNING":
        return "ready" if service.is_healthy() else "unhealthy"
    return _STATES.get(state.status, state.status.lower())
