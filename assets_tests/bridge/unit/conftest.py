"""What the bridge's own tests need: an AIRFLOW_HOME, and a webserver in Dagster's place.

They know neither Dagster nor tidemill, and pass in an environment with Airflow alone.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator

import pytest

from fake_dagster import FakeDagster, FakeTaskInstance, connection_json, running_fake_dagster

_HOME = tempfile.TemporaryDirectory(prefix="airflow-")
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)  # before any import of airflow, which reads it
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Airflow uses warns of itself when it is imported
    import tidemill_airflow.factory
    import tidemill_airflow.sensors.dagster  # noqa: F401


@pytest.fixture
def dagster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDagster]:
    """The webserver that the connection `dagster_default` names."""
    with running_fake_dagster() as fake:
        monkeypatch.setenv("AIRFLOW_CONN_DAGSTER_DEFAULT", connection_json(fake.address))
        yield fake


@pytest.fixture
def task_instance() -> FakeTaskInstance:
    """The first try of a task."""
    return FakeTaskInstance()
