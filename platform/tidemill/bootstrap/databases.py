"""The local PostgreSQL, for the data of Dagster, Airflow and MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from tidemill.local.postgres import Postgres
from tidemill.settings import Settings


def local_postgres(settings: Settings) -> Postgres:
    """The local PostgreSQL, whether or not it is in use."""
    return Postgres(settings.postgres_data)


@contextmanager
def local_databases(settings: Settings) -> Iterator[None]:
    """If the local PostgreSQL is in use, run it meanwhile, for the data of Dagster and MLflow.

    Raises `PrerequisiteMissing`, `ServiceFailed`.
    """
    server = local_postgres(settings)
    with nullcontext() if server.port is None else server.running():
        yield
