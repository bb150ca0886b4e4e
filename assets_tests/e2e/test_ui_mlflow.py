"""`tidemill ui` opens MLflow beside Dagster, so that the links of one lead to the other."""

from dataclasses import replace

import pytest
import requests

from bench import Bench
from commands import at_work_in, begun, interrupted, said, until
from dagster_ui import ROOT, answering, free_port

pytestmark = pytest.mark.faults


def test_mlflow_answers_beside_dagster_and_ctrl_c_leaves_nothing_of_either(bench: Bench) -> None:
    bench = replace(bench, tracking=None)
    port, mlflow_port = free_port(), free_port()
    words = ("tidemill", "ui", "--port", str(port), "--mlflow-port", str(mlflow_port))

    def answers() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{mlflow_port}/health", timeout=5).ok
        except requests.RequestException:
            return False

    with begun(bench.environment, *words, cwd=ROOT) as process:
        answering(bench.environment, port, "said")
        until(answers, 120, lambda: said(bench.environment))
        assert interrupted(process) == 130, said(bench.environment)
    until(lambda: at_work_in(bench.home) == [], 1)
