"""`tidemill ui`: Dagster's and MLflow's web interfaces on this project's data, with Kafka."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.options import console
from tidemill.processes import kill_group
from tidemill.services import mlflow
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.services.services import resolve_command
from tidemill.settings import Settings

_SHUTDOWN_TIMEOUT_SECONDS = 30
_POLL_INTERVAL_SECONDS = 0.2
"""Polling, because a wait without a timeout may miss Ctrl-C when system calls are restarted."""


def ui(
    port: Annotated[int, typer.Option("--port", help="The port of Dagster's UI.")] = 3000,
    mlflow_port: Annotated[
        int, typer.Option("--mlflow-port", help="The port of MLflow's UI; 0: do not start it.")
    ] = 5000,
) -> None:
    """Start Dagster's UI, and MLflow's UI if its database is local; Ctrl-C stops both."""
    settings = Settings()
    env = os.environ | {
        "DAGSTER_HOME": str(ensure_dagster_home(settings)),
        "TIDEMILL_HOME": str(settings.home.resolve()),
        "TIDEMILL_DAGSTER__UI_URL": f"http://127.0.0.1:{port}",
        **mlflow.server_env(settings),
    }
    with ExitStack() as stack:
        stack.enter_context(bootstrap.local_databases(settings))
        stack.enter_context(bootstrap.kafka_cluster(settings))
        if mlflow_port and settings.mlflow.tracking_uri is None:
            env["TIDEMILL_MLFLOW__UI_URL"] = mlflow_url = f"http://127.0.0.1:{mlflow_port}"
            stack.enter_context(_running_process(mlflow.server_command(mlflow_port), env))
            console.print(f"MLflow:  {mlflow_url}")
        dagster = ("dagster", "dev", "-m", "tidemill.definitions")
        command = (*dagster, "-h", "127.0.0.1", "-p", str(port))
        process = stack.enter_context(_running_process(command, env))
        console.print(f"Dagster: http://127.0.0.1:{port}")
        while process.poll() is None:
            time.sleep(_POLL_INTERVAL_SECONDS)


@contextmanager
def _running_process(
    command: Sequence[str], env: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command of this environment in a new session, and stop all of its processes at the end.

    Otherwise Dagster's code servers would outlive it by up to their heartbeat timeout of 45 s.
    """
    process = subprocess.Popen(resolve_command(command), env=env, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
            process.wait(_SHUTDOWN_TIMEOUT_SECONDS)
        kill_group(process)


COMMANDS = (ui,)
