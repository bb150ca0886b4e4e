"""Beside a command at work: a prediction server and a client that asks it, each a process."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen

import msgspec

from tidemill.cycle.mill import ModelContext
from tidemill.serving.answers import RequestResult, LedgerAppend
from tidemill.settings import Settings

_PATIENCE = 60
"""Seconds that a process gets to end, and a server to take what it was told."""
_LOOK = 0.05
_PR_SET_PDEATHSIG = 1
_QUICK_END = {"TIDEMILL_SERVE__DRAIN": "0"}
"""No balancer has to learn that the server ends."""


@dataclass(frozen=True)
class Server:
    """A `tidemill serve` of one model."""

    url: str
    model: str
    token: str | None
    log: str
    process: "subprocess.Popen[bytes]"

    def reaches(self, version: int) -> bool:
        """Wait until this version, or a later one, is in service; False where it never is."""
        until = time.monotonic() + _PATIENCE
        while self.process.poll() is None and time.monotonic() < until:
            if self._version() >= version:
                return True
            time.sleep(_LOOK)
        return False

    def _version(self) -> int:
        """The version in service; -1 where there is none."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            asked = Request(f"{self.url}/models/{self.model}", headers=headers)
            with urlopen(asked, timeout=_PATIENCE) as reply:
                return int(msgspec.json.decode(reply.read()).get("version", -1))
        except OSError:
            return -1


@contextmanager
def server(settings: Settings, model: str) -> Iterator[Server]:
    """A server of the model on a free port of this machine, begun and not awaited."""
    from tidemill.serving.workers import resolve_address

    told = settings.serve.model_copy(update={"host": "127.0.0.1", "port": 0})
    address, port = resolve_address(told)
    log = settings.home / "demo" / "serve.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = ("serve", "--host", address, "--port", str(port), "--workers", "1", "--models", model)
    with log.open("wb") as said:
        process = _begun(
            ("-c", "from tidemill.cli import main; main()", *words),
            {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said},
            {"TIDEMILL_HOME": str(settings.home), **_QUICK_END},
        )
    token = told.token.get_secret_value() if told.token else None
    try:
        yield Server(f"http://{address}:{port}", model, token, str(log), process)
    finally:
        process.terminate()
        _ended(process)


@dataclass
class Client:
    """A client at work; `answers` are there when it has ended."""

    answers: list[RequestResult] = field(default_factory=list)


@contextmanager
def client(at: Server, rows: Sequence[bytes], rate: float) -> Iterator[Client]:
    """A client that asks the server for one of these rows, `rate` times a second, in turn."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = _begun(("-m", "tidemill.serving.client"), pipes, {})
    orders = {"url": at.url, "model": at.model, "rate": rate, "token": at.token}
    raw = [msgspec.Raw(row) for row in rows]
    told = Client()
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode({**orders, "rows": raw}) + b"\n")
        process.stdin.flush()
        yield told
        said, _ = process.communicate(timeout=_PATIENCE)
        told.answers = msgspec.json.decode(said, type=list[RequestResult])
    finally:
        process.kill()
        process.wait()


def some_rows(mill: ModelContext, count: int) -> list[bytes]:
    """The fields, as JSON, of some of the first events of the model's topic."""
    spec, found = mill.spec, list[bytes]()
    extents = mill.event_log.offset_ranges(spec.topic)
    ranges = {p: (extent.low_watermark, extent.last_stable_offset) for p, extent in extents.items()}
    for chunk in mill.event_log.read(spec.topic, ranges, expected_records=count):
        for value in chunk.values:
            event = msgspec.json.decode(value or b"{}")
            found.append(msgspec.json.encode({name: event.get(name) for name in spec.fields}))
        if len(found) >= count:
            break
    return found[:count]


def ledger(mill: ModelContext, topic: str) -> dict[int, LedgerAppend]:
    """The model's standing entries by version, with the time at which the topic has each."""
    extent = mill.event_log.offset_ranges(topic)[0]
    at: dict[int, int | None] = {}
    for chunk in mill.event_log.read(topic, {0: (extent.low_watermark, extent.last_stable_offset)}):
        at |= zip(chunk.offsets, chunk.timestamps, strict=True)
    return {
        each.entry.seq: LedgerAppend(each.entry.digest, (at[each.offset] or 0) / 1000)
        for each in mill.chain().entries
    }


def _begun(
    words: Sequence[str], files: Mapping[str, Any], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """A Python process that Ctrl-C does not reach, and that does not outlive this one."""
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | environment,
        start_new_session=True,
        preexec_fn=_end_with_parent,
        **files,
    )


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _ended(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
