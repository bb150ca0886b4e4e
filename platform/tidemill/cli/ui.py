"""`tidemill ui`: Dagster's and MLflow's UIs on this project's data, with Kafka behind them."""

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
from tidemill.services.dagster_home import ensure_dagster_home
from tidemill.services.services import mlflow_env, mlflow_server_command, resolve_command
from tidemill.settings import Settings

_SHUTDOWN_TIMEOUT_SECONDS = 30  # seconds that a UI gets to end what it started
_POLL_INTERVAL_SECONDS = (
    0.2  # seconds; a wait without end would sleep through Ctrl-C where a library restarts calls
)


def ui(
    port: Annotated[int, typer.Option("--port", help="Where Dagster's UI listens.")] = 3000,
    mlflow_port: Annotated[
        int, typer.Option("--mlflow-port", help="Where MLflow's own UI listens; 0: not at all.")
    ] = 5000,
) -> None:
    """Open Dagster's UI, and MLflow's on a record of one's own; Ctrl-C ends both."""
    settings = Settings()
    env = os.environ | {
        "DAGSTER_HOME": str(ensure_dagster_home(settings)),
        "TIDEMILL_HOME": str(settings.home.resolve()),
        "TIDEMILL_DAGSTER__UI_URL": f"http://127.0.0.1:{port}",
        **mlflow_env(settings),
    }
    with ExitStack() as stack:
        stack.enter_context(bootstrap.local_databases(settings))
        stack.enter_context(bootstrap.kafka_cluster(settings))
        if mlflow_port and settings.mlflow.tracking_uri is None:
            env["TIDEMILL_MLFLOW__UI_URL"] = mlflow_url = f"http://127.0.0.1:{mlflow_port}"
            stack.enter_context(_running_process(mlflow_server_command(mlflow_port), env))
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
    """A command of this environment, in a session of its own, of which nothing is left behind.

    Dagster's code servers outlive it by up to their heartbeat's timeout of 45 s.
    """
    process = subprocess.Popen(resolve_command(command), env=env, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)  # as the terminal would
            process.wait(_SHUTDOWN_TIMEOUT_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


COMMANDS = (ui,)
