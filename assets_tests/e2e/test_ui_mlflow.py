"""`tidemill ui` starts MLflow beside Dagster, so that the links between them work."""

from dataclasses import replace

import pytest

from support.dagster.webserver import ROOT, wait_for_webserver
from support.models.harness import ModelHarness
from support.processes.commands import background, interrupt, output, processes_under, wait_until
from support.servers.http import free_port, responds

pytestmark = pytest.mark.faults


def test_mlflow_runs_beside_dagster_and_ctrl_c_leaves_no_process(
    harness: ModelHarness,
) -> None:
    harness = replace(harness, tracking_uri=None)
    port, mlflow_port = free_port(), free_port()
    command = ("tidemill", "ui", "--port", str(port), "--mlflow-port", str(mlflow_port))
    health = f"http://127.0.0.1:{mlflow_port}/health"
    with background(harness.env, *command, cwd=ROOT) as process:
        wait_for_webserver(harness.env, port, "output")
        wait_until(lambda: responds(health), 300, on_timeout=lambda: output(harness.env))
        assert interrupt(process) == 130, output(harness.env)
    wait_until(lambda: processes_under(harness.home) == [], 1)
