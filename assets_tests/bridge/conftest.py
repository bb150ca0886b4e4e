"""Airflow beside a real Dagster with a real model."""

import os
import tempfile
from collections.abc import Iterator

import pytest

from airflow_hands import Airflow, Bridge, connection_uri
from bench import ModelHarness, model_name_for
from dagster_ui import running_dagster

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
        yield Bridge(Airflow(home / "airflow", connection_uri(client.address)).migrate(), client, harness)
