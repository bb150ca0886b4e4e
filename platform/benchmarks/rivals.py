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

_HERE = Path(__file__).parent
_BIN = Path(sys.executable).parent
_PATIENCE = 120


@dataclass(frozen=True)
class Target:
    """Where to ask, the body of each row there, and the process that answers."""

    name: str
    url: str
    bodies: Sequence[bytes]
    process: "subprocess.Popen[bytes]"

    def cpu(self) -> float:
        """CPU seconds of the process and of those it has begun."""
        family = psutil.Process(self.process.pid)
        times = [each.cpu_times() for each in (family, *family.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def ask(self, body: bytes) -> float:
        """The prediction for a body of one row."""
        asked = Request(self.url, body, {"content-type": "application/json"})
        with urlopen(asked, timeout=_PATIENCE) as reply:
            told = msgspec.json.decode(reply.read())["predictions"]
        return float(told[0])


@contextmanager
def bare_rsgi(folder: Path, bundle: bytes, bodies: Sequence[bytes]) -> Iterator[Target]:
    """`bare.py` under Granian, one worker."""
    words = ("granian", "--interface", "rsgi", "--no-ws", "--http", "1", "--log-level", "error")
    with _bare("bare_rsgi", words, folder, bundle, bodies) as target:
        yield target


@contextmanager
def bare_asgi(folder: Path, bundle: bytes, bodies: Sequence[bytes]) -> Iterator[Target]:
    """`bare.py` under uvicorn, one worker, on httptools and uvloop."""
    words = ("uvicorn", "--lifespan", "off", "--ws", "none", "--no-access-log")
    with _bare("bare_asgi", words, folder, bundle, bodies) as target:
        yield target


@contextmanager
def _bare(
    name: str, words: Sequence[str], folder: Path, bundle: bytes, bodies: Sequence[bytes]
) -> Iterator[Target]:
    file, port = folder / "bare.bundle", _free_port()
    file.write_bytes(bundle)
    more = {"BUNDLE": str(file), "PYTHONPATH": str(_HERE)}
    with _running(folder, (*words, "--port", str(port), "bare:app"), more) as process:
        yield _up(Target(name, f"http://127.0.0.1:{port}/", bodies, process))


@contextmanager
def mlflow(folder: Path, model: Model, rows: Sequence[bytes]) -> Iterator[Target]:
    """`mlflow models serve`, one worker, of the booster saved in MLflow's LightGBM flavor.

    MLflow has no codes of categories: it is sent the numbers that the trees see.
    """
    from mlflow.lightgbm import save_model
    from mlflow.models import infer_signature

    names = [column.name for column in model.header.columns]
    given = model.matrix(model.decoder().rows(rows))
    frame = pd.DataFrame(given, columns=names)
    path, port = folder / "mlflow-model", _free_port()
    save_model(
        model.booster,
        path,
        signature=infer_signature(frame, model.booster.predict(given)),
        pip_requirements=["lightgbm"],
    )
    words = ("mlflow", "models", "serve", "-m", str(path), "--env-manager", "local")
    at = ("--workers", "1", "--host", "127.0.0.1", "--port", str(port))
    with _running(folder, (*words, *at)) as process:
        bodies = [_split(names, row) for row in given]
        yield _up(Target("mlflow", f"http://127.0.0.1:{port}/invocations", bodies, process))


def _split(names: Sequence[str], row: "np.ndarray[Any, np.dtype[np.float64]]") -> bytes:
    data = [None if np.isnan(value) else value for value in row.tolist()]
    return msgspec.json.encode({"dataframe_split": {"columns": names, "data": [data]}})


def _up(target: Target) -> Target:
    """The target, when it answers."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            target.ask(target.bodies[0])
            return target
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@contextmanager
def _running(
    folder: Path, words: Sequence[str], more: dict[str, str] | None = None
) -> "Iterator[subprocess.Popen[bytes]]":
    """A command of this environment while the block lasts; what it says is in the folder."""
    environment = os.environ | {"PATH": f"{_BIN}:{os.environ['PATH']}"} | (more or {})
    with (folder / f"{words[0]}.log").open("wb") as said:
        process = subprocess.Popen(
            [str(_BIN / words[0]), *words[1:]], env=environment, stdout=said, stderr=said
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
