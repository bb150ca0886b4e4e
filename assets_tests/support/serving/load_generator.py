"""Concurrent clients of a server that check each response against the models' predictions."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support.models.harness import ModelHarness, events
from support.processes.commands import wait_until
from support.serving.prediction_server import PredictionServer, predict_rows
from tidemill.adapters.files import FileStore
from tidemill.core.bundle import Model
from tidemill.cycle.repository import ModelRepository

_TIMEOUT_SECONDS = 60.0


def request_rows(number: int = 0, rows: int = 40) -> list[dict[str, Any]]:
    """The rows of a harness's window without their labels."""
    decoded = [json.loads(value) for _, value in events(number, rows)]
    return [{name: row[name] for name in row if name != "bought"} for row in decoded]


class OfflinePredictions(dict[str, list[Any]]):
    """The predictions of each stored model for these rows, by digest."""

    def __init__(self, harness: ModelHarness, rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._repository = ModelRepository(FileStore(harness.settings.store), harness.model)
        self._rows = rows

    def __missing__(self, digest: str) -> list[Any]:
        model = Model.load(self._repository.bundle(digest), digest, None)
        return self.setdefault(digest, predict_rows(model, self._rows))

    def check(self, row: int, response: Mapping[str, Any]) -> None:
        """Assert that the response to this row has the prediction of the model that it names."""
        assert response["predictions"] == [self[response["digest"]][row]], (row, response)


@dataclass
class LoadGenerator:
    """Clients that send one row after the other while `running` is active.

    `check` judges each response, given the index of its row, by assertions. `first_answers` maps
    each version to its digest and the time (`time.monotonic`) of its first response. `failures`
    describes wrong responses: a status other than 200, one that `check` rejects, an older version
    than the client had before.
    """

    server: PredictionServer
    rows: Sequence[Mapping[str, Any]]
    check: Callable[[int, dict[str, Any]], object]
    answer_count: int = 0
    first_answers: dict[int, tuple[str, float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _stop: bool = False

    @contextmanager
    def running(self, clients: int, interval: float = 0.05) -> Iterator["LoadGenerator"]:
        """Run `clients` clients, each on its own connection, until the end of the block."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run_clients(clients, interval)))
        thread.start()
        try:
            yield self
        finally:
            self._stop = True
            thread.join()

    def wait_for_version(self, version: int, timeout: float = 30) -> None:
        """Wait until this version has sent a response."""
        wait_until(
            lambda: version in self.first_answers,
            timeout,
            on_timeout=lambda: str(self.failures),
            interval=0.002,
        )

    def assert_all_correct(self) -> None:
        """Assert that there were responses and that all were correct."""
        assert self.failures == []
        assert self.answer_count > 0

    async def _run_clients(self, clients: int, interval: float) -> None:
        await asyncio.gather(*(self._run_client(number, interval) for number in range(clients)))

    async def _run_client(self, number: int, interval: float) -> None:
        url = urlsplit(self.server.url)
        path = f"/models/{self.server.harness.model}/predict"
        encoded_requests = [encode_request(path, {"rows": [row]}) for row in self.rows]
        index, version = number, -1
        await asyncio.sleep(interval * number / 64)
        try:
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            while not self._stop:
                index = (index + 1) % len(encoded_requests)
                writer.write(encoded_requests[index])
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    status, body = await read_response(reader)
                version = self._check_answer(index, version, status, body)
                await asyncio.sleep(interval)
            writer.close()
        except (OSError, EOFError) as error:
            self.failures.append(repr(error))

    def _check_answer(self, index: int, previous_version: int, status: int, body: Any) -> int:
        self.answer_count += 1
        if status != 200:
            self.failures.append(f"{status} {body}")
            return previous_version
        version = body["version"]
        try:
            self.check(index, body)
        except AssertionError as error:
            self.failures.append(str(error))
        if version < previous_version:
            self.failures.append(f"version {version} after {previous_version}")
        if version not in self.first_answers:
            self.first_answers[version] = body["digest"], time.monotonic()
        return int(version)


def load_generator_for(server: PredictionServer) -> LoadGenerator:
    """A load generator for the server's model and all its versions."""
    rows = request_rows()
    return LoadGenerator(server, rows, OfflinePredictions(server.harness, rows).check)


def encode_request(path: str, body: object) -> bytes:
    """A complete request."""
    data = json.dumps(body).encode()
    return encode_head(path, **{"content-length": str(len(data))}) + data


def encode_head(path: str, method: str = "POST", **headers: str) -> bytes:
    """The head of a request."""
    fields = {"host": "tidemill", "content-type": "application/json", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def read_response(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """Status and JSON of the next response. Raises `EOFError` if the server disconnects."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(lines[0].split()[1]), json.loads(body)
