"""The demo's processes: a prediction server, and a client that sends requests to it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from tidemill.cycle.context import ModelContext
from tidemill.demo.traffic import LedgerAppend, RequestResult
from tidemill.polling import wait_until
from tidemill.processes import spawn_child, stop
from tidemill.settings import Settings

_TIMEOUT_SECONDS = 60
"""Seconds for a process to end, and for a server to put a new version into service."""
_NO_DRAIN_ENV = {"TIDEMILL_SERVE__DRAIN_SECONDS": "0"}
"""No load balancer has to notice that the server shuts down."""


@dataclass(frozen=True)
class ServerProcess:
    """A `tidemill serve` process for one model."""

    url: str
    model: str
    token: str | None
    log_file: str
    process: "subprocess.Popen[bytes]"

    def wait_for_version(self, version: int) -> bool:
        """Wait until this version or a later one is in service; False if it never is."""
        import httpx  # of an extra: the commands are imported without it

        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        with httpx.Client(headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False) as client:

            def is_served() -> bool:
                try:
                    response = client.get(f"{self.url}/models/{self.model}").raise_for_status()
                except httpx.HTTPError:
                    return False
                return int(msgspec.json.decode(response.content).get("version", -1)) >= version

            wait_until(lambda: self.process.poll() is not None or is_served(), _TIMEOUT_SECONDS)
            return is_served()


@contextmanager
def prediction_server(settings: Settings, model: str) -> Iterator[ServerProcess]:
    """A server of the model on a free local port; started, but not yet ready."""
    from tidemill.serving.address import resolve_address

    serve_settings = settings.serve.model_copy(update={"host": "127.0.0.1", "port": 0})
    address, port = resolve_address(serve_settings)
    log_file = settings.home / "demo" / "serve.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    listen = ("--host", address, "--port", str(port))
    arguments = ("serve", *listen, "--workers", "1", "--models", model)
    with log_file.open("wb") as log_stream:
        process = spawn_child(
            (sys.executable, "-c", "from tidemill.cli import main; main()", *arguments),
            os.environ | {"TIDEMILL_HOME": str(settings.home), **_NO_DRAIN_ENV},
            stdin=subprocess.DEVNULL,
            stdout=log_stream,
            stderr=log_stream,
        )
    token = serve_settings.token.get_secret_value() if serve_settings.token else None
    try:
        yield ServerProcess(f"http://{address}:{port}", model, token, str(log_file), process)
    finally:
        stop(process, _TIMEOUT_SECONDS)


@dataclass
class LoadClient:
    """A running client; `responses` is filled when it has ended."""

    responses: list[RequestResult] = field(default_factory=list)


@contextmanager
def running_load_client(
    server: ServerProcess, rows: Sequence[bytes], rate: float
) -> Iterator[LoadClient]:
    """A client that sends the server these rows in turn, `rate` requests per second."""
    command = (sys.executable, "-m", "tidemill.demo.load_client")
    process = spawn_child(command, os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    target = {"url": server.url, "model": server.model, "rate": rate, "token": server.token}
    raw_rows = [msgspec.Raw(row) for row in rows]
    load_client = LoadClient()
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode({**target, "rows": raw_rows}) + b"\n")
        process.stdin.flush()
        yield load_client
        output, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
        load_client.responses = msgspec.json.decode(output, type=list[RequestResult])
    finally:
        process.kill()
        process.wait()


def sample_rows(ctx: ModelContext, count: int) -> list[bytes]:
    """The fields of the first events of the model's topic, as JSON; at most `count`."""
    spec, rows = ctx.spec, list[bytes]()
    offset_ranges = ctx.event_log.offset_ranges(spec.topic)
    ranges = {
        partition: (offset_range.low_watermark, offset_range.last_stable_offset)
        for partition, offset_range in offset_ranges.items()
    }
    for batch in ctx.event_log.read(spec.topic, ranges, expected_records=count):
        for value in batch.values:
            event = msgspec.json.decode(value or b"{}")
            rows.append(msgspec.json.encode({name: event.get(name) for name in spec.fields}))
        if len(rows) >= count:
            break
    return rows[:count]


def ledger_appends(ctx: ModelContext, topic: str) -> dict[int, LedgerAppend]:
    """The model's valid entries by version, with their timestamps in the topic."""
    offset_range = ctx.event_log.offset_ranges(topic)[0]
    timestamps_ms: dict[int, int | None] = {}
    for batch in ctx.event_log.read(
        topic, {0: (offset_range.low_watermark, offset_range.last_stable_offset)}
    ):
        timestamps_ms |= zip(batch.offsets, batch.timestamps, strict=True)
    return {
        valid_entry.entry.seq: LedgerAppend(
            valid_entry.entry.digest, (timestamps_ms[valid_entry.offset] or 0) / 1000
        )
        for valid_entry in ctx.chain().entries
    }
