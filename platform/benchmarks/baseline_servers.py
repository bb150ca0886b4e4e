"""Other servers of the same model, each a process of its own: MLflow's, and two bare ones."""

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
    """Where to ask, the body of each row there, and the process that answers."""

    name: str
    url: str
    bodies: Sequence[bytes]
    process: "subprocess.Popen[bytes]"

    def cpu_seconds(self) -> float:
        """CPU seconds of the process and of those it has begun."""
        parent = psutil.Process(self.process.pid)
        times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def predict(self, body: bytes) -> float:
        """The prediction for a body of one row."""
        request = Request(self.url, body, {"content-type": "application/json"})
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            predictions = msgspec.json.decode(response.read())["predictions"]
        return float(predictions[0])


@contextmanager
def baseline_rsgi(folder: Path, bundle: bytes, bodies: Sequence[bytes]) -> Iterator[Target]:
    """`bare.py` under Granian, one worker."""
    command = ("granian", "--interface", "rsgi", "--no-ws", "--http", "1", "--log-level", "error")
    with _baseline("bare_rsgi", command, folder, bundle, bodies) as target:
        yield target


@contextmanager
def baseline_asgi(folder: Path, bundle: bytes, bodies: Sequence[bytes]) -> Iterator[Target]:
    """`bare.py` under uvicorn, one worker, on httptools and uvloop."""
    command = ("uvicorn", "--lifespan", "off", "--ws", "none", "--no-access-log")
    with _baseline("bare_asgi", command, folder, bundle, bodies) as target:
        yield target


@contextmanager
def _baseline(
    name: str, command: Sequence[str], folder: Path, bundle: bytes, bodies: Sequence[bytes]
) -> Iterator[Target]:
    file, port = folder / "bare.bundle", _free_port()
    file.write_bytes(bundle)
    extra_env = {"BUNDLE": str(file), "PYTHONPATH": str(_FOLDER)}
    with _run_server(folder, (*command, "--port", str(port), "bare:app"), extra_env) as process:
        yield _wait_until_ready(Target(name, f"http://127.0.0.1:{port}/", bodies, process))


@contextmanager
def mlflow_server(folder: Path, model: Model, rows: Sequence[bytes]) -> Iterator[Target]:
    """`mlflow models serve`, one worker, of the booster saved in MLflow's LightGBM flavor.

    MLflow has no codes of categories: it is sent the numbers that the trees see.
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
    """The target, when it answers."""
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
    """A command of this environment while the block lasts; what it says is in the folder."""
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
