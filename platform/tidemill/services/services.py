"""The services of the platform: what each runs, what it needs first, when it is well."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemill import bootstrap
from tidemill.local import broker
from tidemill.local.postgres import server
from tidemill.services import health
from tidemill.services.live_flights import MODEL
from tidemill.settings import Settings

PLATFORM_ENV = "TIDEMILL_PART_OF"
"""In the environment of all that is begun: the folder of `up`, by which it is found again."""


@dataclass(frozen=True)
class Service:
    """A process that is kept running: its words, begun when those it needs are well.

    `port` is where it listens on the loopback, `setting` what changes that, and `where` what people
    open. `how` is what else the manager is told of it, in supervisor's words.
    """

    name: str
    command: tuple[str, ...]
    is_healthy: health.HealthCheck
    depends_on: tuple[str, ...] = ()
    port: int | None = None
    port_setting: str = ""
    url: str = ""
    supervisor_options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoints:
    """Addresses and files that several services share."""

    settings: Settings

    @property
    def dagster(self) -> str:
        return _local_url(self.settings.up.dagster_port)

    @property
    def mlflow(self) -> str:
        return _local_url(self.settings.up.mlflow_port)

    @property
    def airflow(self) -> str:
        return _local_url(self.settings.up.airflow_port)

    @property
    def serving(self) -> str:
        return _local_url(self.settings.serve.port)

    @property
    def code_socket(self) -> Path:
        """The socket of Dagster's code server."""
        return self.settings.up_data / "code.sock"

    @property
    def workspace_file(self) -> Path:
        """How Dagster's webserver and daemon find it."""
        return self.settings.dagster_home / "workspace.yaml"


def platform_services(
    settings: Settings, *, with_airflow: bool, with_postgres: bool
) -> list[Service]:
    """All of them, each behind those it needs."""
    endpoints = Endpoints(settings)
    driver_services = _airflow(settings, endpoints) if with_airflow else [_simulation()]
    database_services = [_postgres(settings)] if with_postgres else []
    database_names = tuple(service.name for service in database_services)
    return [
        *database_services,
        *_kafka(settings),
        *_mlflow(settings, endpoints, database_names),
        *_dagster(settings, endpoints, database_names),
        _serving(settings, endpoints),
        *driver_services,
    ]


def platform_env(settings: Settings, *, with_airflow: bool) -> dict[str, str]:
    """What all of them are told, beside what Airflow is."""
    endpoints = Endpoints(settings)
    return {
        **os.environ,
        PLATFORM_ENV: str(settings.up_data),
        "TIDEMILL_HOME": str(settings.home),
        "TIDEMILL_MODELS": str(settings.models),
        "TIDEMILL_SENSORS_DEFAULT_STATUS": "stopped" if with_airflow else "running",
        "TIDEMILL_DAGSTER__UI_URL": endpoints.dagster,
        "DAGSTER_HOME": str(settings.dagster_home),
        **mlflow_env(settings),
        **({} if settings.mlflow.tracking_uri else {"TIDEMILL_MLFLOW__UI_URL": endpoints.mlflow}),
    }


def _kafka(settings: Settings) -> list[Service]:
    if settings.kafka.bootstrap_servers is not None:
        return []

    def is_healthy() -> bool:
        running = broker.status(settings.kafka_data)
        return running is not None and health.is_listening(running.bootstrap_servers)()

    return [Service("kafka", ("tidemill", "kafka", "run"), is_healthy)]


def _postgres(settings: Settings) -> Service:
    local_postgres, port = bootstrap.local_postgres(settings), settings.up.postgres_port
    user = server.run_as_user()
    return Service(
        "postgres",
        server.server_command(local_postgres.data, port),
        lambda: server.is_ready(local_postgres.data, port),
        port=port,
        port_setting="TIDEMILL_UP__POSTGRES_PORT",
        supervisor_options={
            "directory": "/",
            "stopsignal": server.STOP_SIGNAL.name.removeprefix("SIG"),
            "stopwaitsecs": server.SHUTDOWN_TIMEOUT_SECONDS,
            **({} if user is None else {"user": user}),
        },
    )


def _mlflow(settings: Settings, endpoints: Endpoints, depends_on: tuple[str, ...]) -> list[Service]:
    if settings.mlflow.tracking_uri is not None:
        return []
    port = settings.up.mlflow_port
    return [
        Service(
            "mlflow",
            mlflow_server_command(port),
            health.responds(f"{endpoints.mlflow}/health"),
            depends_on,
            port,
            "TIDEMILL_UP__MLFLOW_PORT",
            endpoints.mlflow,
        )
    ]


def _dagster(
    settings: Settings, endpoints: Endpoints, depends_on: tuple[str, ...]
) -> list[Service]:
    port, workspace = settings.up.dagster_port, ("-w", str(endpoints.workspace_file))
    code_server = (
        "dagster",
        "api",
        "grpc",
        "--socket",
        str(endpoints.code_socket),
        "-m",
        "tidemill.definitions",
    )
    if settings.kafka.bootstrap_servers is None:
        depends_on = (*depends_on, "kafka")
    return [
        Service(
            "dagster-code", code_server, health.is_listening(endpoints.code_socket), depends_on
        ),
        Service(
            "dagster",
            ("dagster-webserver", *workspace, "-h", "127.0.0.1", "-p", str(port)),
            health.code_locations_loaded(endpoints.dagster),
            ("dagster-code",),
            port,
            "TIDEMILL_UP__DAGSTER_PORT",
            endpoints.dagster,
        ),
        Service(
            "dagster-daemon",
            ("dagster-daemon", "run", *workspace),
            health.daemons_healthy(endpoints.dagster),
            ("dagster",),
        ),
    ]


def _serving(settings: Settings, endpoints: Endpoints) -> Service:
    port = settings.serve.port
    command = ("tidemill", "serve", "--host", "127.0.0.1", "--port", str(port), "--models", MODEL)
    return Service(
        "serve",
        command,
        health.responds(f"{endpoints.serving}/v2/health/live"),
        ("kafka",) if settings.kafka.bootstrap_servers is None else (),
        port,
        "TIDEMILL_SERVE__PORT",
        endpoints.serving,
    )


def _simulation() -> Service:
    command = ("tidemill", "stream", "flights", "--live", "--model", MODEL)
    return Service("stream", command, lambda: True, ("dagster-daemon",))


def _airflow(settings: Settings, endpoints: Endpoints) -> list[Service]:
    port = settings.up.airflow_port
    api_server = (
        "airflow",
        "api-server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    )
    components = {
        "dag_processor": ("airflow", "dag-processor"),
        "scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
        "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
    }
    return [
        Service(
            "airflow",
            api_server,
            health.airflow_component_healthy(endpoints.airflow, "metadatabase"),
            ("dagster",),
            port,
            "TIDEMILL_UP__AIRFLOW_PORT",
            endpoints.airflow,
        ),
        *(
            Service(
                f"airflow-{component.replace('_', '-')}",
                command,
                health.airflow_component_healthy(endpoints.airflow, component),
                ("airflow",),
            )
            for component, command in components.items()
        ),
    ]


def mlflow_server_command(port: int) -> tuple[str, ...]:
    """MLflow's server."""
    return ("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")


def mlflow_env(settings: Settings) -> dict[str, str]:
    """What MLflow's server is told: to serve the record of one's own, where that is kept."""
    env = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, for nothing here
    }
    if settings.mlflow.tracking_uri is None:
        tracker = bootstrap.make_tracker(settings)
        assert tracker is not None  # there is one where no other is set
        env["MLFLOW_BACKEND_STORE_URI"] = tracker.uri
    return env


def resolve_command(command: Sequence[str]) -> list[str]:
    """These words, the first as a program of this environment if it is a mere name."""
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


def _local_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
