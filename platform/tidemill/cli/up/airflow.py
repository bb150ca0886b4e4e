"""The Airflow of `tidemill up`: its settings, its secrets, its DAGs."""

import json
import secrets
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tidemill import bootstrap
from tidemill.adapters.textfile import atomic_write_text
from tidemill.cli.up.services import Places
from tidemill.core.errors import PrerequisiteMissing
from tidemill.settings import Settings

USER = "admin"


@dataclass(frozen=True)
class Secrets:
    """What is drawn at the first `up`."""

    password: str
    jwt: str


def check_installed() -> None:
    """Raises `PrerequisiteMissing` where Airflow or the bridge is not in this environment."""
    if any(find_spec(name) is None for name in ("airflow", "tidemill_airflow")):
        raise PrerequisiteMissing(
            "Airflow is not installed in this environment.",
            "Install it by `make setup-airflow`, or leave it out: `tidemill up --no-airflow`.",
        )


def secrets_of(settings: Settings) -> Secrets:
    """The secrets of this Airflow, drawn if there are none; nobody else may read them."""
    file = settings.up_data / "airflow.json"
    if file.exists():
        return Secrets(**json.loads(file.read_text()))
    drawn = {"password": secrets.token_urlsafe(12), "jwt": secrets.token_urlsafe(48)}
    atomic_write_text(_passwords(settings), json.dumps({USER: drawn["password"]}), private=True)
    atomic_write_text(file, json.dumps(drawn), private=True)
    return Secrets(**drawn)


def introduction(settings: Settings) -> str:
    """The user and the password, the first time; later, where they are kept."""
    shown = settings.airflow_home / "shown"
    if shown.exists():
        return f"Airflow's user is {USER}; the password is in {_passwords(settings)}."
    shown.touch()
    password = secrets_of(settings).password
    return f"Airflow's user is {USER}, the password {password} (shown this once)."


def environment(settings: Settings, drawn: Secrets) -> dict[str, str]:
    """Everything that Airflow is told."""
    at, home, own = Places(settings), settings.airflow_home, bootstrap.local_postgres(settings)
    database = f"sqlite:///{home}/airflow.db?timeout=30" if own.port is None else own.url("airflow")
    host, port = at.dagster.removeprefix("http://").split(":")
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_DAGSTER_DEFAULT": f"dagster://{host}:{port}/http",
        "AIRFLOW__API__BASE_URL": at.airflow,
        "AIRFLOW__API_AUTH__JWT_SECRET": drawn.jwt,
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags(settings)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{at.airflow}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",  # 32 workers by default, 5.5 GB
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords(settings)),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # So that a task which is resumed soon is not taken for dead.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }


def dags(settings: Settings) -> Path:
    """The folder of its DAGs."""
    return settings.airflow_home / "dags"


def _passwords(settings: Settings) -> Path:
    return settings.airflow_home / "passwords.json"
