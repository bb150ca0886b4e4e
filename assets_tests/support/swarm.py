"""Clients that ask a server at once and without end, and hold each answer against the models'."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from bench import Bench, events
from commands import until
from serving_hands import Serving
from tidemill.adapters.files import FileStore
from tidemill.core.bundle import Model
from tidemill.cycle.archive import ModelRepository

_PATIENCE = 60.0


def askable(number: int = 0, rows: int = 40) -> list[dict[str, Any]]:
    """Rows of a bench's window, without their labels."""
    told = [json.loads(value) for _, value in events(number, rows)]
    return [{name: row[name] for name in row if name != "bought"} for row in told]


class Books(dict[str, list[Any]]):
    """What each model of a bench's store predicts for these rows all at once, by its digest."""

    def __init__(self, bench: Bench, rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._archive = ModelRepository(FileStore(bench.settings.store), bench.model)
        self._raw = [json.dumps(row).encode() for row in rows]

    def __missing__(self, digest: str) -> list[Any]:
        model = Model.load(self._archive.bundle(digest), digest, None)
        told: list[Any] = model.predict(model.decoder().rows(self._raw)).tolist()
        return self.setdefault(digest, told)


@dataclass
class Swarm:
    """`asking` begins it. `seen` are the versions that were answered, each with its digest and the
    time (`time.monotonic`) of its first answer; `failed` says what was wrong with an answer: no
    200, another prediction than the named digest's, an older version than the same client had."""

    server: Serving
    rows: Sequence[Mapping[str, Any]]
    predictions: Books
    answered: int = 0
    seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _stop: bool = False

    @contextmanager
    def asking(self, clients: int, pause: float = 0.05) -> Iterator["Swarm"]:
        """So many clients at work, each on a connection of its own, until the end of the block."""
        work = threading.Thread(target=lambda: asyncio.run(self._all(clients, pause)))
        work.start()
        try:
            yield self
        finally:
            self._stop = True
            work.join()

    def see(self, version: int, seconds: float = 30) -> None:
        """Wait until a client was answered by this version."""
        until(lambda: version in self.seen, seconds, lambda: str(self.failed), pause=0.002)

    def right(self) -> None:
        """Every answer was right so far, and there were some."""
        assert self.failed == []
        assert self.answered > 0

    async def _all(self, clients: int, pause: float) -> None:
        await asyncio.gather(*(self._client(number, pause) for number in range(clients)))

    async def _client(self, number: int, pause: float) -> None:
        url = urlsplit(self.server.url)
        path = f"/models/{self.server.bench.model}/predict"
        asks = [request(path, {"rows": [row]}) for row in self.rows]
        at, version = number, -1
        await asyncio.sleep(pause * number / 64)
        try:
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            while not self._stop:
                at = (at + 1) % len(asks)
                writer.write(asks[at])
                async with asyncio.timeout(_PATIENCE):
                    status, told = await answer(reader)
                version = self._judge(at, version, status, told)
                await asyncio.sleep(pause)
            writer.close()
        except (OSError, EOFError) as error:
            self.failed.append(repr(error))

    def _judge(self, at: int, before: int, status: int, told: Any) -> int:
        self.answered += 1
        if status != 200:
            self.failed.append(f"{status} {told}")
            return before
        version, digest = told["version"], told["digest"]
        if told["predictions"] != [self.predictions[digest][at]]:
            self.failed.append(f"row {at}: {told}, not {self.predictions[digest][at]}")
        if version < before:
            self.failed.append(f"version {version} after {before}")
        if version not in self.seen:
            self.seen[version] = digest, time.monotonic()
        return int(version)


def swarm(server: Serving) -> Swarm:
    """A swarm for the server's model and whatever is deployed of it."""
    rows = askable()
    return Swarm(server, rows, Books(server.bench, rows))


def request(path: str, body: object) -> bytes:
    """A whole request."""
    data = json.dumps(body).encode()
    return head(path, **{"content-length": str(len(data))}) + data


def head(path: str, method: str = "POST", **headers: str) -> bytes:
    """The head of a request."""
    told = {"host": "tidemill", "content-type": "application/json", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """Status and JSON of the next answer. Raises `EOFError` where the server hangs up instead."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(lines[0].split()[1]), json.loads(body)
