"""Starts and stops the whole platform on this machine, without containers."""

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress

import psutil

from tidemill import bootstrap, locks
from tidemill.adapters.clock import now_ms
from tidemill.core.errors import (
    OperationNotAllowed,
    PrerequisiteMissing,
    ServiceFailed,
    SpecInvalid,
)
from tidemill.core.windows import from_ms
from tidemill.local import broker
from tidemill.processes import tail_for_error
from tidemill.services import airflow, orphaned_runs, table
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.services.init_containers import write_workspace
from tidemill.services.live_flights import ensure_live_model, write_dags
from tidemill.services.migrations import migrate
from tidemill.services.services import Endpoints, Service, platform_env, platform_services
from tidemill.services.supervisor import Supervisor
from tidemill.settings import Settings

Report = Callable[[str], None]
"""Receives a sentence, or the name of a service, while the platform starts."""

_STARTUP_TIMEOUT_SECONDS = 180.0
"""Seconds that a service may take to become healthy, on a busy machine."""
_MAX_STARTUP_EXITS = 3
"""The number of exits during startup after which a service has failed."""
_POLL_INTERVAL_SECONDS = 0.5


def start(
    settings: Settings,
    *,
    with_airflow: bool,
    with_postgres: bool,
    on_notice: Report,
    on_ready: Report,
) -> list[table.ServiceRow]:
    """Start all services and return their states when all are ready; running ones are kept.

    `on_ready` receives the name of each service that has become ready, `on_notice` a sentence about
    anything else that people should know. Raises `PrerequisiteMissing`, `ServiceFailed`,
    `SpecInvalid`, and `OperationNotAllowed` if other services are up, or during another call.
    """
    services = platform_services(settings, with_airflow=with_airflow, with_postgres=with_postgres)
    supervisor = Supervisor.for_settings(settings)
    with _exclusive_lock(settings):
        if with_airflow:
            airflow.check_installed()
        if supervisor.is_running():
            _check_same_services(supervisor, services)
        else:
            _start_supervisor(
                settings, supervisor, services, with_airflow, with_postgres, on_notice
            )
        _start_in_order(supervisor, services, on_ready)
    return table.rows(supervisor, services)


def stop(settings: Settings) -> bool:
    """Stop all services, including processes left over from a crash; whether there were any.

    Data is kept. Raises `OperationNotAllowed`.
    """
    with _exclusive_lock(settings):
        return _stop_all(settings, Supervisor.for_settings(settings))


def _start_supervisor(
    settings: Settings,
    supervisor: Supervisor,
    services: Sequence[Service],
    with_airflow: bool,
    with_postgres: bool,
    on_notice: Report,
) -> None:
    from tidemill.simulation.time_scale import TimeScale

    _stop_all(settings, supervisor)  # processes left over if supervisord was killed
    _check_ports(services)
    spec = ensure_live_model(settings, settings.up_data / "models", now_ms())
    end_ms = TimeScale.for_spec(spec).ends_at
    _choose_databases(settings, with_postgres, on_notice)
    ensure_dagster_home(settings)
    endpoints = Endpoints(settings)
    write_workspace(endpoints, {"socket": str(endpoints.code_socket)})
    env = platform_env(settings, with_airflow=with_airflow)
    supervisor.logs_folder.mkdir(parents=True, exist_ok=True)
    if with_airflow:
        airflow_secrets = airflow.get_or_create_secrets(settings)
        env = {**env, **airflow.airflow_env(settings, airflow_secrets)}
        write_dags(airflow.dags_folder(settings), spec, end_ms)
    with bootstrap.local_databases(settings):
        migrate(settings, env, with_airflow=with_airflow)
    supervisor.start(services, env)
    if end_ms < time.time() * 1000:
        on_notice(
            f"The simulated flights ended on {from_ms(end_ms):%Y-%m-%d %H:%M} UTC; "
            "a different TIDEMILL_HOME starts them again."
        )


def _choose_databases(settings: Settings, with_postgres: bool, on_notice: Report) -> None:
    """Use PostgreSQL, created if necessary, or SQLite; a change is reported."""
    local_postgres = bootstrap.local_postgres(settings)
    initialized = (settings.dagster_home / "dagster.yaml").exists()
    if initialized and with_postgres != (local_postgres.port is not None):
        before, now = ("SQLite", "PostgreSQL") if with_postgres else ("PostgreSQL", "SQLite")
        on_notice(
            f"Dagster, MLflow and Airflow stored their metadata in {before} and now store it in "
            f"{now}: what they recorded before is kept there and is not shown now. Models, store "
            "and ledger are the same."
        )
    if with_postgres:
        local_postgres.initialize(settings.up.postgres_port)
        local_postgres.enable(settings.up.postgres_port)
    else:
        local_postgres.disable()


def _start_in_order(supervisor: Supervisor, services: Sequence[Service], on_ready: Report) -> None:
    """Start each service when those it depends on are healthy. Raises `ServiceFailed`."""
    ready, started_at = set[str](), dict[str, float]()
    exits_before = supervisor.unexpected_exits()
    while len(ready) < len(services):
        states, exits = supervisor.states(), supervisor.unexpected_exits()
        for service in services:
            if service.name in ready or not set(service.depends_on) <= ready:
                continue
            state = states.get(service.name)
            if service.name not in started_at:
                started_at[service.name] = time.monotonic()
                supervisor.start_service(service.name)
            elif (
                state is not None and state.status in ("RUNNING", "EXITED") and service.is_healthy()
            ):
                ready.add(service.name)
                on_ready(service.name)
            elif (
                state is None
                or time.monotonic() - started_at[service.name] > _STARTUP_TIMEOUT_SECONDS
                or len(exits.get(service.name, ())) - len(exits_before.get(service.name, ()))
                >= _MAX_STARTUP_EXITS
            ):
                raise _startup_error(supervisor, service)
        time.sleep(_POLL_INTERVAL_SECONDS)


def _startup_error(supervisor: Supervisor, service: Service) -> ServiceFailed:
    log_file = supervisor.log_file(service.name)
    return ServiceFailed(
        f"The service {service.name} does not start.",
        f"{tail_for_error(log_file)} Run `tidemill up` to try again, or `tidemill down` to stop "
        "the other services.",
    )


def _check_same_services(supervisor: Supervisor, services: Sequence[Service]) -> None:
    """Raises `OperationNotAllowed` if the platform is up with another driver or database."""
    if set(supervisor.states()) != {service.name for service in services}:
        raise OperationNotAllowed(
            "The platform is up with another set of services: only one driver and one kind of "
            "database can be used at a time.",
            "Run `tidemill down` first.",
        )


def _check_ports(services: Sequence[Service]) -> None:
    """Raises `PrerequisiteMissing` if a port is in use, and `SpecInvalid` if it is 0."""
    for service in services:
        if service.port is None:
            continue
        if service.port == 0:
            raise SpecInvalid(
                f"{service.port_setting} is 0.", "Set it to a port number, or unset it."
            )
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", service.port))
                probe.listen()
            except OSError:
                raise PrerequisiteMissing(
                    f"Port {service.port} of {service.name} is in use{_port_owner(service.port)}.",
                    "Stop that process, or choose another port: "
                    f"{service.port_setting}=… tidemill up.",
                ) from None


def _port_owner(port: int) -> str:
    """The process that listens on the port, if this user may see it."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.pid
                and connection.status == "LISTEN"
            ):
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def _stop_all(settings: Settings, supervisor: Supervisor) -> bool:
    """Stop everything; whether anything was running."""
    names = [name for name in supervisor.states() if name not in ("kafka", "postgres")]
    was_running = supervisor.is_running()
    if was_running:
        supervisor.stop(names)
    had_leftovers = supervisor.kill_leftovers()
    kafka_stopped = settings.kafka.bootstrap_servers is None and broker.stop(settings.kafka_data)
    orphaned_runs.fail_orphaned_runs(settings, {"socket": str(Endpoints(settings).code_socket)})
    return was_running or had_leftovers or kafka_stopped


def _exclusive_lock(settings: Settings) -> AbstractContextManager[None]:
    """Allows one `up` or `down` at a time. Raises `OperationNotAllowed`."""

    def error(holder: str) -> OperationNotAllowed:
        return OperationNotAllowed(
            f"Another `tidemill up` or `tidemill down` is running in {settings.home}.",
            "Wait until it has finished.",
        )

    return locks.exclusive_or_raise(settings.up_data / "lock", error)
