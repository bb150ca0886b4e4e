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
from tidemill.adapters import broker
from tidemill.adapters.textfile import tail_for_error
from tidemill.cli.instance import dagster_home
from tidemill.cli.options import console
from tidemill.cli.up import airflow, runs, table
from tidemill.cli.up.manager import Manager
from tidemill.cli.up.migrations import migrate
from tidemill.cli.up.model import MODEL, live_model, write_dags
from tidemill.cli.up.prepare import bury, prepare, write_workspace
from tidemill.cli.up.services import Places, Service, environment, services
from tidemill.core.errors import PrerequisiteMissing, OperationNotAllowed, ServiceFailed, SpecInvalid
from tidemill.core.windows import from_ms
from tidemill.settings import Settings

_PATIENCE = 180.0
"""Seconds that a service gets to become well, on a machine with much else to do."""
_TRIES = 3
"""Times that a service may end while it comes up."""
_LOOK = 0.5

NoAirflow = Annotated[
    bool, typer.Option("--no-airflow", help="Dagster's sensor and a producer drive in its place.")
]

OnPostgres = Annotated[
    bool, typer.Option("--postgres", help="Dagster, MLflow and Airflow keep theirs in PostgreSQL.")
]


def up(no_airflow: NoAirflow = False, postgres: OnPostgres = False) -> None:
    """Bring the whole platform up, and return when all of it is ready; `tidemill down` ends it.

    Flights of 2013 run live in five-minute windows. Where it is up already, it is shown.
    """
    settings = Settings()
    wanted = services(settings, with_airflow=not no_airflow, with_postgres=postgres)
    manager = Manager.of(settings)
    with _alone(settings):
        if not no_airflow:
            airflow.check_installed()
        if manager.runs():
            _check_driver(manager, wanted)
        else:
            _begin(settings, manager, wanted, with_airflow=not no_airflow, with_postgres=postgres)
        _until_ready(manager, wanted)
    table.show(table.rows(manager, wanted))
    if not no_airflow:
        console.print(f"\n{airflow.introduction(settings)}", markup=False, soft_wrap=True)
    _tell(settings, manager)


def down() -> None:
    """End the whole platform, also what a crash has left of it; the data stay."""
    settings = Settings()
    manager = Manager.of(settings)
    with _alone(settings):
        was_up = _end(settings, manager)
    console.print("The platform is down; its data stay." if was_up else "Nothing was up.")


def _begin(
    settings: Settings,
    manager: Manager,
    wanted: Sequence[Service],
    *,
    with_airflow: bool,
    with_postgres: bool,
) -> None:
    _end(settings, manager)  # what a manager that was killed has left
    _check_ports(wanted)
    from tidemill.adapters.streams.pace import TimeScale

    spec = live_model(settings, settings.up_data / "models", time.time_ns() // 1_000_000)
    ended = TimeScale.for_spec(spec).ends_at
    _choose_databases(settings, with_postgres)
    dagster_home(settings)
    at = Places(settings)
    write_workspace(at, {"socket": str(at.code)})
    told = environment(settings, with_airflow=with_airflow)
    manager.logs.mkdir(parents=True, exist_ok=True)
    if with_airflow:
        drawn = airflow.secrets_of(settings)
        told = {**told, **airflow.environment(settings, drawn)}
        write_dags(airflow.dags(settings), spec, ended)
    with bootstrap.local_databases(settings):
        migrate(settings, told, with_airflow=with_airflow)
    manager.begin(wanted, told)
    if ended < time.time() * 1000:
        console.print(
            f"The flights of 2013 ended on {from_ms(ended):%Y-%m-%d %H:%M} UTC; "
            "another TIDEMILL_HOME begins them anew."
        )


def _choose_databases(settings: Settings, with_postgres: bool) -> None:
    """Let everything here use PostgreSQL, made if need be, or SQLite; what it used is told."""
    own, began = bootstrap.local_postgres(settings), (settings.dagster_home / "dagster.yaml").exists()
    if began and with_postgres != (own.port is not None):
        names = ("SQLite", "PostgreSQL") if with_postgres else ("PostgreSQL", "SQLite")
        console.print(
            "Dagster, MLflow and Airflow kept theirs in {}, and now do in {}: what they recorded "
            "there stays there and is not seen here. Models, store and ledger are the same."
            .format(*names),
            soft_wrap=True,
        )  # fmt: skip
    if with_postgres:
        own.initialize(settings.up.postgres_port)
        own.enable(settings.up.postgres_port)
    else:
        own.disable()


def _until_ready(manager: Manager, wanted: Sequence[Service]) -> None:
    """Begin each service when those it needs are well. Raises `ServiceFailed`."""
    steps, ready, begun = table.Steps(), set[str](), dict[str, float]()
    before = manager.ends()
    while len(ready) < len(wanted):
        states, ends = manager.states(), manager.ends()
        for each in wanted:
            if each.name in ready or not set(each.needs) <= ready:
                continue
            state = states.get(each.name)
            if each.name not in begun:
                begun[each.name] = time.monotonic()
                manager.start(each.name)
            elif state is not None and state.word in ("RUNNING", "EXITED") and each.well():
                ready.add(each.name)
                steps.ready(each.name)
            elif (
                state is None
                or time.monotonic() - begun[each.name] > _PATIENCE
                or len(ends.get(each.name, ())) - len(before.get(each.name, ())) >= _TRIES
            ):
                raise _failed(manager, each)
        time.sleep(_LOOK)


def _failed(manager: Manager, service: Service) -> ServiceFailed:
    log = manager.log(service.name)
    return ServiceFailed(
        f"{service.name} does not come up.",
        f"{tail_for_error(log)} `tidemill up` tries again, `tidemill down` ends the others.",
    )


def _check_driver(manager: Manager, wanted: Sequence[Service]) -> None:
    """Raises `Refused` where the platform is up with the other driver, or other databases."""
    if set(manager.states()) != {each.name for each in wanted}:
        raise OperationNotAllowed(
            "The platform is up with another set of services: one driver at a time, and one kind "
            "of database.",
            "Run `tidemill down` first.",
        )


def _check_ports(wanted: Sequence[Service]) -> None:
    """Raises `PrerequisiteMissing` for a port that somebody else has, `SpecInvalid` for none."""
    for each in wanted:
        if each.port is None:
            continue
        if each.port == 0:
            raise SpecInvalid(f"{each.setting} is 0.", "Name a port for it, or unset it.")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", each.port))
                probe.listen()
            except OSError:
                raise PrerequisiteMissing(
                    f"Port {each.port}, where {each.name} would listen, is taken"
                    f"{_holder(each.port)}.",
                    f"End that, or choose another port: {each.setting}=… tidemill up.",
                ) from None


def _holder(port: int) -> str:
    """Who listens there, as far as this user may know."""
    with suppress(psutil.Error):
        for held in psutil.net_connections("tcp"):
            if held.laddr and held.laddr.port == port and held.pid and held.status == "LISTEN":
                return f" by process {held.pid} ({psutil.Process(held.pid).name()})"
    return ""


def _end(settings: Settings, manager: Manager) -> bool:
    """End all there is; whether there was anything."""
    names = [name for name in manager.states() if name not in ("kafka", "postgres")]
    managed = manager.runs()
    if managed:
        manager.end(names)
    left = manager.sweep()
    stopped = settings.kafka.bootstrap_servers is None and broker.stop(settings.kafka_data)
    runs.bury(settings, {"socket": str(Places(settings).code)})
    return managed or left or stopped


def _tell(settings: Settings, manager: Manager) -> None:
    at = Places(settings)
    console.print(
        f"Logs: {manager.logs}. `tidemill status --services` shows this table, "
        f"`tidemill history {MODEL}` what was deployed, {at.serving}/models what answers; "
        "`tidemill down` ends it all.",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One `up` or `down` at a time. Raises `Refused`."""
    settings.up_data.mkdir(parents=True, exist_ok=True)
    with (settings.up_data / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperationNotAllowed(
                "Another `tidemill up` or `tidemill down` is at work here.", "Wait until it ends."
            ) from None
        yield


COMMANDS = (up, down, prepare, bury)
