"""The services of the platform: their commands, dependencies, ports and health checks."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemill import bootstrap
from tidemill.local import broker
from tidemill.local.postgres import server
from tidemill.services import health, mlflow
from tidemill.services.live_flights import MODEL
from tidemill.settings import Settings

PLATFORM_ENV = "TIDEMILL_PLATFORM"
"""Set in the environment of every started process to the data folder of `up`, by which processes
left over from a crash are found."""

WEBSERVER, SERVING, API_SERVER = "dagster-webserver", "serving", "airflow-api-server"
SIMULATION = "simulation"
"""Names of services, the same as in `deploy/compose.yaml`."""


@dataclass(frozen=True)
class Service:
    """A process that is kept running; it is started when the services in `depends_on` are healthy.

    `port` is its port on the loopback interface, `port_setting` the variable that changes the port,
    `url` the address for people. `supervisor_options` are further options of its program section.
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
    """Addresses and files that several services use."""

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
        return code_socket(self.settings.up_data)

    @property
    def workspace_file(self) -> Path:
        """The workspace of Dagster's webserver and daemon, which names the code server."""
        return self.settings.dagster_home / "workspace.yaml"


def code_socket(folder: Path) -> Path:
    """The socket of Dagster's code server in the data folder of `up`."""
    return folder / "code.sock"


def platform_services(
    settings: Settings, *, with_airflow: bool, with_postgres: bool
) -> list[Service]:
    """All services, each after the services that it depends on."""
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
    """The environment of all services, without Airflow's variables."""
    endpoints = Endpoints(settings)
    return {
        **os.environ,
        PLATFORM_ENV: str(settings.up_data),
        "TIDEMILL_HOME": str(settings.home),
        "TIDEMILL_MODELS": str(settings.models),
        "TIDEMILL_SENSORS_DEFAULT_STATUS": "stopped" if with_airflow else "running",
        "TIDEMILL_DAGSTER__UI_URL": endpoints.dagster,
        "DAGSTER_HOME": str(settings.dagster_home),
        **mlflow.server_env(settings),
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
            mlflow.server_command(port),
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
    module = ("-m", "tidemill.definitions")
    code_server = ("dagster", "api", "grpc", "--socket", str(endpoints.code_socket), *module)
    if settings.kafka.bootstrap_servers is None:
        depends_on = (*depends_on, "kafka")
    return [
        Service(
            "dagster-code", code_server, health.is_listening(endpoints.code_socket), depends_on
        ),
        Service(
            WEBSERVER,
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
            (WEBSERVER,),
        ),
    ]


def _serving(settings: Settings, endpoints: Endpoints) -> Service:
    port = settings.serve.port
    command = ("tidemill", "serve", "--host", "127.0.0.1", "--port", str(port), "--models", MODEL)
    return Service(
        SERVING,
        command,
        health.responds(f"{endpoints.serving}/v2/health/live"),
        ("kafka",) if settings.kafka.bootstrap_servers is None else (),
        port,
        "TIDEMILL_SERVE__PORT",
        endpoints.serving,
    )


def _simulation() -> Service:
    command = ("tidemill", "simulate", "flights", "--live", "--model", MODEL)
    return Service(SIMULATION, command, lambda: True, ("dagster-daemon",))


def _airflow(settings: Settings, endpoints: Endpoints) -> list[Service]:
    port = settings.up.airflow_port
    listen = ("--host", "127.0.0.1", "--port", str(port))
    api_server = ("airflow", "api-server", *listen, "--workers", "1")
    components = {
        "dag_processor": ("airflow", "dag-processor"),
        "scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
        "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
    }
    return [
        Service(
            API_SERVER,
            api_server,
            health.airflow_component_healthy(endpoints.airflow, "metadatabase"),
            (WEBSERVER,),
            port,
            "TIDEMILL_UP__AIRFLOW_PORT",
            endpoints.airflow,
        ),
        *(
            Service(
                f"airflow-{component.replace('_', '-')}",
                command,
                health.airflow_component_healthy(endpoints.airflow, component),
                (API_SERVER,),
            )
            for component, command in components.items()
        ),
    ]


def resolve_command(command: Sequence[str]) -> list[str]:
    """The command with its program as a path in this environment, unless it is a path already."""
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


def _local_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
