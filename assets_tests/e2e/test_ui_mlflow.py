"""`tidemill ui` opens MLflow beside Dagster, so that the links of one lead to the other."""

from dataclasses import replace

import pytest
import requests

from dagster_webserver import ROOT, free_port, wait_for_webserver
from model_harness import ModelHarness
from processes import background, interrupt, output, processes_under, wait_until

pytestmark = pytest.mark.faults


def test_mlflow_answers_beside_dagster_and_ctrl_c_leaves_nothing_of_either(
    harness: ModelHarness,
) -> None:
    harness = replace(harness, tracking=None)
    port, mlflow_port = free_port(), free_port()
    words = ("tidemill", "ui", "--port", str(port), "--mlflow-port", str(mlflow_port))

    def answers() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{mlflow_port}/health", timeout=5).ok
        except requests.RequestException:
            return False

    with background(harness.env, *words, cwd=ROOT) as process:
        wait_for_webserver(harness.env, port, "said")
        wait_until(answers, 120, lambda: output(harness.env))
        assert interrupt(process) == 130, output(harness.env)
    wait_until(lambda: processes_under(harness.home) == [], 1)
