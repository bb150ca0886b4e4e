"""Migrates the databases of Dagster, MLflow and Airflow to the installed versions."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from tidemill import bootstrap
from tidemill.core.errors import ServiceFailed
from tidemill.processes import run_logged
from tidemill.services.services import resolve_command
from tidemill.settings import Settings
from tidemill.textfile import atomic_write_text


def migrate(settings: Settings, env: Mapping[str, str], *, with_airflow: bool) -> None:
    """Create or migrate the tables, once per version and database. Raises `ServiceFailed`.

    Dagster and MLflow create their SQLite files by themselves.
    """
    if bootstrap.local_postgres(settings).port is not None:
        _migrate(settings, "dagster", ("dagster", "instance", "migrate"), env)
        if settings.mlflow.tracking_uri is None:
            uri = env["MLFLOW_BACKEND_STORE_URI"]
            _migrate(settings, "mlflow", ("mlflow", "db", "upgrade", uri), env)
    if with_airflow:
        _migrate(settings, "apache-airflow", ("airflow", "db", "migrate"), env)


def _migrate(
    settings: Settings, package: str, command: Sequence[str], env: Mapping[str, str]
) -> None:
    local_postgres, name = bootstrap.local_postgres(settings), package.removeprefix("apache-")
    folder = settings.airflow_home if local_postgres.port is None else local_postgres.folder
    marker_file, installed_version = folder / f"migrated-{name}", version(package)
    if marker_file.exists() and marker_file.read_text() == installed_version:
        return
    log_file = settings.up_data / "logs" / f"{name}-migrate.log"
    log_file.unlink(missing_ok=True)
    if run_logged(resolve_command(command), log_file, env=env):
        raise ServiceFailed(
            f"The database of {name} could not be created or migrated.", f"See its log: {log_file}."
        )
    atomic_write_text(marker_file, installed_version)
