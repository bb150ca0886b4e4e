"""Airflow beside a real Dagster with a real model."""

import os
import tempfile
from collections.abc import Iterator

import pytest

from airflow_hands import Airflow, Bridge, connection_to
from bench import Bench, named
from dagster_ui import served

_HOME = tempfile.TemporaryDirectory(prefix="airflow-")
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)  # before any import of airflow, which reads it
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture(scope="session")
def bridge(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """A model `m…` whose windows 0 and 1 the log has closed and whose window 2 is open."""
    home = tmp_path_factory.mktemp("bridge")
    bench = Bench(kafka, home, named("bridge"))
    bench.define()
    bench.create_topic()
    bench.feed(-2, 2)
    with served(bench.environment, daemon=False) as ui:
        yield Bridge(Airflow(home / "airflow", connection_to(ui.address)).migrated(), ui, bench)
