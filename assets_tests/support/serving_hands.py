"""Hands on a prediction server: a real process of its own, clients, and the models behind it."""

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import requests

from bench import Bench
from commands import begun, said, until
from ledger_hands import persons_entry
from tidemill.core.bundle import Model
from tidemill.core.ledger import Entry
from tidemill.cycle.deploy import append_entry
from tidemill.cycle.mill import ModelContext

ROW = {"country": "de", "price": 12.5, "visits": 3}
"""A row of a bench's model."""


@dataclass
class Serving:
    """A server in a process of its own, and a client of it."""

    bench: Bench
    url: str
    process: "subprocess.Popen[bytes]"
    name: str
    session: requests.Session = field(default_factory=requests.Session)

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=30, **more)

    def post(self, path: str, body: object, **more: Any) -> requests.Response:
        return self.session.post(self.url + path, data=json.dumps(body), timeout=30, **more)

    def predict(self, *rows: Mapping[str, Any]) -> requests.Response:
        return self.post(f"/models/{self.bench.model}/predict", {"rows": rows})

    def model(self) -> dict[str, Any]:
        """What `/models` says of the bench's model."""
        told: dict[str, Any] = self.get("/models").json()["models"][self.bench.model]
        return told

    def metric(self, name: str, **labels: str) -> float:
        """The value of one series of `/metrics`."""
        wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        line = re.search(
            rf"^{name}{re.escape(f'{{{wanted}}}') if wanted else ''} (\S+)$",
            self.get("/metrics").text,
            re.MULTILINE,
        )
        assert line, f"{name}{{{wanted}}}"
        return float(line[1])

    def until(self, **wanted: Any) -> dict[str, Any]:
        """Wait until `/models` says so of the bench's model."""
        until(lambda: wanted.items() <= self.model().items(), 60, lambda: str(self.model()))
        return self.model()

    def said(self) -> str:
        return said(self.bench.environment, self.name)

    def ended(self, seconds: float = 30) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def serving(
    bench: Bench,
    *words: str,
    ready: bool = True,
    name: str = "serving",
    model: str | None = None,
    **settings: object,
) -> Iterator[Serving]:
    """`tidemill serve` of the bench's model on a free port, with TIDEMILL_SERVE__… settings."""
    more = {f"TIDEMILL_SERVE__{key.upper()}": str(value) for key, value in settings.items()}
    environment = bench.environment | {"TIDEMILL_SERVE__DRAIN": "0.2"} | more
    told = ("tidemill", "serve", "--port", "0", "--models", model or bench.model, *words)
    with begun(environment, *told, name=name) as process:
        until(lambda: "http://" in said(environment, name) or process.poll() is not None)
        found = re.search(r"http://\S+:\d+", said(environment, name))
        assert found, said(environment, name)
        server = Serving(bench, found[0], process, name)
        if ready:
            until(lambda: answers(server), 120, server.said)
        try:
            yield server
        finally:
            server.session.close()


def refuses(server: Serving) -> bool:
    """Whether the server takes no new connection."""
    try:
        requests.get(f"{server.url}/v2/health/live", timeout=5)
    except requests.ConnectionError:
        return True
    return False


def answers(server: Serving) -> bool:
    """Whether the server is ready."""
    try:
        return server.get("/v2/health/ready").status_code == 200
    except requests.ConnectionError:
        assert server.process.poll() is None, server.said()
        return False


def digests(mill: ModelContext) -> list[str]:
    """The digests of all bundles of the store."""
    return [name.removeprefix("models/").split(".")[0] for name in mill.repository.names("models/")]


def offline(mill: ModelContext, digest: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What a model of the store predicts, by the way that judges it: all rows at once."""
    model: Model = mill.load(digest)
    raw = [json.dumps(row).encode() for row in rows]
    told: list[Any] = model.predict(_frame(model, raw)).tolist()
    return told


def _frame(model: Model, raw: Sequence[bytes]) -> pl.DataFrame:
    return model.decoder().rows(raw)


@dataclass(frozen=True)
class Ledgered:
    """A bench with bundles and an empty ledger, its mill, and two digests of the bundles."""

    bench: Bench
    mill: ModelContext
    one: str
    other: str

    def deploy(self, digest: str) -> Entry:
        """Append an entry that puts this model into service."""
        entry = append_entry(self.mill, lambda chain: persons_entry(chain, digest, "somebody", "a test"))
        assert entry is not None
        return entry


@dataclass
class Clients:
    """Threads that ask one row after another, and keep all answers."""

    server: Serving
    rows: Sequence[Mapping[str, Any]]
    answers: list[tuple[int, float, dict[str, Any]]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def asking(self, count: int, pause: float = 0.0) -> Iterator["Clients"]:
        """So many clients at work until the end of the block."""
        threads = [threading.Thread(target=self._ask, args=(n, pause)) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _ask(self, number: int, pause: float) -> None:
        session = requests.Session()
        url = f"{self.server.url}/models/{self.server.bench.model}/predict"
        at = number
        while not self._stop.is_set():
            at = (at + 1) % len(self.rows)
            try:
                told = session.post(url, data=json.dumps({"rows": [self.rows[at]]}), timeout=30)
                if told.status_code == 200:
                    self.answers.append((at, time.time(), told.json()))
                else:
                    self.failed.append(f"{told.status_code} {told.text}")
            except requests.RequestException as error:
                self.failed.append(repr(error))
            time.sleep(pause)
        session.close()
