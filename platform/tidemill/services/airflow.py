"""Airflow in `tidemill up`: its environment, secrets and DAG folder."""

import json
import secrets
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tidemill import bootstrap
from tidemill.core.errors import PrerequisiteMissing
from tidemill.services.services import Endpoints
from tidemill.settings import Settings
from tidemill.textfile import atomic_write_text

USER = "admin"


@dataclass(frozen=True)
class Secrets:
    """The secrets that the first `up` generates."""

    password: str
    jwt: str


def check_installed() -> None:
    """Raises `PrerequisiteMissing` if Airflow or its bridge to Dagster is not installed."""
    if any(find_spec(name) is None for name in ("airflow", "tidemill_airflow")):
        raise PrerequisiteMissing(
            "Airflow is not installed in this environment.",
            "Install it with `make setup-airflow`, or run `tidemill up --no-airflow`.",
        )


def get_or_create_secrets(settings: Settings) -> Secrets:
    """The secrets of this Airflow, generated if there are none, in files that only their owner may
    read."""
    secrets_file = settings.up_data / "airflow.json"
    if secrets_file.exists():
        return Secrets(**json.loads(secrets_file.read_text()))
    generated = {"password": secrets.token_urlsafe(12), "jwt": secrets.token_urlsafe(48)}
    atomic_write_text(
        _passwords_file(settings), json.dumps({USER: generated["password"]}), private=True
    )
    atomic_write_text(secrets_file, json.dumps(generated), private=True)
    return Secrets(**generated)


def login_message(settings: Settings) -> str:
    """The user and the password, the first time; later, the file that has the password."""
    shown_marker = settings.airflow_home / "shown"
    if shown_marker.exists():
        return f"Airflow login: {USER}; the password is in {_passwords_file(settings)}."
    shown_marker.touch()
    password = get_or_create_secrets(settings).password
    return f"Airflow login: {USER} / {password} (shown only once)."


def airflow_env(settings: Settings, airflow_secrets: Secrets) -> dict[str, str]:
    """The environment of Airflow's processes."""
    endpoints, home = Endpoints(settings), settings.airflow_home
    local_postgres = bootstrap.local_postgres(settings)
    database = (
        f"sqlite:///{home}/airflow.db?timeout=30"
        if local_postgres.port is None
        else local_postgres.url("airflow")
    )
    host, port = endpoints.dagster.removeprefix("http://").split(":")
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_DAGSTER_DEFAULT": f"dagster://{host}:{port}/http",
        "AIRFLOW__API__BASE_URL": endpoints.airflow,
        "AIRFLOW__API_AUTH__JWT_SECRET": airflow_secrets.jwt,
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder(settings)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{endpoints.airflow}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",  # the default of 32 workers uses 5.5 GB
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords_file(settings)),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # Otherwise a task that is resumed soon is considered dead.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }


def dags_folder(settings: Settings) -> Path:
    """The folder of Airflow's DAGs."""
    return settings.airflow_home / "dags"


def _passwords_file(settings: Settings) -> Path:
    return settings.airflow_home / "passwords.json"
