"""Fixtures of the bridge's unit tests: an AIRFLOW_HOME, and a fake Dagster webserver.

The tests import neither Dagster nor tidemill, and pass in an environment with only Airflow.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator

import pytest

from bridge.unit.fake_dagster import (
    FakeDagster,
    FakeTaskInstance,
    connection_json,
    running_fake_dagster,
)

_HOME = tempfile.TemporaryDirectory(prefix="airflow-")
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)  # before any import of airflow, which reads it
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Airflow's dependencies warn on import
    import tidemill_airflow.factory
    import tidemill_airflow.sensors.dagster  # noqa: F401


@pytest.fixture
def dagster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDagster]:
    """The fake webserver of the connection `dagster_default`."""
    with running_fake_dagster() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_DAGSTER_DEFAULT", connection_json(fake.address))
        yield fake


@pytest.fixture
def task_instance() -> FakeTaskInstance:
    """The first try of a task."""
    return FakeTaskInstance()
