"""`tidemill ui`: Dagster's own UI and daemon on this project's instance, with Kafka behind it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from tidemill import bootstrap
from tidemill.cli.backfill import dagster_home
from tidemill.cli.options import console
from tidemill.settings import Settings

_PATIENCE = 30  # seconds that Dagster gets to end what it started
_LOOK = 0.2  # seconds; a wait without end would sleep through Ctrl-C where a library restarts calls


def ui(port: Annotated[int, typer.Option("--port", help="Where the UI listens.")] = 3000) -> None:
    """Open Dagster's UI: lineage, reports and backfills of every model; Ctrl-C ends it."""
    settings = Settings()
    environment = os.environ | {
        "DAGSTER_HOME": str(dagster_home(settings)),
        "TIDEMILL_HOME": str(settings.home.resolve()),
    }
    command = [str(Path(sys.executable).with_name("dagster")), "dev", "-m", "tidemill.definitions"]
    with bootstrap.cluster(settings):
        console.print(f"Dagster UI: http://127.0.0.1:{port}")
        _run([*command, "-h", "127.0.0.1", "-p", str(port)], environment)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run to the end of the process, in a session of its own, and leave nothing of it behind.

    Dagster's code servers outlive it by up to their heartbeat's timeout of 45 s.
    """
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while process.poll() is None:
            time.sleep(_LOOK)
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)  # as the terminal would
            process.wait(_PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


COMMANDS = (ui,)
