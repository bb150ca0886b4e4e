"""Brings the databases of Dagster, MLflow and Airflow to the version that is installed."""

import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from tidemill import bootstrap
from tidemill.cli.up.services import program
from tidemill.core.errors import ServiceFailed
from tidemill.settings import Settings


def migrate(settings: Settings, told: Mapping[str, str], *, with_airflow: bool) -> None:
    """Make or change the tables, once for each version and database. Raises `ServiceFailed`.

    SQLite's files of Dagster and MLflow are made by whoever comes first.
    """
    if bootstrap.local_postgres(settings).port is not None:
        _migrate(settings, "dagster", ("dagster", "instance", "migrate"), told)
        if settings.mlflow.tracking_uri is None:
            uri = told["MLFLOW_BACKEND_STORE_URI"]
            _migrate(settings, "mlflow", ("mlflow", "db", "upgrade", uri), told)
    if with_airflow:
        _migrate(settings, "apache-airflow", ("airflow", "db", "migrate"), told)


def _migrate(
    settings: Settings, package: str, words: Sequence[str], told: Mapping[str, str]
) -> None:
    own, name = bootstrap.local_postgres(settings), package.removeprefix("apache-")
    folder = settings.airflow_home if own.port is None else own.folder
    migrated, now = folder / f"migrated-{name}", version(package)
    if migrated.exists() and migrated.read_text() == now:
        return
    log = settings.up_data / "logs" / f"{name}-migrate.log"
    with log.open("wb") as said:
        done = subprocess.run(
            program(words),
            env=dict(told), stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False,
        )  # fmt: skip
    if done.returncode:
        raise ServiceFailed(
            f"The database of {name} could not be made.", f"Its log says why: {log}."
        )
    migrated.write_text(now)
