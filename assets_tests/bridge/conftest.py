"""Airflow with a real Dagster and a real model."""

import os
import tempfile
from collections.abc import Iterator

import pytest

from support.airflow.driver import Airflow, Bridge, connection_uri
from support.dagster.webserver import running_dagster
from support.models.harness import ModelHarness, model_name_for

_HOME = tempfile.TemporaryDirectory(prefix="airflow-")
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)  # before any import of airflow, which reads it
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture(scope="session")
def bridge(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """A model `m…` whose windows 0 and 1 the log has closed and whose window 2 is open."""
    home = tmp_path_factory.mktemp("bridge")
    harness = ModelHarness(kafka, home, model_name_for("bridge"))
    harness.define()
    harness.create_topic()
    harness.produce_windows(-2, 2)
    with running_dagster(harness.env, daemon=False) as client:
        yield Bridge(
            Airflow(home / "airflow", connection_uri(client.address)).migrate(), client, harness
        )
