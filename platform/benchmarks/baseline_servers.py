"""Other servers of the same model, as separate processes: MLflow's and two minimal ones."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import numpy as np
import pandas as pd
import psutil

from tidemill.core.bundle import Model

_FOLDER = Path(__file__).parent
_BIN = Path(sys.executable).parent
_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Target:
    """A server: its URL, its request body for each row, and its process."""

    name: str
    url: str
    bodies: Sequence[bytes]
    process: "subprocess.Popen[bytes]"

    def cpu_seconds(self) -> float:
        """CPU seconds of the process and its descendants."""
        parent = psutil.Process(self.process.pid)
        processes = (parent, *parent.children(recursive=True))
        all_times = [process.cpu_times() for process in processes]
        return sum(times.user + times.system for times in all_times)

    def predict(self, body: bytes) -> float:
        """The prediction for a body of one row."""
        request = Request(self.url, body, {"content-type": "application/json"})
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            predictions = msgspec.json.decode(response.read())["predictions"]
        return float(predictions[0])


@contextmanager
def baseline_rsgi(folder: Path, bundle: bytes, bodies: Sequence[bytes]) -> Iterator[Target]:
    """`baseline_app.py` under Granian, one worker."""
    command = ("granian", "--interface", "rsgi", "--no-ws", "--http", "1", "--log-level", "error")
    with _baseline("baseline_rsgi", command, folder, bundle, bodies) as target:
        yield target


@contextmanager
def baseline_asgi(folder: Path, bundle: bytes, bodies: Sequence[bytes]) -> Iterator[Target]:
    """`baseline_app.py` under uvicorn, one worker, with httptools and uvloop."""
    command = ("uvicorn", "--lifespan", "off", "--ws", "none", "--no-access-log")
    with _baseline("baseline_asgi", command, folder, bundle, bodies) as target:
        yield target


@contextmanager
def _baseline(
    name: str, command: Sequence[str], folder: Path, bundle: bytes, bodies: Sequence[bytes]
) -> Iterator[Target]:
    file, port = folder / "baseline.bundle", _free_port()
    file.write_bytes(bundle)
    extra_env = {"BUNDLE": str(file), "PYTHONPATH": str(_FOLDER)}
    with _run_server(
        folder, (*command, "--port", str(port), "baseline_app:app"), extra_env
    ) as process:
        yield _wait_until_ready(Target(name, f"http://127.0.0.1:{port}/", bodies, process))


@contextmanager
def mlflow_server(folder: Path, model: Model, rows: Sequence[bytes]) -> Iterator[Target]:
    """`mlflow models serve`, one worker, of the booster saved in MLflow's LightGBM flavor.

    MLflow does not encode categories, so requests contain the numbers that the trees use.
    """
    from mlflow.lightgbm import save_model
    from mlflow.models import infer_signature

    names = [column.name for column in model.header.columns]
    features = model.matrix(model.decoder().rows(rows))
    frame = pd.DataFrame(features, columns=names)
    path, port = folder / "mlflow-model", _free_port()
    save_model(
        model.booster,
        path,
        signature=infer_signature(frame, model.booster.predict(features)),
        pip_requirements=["lightgbm"],
    )
    command = ("mlflow", "models", "serve", "-m", str(path), "--env-manager", "local")
    options = ("--workers", "1", "--host", "127.0.0.1", "--port", str(port))
    with _run_server(folder, (*command, *options)) as process:
        bodies = [_dataframe_split(names, row) for row in features]
        yield _wait_until_ready(
            Target("mlflow", f"http://127.0.0.1:{port}/invocations", bodies, process)
        )


def _dataframe_split(names: Sequence[str], row: "np.ndarray[Any, np.dtype[np.float64]]") -> bytes:
    data = [None if np.isnan(value) else value for value in row.tolist()]
    return msgspec.json.encode({"dataframe_split": {"columns": names, "data": [data]}})


def _wait_until_ready(target: Target) -> Target:
    """The target, once it responds."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        try:
            target.predict(target.bodies[0])
            return target
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextmanager
def _run_server(
    folder: Path, command: Sequence[str], extra_env: dict[str, str] | None = None
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a command of this environment during the block. Its log is written to the folder."""
    env = os.environ | {"PATH": f"{_BIN}:{os.environ['PATH']}"} | (extra_env or {})
    with (folder / f"{command[0]}.log").open("wb") as log_file:
        process = subprocess.Popen(
            [str(_BIN / command[0]), *command[1:]], env=env, stdout=log_file, stderr=log_file
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_TIMEOUT_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
