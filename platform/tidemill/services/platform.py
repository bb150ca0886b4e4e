"""`tidemill up` and `tidemill down`: the whole platform on this machine, natively."""

import fcntl
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated

import psutil
import typer

from tidemill import bootstrap
from tidemill.cli.options import console
from tidemill.core.errors import (
    OperationNotAllowed,
    PrerequisiteMissing,
    ServiceFailed,
    SpecInvalid,
)
from tidemill.core.windows import from_ms
from tidemill.local import broker
from tidemill.services import airflow, orphaned_runs, table
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.services.init_containers import fail_orphaned, init, write_workspace
from tidemill.services.live_flights import MODEL, ensure_live_model, write_dags
from tidemill.services.migrations import migrate
from tidemill.services.services import Endpoints, Service, platform_env, platform_services
from tidemill.services.supervisor import Supervisor
from tidemill.settings import Settings
from tidemill.textfile import tail_for_error

_STARTUP_TIMEOUT_SECONDS = 180.0
"""Seconds that a service gets to become well, on a machine with much else to do."""
_MAX_STARTUP_EXITS = 3
"""Times that a service may end while it comes up."""
_POLL_INTERVAL_SECONDS = 0.5

NoAirflow = Annotated[
    bool, typer.Option("--no-airflow", help="Dagster's sensor and a producer drive in its place.")
]

WithPostgres = Annotated[
    bool, typer.Option("--postgres", help="Dagster, MLflow and Airflow keep theirs in PostgreSQL.")
]


def up(no_airflow: NoAirflow = False, postgres: WithPostgres = False) -> None:
    """Bring the whole platform up, and return when all of it is ready; `tidemill down` ends it.

    Flights of 2013 run live in five-minute windows. Where it is up already, it is shown.
    """
    settings = Settings()
    services = platform_services(settings, with_airflow=not no_airflow, with_postgres=postgres)
    supervisor = Supervisor.for_settings(settings)
    with _exclusive_lock(settings):
        if not no_airflow:
            airflow.check_installed()
        if supervisor.is_running():
            _check_same_services(supervisor, services)
        else:
            _start_supervisor(
                settings, supervisor, services, with_airflow=not no_airflow, with_postgres=postgres
            )
        _start_in_order(supervisor, services)
    table.show(table.rows(supervisor, services))
    if not no_airflow:
        console.print(f"\n{airflow.login_message(settings)}", markup=False, soft_wrap=True)
    _print_next_steps(settings, supervisor)


def down() -> None:
    """End the whole platform, also what a crash has left of it; the data stay."""
    settings = Settings()
    supervisor = Supervisor.for_settings(settings)
    with _exclusive_lock(settings):
        was_up = _stop_all(settings, supervisor)
    console.print("The platform is down; its data stay." if was_up else "Nothing was up.")


def _start_supervisor(
    settings: Settings,
    supervisor: Supervisor,
    services: Sequence[Service],
    *,
    with_airflow: bool,
    with_postgres: bool,
) -> None:
    _stop_all(settings, supervisor)  # what a manager that was killed has left
    _check_ports(services)
    from tidemill.simulation.time_scale import TimeScale

    spec = ensure_live_model(settings, settings.up_data / "models", time.time_ns() // 1_000_000)
    end_ms = TimeScale.for_spec(spec).ends_at
    _choose_databases(settings, with_postgres)
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
        console.print(
            f"The flights of 2013 ended on {from_ms(end_ms):%Y-%m-%d %H:%M} UTC; "
            "another TIDEMILL_HOME begins them anew."
        )


def _choose_databases(settings: Settings, with_postgres: bool) -> None:
    """Let everything here use PostgreSQL, made if need be, or SQLite; what it used is told."""
    local_postgres, initialized = (
        bootstrap.local_postgres(settings),
        (settings.dagster_home / "dagster.yaml").exists(),
    )
    if initialized and with_postgres != (local_postgres.port is not None):
        names = ("SQLite", "PostgreSQL") if with_postgres else ("PostgreSQL", "SQLite")
        console.print(
            "Dagster, MLflow and Airflow kept theirs in {}, and now do in {}: what they recorded "
            "there stays there and is not seen here. Models, store and ledger are the same."
            .format(*names),
            soft_wrap=True,
        )  # fmt: skip
    if with_postgres:
        local_postgres.initialize(settings.up.postgres_port)
        local_postgres.enable(settings.up.postgres_port)
    else:
        local_postgres.disable()


def _start_in_order(supervisor: Supervisor, services: Sequence[Service]) -> None:
    """Begin each service when those it needs are well. Raises `ServiceFailed`."""
    progress, ready, started_at = table.StartupProgress(), set[str](), dict[str, float]()
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
                progress.service_ready(service.name)
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
        f"{service.name} does not come up.",
        f"{tail_for_error(log_file)} `tidemill up` tries again, `tidemill down` ends the others.",
    )


def _check_same_services(supervisor: Supervisor, services: Sequence[Service]) -> None:
    """Raises `Refused` where the platform is up with the other driver, or other databases."""
    if set(supervisor.states()) != {service.name for service in services}:
        raise OperationNotAllowed(
            "The platform is up with another set of services: one driver at a time, and one kind "
            "of database.",
            "Run `tidemill down` first.",
        )


def _check_ports(services: Sequence[Service]) -> None:
    """Raises `PrerequisiteMissing` for a port that somebody else has, `SpecInvalid` for none."""
    for service in services:
        if service.port is None:
            continue
        if service.port == 0:
            raise SpecInvalid(f"{service.port_setting} is 0.", "Name a port for it, or unset it.")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", service.port))
                probe.listen()
            except OSError:
                raise PrerequisiteMissing(
                    f"Port {service.port}, where {service.name} would listen, is taken"
                    f"{_port_owner(service.port)}.",
                    f"End that, or choose another port: {service.port_setting}=… tidemill up.",
                ) from None


def _port_owner(port: int) -> str:
    """Who listens there, as far as this user may know."""
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
    """End all there is; whether there was anything."""
    names = [name for name in supervisor.states() if name not in ("kafka", "postgres")]
    was_running = supervisor.is_running()
    if was_running:
        supervisor.stop(names)
    had_leftovers = supervisor.kill_leftovers()
    kafka_stopped = settings.kafka.bootstrap_servers is None and broker.stop(settings.kafka_data)
    orphaned_runs.fail_orphaned_runs(settings, {"socket": str(Endpoints(settings).code_socket)})
    return was_running or had_leftovers or kafka_stopped


def _print_next_steps(settings: Settings, supervisor: Supervisor) -> None:
    endpoints = Endpoints(settings)
    console.print(
        f"Logs: {supervisor.logs_folder}. `tidemill ps` shows this table, "
        f"`tidemill history {MODEL}` what was deployed, {endpoints.serving}/models what answers; "
        "`tidemill down` ends it all.",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _exclusive_lock(settings: Settings) -> Iterator[None]:
    """One `up` or `down` at a time. Raises `Refused`."""
    settings.up_data.mkdir(parents=True, exist_ok=True)
    with (settings.up_data / "lock").open("a") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperationNotAllowed(
                "Another `tidemill up` or `tidemill down` is at work here.", "Wait until it ends."
            ) from None
        yield


COMMANDS = (up, down, init, fail_orphaned)
