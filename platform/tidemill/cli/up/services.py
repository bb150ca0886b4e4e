"""The services of the platform: what each runs, what it needs first, when it is well."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tidemill import bootstrap
from tidemill.adapters import broker
from tidemill.adapters.postgres import server
from tidemill.cli.up import health
from tidemill.cli.up.model import MODEL
from tidemill.settings import Settings

MARK = "TIDEMILL_PART_OF"
"""In the environment of all that is begun: the folder of `up`, by which it is found again."""


@dataclass(frozen=True)
class Service:
    """A process that is kept running: its words, begun when those it needs are well.

    `port` is where it listens on the loopback, `setting` what changes that, and `where` what people
    open. `how` is what else the manager is told of it, in supervisor's words.
    """

    name: str
    words: tuple[str, ...]
    well: health.Health
    needs: tuple[str, ...] = ()
    port: int | None = None
    setting: str = ""
    where: str = ""
    how: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Addresses and files that several services share."""

    settings: Settings

    @property
    def dagster(self) -> str:
        return _local(self.settings.up.dagster_port)

    @property
    def mlflow(self) -> str:
        return _local(self.settings.up.mlflow_port)

    @property
    def airflow(self) -> str:
        return _local(self.settings.up.airflow_port)

    @property
    def serving(self) -> str:
        return _local(self.settings.serve.port)

    @property
    def code(self) -> Path:
        """The socket of Dagster's code server."""
        return self.settings.up_data / "code.sock"

    @property
    def workspace(self) -> Path:
        """How Dagster's webserver and daemon find it."""
        return self.settings.dagster_home / "workspace.yaml"


def services(settings: Settings, *, with_airflow: bool, with_postgres: bool) -> list[Service]:
    """All of them, each behind those it needs."""
    at = Places(settings)
    driver = _airflow(settings, at) if with_airflow else [_stream()]
    database = [_postgres(settings)] if with_postgres else []
    needs = tuple(each.name for each in database)
    return [
        *database,
        *_kafka(settings),
        *_mlflow(settings, at, needs),
        *_dagster(settings, at, needs),
        _serving(settings, at),
        *driver,
    ]


def environment(settings: Settings, *, with_airflow: bool) -> dict[str, str]:
    """What all of them are told, beside what Airflow is."""
    at = Places(settings)
    return {
        **os.environ,
        MARK: str(settings.up_data),
        "TIDEMILL_HOME": str(settings.home),
        "TIDEMILL_MODELS": str(settings.models),
        "TIDEMILL_SENSORS": "stopped" if with_airflow else "running",
        "TIDEMILL_DAGSTER_UI": at.dagster,
        "DAGSTER_HOME": str(settings.dagster_home),
        **mlflow_told(settings),
        **({} if settings.mlflow.tracking_uri else {"TIDEMILL_MLFLOW__UI": at.mlflow}),
    }


def _kafka(settings: Settings) -> list[Service]:
    if settings.kafka.bootstrap_servers is not None:
        return []

    def well() -> bool:
        running = broker.status(settings.kafka_data)
        return running is not None and health.listens(running.bootstrap_servers)()

    return [Service("kafka", ("tidemill", "kafka", "run"), well)]


def _postgres(settings: Settings) -> Service:
    own, port = bootstrap.local_postgres(settings), settings.up.postgres_port
    user = server.run_as_user()
    return Service(
        "postgres",
        server.server_command(own.data, port),
        lambda: server.is_ready(own.data, port),
        port=port,
        setting="TIDEMILL_UP__POSTGRES_PORT",
        how={
            "directory": "/",
            "stopsignal": server.STOP_SIGNAL.name.removeprefix("SIG"),
            "stopwaitsecs": server.SHUTDOWN_TIMEOUT_SECONDS,
            **({} if user is None else {"user": user}),
        },
    )


def _mlflow(settings: Settings, at: Places, needs: tuple[str, ...]) -> list[Service]:
    if settings.mlflow.tracking_uri is not None:
        return []
    port = settings.up.mlflow_port
    return [
        Service(
            "mlflow",
            mlflow_server(port),
            health.answers(f"{at.mlflow}/health"),
            needs,
            port,
            "TIDEMILL_UP__MLFLOW_PORT",
            at.mlflow,
        )
    ]


def _dagster(settings: Settings, at: Places, needs: tuple[str, ...]) -> list[Service]:
    port, workspace = settings.up.dagster_port, ("-w", str(at.workspace))
    server = ("dagster", "api", "grpc", "--socket", str(at.code), "-m", "tidemill.definitions")
    if settings.kafka.bootstrap_servers is None:
        needs = (*needs, "kafka")
    return [
        Service("dagster-code", server, health.listens(at.code), needs),
        Service(
            "dagster",
            ("dagster-webserver", *workspace, "-h", "127.0.0.1", "-p", str(port)),
            health.code(at.dagster),
            ("dagster-code",),
            port,
            "TIDEMILL_UP__DAGSTER_PORT",
            at.dagster,
        ),
        Service(
            "dagster-daemon",
            ("dagster-daemon", "run", *workspace),
            health.daemon(at.dagster),
            ("dagster",),
        ),
    ]


def _serving(settings: Settings, at: Places) -> Service:
    port = settings.serve.port
    words = ("tidemill", "serve", "--host", "127.0.0.1", "--port", str(port), "--models", MODEL)
    return Service(
        "serve",
        words,
        health.answers(f"{at.serving}/v2/health/live"),
        ("kafka",) if settings.kafka.bootstrap_servers is None else (),
        port,
        "TIDEMILL_SERVE__PORT",
        at.serving,
    )


def _stream() -> Service:
    words = ("tidemill", "stream", "flights", "--live", "--model", MODEL)
    return Service("stream", words, lambda: True, ("dagster-daemon",))


def _airflow(settings: Settings, at: Places) -> list[Service]:
    port = settings.up.airflow_port
    api = ("airflow", "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    parts = {
        "dag_processor": ("airflow", "dag-processor"),
        "scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
        "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
    }
    return [
        Service(
            "airflow",
            api,
            health.airflow(at.airflow, "metadatabase"),
            ("dagster",),
            port,
            "TIDEMILL_UP__AIRFLOW_PORT",
            at.airflow,
        ),
        *(
            Service(
                f"airflow-{part.replace('_', '-')}",
                words,
                health.airflow(at.airflow, part),
                ("airflow",),
            )
            for part, words in parts.items()
        ),
    ]


def mlflow_server(port: int) -> tuple[str, ...]:
    """MLflow's server."""
    return ("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")


def mlflow_told(settings: Settings) -> dict[str, str]:
    """What MLflow's server is told: to serve the record of one's own, where that is kept."""
    told = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, for nothing here
    }
    if settings.mlflow.tracking_uri is None:
        tracker = bootstrap.make_tracker(settings)
        assert tracker is not None  # there is one where no other is set
        told["MLFLOW_BACKEND_STORE_URI"] = tracker.uri
    return told


def program(words: Sequence[str]) -> list[str]:
    """These words, the first as a program of this environment if it is a mere name."""
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]


def _local(port: int) -> str:
    return f"http://127.0.0.1:{port}"
