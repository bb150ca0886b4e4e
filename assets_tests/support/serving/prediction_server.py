"""A prediction server as a real process, with clients and the models behind it."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests

from support.models.harness import ModelHarness
from support.processes.commands import background, output, wait_until
from tidemill.core.bundle import Model
from tidemill.cycle.context import ModelContext

ROW = {"country": "de", "price": 12.5, "visits": 3}
"""A row for a harness's model."""


@dataclass
class PredictionServer:
    """A server process and a client of it."""

    harness: ModelHarness
    url: str
    process: "subprocess.Popen[bytes]"
    name: str
    session: requests.Session = field(default_factory=requests.Session)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=30, **kwargs)

    def post(self, path: str, body: object, **kwargs: Any) -> requests.Response:
        return self.session.post(self.url + path, data=json.dumps(body), timeout=30, **kwargs)

    def predict(self, *rows: Mapping[str, Any]) -> requests.Response:
        return self.post(f"/models/{self.harness.model}/predict", {"rows": rows})

    def model_status(self) -> dict[str, Any]:
        """What `/models` reports about the harness's model."""
        status: dict[str, Any] = self.get("/models").json()["models"][self.harness.model]
        return status

    def metric(self, name: str, **labels: str) -> float:
        """The value of one series of `/metrics`."""
        label_filter = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        match = re.search(
            rf"^{name}{re.escape(f'{{{label_filter}}}') if label_filter else ''} (\S+)$",
            self.get("/metrics").text,
            re.MULTILINE,
        )
        assert match, f"{name}{{{label_filter}}}"
        return float(match[1])

    def wait_for_status(self, **expected: Any) -> dict[str, Any]:
        """Wait until `/models` reports these values for the harness's model."""
        wait_until(
            lambda: expected.items() <= self.model_status().items(),
            60,
            on_timeout=lambda: str(self.model_status()),
        )
        return self.model_status()

    def output(self) -> str:
        return output(self.harness.env, self.name)

    def terminate(self, timeout: float = 30) -> int:
        """Send SIGTERM and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextmanager
def running_server(
    harness: ModelHarness,
    *options: str,
    ready: bool = True,
    name: str = "serving",
    model: str | None = None,
    **settings: object,
) -> Iterator[PredictionServer]:
    """`tidemill serve` of the harness's model on a free port, with TIDEMILL_SERVE__… settings."""
    serve_env = {f"TIDEMILL_SERVE__{key.upper()}": str(value) for key, value in settings.items()}
    env = harness.env | {"TIDEMILL_SERVE__DRAIN_SECONDS": "0.2"} | serve_env
    command = ("tidemill", "serve", "--port", "0", "--models", model or harness.model, *options)
    with background(env, *command, name=name) as process:
        wait_until(lambda: "http://" in output(env, name) or process.poll() is not None)
        match = re.search(r"http://\S+:\d+", output(env, name))
        assert match, output(env, name)
        server = PredictionServer(harness, match[0], process, name)
        if ready:
            wait_until(lambda: is_ready(server), 120, on_timeout=server.output)
        try:
            yield server
        finally:
            server.session.close()


def refuses_connections(server: PredictionServer) -> bool:
    """Whether the server refuses new connections."""
    try:
        requests.get(f"{server.url}/v2/health/live", timeout=5)
    except requests.ConnectionError:
        return True
    return False


def is_ready(server: PredictionServer) -> bool:
    """Whether the server is ready."""
    try:
        return server.get("/v2/health/ready").status_code == 200
    except requests.ConnectionError:
        assert server.process.poll() is None, server.output()
        return False


def bundle_digests(ctx: ModelContext) -> list[str]:
    """The digests of all bundles in the store."""
    return [name.removeprefix("models/").split(".")[0] for name in ctx.repository.names("models/")]


def predict_rows(model: Model, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    raw = [json.dumps(row).encode() for row in rows]
    predictions: list[Any] = model.predict(model.decoder().rows(raw)).tolist()
    return predictions
