"""The connection to MLflow: its client, with limited waits, and its errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

import mlflow.environment_variables as variables
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from tidemill.core.errors import TrackerUnavailable


class MlflowConnection:
    """One tracking server, or one local database; opened when it is first used.

    One request may take `timeout` seconds and is not retried.
    """

    def __init__(self, uri: str, timeout: float) -> None:
        self.uri = uri
        self._timeout = timeout

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client. Raises what `translate_errors` translates."""
        limits: Any = variables
        limits.MLFLOW_HTTP_REQUEST_TIMEOUT.set(max(1, round(self._timeout)))
        limits.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
        if not self.uri.startswith("http"):
            _check_reachable(self.uri, self._timeout)
        return MlflowClient(self.uri, self.uri)

    @contextmanager
    def translate_errors(self, action: str) -> Iterator[None]:
        """Raise MLflow's errors as `TrackerUnavailable`. `action` completes "MLflow could not"."""
        try:
            yield
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            message = str(getattr(error.__cause__, "orig", error))  # the database's own message
            raise TrackerUnavailable(
                f"MLflow at {_redact_url(self.uri)} could not {action}: {type(error).__name__}: "
                f"{message.splitlines()[0][:300]}",
                "Check that it is running (TIDEMILL_MLFLOW__TRACKING_URI). The next run, or "
                "`tidemill verify MODEL --repair`, fills the gap.",
            ) from error


def _check_reachable(uri: str, timeout: float) -> None:
    """Check a local database before MLflow opens it.

    MLflow itself retries for 100 s to open an unreachable database, and waits 20 s per lock.
    Raises `sqlite3.Error` if the file is not writable now, `SQLAlchemyError` if the PostgreSQL
    server is not reachable.
    """
    kind, _, file = uri.partition(":///")
    if kind == "sqlite":
        with closing(sqlite3.connect(file, timeout=timeout)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    elif uri.startswith("postgresql"):
        connect_args = {"connect_timeout": max(1, round(timeout))}
        create_engine(uri, poolclass=NullPool, connect_args=connect_args).connect().close()


def _redact_url(uri: str) -> str:
    """The URL without the user and password that it may contain."""
    scheme, separator, remainder = uri.partition("://")
    return f"{scheme}{separator}{remainder.rpartition('@')[2]}"
